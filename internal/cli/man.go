package cli

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/nitro-enclaves-bootstrap/neb/internal/epoch"
)

// newManCommand makes 'neb man', which packagers call; it is not in the help.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages of all commands to a directory",
		Long: `Write the man pages of all commands to a directory. Their date is SOURCE_DATE_EPOCH, or 1970-01-01
without it.`,
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeManPages(cmd.Root(), args[0])
		},
	}
}

func writeManPages(root *cobra.Command, dir string) error {
	date := time.Unix(0, 0).UTC()
	seconds, err := epoch.FromEnvironment()
	if err != nil {
		return err
	}
	if seconds != nil {
		date = time.Unix(*seconds, 0).UTC()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "neb", Manual: "Nitro Enclaves Bootstrap", Date: &date}
	return doc.GenManTree(root, header, dir)
}
