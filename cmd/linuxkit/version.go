package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// like is the release of LinuxKit that has this command line. The suffix -neb tells the two programs apart.
const like = "v1.5.2-neb"

func newVersion(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintln(g.out, "linuxkit version", like)
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						fmt.Fprintln(g.out, "commit:", s.Value)
					}
				}
			}
		},
	}
}
