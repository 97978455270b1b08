package cli

import "github.com/spf13/cobra"

// buildFlags are the flags of commands that build.
type buildFlags struct {
	archs        []string
	jobs         int
	offline      bool
	mirrorOnly   bool
	source       string
	profile      string
	fragments    []string
	patches      []string
	kernelSource string
	series       string // of the kernel; "" for the default one

	remotes []string
	require int
	pushKey string // "": push nothing
	wait    bool
}

// add adds the flags of commands that build from the lock and the source alone.
func (f *buildFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVarP(&f.jobs, "jobs", "j", 0, "`number` of parallel jobs (default: one per processor)")
	flags.BoolVar(&f.offline, "offline", false, "use what the store has, and download nothing")
	f.addMirrorOnly(cmd)
	flags.StringVar(&f.source, "source", "",
		"neb's source `directory`, for init and linuxkit (default: $NEB_SOURCE, the checkout around "+
			"the current directory, or the source of this version)")
	allowEmpty(cmd, "source")
	f.addRemote(cmd)
	flags.IntVar(&f.require, "require", 0,
		"number `N` of trusted keys that must state the same files before neb takes a build from a "+
			"remote (default: $NEB_REMOTE_REQUIRE, or 1)")
}

// addMirrorOnly adds the flag of commands that download from mirrors.
func (f *buildFlags) addMirrorOnly(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.mirrorOnly, "mirror-only", false,
		"download Debian's files from the mirrors in $NEB_MIRROR only")
}

// addRemote adds the flag of commands that use remotes.
func (f *buildFlags) addRemote(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.remotes, "remote", nil,
		"remote that shares builds: `HOST/REPOSITORY` of a registry, or a directory; repeatable "+
			"(default: $NEB_REMOTE)")
}
