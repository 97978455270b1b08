// Package loopback gives tests free ports of this machine's loopback, for programs that cannot choose one
// themselves.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Free returns an address of 127.0.0.1 on which nobody listens over TCP or UDP. Its port is below 32768,
// where the kernel takes the ports of connections from (ip_local_port_range).
func Free(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 16384+rand.IntN(16384))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err != nil {
			continue
		}
		l.Close()
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", address); err != nil {
			continue
		}
		c.Close()
		return address
	}
	t.Fatalf("no free port: %v", err)
	return ""
}
