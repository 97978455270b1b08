//go:build linux

package cli

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/trust"
)

func newTrustCommand(s streams) *cobra.Command {
	cmd := newGroup("trust", "Manage the keys that neb trusts, and compare what they state",
		newTrustAddCommand(s), newTrustRmCommand(s), newTrustLsCommand(s), newTrustReportCommand(s))
	cmd.Long = `Manage the keys that neb trusts, and compare what they state.

neb takes a build from a remote (see 'neb build --remote') if trusted keys signed a statement of its files.
Keys added with --for releases sign the index that 'neb verify --release' requires.
The keys are in neb/trust.json in the user's configuration directory.`
	return cmd
}

func newTrustAddCommand(s streams) *cobra.Command {
	var expires, use string
	cmd := &cobra.Command{
		Use:   "add NAME KEY",
		Short: "Trust the public key in a PEM file (ECDSA P-256, P-384 or Ed25519)",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			day, err := parseDay("--expires", expires)
			if err != nil {
				return err
			}
			var until *time.Time
			if !day.IsZero() {
				until = &day
			}
			if use != trust.Builds && use != trust.Releases {
				return usagef("invalid --for %q: expected %s or %s", use, trust.Builds, trust.Releases)
			}
			public, err := sign.ReadPublicKey(args[1])
			if err != nil {
				return err
			}
			keys, err := openKeys()
			if err != nil {
				return err
			}
			key, err := keys.Add(args[0], use, public, until)
			if err != nil {
				return err
			}
			printLine(s.out, "%v", key.ID)
			return nil
		},
	}
	cmd.Flags().StringVar(&use, "for", trust.Builds,
		"what the key may sign: builds, or releases (the index that 'neb verify --release' requires)")
	choices(cmd, "for", trust.Builds, trust.Releases)
	cmd.Flags().StringVar(&expires, "expires", "", "end of the trust, a `day` like 2027-01-31, in UTC")
	return cmd
}

// parseDay parses the value of a flag that is a day, at its start in UTC. It is the zero time for "".
func parseDay(flag, day string) (time.Time, error) {
	if day == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return t, usagef("invalid %s %q: expected a day like 2027-01-31", flag, day)
	}
	return t, nil
}

func newTrustRmCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME|ID",
		Short: "Stop trusting a key",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			keys, err := openKeys()
			if err != nil {
				return err
			}
			key, err := keys.Remove(args[0])
			if err != nil {
				return err
			}
			printLine(s.out, "%v", key.ID)
			return nil
		},
	}
}

func newTrustLsCommand(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the trusted keys",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			keys, err := openKeys()
			if err != nil {
				return err
			}
			list := keys.List()
			if asJSON {
				return printJSON(s, append([]trust.Key{}, list...))
			}
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			for _, k := range list {
				until := "never expires"
				if k.Expires != nil {
					until = "expires " + k.Expires.Format(time.DateOnly)
				}
				printRow(w, k.Name, k.Use, k.ID, until)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the keys as JSON")
	return cmd
}

// trustStatement is one statement in what neb trust report --json prints.
type trustStatement struct {
	Component string   `json:"component"`
	Arch      string   `json:"arch"`
	State     string   `json:"state"`          // trusted, disagrees, rejected
	Keys      []string `json:"keys,omitempty"` // names of the trusted keys that signed it
	Remote    string   `json:"remote"`
	Isolation string   `json:"isolation,omitempty"`
	Host      string   `json:"host,omitempty"`
	Time      string   `json:"time,omitempty"` // RFC 3339
	Problem   string   `json:"problem,omitempty"`
	Files     []string `json:"files,omitempty"` // "SHA256  NAME"
}

func newTrustReportCommand(s streams) *cobra.Command {
	var (
		flags  buildFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show which keys state which files for this lock and source",
		Long: `Show which keys state which files for the builds of this lock and source. The command fails if
trusted keys disagree.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			archs, err := flags.arch()
			if err != nil {
				return err
			}
			b, done, err := flags.sharingBuilder(cmd.Context(), s)
			if err != nil {
				return err
			}
			defer done()
			report := []trustStatement{}
			disagree := 0
			for _, a := range archs {
				found, err := b.Report(cmd.Context(), a, component.Names...)
				if err != nil {
					return err
				}
				for _, name := range component.Names {
					list := trustStatements(name, a, found[name])
					if slices.ContainsFunc(list, func(t trustStatement) bool {
						return t.State == disagrees
					}) {
						disagree++
					}
					if len(list) == 0 && !asJSON {
						printLine(s.out, "%s %s: no statement", name, a)
					}
					report = append(report, list...)
				}
			}
			if asJSON {
				err = printJSON(s, report)
			} else {
				printTrust(s, report)
			}
			if err == nil && disagree > 0 {
				err = fmt.Errorf("trusted keys disagree about %d of the builds", disagree)
			}
			return err
		},
	}
	flags.addArch(cmd)
	flags.add(cmd)
	flags.addKernel(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the statements as JSON")
	return cmd
}

// States of a statement.
const (
	trusted   = "trusted"
	disagrees = "disagrees"
	rejected  = "rejected"
)

// trustStatements describes the statements about one build.
func trustStatements(name, arch string, list []component.Statement) []trustStatement {
	var report []trustStatement
	var first []trust.File
	for _, st := range list {
		t := trustStatement{Component: name, Arch: arch, Remote: st.Remote, State: trusted}
		if st.Problem != nil {
			t.State, t.Problem = rejected, st.Problem.Error()
			report = append(report, t)
			continue
		}
		if first == nil {
			first = st.Output.Files
		}
		if !slices.Equal(first, st.Output.Files) {
			t.State = disagrees
		}
		for _, k := range st.Keys {
			t.Keys = append(t.Keys, k.Name)
		}
		for _, f := range st.Output.Files {
			t.Files = append(t.Files, f.SHA256+"  "+f.Name)
		}
		t.Isolation, t.Host = st.Output.Isolation, st.Output.Host
		t.Time = st.Output.Time.Format(time.RFC3339)
		report = append(report, t)
	}
	return report
}

func printTrust(s streams, report []trustStatement) {
	for _, t := range report {
		said := fmt.Sprintf("%s built it on %s (%s, %s)", strings.Join(t.Keys, ", "), t.Host, t.Isolation,
			t.Time)
		if t.Problem != "" {
			said = t.Problem
		}
		printLine(s.out, "%s %s: %s: %s", t.Component, t.Arch, t.State, said)
		if t.Problem != "" {
			continue
		}
		for _, f := range t.Files {
			printLine(s.out, "  %s", f)
		}
	}
}
