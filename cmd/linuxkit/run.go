package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

type streams struct {
	in  io.Reader
	out io.Writer // results
	err io.Writer // everything else
}

// run executes a command line and returns its exit status: 0, or 1 after an error.
func run(args []string, s streams) int {
	// The heap is small, and collecting it early keeps memory close to the size of the tree.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(s)
	root.SetArgs(doubleDashes(args))
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

// like is the release of LinuxKit that has this command line. The suffix -neb tells the two programs apart.
const like = "v1.5.2-neb"

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "linuxkit",
		Short: "Turn container images and files into ramdisks for enclaves",
		Long: "Turn container images and files into ramdisks for enclaves.\n\n" +
			"This is the part of LinuxKit that nitro-cli calls, with the same flags, YAML and output files.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetIn(s.in)
	flags := root.PersistentFlags()
	flags.BoolP("quiet", "q", false, "accepted for compatibility: linuxkit prints errors and warnings only")
	flags.IntP("verbose", "v", 1, "accepted for compatibility, with and without a number")
	flags.Lookup("verbose").NoOptDefVal = "1"
	root.AddCommand(newBuild(s), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(*cobra.Command, []string) { fmt.Fprintln(s.out, "linuxkit version", like) },
	})
	return root
}

// long matches a flag with one dash that has two: old releases of nitro-cli pass them so.
var long = regexp.MustCompile(`^-([a-z][a-z-]+|o)(=|$)`)

// doubleDashes turns -name into --name, up to --. It joins -v and a digit: -v is a switch in some releases of
// LinuxKit, and takes a number in others.
func doubleDashes(args []string) (out []string) {
	for i, arg := range args {
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case i > 0 && (args[i-1] == "-v" || args[i-1] == "--verbose") && len(arg) == 1 && arg >= "0" &&
			arg <= "3":
			out[len(out)-1] += "=" + arg
		case long.MatchString(arg):
			out = append(out, "-"+arg)
		default:
			out = append(out, arg)
		}
	}
	return out
}
