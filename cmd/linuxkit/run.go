package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type streams struct {
	in  io.Reader
	out io.Writer // results
	err io.Writer // everything else
}

// global has the flags of every command.
type global struct {
	streams
	quiet bool
	level int
}

// run executes a command line and returns its exit status: 0, or 1 after an error.
func run(args []string, s streams) int {
	// The heap is small, and collecting it early keeps memory close to the size of the tree.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(&global{streams: s})
	root.SetArgs(doubleDashes(root, args))
	if err := root.ExecuteContext(ctx); err != nil {
		text := err.Error() + hint(err)
		if strings.HasPrefix(text, "unknown ") { // command or flag
			text += "; this linuxkit only builds ramdisks: use neb eif build for a whole enclave image, " +
				"or LinuxKit (github.com/linuxkit/linuxkit) for the rest"
		}
		fmt.Fprintf(s.err, "linuxkit: %s\n", text)
		return 1
	}
	return 0
}

func newRoot(g *global) *cobra.Command {
	root := &cobra.Command{
		Use:   "linuxkit",
		Short: "Turn container images and files into ramdisks for enclaves",
		Long: "Turn container images and files into ramdisks for enclaves.\n\n" +
			"This is the part of LinuxKit that nitro-cli calls, with the same flags, YAML and output files.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.SetIn(g.in)
	flags := root.PersistentFlags()
	flags.BoolVarP(&g.quiet, "quiet", "q", false, "print errors and warnings only")
	flags.IntVarP(&g.level, "verbose", "v", 1, "0 is --quiet; 1, 2, 3 and no number are the same")
	flags.Lookup("verbose").NoOptDefVal = "2"
	root.AddCommand(newBuild(g), newVersion(g))
	return root
}

// say prints a line about progress.
func (g *global) say(format string, args ...any) {
	if !g.quiet && g.level > 0 {
		fmt.Fprintf(g.err, format+"\n", args...)
	}
}

// doubleDashes turns -name into --name if that is a flag: old releases of nitro-cli pass them so. It leaves
// single letters alone, and everything after --. It joins -v and a digit: -v is a switch in some releases of
// LinuxKit, and takes a number in others.
func doubleDashes(root *cobra.Command, args []string) []string {
	known := map[string]bool{"help": true}
	note := func(f *pflag.Flag) { known[f.Name] = true }
	root.PersistentFlags().VisitAll(note)
	for _, cmd := range root.Commands() {
		cmd.Flags().VisitAll(note)
	}
	var out []string
	for i, arg := range args {
		if arg == "--" {
			return append(out, args[i:]...)
		}
		if i > 0 && (args[i-1] == "-v" || args[i-1] == "--verbose") && len(arg) == 1 && arg >= "0" && arg <= "3" {
			out[len(out)-1] += "=" + arg
			continue
		}
		name, single := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(name, "=")
		if single && !strings.HasPrefix(name, "-") && known[name] && (len(name) > 1 || name == "o") {
			arg = "-" + arg
		}
		out = append(out, arg)
	}
	return out
}
