package cli

import (
	"bufio"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFDiffCommand(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff EIF EIF",
		Short: "List the differences of two Enclave Image Files",
		Long: `Compare two Enclave Image Files and print each difference: the section, the file in a ramdisk,
and the registers that change with it. The exit status is 0 if the files are the same, and 1 if they differ.`,
		Example: "  neb eif diff yesterday.eif today.eif",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, inA, err := inspect.Open(args[0])
			if err != nil {
				return err
			}
			defer inA.Close()
			b, inB, err := inspect.Open(args[1])
			if err != nil {
				return err
			}
			defer inB.Close()
			warnLayout(s, args[0], a)
			warnLayout(s, args[1], b)
			differ := false
			out := bufio.NewWriter(s.out)
			tools := newBlobBuilder(s, buildFlags{})
			defer tools.close()
			err = inspect.Diff(cmd.Context(), a, b, tools, func(d inspect.Difference) {
				differ = true
				if asJSON {
					_ = json.NewEncoder(out).Encode(d)
				} else {
					printLine(out, "%v", d)
				}
			})
			err = errors.Join(err, out.Flush())
			if err == nil && differ {
				err = errSaid
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per difference and line")
	return cmd
}
