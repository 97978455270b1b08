package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// like is the release of LinuxKit whose command line this is. Printed with -neb, so that nobody takes one for the other.
const like = "v1.5.2"

func newVersion(g *global) *cobra.Command {
	var short, commit bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which linuxkit this is",
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
				fmt.Fprintln(g.out, like+"-neb")
			case commit:
				fmt.Fprintln(g.out, revision)
			default:
				fmt.Fprintf(g.out, "linuxkit version %s-neb\n", like)
				if revision != "" {
					fmt.Fprintf(g.out, "commit: %s\n", revision)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "the number alone")
	cmd.Flags().BoolVar(&commit, "commit", false, "the commit alone; nothing where the build was not told")
	return cmd
}
