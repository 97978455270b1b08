package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/spf13/cobra"
)

// limitFlags are limits from flags, or from the environment, since nitro-cli gives no flags of ours.
type limitFlags struct{ l image.Limits }

// limited is what can be limited: the name of its field, flag and variable.
var limited = []struct {
	field, flag, variable, about string
	value                        func(*image.Limits) *int64
}{
	{"Entries", "max-entries", "LINUXKIT_MAX_ENTRIES", "most files and directories of an image's layers", func(l *image.Limits) *int64 { return &l.Entries }},
	{"Bytes", "max-bytes", "LINUXKIT_MAX_BYTES", "most bytes that an image's layers inflate to, and that an image brings into the cache", func(l *image.Limits) *int64 { return &l.Bytes }},
	{"Window", "max-window", "LINUXKIT_MAX_WINDOW", "most bytes of memory for the windows of zstd layers", func(l *image.Limits) *int64 { return &l.Window }},
}

// add makes the flags of some fields known to a command.
func (f *limitFlags) add(cmd *cobra.Command, fields ...string) {
	defaults := image.DefaultLimits
	for _, v := range limited {
		if slices.Contains(fields, v.field) {
			cmd.Flags().Int64Var(v.value(&f.l), v.flag, 0, fmt.Sprintf("%s (%s; default %d)", v.about, v.variable, *v.value(&defaults)))
		}
	}
}

// limits are what flags and environment say; 0 where neither does.
func (f *limitFlags) limits() (image.Limits, error) {
	l := f.l
	for _, v := range limited {
		to, text := v.value(&l), os.Getenv(v.variable)
		if *to != 0 || text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n <= 0 {
			return l, fmt.Errorf("%s=%s: expected a number above 0", v.variable, text)
		}
		*to = n
	}
	return l, nil
}

// hint says how the limit that an error is about is raised.
func hint(err error) string {
	if limit, ok := errors.AsType[*image.LimitError](err); ok {
		for _, v := range limited {
			if v.field == limit.Field {
				return fmt.Sprintf(" (--%s, %s)", v.flag, v.variable)
			}
		}
	}
	return ""
}
