//go:build slow

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/loopback"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// programs is what runs in the enclave, with the ports of https, http and PostgreSQL as arguments: each "try"
// is a program of Debian, and what its output must contain.
const programs = `#!/bin/sh
https=$1 http=$2 postgres=$3
try() {
	name=$1 want=$2; shift 2
	out=$("$@" 2>&1 </dev/null)
	case $out in
	*"$want"*) echo "ok: $name" ;;
	*) echo "FAILED: $name: $out" ;;
	esac
}
secure=https://api.example.com:$https/x url=http://api.example.com:$http
try curl "hello /x 0" curl -sS --cacert /ca.pem $secure
try openssl "Verification: OK" openssl s_client -connect api.example.com:$https -CAfile /ca.pem -brief
try go "200 OK hello /x 0" /guest net "get $secure"
try python "hello /x 0" python3 -c "
import ssl, urllib.request
tls = ssl.create_default_context(cafile='/ca.pem')
print(urllib.request.urlopen('$secure', context=tls).read())"
export NODE_EXTRA_CA_CERTS=/ca.pem
try node "hello /x 0" node -e "
require('https').get('$secure', r => r.on('data', d => console.log(String(d))))"
try psql "forty-two 42" psql -h api.example.com -p $postgres -U postgres -Atc "select 'forty-two ' || 6 * 7"
try dig 192.168.127.254 dig +short api.example.com
try dig-tcp 192.168.127.254 dig +short +tcp api.example.com
try dig-refused "status: REFUSED" dig other.example.com
try dig-tcp-refused "reset" dig +tcp other.example.com
try dig-elsewhere "host unreachable" dig +tries=1 +time=2 @203.0.113.1 api.example.com
try ping "1 received" ping -c 1 192.168.127.1
try ping-refused "filtered" ping -c 1 -W 5 203.0.113.1
echo "deb [trusted=yes] $url/apt ./" >/etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
try apt "$url/apt ./ Packages" apt-get -q update
try apt-policy "1.0-neb" apt-cache policy neb-test
try prohibited "Failed to connect" curl -sS --max-time 20 https://203.0.113.1/
try metadata "Failed to connect" curl -sS --max-time 20 http://169.254.169.254/
try port "Failed to connect" curl -sS --max-time 20 http://api.example.com:1/
try transfer "the same" sh -c "curl -sS -o /tmp/data $url/data && curl -sS -T /tmp/data $url/up"
rm -f /tmp/data
nginx -g 'daemon off; error_log stderr;' 2>/dev/null &
until curl -s -o /dev/null http://127.0.0.1/; do sleep 0.2; done
echo serving
until curl -sS --max-time 20 $url/served 2>/dev/null | grep -q yes; do sleep 1; done
echo "end the parent"
try reset "curl: (" curl -sS -o /dev/null $url/data
until curl -sS --max-time 20 $url/x >/dev/null 2>&1; do sleep 0.2; done
try recovered "hello /x 0" curl -sS --cacert /ca.pem $secure
kill %1
echo "done"
`

// TestDebianPrograms runs programs of Debian over the network: out, in, and refused; and ends the parent
// under load.
func TestDebianPrograms(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	root := debianTree(t)
	guest, err := os.ReadFile(guestPath)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.pem": w.ca, "programs": []byte(programs),
		"guest": guest} {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data := make([]byte, 256<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	var served, again sync.WaitGroup
	served.Add(1)
	isServed, midway := make(chan struct{}), make(chan struct{})
	var downloads atomic.Int32
	go func() { served.Wait(); close(isServed) }()
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/data":
			rw.Write(data[:32<<20])
			if downloads.Add(1) == 2 {
				close(midway)
			}
			rw.Write(data[32<<20:])
		case "/up": // what came from /data
			h := sha256.New()
			io.Copy(h, r.Body)
			if [sha256.Size]byte(h.Sum(nil)) == sha256.Sum256(data) {
				fmt.Fprint(rw, "the same")
			}
		case "/apt/./Packages", "/apt/Packages":
			fmt.Fprint(rw, "Package: neb-test\nVersion: 1.0-neb\nArchitecture: all\nFilename: "+
				"./a.deb\nSize: 1\n"+
				"SHA256: "+strings.Repeat("0", 64)+"\n")
		case "/served":
			select {
			case <-isServed:
				fmt.Fprint(rw, "yes")
			default:
			}
		case "/x":
			fmt.Fprint(rw, "x")
		default:
			http.NotFound(rw, r)
		}
	}))
	defer plain.Close()
	_, httpPort, _ := net.SplitHostPort(plain.Listener.Addr().String())
	postgres := loopback.Free(t)
	_, postgresPort, _ := net.SplitHostPort(postgres)
	eif := filepath.Join(t.TempDir(), "debian.eif")
	args := []string{"eif", "build", "--rootfs", root, "--arch", "x86_64", "--blobs", blobs(t, "x86_64"),
		"--output", eif, "--entrypoint", "/programs", "--cmd", w.https, "--cmd", httpPort, "--cmd",
		postgresPort, "--net", "--ingress", "80"}
	for _, rule := range []string{"api.example.com:" + w.https, "api.example.com:" + httpPort,
		"api.example.com:" + postgresPort, "192.168.127.1"} {
		args = append(args, "--egress", rule)
	}
	neb(t, args...)
	servePostgres(t, root, postgresPort)

	dir := shortDir(t)
	published, refused := loopback.Free(t), loopback.Free(t)
	parent := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), nebPath, "net", "serve", "--listen", "unix:"+dir+"/net",
			"--socket",
			dir+"/status", "--host-loopback", "--net-dns", w.resolver, "--publish", published+":80",
			"--publish",
			refused+":81")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	serving := parent()
	cmd := exec.CommandContext(t.Context(), nebPath, runArgs("--timeout", "15m", "--memory", "3072",
		"--listen",
		"1024=unix:"+dir+"/net", eif)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	steps := map[string]func(){
		"serving": func() {
			defer served.Done()
			get200(t, "http://"+published+"/")
			if _, err := http.Get("http://" + refused + "/"); err == nil {
				t.Error("a port that no rule of ingress allows answers")
			}
		},
		"end the parent": func() {
			<-midway // of a download
			serving.Process.Kill()
			serving.Wait()
			serving = parent()
		},
	}
	for b := make([]byte, 1<<16); ; {
		n, err := out.Read(b)
		said.Write(b[:n])
		for word, do := range steps {
			if strings.Contains(said.String(), "\n"+word) {
				delete(steps, word)
				again.Go(do)
			}
		}
		if err != nil {
			break
		}
	}
	again.Wait()
	err = cmd.Wait()
	var status bytes.Buffer
	ask := exec.Command(nebPath, "net", "status", "--socket", dir+"/status")
	ask.Stdout = &status
	if err := ask.Run(); err != nil || !strings.Contains(status.String(), "published") {
		t.Errorf("neb net status: %v\n%s", err, &status)
	}
	serving.Process.Kill()
	serving.Wait()
	for line := range strings.Lines(said.String()) {
		if strings.HasPrefix(line, "FAILED") {
			t.Error(strings.TrimSpace(line))
		}
	}
	want := strings.Count(programs, "\ntry ")
	if got := strings.Count(said.String(), "\nok: "); err != nil || got != want {
		t.Errorf("%d programs succeeded, want %d (%v)\n%s", got, want, err, &said)
	}
}

// servePostgres adds Debian's PostgreSQL to the tree and runs it there, on this machine. The tree has its
// libraries, but not the server: its package would start one when it is installed.
func servePostgres(t *testing.T, root, port string) {
	t.Helper()
	const script = `set -e
		cd "$1/var/tmp"
		apt-get download -q postgresql-15
		dpkg-deb -x postgresql-15_*.deb "$1"
		install -d -m 0700 -o nobody "$1/var/tmp/cluster"
		server="chroot --userspec=nobody:nogroup $1 /usr/lib/postgresql/15/bin"
		$server/initdb --locale=C -A trust -U postgres -D /var/tmp/cluster
		exec $server/postgres -D /var/tmp/cluster -h 127.0.0.1 -p "$2" -k /var/tmp -c jit=off`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", root, port)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			t.Cleanup(func() { <-ended })
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("PostgreSQL: %v\n%s", err, &said)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// get200 fetches a URL over 200 connections at a time.
func get200(t *testing.T, url string) {
	var all sync.WaitGroup
	ready := make(chan struct{})
	for range 200 {
		all.Go(func() {
			<-ready
			client := http.Client{Timeout: 5 * time.Minute,
				Transport: &http.Transport{DisableKeepAlives: true}}
			r, err := client.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Body.Close()
			if b, err := io.ReadAll(r.Body); r.StatusCode != http.StatusOK || err != nil ||
				!bytes.Contains(b, []byte("nginx")) {
				t.Errorf("%s: %s %v", url, r.Status, err)
			}
		})
	}
	close(ready)
	all.Wait()
}

// debianTree makes a tree of Debian with the programs. NEB_TEST_DEBIAN names one that is there.
func debianTree(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "debian")
	if made := os.Getenv("NEB_TEST_DEBIAN"); made != "" {
		if out, err := exec.Command("cp", "-a", made, root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return root
	}
	args := []string{"--variant=minbase", "--include=ca-certificates,curl,openssl,python3,iputils-ping," +
		"bind9-dnsutils,nginx-light,nodejs,postgresql-client,libxml2,libxslt1.1", "bookworm", root}
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm",
		"Created-By: Packages").Output()
	if err == nil {
		for uri := range strings.Lines(string(out)) {
			if uri = strings.TrimSpace(uri); strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
				args = append(args, uri)
				break
			}
		}
	}
	if out, err := exec.CommandContext(t.Context(), require.Command(t, "debootstrap"),
		args...).CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	for _, unneeded := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc",
		"usr/share/locale"} {
		os.RemoveAll(filepath.Join(root, unneeded))
	}
	return root
}

// TestGvproxy serves an enclave with gvproxy in place of neb.
func TestGvproxy(t *testing.T) {
	w := newWorld(t)
	bin, dir := t.TempDir(), shortDir(t)
	if made := os.Getenv("NEB_TEST_GVPROXY"); made != "" {
		bin = made
	} else {
		install := exec.CommandContext(t.Context(), "go", "install",
			"github.com/containers/gvisor-tap-vsock/cmd/gvproxy@v0.8.9")
		install.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=")
		if out, err := install.CombinedOutput(); err != nil {
			require.Fetch(t, fmt.Errorf("gvproxy: %w\n%s", err, out))
		}
	}
	parent := exec.CommandContext(t.Context(), filepath.Join(bin, "gvproxy"), "-listen", "unix://"+dir+"/net",
		"-ssh-port", "-1")
	parent.Stderr = os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Process.Kill()
	acts := []string{"echo 192.168.127.254:" + w.echo + " 4", "udp 192.168.127.254:" + w.udp,
		"echo 203.0.113.1:443 1"}
	image := guestImage(t, v1.Config{Entrypoint: []string{"/guest"}, Cmd: append([]string{"net"}, acts...)})
	eif, _ := pack(t, ociLayout(t, image), "--net", "--egress", "192.168.127.254")
	r := boot(t, eif, "--listen", "1024=unix:"+dir+"/net")
	for i, want := range []string{"4194304 bytes", "ping", "connection refused"} {
		r.says(t, acts[i]+": "+want)
	}
}
