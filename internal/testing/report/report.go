// Package report records what tests have shown. go test does not print the log of a test that passes; with
// NEB_SHOW set to a file name, the lines are also appended to that file, which .ci/run prints at its end.
package report

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// Linef logs a line and appends it, after the test's name, to the file in NEB_SHOW.
func Linef(t testing.TB, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	name := os.Getenv("NEB_SHOW")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "%s: %s\n", t.Name(), line)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
