package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
)

func newEIFExtractCommand(s streams) *cobra.Command {
	var output string
	var list, unpack bool
	cmd := &cobra.Command{
		Use:   "extract EIF (--output DIR [--unpack] | --list)",
		Short: "Write the sections of an Enclave Image File to files, or list its ramdisks",
		Long: `Write each section of an Enclave Image File to a file in a directory; with --unpack also the trees of the ramdisks, each
into a directory with its number. With --list print the entries of the ramdisks instead.`,
		Example: `  neb eif extract hello.eif --list
  neb eif extract hello.eif --output parts --unpack`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list == (output != "") {
				return usagef("one of --output and --list says what to do")
			}
			if unpack && list {
				return usagef("--unpack goes with --output")
			}
			file, in, err := openEIF(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			if list {
				err = inspect.ListRamdisks(cmd.Context(), file, s.out)
			} else {
				var names []string
				names, err = inspect.ExtractSections(cmd.Context(), file, output)
				for _, name := range names {
					fmt.Fprintln(s.out, filepath.Join(output, name))
				}
				if err == nil && unpack {
					err = inspect.UnpackRamdisks(cmd.Context(), file, output, func(line string) { complain(s, "%s", line) })
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "directory for the files; it is made")
	cmd.Flags().BoolVar(&unpack, "unpack", false, "unpack the ramdisks too")
	cmd.Flags().BoolVar(&list, "list", false, "list what is in the ramdisks")
	return cmd
}
