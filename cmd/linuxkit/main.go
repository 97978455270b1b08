// Command linuxkit is the drop-in that nitro-cli calls: it turns container images and files, named in YAML,
// into ramdisks. See docs/linuxkit.md.
package main

import (
	"os"

	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
)

func main() {
	os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, printable.Writer(os.Stderr)}))
}
