//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
)

func newLockCommand(s streams) *cobra.Command {
	return newGroup("lock", "Show what is known about the packages of neb.lock", newLockAuditCommand(s))
}

// lockAudit is what neb lock audit --json prints.
type lockAudit struct {
	Packages int                       `json:"packages"`
	States   map[lock.RebuildState]int `json:"states"` // how many packages have a state
	List     []lock.Rebuild            `json:"list"`
}

func newLockAuditCommand(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "audit FILE...",
		Short: "Show which locked Debian packages others have rebuilt",
		Long: `Show how many Debian packages of neb.lock others have built from source to the same bytes, and
list the rest. The files have the results of rebuilders, as reproduce.debian.net publishes them for each
architecture (amd64, arm64, all) at /ARCHITECTURE/api/v0/pkgs/list.

The exit status is 0 if every package was reproduced, and 1 if one was not, or is not known.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lock.Read(bytes.NewReader(neb.LockFile))
			if err != nil {
				return err
			}
			a := lockAudit{States: map[lock.RebuildState]int{
				lock.Unknown: 0, lock.Reproduced: 0, lock.Differs: 0,
			}}
			if a.List, err = l.Audit(args...); err != nil {
				return err
			}
			a.Packages = len(a.List)
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			for _, r := range a.List {
				a.States[r.State]++
				if r.State != lock.Reproduced && !asJSON {
					printRow(w, string(r.State), r.Name, r.Version, r.Arch)
				}
			}
			good := a.States[lock.Reproduced]
			if asJSON {
				err = printJSON(s, a)
			} else if err = w.Flush(); err == nil {
				err = printLine(s.out, "%d of %d packages reproduced (%.1f %%)", good, a.Packages,
					100*float64(good)/float64(a.Packages))
			}
			if err == nil && good < a.Packages {
				err = fmt.Errorf("packages that differ when rebuilt: %d, unknown: %d", a.States[lock.Differs],
					a.States[lock.Unknown])
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all packages as JSON")
	return cmd
}
