package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// like is the release of LinuxKit that has this command line. The suffix -neb tells the two programs apart.
const like = "v1.5.2-neb"

func newVersion(g *global) *cobra.Command {
	var short, commit bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			revision := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			switch {
			case short:
				fmt.Fprintln(g.out, like)
			case commit:
				fmt.Fprintln(g.out, revision)
			default:
				fmt.Fprintln(g.out, "linuxkit version", like)
				if revision != "" {
					fmt.Fprintln(g.out, "commit:", revision)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "print the number only")
	cmd.Flags().BoolVar(&commit, "commit", false,
		"print the commit only, or an empty line if the binary does not record it")
	return cmd
}
