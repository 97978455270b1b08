// Command neb makes everything a Nitro Enclave needs under the application, packs it and boots it.
package main

import (
	"os"

	"github.com/nitro-enclaves-bootstrap/neb/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
