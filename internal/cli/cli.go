// Package cli is the command line of neb: one file a command, flags in, one call, words out.
//
// Results go to standard output; progress, warnings and errors go to standard error. The exit status is 0 for
// success, 1 for failure and 2 for wrong usage; a command with statuses of its own (neb run) returns an
// [*ExitError].
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// streams is where a command writes. All commands share one, and nothing else prints. In neb both are
// [printable.Writer].
type streams struct {
	out io.Writer // results
	err io.Writer // progress, warnings, errors
}

// complain prints a message to standard error.
func complain(s streams, format string, args ...any) {
	fmt.Fprintf(s.err, "neb: %s\n", printable.Indent(fmt.Sprintf(format, args...)))
}

// printLine prints one line: a line break in an argument is escaped.
func printLine(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintln(w, printable.Line(fmt.Sprintf(format, args...)))
	return err
}

// printRow prints a row of a table: a line break or tab in a cell is escaped.
func printRow(w *tabwriter.Writer, cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = printable.Line(fmt.Sprint(c))
	}
	fmt.Fprintln(w, strings.Join(row, "\t"))
}

// megabytes returns a size in words.
func megabytes(size int64) string { return fmt.Sprintf("%.1f MB", float64(size)/1e6) }

// printJSON prints a value as JSON, in the form of nitro-cli: indented by two spaces, without escapes for
// HTML.
func printJSON(s streams, value any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// ExitError ends neb with an exit status. Err is nil if the command has already printed why.
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

// errSaid ends a command with status 1 after it has printed why.
var errSaid = &ExitError{Code: 1}

// usagef returns an error with exit status 2, for wrong usage.
func usagef(format string, args ...any) error {
	return &ExitError{Code: 2, Err: fmt.Errorf(format, args...)}
}

// signalError is the cause of a context that a signal to neb canceled.
type signalError struct{ syscall.Signal }

func (s signalError) Error() string { return s.String() }

// grace is how long a command may take to clean up after a signal.
var grace = 20 * time.Second

// Main runs neb with the given arguments and returns its exit status.
//
// The first SIGINT, SIGTERM or SIGHUP cancels the command's context so that it can clean up. A second one
// ends neb at once, unless the command handles it. If the command has not ended within [grace], neb exits.
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
				fmt.Fprintf(stderr, "neb: %v: cleanup exceeded %v, exiting\n", s, grace)
				os.Exit(128 + int(s.(syscall.Signal)))
			})
			<-ended
			late.Stop()
		case <-ctx.Done():
		}
	}()

	s := streams{out: printable.Writer(stdout), err: printable.Writer(stderr)}
	root := newRoot(s)
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
		complain(s, "%v", exit.Err)
	}
	return exit.Code
}

// notify relays the signals that end neb to c, except those that neb's parent process set to be ignored, as
// nohup does.
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
		Long: `Build the kernel, the NSM driver and PID 1 of an AWS Nitro Enclave, pack them with an
application into an Enclave Image File, and boot that file on this machine.

Environment:

    NEB_CACHE    directory of downloads and builds (default: $XDG_CACHE_HOME/neb, or ~/.cache/neb)
    NEB_MIRROR   mirror of Debian packages to try before those of this machine's apt
    NEB_SOURCE   neb's source tree, for init and linuxkit
    GOPROXY      source of the Go toolchain and modules

Exit status: 0 success, 1 failure, 2 wrong usage; neb run exits as the application in the enclave did.`,
		Example: `  neb build
  neb eif build --image alpine:3 --cmd /bin/date --output date.eif
  neb run date.eif`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          showHelp,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		root.Version = info.Main.Version // with the commit if there is no tag; "(devel)" from go run
	}
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 110"))
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.AddCommand(newManCommand(), newEIFCommand(s), newAttestCommand(s), newKMSCommand(s))
	root.AddCommand(platformCommands(s)...)
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
	if shells, _, err := root.Find([]string{"completion"}); err == nil {
		shells.RunE = showHelp // cobra checks the arguments of commands that run
	}
	checkUsage(root)
	return root
}

// newGroup returns a command that has subcommands and does nothing itself.
func newGroup(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: showHelp}
	cmd.AddCommand(commands...)
	return cmd
}

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// checkUsage makes every mistake in the flags and arguments of cmd and its subcommands a usage error.
//
// An empty value of a flag is one, unless [allowEmpty] names the flag: with an unset variable, --pcr0 "$PCR0"
// would otherwise expect nothing, and the check would pass.
func checkUsage(cmd *cobra.Command) {
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
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) (err error) {
		cmd.Flags().Visit(func(f *pflag.Flag) {
			_, allowed := f.Annotations[emptyAllowed]
			empty := f.Value.Type() == "string" && f.Value.String() == ""
			if list, ok := f.Value.(pflag.SliceValue); ok && f.Value.Type() == "stringSlice" {
				empty = len(list.GetSlice()) == 0
			}
			if err == nil && !allowed && empty {
				err = usagef("--%s is empty: give it a value, or omit the flag", f.Name)
			}
		})
		return err
	}
	for _, child := range cmd.Commands() {
		checkUsage(child)
	}
}

const emptyAllowed = "neb: an empty value is allowed"

// alwaysJSON adds a hidden flag --json to a command that prints nothing but JSON.
func alwaysJSON(cmd *cobra.Command) {
	cmd.Flags().Bool("json", true, "no effect: the output is always JSON")
	_ = cmd.Flags().MarkHidden("json")
}

// allowEmpty allows empty values of flags.
func allowEmpty(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.Flags().SetAnnotation(name, emptyAllowed, nil); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// aliases gives flags of cmd further names, those of nitro-cli.
func aliases(cmd *cobra.Command, names map[string]string) {
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if own, ok := names[name]; ok {
			name = own
		}
		return pflag.NormalizedName(name)
	})
}

// choices sets the values of a flag that shell completion offers.
func choices(cmd *cobra.Command, flag string, values ...string) {
	offer := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // there is no such flag
	}
}

// each has shell completion offer values as arguments, each of them once.
func each(values []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		used := func(v string) bool { return slices.Contains(given, v) }
		return slices.DeleteFunc(slices.Clone(values), used), cobra.ShellCompDirectiveNoFileComp
	}
}

// readSmall reads a file into memory: kernel options, or a patch, which has some dozens of megabytes at most.
func readSmall(path string) ([]byte, error) { return stream.ReadFile(path, 256<<20) }
