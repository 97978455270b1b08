//go:build linux && (amd64 || arm64)

package main

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// loadOrder returns the modules that nitro-cli's list names, or none without a list: kernels of distributions
// have drivers that an enclave needs as modules. (What nitro-cli 2.0 will write is only proposed: pull
// request 52 of aws-nitro-enclaves-sdk-bootstrap.)
func loadOrder() ([]string, error) {
	text, err := readFile(contract.LoadOrderPath, contract.MaxSize)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fail("read", contract.LoadOrderPath, err)
	}
	return orderedModules(text), nil
}

// orderedModules returns the paths in the text of the list: one a line, relative to the root of the ramdisk.
func orderedModules(text string) (paths []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			paths = append(paths, "/"+strings.TrimLeft(line, "/"))
		}
	}
	return paths
}
