// Command net (in bench) measures an enclave's network (neb run --net) against raw vsock and against socat
// over vsock, in the same run; what it adds to the start; and the memory of both sides:
//
//	go run ./bench/net -blobs result/x86_64 [-socat PATH] [-runs 3] [-mib 64] [-cpus 2] [-accel tcg]
//
// All three reach the same TCP server of this machine: over vsock the program in the enclave connects to a
// port that neb run --listen forwards to it, with socat it connects to a TCP port in the enclave that socat
// forwards to that vsock port. -socat is a dynamic program; its libraries are taken from this machine. The
// program prints Markdown tables of medians.
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const conns = 1000 // that are open when memory is looked at

type bench struct {
	dir, neb, blobs, socat, accel string
	runs, mib, cpus               int
	port                          string // of the server
}

func main() {
	log.SetFlags(0)
	var b bench
	flag.StringVar(&b.blobs, "blobs", "", "`directory` with blobs for x86_64")
	flag.StringVar(&b.socat, "socat", "", "`program` to compare with")
	flag.StringVar(&b.accel, "accel", "tcg", "tcg or kvm")
	flag.IntVar(&b.runs, "runs", 3, "how often each is run")
	flag.IntVar(&b.mib, "mib", 64, "`MiB` to send in each direction")
	flag.IntVar(&b.cpus, "cpus", 2, "`processors` of the enclave; EIFs ask for 2 by default")
	flag.Parse()
	if err := b.run(); err != nil {
		log.Fatal(err)
	}
}

func (b *bench) run() (err error) {
	if b.dir, err = os.MkdirTemp("", "bench-net"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.neb = filepath.Join(b.dir, "neb")
	root := filepath.Join(b.dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	guest := filepath.Join(root, "guest")
	for path, pkg := range map[string]string{b.neb: "cmd/neb", guest: "bench/net/guest"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path,
			"github.com/nitro-enclaves-bootstrap/neb/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return err
		}
	}
	if b.socat != "" {
		copySocat := `cp "$1" "$2/socat" && mkdir -p "$2/lib64" "$2/lib/x86_64-linux-gnu" &&
			for l in $(ldd "$1" | grep -o '/[^ )]*'); do cp -L $l "$2/lib/x86_64-linux-gnu"; done &&
			mv "$2"/lib/x86_64-linux-gnu/ld-linux* "$2/lib64"`
		if out, err := exec.Command("sh", "-c", copySocat, "sh", b.socat, root).CombinedOutput(); err != nil {
			return fmt.Errorf("socat and its libraries: %w\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, b.port, _ = net.SplitHostPort(l.Addr().String())
	go serve(l)

	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %d in the enclave, %s, %s, load before %.4s, medians of %d\n\n",
		runtime.NumCPU(), b.cpus, b.accel, time.Now().UTC().Format(time.DateOnly), load, b.runs)
	for _, measure := range []func(root string) error{b.throughput, b.start, b.memory} {
		if err := measure(root); err != nil {
			return err
		}
	}
	return nil
}

// startOfInit is the kernel's line about init, with its time.
var startOfInit = regexp.MustCompile(`^\[ *([0-9.]+)\].* Run /init as init process`)

// serve takes ('u') or sends ('d') as many bytes as each connection asks for.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var ask [9]byte
			if _, err := io.ReadFull(c, ask[:]); err != nil {
				return
			}
			n := int64(binary.LittleEndian.Uint64(ask[1:]))
			if ask[0] == 'u' {
				io.CopyN(io.Discard, c, n)
				c.Write([]byte{1})
				c.Read(ask[:1])
				return
			}
			for b := make([]byte, 256<<10); n > 0; n -= int64(len(b)) {
				if _, err := c.Write(b[:min(n, int64(len(b)))]); err != nil {
					return
				}
			}
			c.Read(ask[:1])
		}()
	}
}

// image packs the guest with arguments.
func (b *bench) image(root, name string, network bool, args ...string) (string, error) {
	path := filepath.Join(b.dir, name+".eif")
	all := []string{"eif", "build", "--rootfs", root, "--arch", "x86_64", "--blobs", b.blobs,
		"--entrypoint", "/guest", "--output", path}
	if network {
		all = append(all, "--net")
	}
	for _, a := range args {
		all = append(all, "--cmd", a)
	}
	out, err := exec.Command(b.neb, all...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("neb eif build: %w\n%s", err, out)
	}
	return path, err
}

// boot runs an image and calls line for each line of the guest's results.
func (b *bench) boot(image string, line func(words []string), args ...string) error {
	cmd := exec.Command(b.neb, append([]string{"run", image, "--accel", b.accel, "--memory", "1024",
		"--cpus", strconv.Itoa(b.cpus), "--timeout", "10m"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		if m := startOfInit.FindStringSubmatch(s.Text()); m != nil {
			line([]string{"init", m[1]})
		}
		if words := strings.Fields(s.Text()); len(words) > 1 && words[0] == "result" {
			line(words[1:])
		}
	}
	return cmd.Wait()
}

func (b *bench) throughput(root string) error {
	ways := []string{"vsock", "net"}
	if b.socat != "" {
		ways = append(ways, "socat")
	}
	args := []string{b.port}
	for _, way := range ways {
		args = append(args, way+" up "+strconv.Itoa(b.mib), way+" down "+strconv.Itoa(b.mib))
	}
	image, err := b.image(root, "throughput", true, args...)
	if err != nil {
		return err
	}
	speeds := map[string][]float64{}
	for range b.runs {
		if err := b.boot(image, func(w []string) {
			if w[0] == "init" {
				return
			}
			mbs, _ := strconv.ParseFloat(w[2], 64)
			speeds[w[0]+" "+w[1]] = append(speeds[w[0]+" "+w[1]], mbs)
		}, "--net", "--host-loopback", "--listen", "7000=tcp:127.0.0.1:"+b.port); err != nil {
			return err
		}
	}
	fmt.Println("| way | enclave to host | of vsock | host to enclave | of vsock |\n|---|---|---|---|---|")
	for _, way := range ways {
		up, down := median(speeds[way+" up"]), median(speeds[way+" down"])
		fmt.Printf("| %s | %.0f MB/s | %.2f | %.0f MB/s | %.2f |\n", way, up, up/median(speeds["vsock up"]),
			down, down/median(speeds["vsock down"]))
	}
	fmt.Println()
	return nil
}

// start compares the time of the enclave's clock at which the application starts.
func (b *bench) start(root string) error {
	var times [2][]float64
	began := 0.0 // of init
	for turn := range 2 * b.runs {
		with := turn%2 == 1
		image, err := b.image(root, "start", with, b.port, "uptime")
		if err != nil {
			return err
		}
		var args []string
		if with {
			args = []string{"--net"}
		}
		if err := b.boot(image, func(w []string) {
			at, _ := strconv.ParseFloat(w[1], 64)
			if w[0] == "init" {
				began = at
				return
			}
			times[turn%2] = append(times[turn%2], at-began)
		}, args...); err != nil {
			return err
		}
	}
	without, with := median(times[0]), median(times[1])
	fmt.Println("| from the start of init to the application, by the enclave's clock | |\n|---|---|")
	fmt.Printf("| without --net | %.0f ms |\n| with --net | %.0f ms |\n| difference | %.0f ms |\n\n",
		without*1000, with*1000, (with-without)*1000)
	return nil
}

// memory looks at a neb net serve of its own.
func (b *bench) memory(root string) error {
	image, err := b.image(root, "memory", true, b.port, "open "+strconv.Itoa(conns), "carrier")
	if err != nil {
		return err
	}
	socket := filepath.Join(b.dir, "net")
	serve := exec.Command(b.neb, "net", "serve", "--listen", "unix:"+socket, "--socket", socket+".status",
		"--host-loopback")
	if err := serve.Start(); err != nil {
		return err
	}
	defer serve.Process.Kill()
	for ; ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	fmt.Println("| memory | |\n|---|---|")
	fmt.Printf("| neb net serve, nothing connected | %.1f MB |\n", resident(serve.Process.Pid))
	err = b.boot(image, func(w []string) {
		switch w[0] {
		case "open":
			fmt.Printf("| neb net serve, %d connections | %.1f MB |\n", conns, resident(serve.Process.Pid))
		case "carrier":
			kb, _ := strconv.ParseFloat(w[1], 64)
			fmt.Printf("| neb-net in the enclave, at most | %.1f MB |\n", kb*1024/1e6)
		}
	}, "--listen", "1024=unix:"+socket)
	return err
}

// resident is a process's memory in MB.
func resident(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
