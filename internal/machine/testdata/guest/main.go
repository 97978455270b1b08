// Command guest is PID 1 of the enclaves that the tests of package machine boot: heartbeat, then the services
// of package peer.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
)

func main() {
	peer.Console()
	if err := run(); err != nil {
		fmt.Println("guest:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	select {}
}

func run() error {
	modules, _ := filepath.Glob("/*.ko")
	sort.Strings(modules)
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			fmt.Println("guest:", m, err)
		}
		f.Close()
	}
	if err := peer.Serve(); err != nil {
		return err
	}
	c, err := peer.Dial(peer.ParentCID, 9000)
	if err != nil {
		return err
	}
	defer c.Close()
	b := []byte{0xb7}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if n, err := c.Read(b); n != 1 || b[0] != 0xb7 {
		return fmt.Errorf("heartbeat answered with %x, %v", b[:n], err)
	}
	fmt.Println("guest: up")
	return nil
}
