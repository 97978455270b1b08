//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
)

func newCacheCommand(s streams) *cobra.Command {
	cmd := newGroup("cache", "List, prune and share downloads and builds",
		newCacheLsCommand(s), newCachePruneCommand(s), newCachePushCommand(s), newCachePullCommand(s))
	cmd.Long = `List and prune the store, which keeps downloads by their hash and builds by the hash of their
inputs.

The store is the directory NEB_CACHE if that is set, else $XDG_CACHE_HOME/neb, else ~/.cache/neb. neb can
download and build everything in it again.`
	return cmd
}

// cacheReport is what neb cache ls --json and neb cache prune --json print.
type cacheReport struct {
	Store string      `json:"store"` // the store's directory
	Size  int64       `json:"size"`  // bytes of all items
	Items []cacheItem `json:"items"`
}

type cacheItem struct {
	store.Item
	File string `json:"file,omitempty"` // of a locked download: package, version, architecture
}

// openCache opens the store, and returns the locked files by their hash.
func openCache() (*store.Store, map[string]lock.File, error) {
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return nil, nil, err
	}
	locked := map[string]lock.File{}
	for _, f := range l.All() {
		locked[f.SHA256] = f
	}
	st, err := store.Open("")
	return st, locked, err
}

func newCacheLsCommand(s streams) *cobra.Command {
	var asJSON bool
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the store, or what the remotes have",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(flags.remotes) > 0 {
				return listRemote(cmd.Context(), s, &flags, asJSON)
			}
			st, locked, err := openCache()
			if err != nil {
				return err
			}
			defer st.Close()
			items, err := st.List(cmd.Context())
			if err != nil {
				return err
			}
			return printItems(s, st.Dir(), items, locked, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the items as JSON")
	cmd.Flags().StringArrayVar(&flags.remotes, "remote", nil,
		"list the builds in this `HOST/REPOSITORY` or directory instead; repeatable")
	return cmd
}

func newCachePruneCommand(s streams) *cobra.Command {
	var all, dryRun, asJSON bool
	var olderThan string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove unused downloads and builds",
		Long: `Remove items from the store that were not used for 30 days, and incomplete downloads and
builds. Downloads that neb.lock names are kept, and so is everything that another neb process is using.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			age, err := parseAge(olderThan)
			if err != nil {
				return usagef("invalid --older-than: %v", err)
			}
			st, locked, err := openCache()
			if err != nil {
				return err
			}
			defer st.Close()
			before := time.Now().Add(-age)
			choose := func(i store.Item) bool {
				_, keep := locked[i.Name]
				switch {
				case i.Kind == store.Other:
					return false
				case all, i.Kind == store.Partial, i.Kind == store.Making:
					return true
				case i.Kind == store.Download && keep:
					return false
				}
				return i.Used.Before(before)
			}
			var gone []store.Item
			if dryRun {
				gone, err = st.List(cmd.Context())
				gone = slices.DeleteFunc(gone, func(i store.Item) bool { return !choose(i) })
			} else {
				gone, err = st.Prune(cmd.Context(), choose)
			}
			if err != nil {
				return fmt.Errorf("store %s: %w", st.Dir(), err)
			}
			return printItems(s, st.Dir(), gone, locked, asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove everything, including downloads that neb.lock names")
	cmd.Flags().StringVar(&olderThan, "older-than", "30d",
		"remove items that were not used for this `time`, as in 12h or 30d")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "list what would be removed, and remove nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the removed items as JSON")
	return cmd
}

// parseAge parses a duration in Go's syntax, or a number of days ("30d").
func parseAge(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("expected a time like 12h or 30d, found %q", s)
	}
	return d, nil
}

func printItems(s streams, dir string, items []store.Item, locked map[string]lock.File, asJSON bool) error {
	report := cacheReport{Store: dir, Items: []cacheItem{}}
	for _, i := range items {
		report.Size += i.Size
		c := cacheItem{Item: i}
		if f, ok := locked[i.Name]; ok {
			c.File = strings.Join([]string{f.Name, f.Version, f.Arch}, " ")
		}
		report.Items = append(report.Items, c)
	}
	if asJSON {
		return printJSON(s, report)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, i := range report.Items {
		name := i.File
		if name == "" {
			name = i.Name
		}
		printRow(w, i.Kind, megabytes(i.Size), i.Used.Format("2006-01-02 15:04"), name)
	}
	printRow(w, "total", megabytes(report.Size), "", fmt.Sprintf("%d in %s", len(report.Items), dir))
	return w.Flush()
}
