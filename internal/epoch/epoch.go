// Package epoch reads SOURCE_DATE_EPOCH, the clock of reproducible builds.
package epoch

import (
	"fmt"
	"math"
	"os"
	"strconv"
)

// Variable is the environment variable that [FromEnvironment] reads
// (reproducible-builds.org/specs/source-date-epoch).
const Variable = "SOURCE_DATE_EPOCH"

// FromEnvironment returns the value of SOURCE_DATE_EPOCH in seconds since 1970, or nil if it is unset or
// empty. A value outside of 32 bits is an error: newc archives and erofs images store no other time.
func FromEnvironment() (*int64, error) {
	text := os.Getenv(Variable)
	if text == "" {
		return nil, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds > math.MaxUint32 {
		return nil, fmt.Errorf("invalid %s: found %q, expected seconds since 1970, from 0 to %d",
			Variable, text, uint32(math.MaxUint32))
	}
	return &seconds, nil
}
