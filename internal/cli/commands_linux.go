package cli

import "github.com/spf13/cobra"

// platformCommands returns the commands that need Linux.
func platformCommands(s streams) []*cobra.Command {
	return []*cobra.Command{
		newBuildCommand(s),
		newUpdateCommand(s),
		newLockCommand(s),
		newVerifyCommand(s),
		newReleaseCommand(s),
		newCacheCommand(s),
		newTrustCommand(s),
		newNetCommand(s),
		fromRegistry(s, newRunCommand(s)),
	}
}
