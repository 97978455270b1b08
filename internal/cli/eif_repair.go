package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFRepairCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "repair EIF",
		Short: "Repair the layout of an Enclave Image File",
		Long: `Rewrite an Enclave Image File in place, atomically: its sections in the order of its header,
without gaps between them or bytes after them, and with the right sizes and checksum in the header. This
repairs what nitro-cli sign-eif writes when it replaces a signature with one of another length.

The sections do not change, so the measurements and the signature stay the same. neb compares the
measurements, and prints them in the form of nitro-cli.`,
		Example: "  neb eif repair hello.eif",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, in, err := inspect.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			var m eif.Measurements
			err = atomicfile.Write(args[0], func(out *os.File) error {
				m, err = eif.Repair(cmd.Context(), out, file)
				in.Close() // Windows does not replace an open file
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, l := range file.Layout {
				complain(s, "%s: repaired: %v", args[0], l)
			}
			complain(s, "%s: the measurements are the same as before", args[0])
			return printMeasurements(s, m)
		},
	}
}
