package inspect

import (
	"io"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// maxSearched is how far Application reads into a ramdisk, in bytes: neb writes the description before the
// application's tree.
const maxSearched = 1 << 20

// Application returns the description of the application that neb packed into a file. It returns false for a
// file of another origin, and for one that only other inits can start.
func Application(f *eif.File) (contract.Description, bool) {
	for _, s := range f.All(eif.Ramdisk) {
		// A compressed ramdisk is not neb's.
		r := initramfs.NewReader(io.LimitReader(f.Content(s), maxSearched))
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			if "/"+h.Name != contract.Path {
				continue
			}
			text, err := io.ReadAll(r)
			if err != nil {
				return contract.Description{}, false
			}
			d, err := contract.Decode(string(text))
			return d, err == nil
		}
	}
	return contract.Description{}, false
}
