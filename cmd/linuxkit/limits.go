package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/nitro-enclaves-bootstrap/neb/image"
)

// limits are the fields of [image.Limits] with their variables: nitro-cli passes no flags of its users.
var limits = []struct {
	field, variable string
	value           func(*image.Limits) *int64
}{
	{"Entries", "LINUXKIT_MAX_ENTRIES", func(l *image.Limits) *int64 { return &l.Entries }},
	{"Bytes", "LINUXKIT_MAX_BYTES", func(l *image.Limits) *int64 { return &l.Bytes }},
	{"Window", "LINUXKIT_MAX_WINDOW", func(l *image.Limits) *int64 { return &l.Window }},
}

func limitsFromEnvironment() (found image.Limits, err error) {
	for _, l := range limits {
		text := os.Getenv(l.variable)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n <= 0 {
			return found, fmt.Errorf("invalid %s: found %q, expected a number greater than 0", l.variable,
				text)
		}
		*l.value(&found) = n
	}
	return found, nil
}

// hint names the variable that raises the limit in an error.
func hint(err error) string {
	if exceeded, ok := errors.AsType[*image.LimitError](err); ok {
		for _, l := range limits {
			if l.field == exceeded.Field {
				return ": raise " + l.variable + " if you trust the image"
			}
		}
	}
	return ""
}
