// Package cli is the command line of neb: one file a command, flags in, one call, words out.
//
// Results go to standard output, progress and errors to standard error. The exit status is 0 when the
// command did what it was asked, 1 when it failed and 2 when it was called wrongly; commands with a status of
// their own (neb run) return an [*ExitError].
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// streams is where a command writes. Every command gets the same one, and nothing else prints.
type streams struct {
	out io.Writer // results
	err io.Writer // progress, warnings, errors
}

// commands makes the commands of neb, in the order in which the help shows them.
var commands = []func(streams) *cobra.Command{
	newManCommand, // hidden
	newBuildCommand,
	newUpdateCommand,
	newVerifyCommand,
	newReleaseCommand,
	newCacheCommand,
	newEIFCommand,
	newRunCommand,
	newAttestCommand,
}

// ExitError ends neb with a status of its own. Err may be nil where everything has been said already.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// signalError is why a command's context ended: a signal to neb.
type signalError struct{ syscall.Signal }

func (s signalError) Error() string { return s.String() }

// usagef is the error of a command that was called wrongly; neb then exits with status 2.
func usagef(format string, args ...any) error {
	return &ExitError{Code: 2, Err: fmt.Errorf(format, args...)}
}

// grace is how long a command may take to end when it was told to.
var grace = 20 * time.Second

// Main runs neb with the given arguments and returns its exit status.
//
// SIGINT, SIGTERM and SIGHUP cancel the command's context once, so that it can clean up; a second one ends neb at once, where
// the command does not look after that too. What has not ended after [grace], because it reads from something that never comes, is ended all the same.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	signals := make(chan os.Signal, 1)
	notify(signals)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(signalError{s.(syscall.Signal)})
			late := time.AfterFunc(grace, func() {
				fmt.Fprintf(stderr, "neb: %v, and not through with it after %v\n", s, grace)
				os.Exit(128 + int(s.(syscall.Signal)))
			})
			<-ended
			late.Stop()
		case <-ctx.Done():
		}
	}()

	root := newRoot(streams{out: stdout, err: stderr})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var exit *ExitError
	if !errors.As(err, &exit) {
		exit = &ExitError{Code: 1, Err: err}
	}
	if exit.Err != nil {
		fmt.Fprintf(stderr, "neb: %v\n", exit.Err)
	}
	return exit.Code
}

// notify sends signals that end neb to c, but for those that whoever started neb wants to be ignored, as nohup does.
func notify(c chan<- os.Signal) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "neb",
		Short: "Build, pack and boot AWS Nitro Enclaves",
		Long: `Build what stands under the application of an AWS Nitro Enclave, pack both into an Enclave Image File, and boot that here.

Environment:

    NEB_CACHE    the store of downloads and of what was built (default: $XDG_CACHE_HOME/neb, or ~/.cache/neb)
    NEB_MIRROR   where Debian's packages come from, before the mirrors that apt uses here
    NEB_SOURCE   neb's source tree, for init and linuxkit
    GOPROXY      where the Go toolchain and modules come from

Exit status: 0 when the command did what it was asked, 1 when it failed, 2 when it was called wrongly; neb run ends as the application in the
enclave did.`,
		Example: `  neb build
  neb eif build --image alpine:3 --cmd /bin/date --output date.eif
  neb run date.eif`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		root.Version = info.Main.Version // with the commit, where there is no tag; "(devel)" from go run
	}
	root.SetOut(s.out)
	root.SetErr(s.err)
	for _, make := range commands {
		root.AddCommand(make(s))
	}
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error {
			if on, rest, err := root.Find(args); err != nil || len(rest) > 0 && on.HasSubCommands() {
				return fmt.Errorf("no help on %q", strings.Join(args, " "))
			}
			return nil
		}
	}
	root.InitDefaultCompletionCmd()
	if shell, _, err := root.Find([]string{"completion", "powershell"}); err == nil {
		shells := shell.Parent()
		shells.RemoveCommand(shell)                                                    // neb runs on Linux
		shells.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // for Args to count
	}
	callWrongly(root)
	refuseEmpty(root)
	return root
}

// emptySays marks a flag whose empty value says something.
const emptySays = "neb: empty says something"

// refuseEmpty makes it wrong usage to give cmd, or what stands below it, a flag with an empty value. --pcr0 "$PCR0" would
// otherwise expect nothing when the variable is not set, and what was to be checked would pass.
func refuseEmpty(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		refuseEmpty(child)
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) (err error) {
		cmd.Flags().Visit(func(f *pflag.Flag) {
			_, fine := f.Annotations[emptySays]
			empty := f.Value.Type() == "string" && f.Value.String() == ""
			if list, ok := f.Value.(pflag.SliceValue); ok && f.Value.Type() == "stringSlice" {
				empty = len(list.GetSlice()) == 0
			}
			if err == nil && !fine && empty {
				err = usagef("--%s is empty: give it a value, or leave it out", f.Name)
			}
		})
		return err
	}
}

// readSmall reads a file that is held in memory: a key, a certificate, a patch, kernel options.
func readSmall(path string) ([]byte, error) {
	return stream.ReadFile(path, 256<<20) // a patch from one kernel version to the next has some dozens of megabytes
}

// choices are what the shell offers as values of a flag.
func choices(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag
	}
}

// each offers arguments to the shell, of which every one may be given once.
func each(values []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return slices.Contains(given, v) }), cobra.ShellCompDirectiveNoFileComp
	}
}

// callWrongly makes every mistake in flags and arguments, of cmd and of what stands below it, a usage error.
func callWrongly(cmd *cobra.Command) {
	hint := func(err error) error {
		return usagef("%v (see '%s --help')", err, cmd.CommandPath())
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return hint(err) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return hint(err)
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		callWrongly(child)
	}
}
