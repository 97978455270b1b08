package machine

import (
	"os"
	"runtime"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// machines are the names of architectures in Go.
var machines = map[string]string{eif.X86_64: "amd64", eif.AArch64: "arm64"}

// kvmWorks says whether this machine can run code of arch by itself.
func kvmWorks(arch string) bool {
	if machines[arch] != runtime.GOARCH {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return false
}
