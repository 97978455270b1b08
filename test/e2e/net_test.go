package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/loopback"
)

// world is what an enclave reaches over its network in a test: servers on this machine's loopback.
type world struct {
	ca    []byte // PEM, of the certificate of https
	https string // port of a server of TLS, whose certificate is for api.example.com
	echo  string // port of a TCP server that sends back what it gets
	echo6 string // the same on IPv6; "1" on a machine without
	udp   string // the same for UDP
	// address of a resolver that knows every name as the enclave's address of this machine, and
	resolver string
	// names that begin with six by its address of IPv6
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, DNSNames: []string{"api.example.com", "other.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(rw, "hello %s %d", r.URL.Path, n)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, w.https, _ = net.SplitHostPort(server.Listener.Addr().String())

	l := listen(t)
	echo := func(c net.Conn) { io.Copy(c, c); c.(*net.TCPConn).CloseWrite() }
	go serveEach(l, echo)
	_, w.echo, _ = net.SplitHostPort(l.Addr().String())
	w.echo6 = "1"
	if six, err := net.Listen("tcp", "[::1]:0"); err == nil {
		t.Cleanup(func() { six.Close() })
		go serveEach(six, echo)
		_, w.echo6, _ = net.SplitHostPort(six.Addr().String())
	}
	w.resolver = loopback.Free(t)
	udp := loopback.Free(t)
	_, w.udp, _ = net.SplitHostPort(udp)
	for address, answer := range map[string]func([]byte) []byte{udp: bytes.Clone, w.resolver: resolve} {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(answer(b[:n]), from)
			}
		}()
	}
	// The resolver answers over TCP at the same port.
	tcp, err := net.Listen("tcp", w.resolver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	go serveEach(tcp, func(c net.Conn) {
		for {
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			answer := resolve(query)
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	})
	return w
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func serveEach(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

// resolve answers a query for the address of a name with that of this machine, and other queries with no
// record.
func resolve(query []byte) []byte {
	kind, address := uint16(1), contract.NetworkHost[0].AsSlice()
	if bytes.HasPrefix(query[12:], []byte("\x03six")) {
		kind, address = 28, contract.NetworkHost[1].AsSlice()
	}
	end := bytes.IndexByte(query[12:], 0) + 12 + 5
	b := bytes.Clone(query[:end])
	b[2], b[3] = 0x81, 0x80
	clear(b[6:12])
	if binary.BigEndian.Uint16(query[end-4:]) == kind {
		b[7] = 1
		b = append(b, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(len(address)))
		b = append(b, address...)
	}
	return b
}

// events are the events of neb run --json, and the console.
type netEvents struct {
	console string
	network []string // kind, reason and text of the network's events
}

func readEvents(t testing.TB, stdout string) netEvents {
	t.Helper()
	var all netEvents
	for line := range strings.Lines(stdout) {
		var e struct {
			Event, Text, Reason string
			Count               int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Event == "console" {
			all.console += e.Text + "\n"
		}
		if strings.HasPrefix(e.Event, "network-") {
			all.network = append(all.network, strings.TrimSpace(e.Event+" "+e.Reason+" "+e.Text))
		}
	}
	return all
}

// echoProxy is an HTTP proxy whose connections, to 198.51.100.7:7, lead to the echo server.
func echoProxy(t testing.TB, port string) string {
	l := listen(t)
	go serveEach(l, func(c net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil || request.Method != http.MethodConnect || request.Host != "198.51.100.7:7" {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\n\r\n")
			return
		}
		echo, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		defer echo.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(echo, c)
			echo.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(c, echo)
	})
	return l.Addr().String()
}

// An ordinary program reaches what the rules allow, and nothing else.
func TestNetwork(t *testing.T) {
	w := newWorld(t)
	published := listen(t)
	publish := published.Addr().String()
	published.Close()
	six := "1048576 bytes"
	if w.echo6 == "1" {
		six = "connection refused" // by this machine
	}
	acts := []struct{ do, want string }{
		{"get https://api.example.com:" + w.https + "/x", "200 OK hello /x 0"},
		{"get https://other.example.com:" + w.https + "/x", "no name: server misbehaving"},
		{"echo 192.168.127.254:" + w.echo + " 4", "4194304 bytes"},
		{"echo six.example.com:" + w.echo6 + " 1", six},
		{"echo [fd6e:6562::fe]:" + w.echo + " 1", "connection refused"},
		{"udp 192.168.127.254:" + w.udp, "ping"},
		{"udp 192.168.127.254:1", "no route to host"},
		{"echo 203.0.113.1:443 1", "connection refused"},
		{"echo 198.51.100.7:7 1", "1048576 bytes"}, // through the proxy
		{"echo 169.254.169.254:80 1", "connection refused"},
		{"vsock", "operation not permitted"},
		{"read /etc/resolv.conf", "nameserver 192.168.127.1"},
		{"carrier", "Uid:4294967293 Gid:4294967293 CapPrm:0000000000000000 CapEff:0000000000000000 " +
			"CapAmb:0000000000000000 NoNewPrivs:1 Seccomp:2"},
		{"serve :8080 3", "done"},
	}
	args := []string{"net"}
	for _, a := range acts {
		args = append(args, a.do)
	}
	image := guestImage(t, v1.Config{Entrypoint: []string{"/guest"}, Cmd: args},
		entry{"ca.pem", 0o644, w.ca})
	eif, _ := pack(t, ociLayout(t, image), "--net", "--egress", "api.example.com:"+w.https,
		"--egress", "six.example.com:"+w.echo6, "--egress", "192.168.127.254:"+w.echo+"/tcp",
		"--egress", "192.168.127.254:"+w.udp+"/udp", "--egress", "198.51.100.7:7", "--ingress", "8080")

	cmd := exec.CommandContext(t.Context(), nebPath, runArgs("--json", "--timeout", "5m", "--net",
		"--host-loopback", "--net-dns", w.resolver, "--publish", publish+":8080", "--upstream-proxy", eif)...)
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://"+echoProxy(t, w.echo), "NO_PROXY=")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	var once sync.Once
	var clients sync.WaitGroup
	for b := make([]byte, 4096); ; {
		n, err := stdout.Read(b)
		said.Write(b[:n])
		if strings.Contains(said.String(), `"text":"listening`) {
			once.Do(func() {
				for range 3 {
					clients.Go(func() {
						c, err := net.Dial("tcp", publish)
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						io.WriteString(c, "hello")
						c.(*net.TCPConn).CloseWrite()
						if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
							t.Errorf("%q %v", got, err)
						}
					})
				}
			})
		}
		if err != nil {
			break
		}
	}
	clients.Wait()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &stderr)
	}
	events := readEvents(t, said.String())
	for _, a := range acts {
		if !strings.Contains(events.console, a.do+": "+a.want) {
			t.Errorf("no line %q", a.do+": "+a.want)
		}
	}
	for _, want := range []string{"neb: network up after ",
		"neb: network refused dns: name other.example.com"} {
		if !strings.Contains(events.console, want) {
			t.Errorf("no line %q", want)
		}
	}
	kB := 0
	if _, after, ok := strings.Cut(events.console, "Seccomp:2 memory:"); ok {
		fmt.Sscan(after, &kB)
	}
	if kB < 100 || kB > 8<<10 {
		t.Errorf("the carrier used %d kB of memory, the limit is 8 MiB", kB)
	}
	all := strings.Join(events.network, "\n")
	for _, want := range []string{"network-up", "network-refused dns name other.example.com",
		"network-refused egress ", "network-refused imds tcp 169.254.169.254:80", "network-down"} {
		if !strings.Contains(all, want) {
			t.Errorf("no event %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s\n%s\n%s", events.console, all, &stderr)
	}
}

// The other architecture has the same device, process and rules.
func TestAArch64Network(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acts := []string{"echo 192.168.127.254:" + w.echo + " 1", "udp 192.168.127.254:" + w.udp}
	image := ociLayout(t, guestImageFor(t, "arm64", armPath, v1.Config{Entrypoint: []string{"/guest"},
		Cmd: append([]string{"net"}, append(acts, "vsock", "carrier")...)}))
	eif, _ := packFor(t, "aarch64", image, "--net", "--egress", "192.168.127.254:"+w.echo)
	r := boot(t, eif, "--net", "--host-loopback")
	for _, line := range []string{acts[0] + ": 1048576 bytes", acts[1] + ": no route to host",
		"vsock: operation not permitted", "carrier: Uid:4294967293 Gid:4294967293 CapPrm:0000000000000000"} {
		if !strings.Contains(r.stdout, line) {
			t.Errorf("no line %q\n%s\n%s", line, r.stdout, r.stderr)
		}
	}
}
