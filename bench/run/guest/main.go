// Command guest is what bench/run boots. As PID 1 it sends and takes bytes through vsock as fast as it can;
// as an application under neb's init it says hello, or measures the NSM.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// The services. Each reads two numbers of 8 bytes first, little-endian: n, and how much to write at once.
var services = map[uint32]func(c *peer.Conn, n, write int64){
	// Sends n bytes.
	5000: func(c *peer.Conn, n, write int64) {
		for ; n > 0; n -= write {
			if _, err := c.Write(buffer[:min(n, write)]); err != nil {
				return
			}
		}
	},
	// Takes n bytes and answers with one.
	5001: func(c *peer.Conn, n, _ int64) {
		room := make([]byte, len(buffer))
		for n > 0 {
			got, err := c.Read(room)
			if err != nil {
				return
			}
			n -= int64(got)
		}
		c.Write(buffer[:1])
	},
}

// buffer is what is sent: zeros, which nobody looks at.
var buffer = make([]byte, 256<<10)

func main() {
	if os.Getpid() != 1 {
		if len(os.Args) > 1 {
			if err := requests(); err != nil {
				fmt.Println("guest:", err)
			}
		}
		fmt.Println("hello")
		return
	}
	peer.Console()
	for port, serve := range services {
		err := peer.Listen(port, func(c *peer.Conn) {
			var n [2]int64
			if err := binary.Read(c, binary.LittleEndian, &n); err == nil {
				serve(c, n[0], min(n[1], int64(len(buffer))))
				c.Read(make([]byte, 1)) // until the other side closes
			}
		})
		if err != nil {
			fmt.Println("guest:", err)
		}
	}
	fmt.Println("guest: up")
	select {}
}

// requests prints how long requests to the NSM take, as two lines of a table. The two kinds alternate, so
// that both see the same load.
func requests() error {
	module, done, err := nsm.Open()
	if err != nil {
		return err
	}
	defer done()
	kinds := []struct {
		name string
		ask  func() error
		took []time.Duration
	}{
		{name: "GetRandom", ask: func() error { _, err := module.Random(); return err }},
		{name: "Attestation", ask: func() error {
			_, err := module.Attest(buffer[:1024], buffer[:1024], buffer[:1024])
			return err
		}},
	}
	for range 201 {
		for i := range kinds {
			start := time.Now()
			if err := kinds[i].ask(); err != nil {
				return err
			}
			kinds[i].took = append(kinds[i].took, time.Since(start))
		}
	}
	for _, k := range kinds {
		first := k.took[0]
		slices.Sort(k.took)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		fmt.Printf("| `%s` | %.2f ms | %.2f ms | %.2f ms |\n", k.name, ms(first), ms(k.took[len(k.took)/2]),
			ms(k.took[len(k.took)*9/10]))
	}
	return nil
}
