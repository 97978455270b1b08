package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/spf13/pflag"
)

// limit is a field of [image.Limits] with its flag and its variable: nitro-cli passes no flags of its users.
type limit struct {
	field, flag, variable, about string
	value                        func(*image.Limits) *int64
}

var limits = []limit{
	{"Entries", "max-entries", "LINUXKIT_MAX_ENTRIES", "largest number of entries in the layers of an image",
		func(l *image.Limits) *int64 { return &l.Entries }},
	{"Bytes", "max-bytes", "LINUXKIT_MAX_BYTES", "largest size of the layers, decompressed, in bytes",
		func(l *image.Limits) *int64 { return &l.Bytes }},
	{"Window", "max-window", "LINUXKIT_MAX_WINDOW", "most memory for the windows of zstd layers, in bytes",
		func(l *image.Limits) *int64 { return &l.Window }},
}

// addLimits adds a flag for every limit.
func addLimits(flags *pflag.FlagSet, to *image.Limits) {
	defaults := image.DefaultLimits
	for _, l := range limits {
		flags.Int64Var(l.value(to), l.flag, 0, fmt.Sprintf("%s (%s; default %d)",
			l.about, l.variable, *l.value(&defaults)))
	}
}

// limitsFromEnvironment sets the limits that no flag has set.
func limitsFromEnvironment(to *image.Limits) error {
	for _, l := range limits {
		value, text := l.value(to), os.Getenv(l.variable)
		if *value != 0 || text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n <= 0 {
			return fmt.Errorf("invalid %s: found %q, expected a number greater than 0", l.variable, text)
		}
		*value = n
	}
	return nil
}

// hint names the flag and the variable that raise the limit in an error.
func hint(err error) string {
	if exceeded, ok := errors.AsType[*image.LimitError](err); ok {
		for _, l := range limits {
			if l.field == exceeded.Field {
				return fmt.Sprintf(" (--%s, %s)", l.flag, l.variable)
			}
		}
	}
	return ""
}
