package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// like is the release of LinuxKit that has this command line. The suffix -neb tells the two programs apart.
const like = "v1.5.2-neb"

func newVersion(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintln(s.out, "linuxkit version", like)
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, setting := range info.Settings {
					if setting.Key == "vcs.revision" {
						fmt.Fprintln(s.out, "commit:", setting.Value)
					}
				}
			}
		},
	}
}
