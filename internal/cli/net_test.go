//go:build linux

package cli

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/network"
)

// A server shows its published ports, its enclaves and what they were refused, and writes their frames.
func TestNetServe(t *testing.T) {
	dir, err := os.MkdirTemp("", "net") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct {
		args   string
		status int
		want   string // on standard error
	}{
		{"serve --listen tcp:1", 2, "expected vsock:PORT or unix:PATH"},
		{"serve --listen vsock:x", 2, "expected vsock:PORT or unix:PATH"},
		{"serve --publish 1 --listen unix:" + at("l"), 2, "invalid --publish"},
		{"serve --publish " + taken.Addr().String() + ":80 --listen unix:" + at("l"), 1,
			"address already in use"},
		{"serve --net-dns resolver --listen unix:" + at("l"), 2, "expected an IP address"},
		{"serve --pcap " + at("no/file") + " --listen unix:" + at("l"), 1, "--pcap: open"},
		{"status --socket " + at("none"), 1, "'neb net serve' does not answer"},
	} {
		args := append(strings.Fields("net "+test.args), "--socket", at("s"))
		if strings.HasPrefix(test.args, "status") {
			args = args[:len(args)-2]
		}
		if status, _, errs := command(args...); status != test.status || !strings.Contains(errs, test.want) {
			t.Errorf("%q: status %d, expected %d; said %s, expected %q", args, status, test.status, errs,
				test.want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	o := netFlags{pcap: at("pcap"), resolver: "192.0.2.53"}
	go func() {
		ended <- serveNet(ctx, streams{out: io.Discard, err: io.Discard}, &o, "unix:"+at("listen"),
			at("status"))
	}()
	var c net.Conn
	for c, err = net.Dial("unix", at("status")); err != nil; c, err = net.Dial("unix", at("status")) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	c.Close()
	if c, err = net.Dial("unix", at("listen")); err != nil {
		t.Fatal(err)
	}
	notice := "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5dns 3 name evil.org"
	io.WriteString(c, contract.NetworkRequest+string(rune(len(notice)))+"\x00"+notice)
	var status network.Status
	for len(status.Enclaves) == 0 || status.Enclaves[0].Refused["dns"] == 0 {
		code, out, errs := command("net", "status", "--socket", at("status"), "--json")
		if code != 0 || json.Unmarshal([]byte(out), &status) != nil {
			t.Fatalf("status %d, printed %q, said %s", code, out, errs)
		}
	}
	if _, out, _ := command("net", "status", "--socket", at("status")); !strings.Contains(out, "dns 3") {
		t.Errorf("printed %s", out)
	}
	c.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(at("pcap")); err != nil || !strings.HasSuffix(string(b), notice) {
		t.Errorf("%q %v", b, err)
	}
}
