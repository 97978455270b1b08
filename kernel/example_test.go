package kernel_test

import (
	"fmt"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

func ExampleCheck() {
	requested := []kernel.Fragment{{Name: "mine.config", Text: "CONFIG_WARP_DRIVE=y\nCONFIG_NET=y\n"}}
	final := []byte("CONFIG_NET=y\n# CONFIG_DEVMEM is not set\n")
	err := kernel.Check(requested, final)
	fmt.Println(strings.SplitN(err.Error(), ": this", 2)[0])
	// Output: mine.config:1: CONFIG_WARP_DRIVE=y is not in the final configuration
}

func ExampleRefuse() {
	user := []kernel.Fragment{{Name: "mine.config", Text: "CONFIG_NSM=y\n"}}
	fmt.Println(kernel.Refuse(user))
	// Output: mine.config:1: CONFIG_NSM=y: nitro-cli needs nsm.ko in the result: CONFIG_NSM must be m
}

func ExampleCmdline() {
	fmt.Println(strings.Fields(kernel.Cmdline("x86_64"))[0])
	// Output: reboot=k
}
