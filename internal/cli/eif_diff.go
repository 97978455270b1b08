package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFDiffCommand(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff EIF EIF",
		Short: "Find out why two Enclave Image Files measure differently",
		Long: `Compare two Enclave Image Files and print where they differ: which section and, inside of ramdisks, which file, with the
registers that differ for it. The exit status is 0 when they are the same and 1 when they differ.`,
		Example: "  neb eif diff yesterday.eif today.eif",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, inA, err := openEIF(args[0])
			if err != nil {
				return err
			}
			defer inA.Close()
			b, inB, err := openEIF(args[1])
			if err != nil {
				return err
			}
			defer inB.Close()
			differ := false
			tools := newBlobBuilder(s, buildFlags{})
			defer tools.close()
			err = inspect.Diff(cmd.Context(), a, b, tools, func(d inspect.Difference) {
				differ = true
				if asJSON {
					json.NewEncoder(s.out).Encode(d)
				} else {
					fmt.Fprintln(s.out, d)
				}
			})
			if err == nil && differ {
				err = errSaid
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line for each difference")
	return cmd
}
