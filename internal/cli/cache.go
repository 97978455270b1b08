package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show and free what neb keeps of downloads and builds",
		Long: `Show and free the store: downloads by their content, outputs of builds by what went into them.

The store is NEB_CACHE if that is set, else $XDG_CACHE_HOME/neb, else ~/.cache/neb. All of it can be made again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheLsCommand(s), newCachePruneCommand(s))
	return cmd
}

// cacheItem is an item of the store with the name that a user knows it by.
type cacheItem struct {
	store.Item
	File string `json:"file,omitempty"` // package and version of a locked download
}

// openCache opens the store and reads the lock that is built in.
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

func named(items []store.Item, locked map[string]lock.File) []cacheItem {
	all := []cacheItem{} // in JSON: a list, even if empty
	for _, i := range items {
		c := cacheItem{Item: i}
		if f, ok := locked[i.Name]; ok {
			c.File = strings.Join([]string{f.Name, f.Version, f.Arch}, " ")
		}
		all = append(all, c)
	}
	return all
}

func newCacheLsCommand(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what is in the store",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			st, locked, err := openCache()
			if err != nil {
				return err
			}
			defer st.Close()
			items, err := st.List()
			if err != nil {
				return err
			}
			return printItems(s, st.Dir(), named(items, locked), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newCachePruneCommand(s streams) *cobra.Command {
	var all, dryRun, asJSON bool
	var olderThan string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what is not needed any more",
		Long: `Remove from the store what was not used for 30 days, and downloads and builds that were left unfinished. Downloads
that neb.lock names stay. What another neb works on or uses at the moment stays in any case.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			age, err := parseAge(olderThan)
			if err != nil {
				return usagef("--older-than: %v", err)
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
				case i.Kind == store.Other: // somebody else's
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
				items, err := st.List()
				if err != nil {
					return err
				}
				for _, i := range items {
					if choose(i) {
						gone = append(gone, i)
					}
				}
			} else if gone, err = st.Prune(choose); err != nil {
				return fmt.Errorf("store %s: %w", st.Dir(), err)
			}
			return printItems(s, st.Dir(), named(gone, locked), asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove everything, downloads that neb.lock names included")
	cmd.Flags().StringVar(&olderThan, "older-than", "30d", "remove what was not used for this long, as 12h or 30d")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was removed as JSON")
	return cmd
}

// parseAge reads a duration as Go writes them, or a number of days ("30d").
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

func printItems(s streams, dir string, items []cacheItem, asJSON bool) error {
	var total int64
	for _, i := range items {
		total += i.Size
	}
	if asJSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Store string      `json:"store"`
			Size  int64       `json:"size"` // bytes
			Items []cacheItem `json:"items"`
		}{dir, total, items})
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, i := range items {
		name := i.File
		if name == "" {
			name = i.Name
		}
		fmt.Fprintf(w, "%s\t%s MB\t%s\t%s\n", i.Kind, megabytes(i.Size), i.Used.Format("2006-01-02 15:04"), name)
	}
	fmt.Fprintf(w, "%s\t%s MB\t\t%d in %s\n", "total", megabytes(total), len(items), dir)
	return w.Flush()
}

// megabytes is a size in bytes as people read it, without its unit.
func megabytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }
