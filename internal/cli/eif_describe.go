package cli

import (
	"time"

	"github.com/spf13/cobra"
)

func newEIFDescribeCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe EIF",
		Short: "Say what is in an Enclave Image File, and what is wrong with it",
		Long: `Print what is in an Enclave Image File, in JSON: what nitro-cli describe-eif prints, then each section with its place,
size and SHA-384, and everything that is wrong.

No register covers the metadata (ImageName, ImageVersion, Metadata): they may say anything.`,
		Example: "  neb eif describe hello.eif",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, done, err := inspectEIF(cmd.Context(), args[0], time.Now())
			if err != nil {
				return err
			}
			defer done()
			text, err := report.JSON()
			if err != nil {
				return err
			}
			_, err = s.out.Write(text)
			return err
		},
	}
	cmd.Flags().Bool("json", true, "no effect: the description is always JSON")
	cmd.Flags().MarkHidden("json")
	return cmd
}
