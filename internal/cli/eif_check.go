package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
)

// eifCheckReport is what neb eif check --json prints.
type eifCheckReport struct {
	Starts   bool                // there is no error
	Memory   int64               // that the enclave needs to start, in bytes
	Findings []preflight.Finding // in the order of docs/check.md
}

func newEIFCheckCommand(s streams) *cobra.Command {
	var memory int64
	var config string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check EIF",
		Short: "Check whether an enclave would start from an Enclave Image File",
		Long: `Check an Enclave Image File of any origin for what would keep the enclave from starting: the
file itself, the kernel and its command line, PID 1, and the application's command, interpreter, libraries and
user. neb prints each finding with its severity, its code and what to do. The exit status is 1 if one is an
error.

'neb eif build' checks the same before it writes a file.`,
		Example: "  neb eif check hello.eif --memory 512",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if memory < 0 {
				return usagef("invalid --memory %d: expected MiB", memory)
			}
			tools := newBlobBuilder(s, buildFlags{})
			defer tools.close()
			needs := inspect.Needs{Memory: memory << 20, Tools: tools}
			if config != "" {
				text, err := readSmall(config)
				if err != nil {
					return err
				}
				needs.Config = string(text)
			}
			checked, err := inspect.Check(cmd.Context(), args[0], needs)
			if err != nil {
				return err
			}
			starts := !slices.ContainsFunc(checked.Findings, func(f preflight.Finding) bool {
				return f.Severity == preflight.Error
			})
			if asJSON {
				report := eifCheckReport{starts, checked.Memory, append([]preflight.Finding{},
					checked.Findings...)}
				if err := printJSON(s, report); err != nil {
					return err
				}
			} else {
				for _, f := range checked.Findings {
					printLine(s.out, "%s: %v", args[0], f)
				}
				printLine(s.out, "%s: needs at least %d MiB of memory", args[0], checked.Memory>>20)
			}
			if !starts {
				return errSaid
			}
			return nil
		},
	}
	cmd.Flags().Int64Var(&memory, "memory", 0, "`MiB` that the enclave will have")
	cmd.Flags().StringVar(&config, "kernel-config", "",
		"configuration `file` of the kernel, to check what it lacks")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}
