package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFDescribeCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe EIF",
		Short: "Describe an Enclave Image File and its problems",
		Long: `Print the contents of an Enclave Image File as JSON: what nitro-cli describe-eif prints, then
each section with its offset, size and SHA-384, and all problems.

No register covers the metadata (ImageName, ImageVersion, Metadata): do not trust it.`,
		Example: "  neb eif describe hello.eif",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, in, err := inspect.ReadFile(cmd.Context(), args[0], time.Now())
			if err != nil {
				return err
			}
			defer in.Close()
			description, err := report.Describe()
			if err != nil {
				return err
			}
			return printJSON(s, description)
		},
	}
	alwaysJSON(cmd)
	return cmd
}
