//go:build !linux

package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// platformCommands returns hidden commands in place of those that need Linux: each fails and says so.
func platformCommands(streams) []*cobra.Command {
	var commands []*cobra.Command
	for _, name := range []string{
		"build", "update", "lock", "verify", "release", "cache", "trust", "run", "net",
	} {
		commands = append(commands, &cobra.Command{
			Use:                name,
			Short:              "Not available on this system",
			Hidden:             true,
			DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("neb %s needs Linux; on %s, neb eif and neb attest are available",
					name, runtime.GOOS)
			},
		})
	}
	return commands
}
