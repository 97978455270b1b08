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
		Short: "Extract the sections of an Enclave Image File, or list its ramdisks",
		Long: `Write each section of an Enclave Image File to a file in a directory. --unpack also unpacks
each ramdisk into a subdirectory with its number. --list prints the entries of the ramdisks instead.`,
		Example: `  neb eif extract hello.eif --list
  neb eif extract hello.eif --output parts --unpack`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !list && output == "":
				return usagef("--output or --list is required")
			case list && output != "":
				return usagef("--list cannot be combined with --output")
			case list && unpack:
				return usagef("--list cannot be combined with --unpack")
			}
			file, in, err := inspect.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			warnLayout(s, args[0], file)
			if list {
				err = inspect.ListRamdisks(cmd.Context(), file, s.out)
			} else {
				var names []string
				names, err = inspect.ExtractSections(cmd.Context(), file, output)
				for _, name := range names {
					printLine(s.out, "%v", filepath.Join(output, name))
				}
				if err == nil && unpack {
					warn := func(line string) { complain(s, "%s", line) }
					err = inspect.UnpackRamdisks(cmd.Context(), file, output, warn)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "",
		"`directory` to write to; it is created if it does not exist")
	cmd.Flags().BoolVar(&unpack, "unpack", false, "also unpack the ramdisks")
	cmd.Flags().BoolVar(&list, "list", false, "list the contents of the ramdisks")
	return cmd
}
