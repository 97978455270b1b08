package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/test/vm/peer"
)

func init() { acts["vsock"], acts["reboot"] = serve, reboot }

// serve does what the test asks for through vsock (package peer), until the test ends the enclave.
func serve([]string) error {
	if err := peer.Serve(); err != nil {
		return err
	}
	fmt.Println("vsock: serving")
	select {}
}

// reboot ends the enclave behind init's back.
func reboot([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }
