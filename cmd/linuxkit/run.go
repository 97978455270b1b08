package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
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

// global are the flags that stand before or after every command.
type global struct {
	streams
	cache string
	quiet bool
	level int
}

// run does what the arguments say and returns the exit status: 0, or 1 when anything went wrong.
func run(args []string, s streams) int {
	// What is collected is small and pays at once: memory stays near what the tree of names takes.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(&global{streams: s})
	root.SetArgs(doubleDashes(root, args))
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(s.err, "linuxkit: %v%s\n", err, hint(err))
		return 1
	}
	return 0
}

func newRoot(g *global) *cobra.Command {
	root := &cobra.Command{
		Use:           "linuxkit",
		Short:         "Turn container images and files into ramdisks for enclaves",
		Long:          "Turn container images and files into ramdisks for enclaves.\n\nThis is the part of LinuxKit that nitro-cli calls, made anew: the same command line, YAML and output files.",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.SetIn(g.in)
	flags := root.PersistentFlags()
	flags.StringVar(&g.cache, "cache", defaultCache(), "directory of the image cache (LINUXKIT_CACHE)")
	flags.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing but errors")
	flags.IntVarP(&g.level, "verbose", "v", 1, "how much to say: 0 errors, 1 what is done, 2 and 3 the same here")
	refuse(root, true, "mirror", "cert-file")
	root.AddCommand(newBuild(g), newCache(g), newVersion(g))
	return root
}

func defaultCache() string {
	if dir := os.Getenv("LINUXKIT_CACHE"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".linuxkit", "cache")
}

// say writes a line about what is done.
func (g *global) say(format string, args ...any) {
	if !g.quiet && g.level > 0 {
		fmt.Fprintf(g.err, format+"\n", args...)
	}
}

// refused is a flag of LinuxKit that this command does not have.
type refused string

func (f refused) String() string { return "" }
func (f refused) Type() string   { return "string" }
func (f refused) Set(string) error {
	return fmt.Errorf("this linuxkit packs enclaves and does not have it")
}

// refuse makes flags known that are errors to give: their names and whether they take a value are LinuxKit's.
func refuse(cmd *cobra.Command, value bool, names ...string) {
	flags := cmd.Flags()
	if cmd.Parent() == nil && cmd.Name() == "linuxkit" {
		flags = cmd.PersistentFlags()
	}
	for _, name := range names {
		f := flags.VarPF(refused(name), name, "", "")
		f.Hidden = true
		if !value {
			f.NoOptDefVal = "true"
		}
	}
}

// doubleDashes turns -name into --name where that is a flag, as old nitro-cli releases write them. What follows -- is
// left alone, and so is a single letter.
func doubleDashes(root *cobra.Command, args []string) []string {
	known := map[string]bool{}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		note := func(f *pflag.Flag) { known[f.Name] = true }
		cmd.Flags().VisitAll(note)
		cmd.PersistentFlags().VisitAll(note)
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	visit(root)
	known["help"] = true
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = arg
		if arg == "--" {
			copy(out[i:], args[i:])
			break
		}
		name, single := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(name, "=")
		if single && !strings.HasPrefix(name, "-") && known[name] && (len(name) > 1 || name == "o") {
			out[i] = "-" + arg
		}
	}
	return out
}
