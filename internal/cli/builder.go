package cli

import "github.com/spf13/cobra"

// buildFlags are the flags of commands that build.
type buildFlags struct {
	archs        []string
	jobs         int
	offline      bool
	source       string
	fragments    []string
	patches      []string
	kernelSource string
}

// add adds the flags of commands that build from the lock and the source alone.
func (f *buildFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVarP(&f.jobs, "jobs", "j", 0, "number of parallel jobs (default: one per processor)")
	flags.BoolVar(&f.offline, "offline", false, "use what the store has, download nothing")
	flags.StringVar(&f.source, "source", "",
		"neb's source `directory`, for init and linuxkit (default: $NEB_SOURCE, the checkout around "+
			"the current directory, or the source of this version)")
	allowEmpty(cmd, "source")
}
