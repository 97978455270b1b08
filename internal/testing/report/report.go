// Package report lets tests say what they have shown. go test keeps to itself what passing tests log; whoever wants to see it names
// a file in NEB_SHOW, as .ci/run does to print it at the end.
package report

import (
	"fmt"
	"os"
	"testing"
)

// Linef logs a line, and appends it to the file that NEB_SHOW names, behind the name of the test.
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
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
