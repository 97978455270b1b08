// Command run (in bench) measures neb run: how long a hello takes and requests to the NSM, how fast vsock is
// in both directions, and what neb holds with 1,000 connections open. Beside it, when it is given one, the
// vhost-device-vsock of rust-vmm, under the same QEMU with the same kernel and the same program in the
// enclave, in turn:
//
//	go run ./bench/run -blobs result/x86_64 [-qemu DIR] [-vhost-device-vsock PATH]
//	    [-runs 5] [-mib 256] [-write 262144] [-cpus 1] [-accel tcg]
//
// -qemu is a directory with bin/qemu-system-x86_64, as neb run takes it, and must be given for the
// comparison; without it neb run uses its own. It builds neb as releases do, and prints medians as Markdown
// tables with the machine and its load.
//
// Both devices hand the enclave's connections to Unix sockets of the host. A device's processor time is that
// of its process, without QEMU's; its memory is what is resident, without the enclave's memory, which it
// shares with QEMU.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// The enclave's services (bench/run/guest).
const (
	sendPort = 5000
	takePort = 5001
)

// memoryMiB is the enclave's memory. It must hold what 1,000 sockets have received and not read.
const memoryMiB = 1024

// conns is how many connections are open when memory is looked at.
const conns = 1000

// patience is how long anything may take that normally takes seconds.
const patience = 5 * time.Minute

type bench struct {
	dir, neb, qemu, rust, accel string
	blobs                       string
	cpus, runs                  int
	bytes, write                int64
	services                    string // EIF of the services
}

func main() {
	log.SetFlags(0)
	var b bench
	flag.StringVar(&b.blobs, "blobs", "", "`directory` with blobs for x86_64")
	flag.StringVar(&b.qemu, "qemu", "", "`directory` with bin/qemu-system-x86_64 (default: neb's own "+
		"emulator)")
	flag.StringVar(&b.rust, "vhost-device-vsock", "", "`program` to compare with")
	flag.StringVar(&b.accel, "accel", "tcg", "tcg or kvm")
	flag.IntVar(&b.cpus, "cpus", 1, "processors of the enclave")
	flag.IntVar(&b.runs, "runs", 5, "how often each is run")
	flag.Int64Var(&b.write, "write", 256<<10, "`bytes` that the enclave writes at once, at most 262144")
	mib := flag.Int64("mib", 256, "`MiB` to send in each direction")
	flag.Parse()
	b.bytes = *mib << 20
	switch {
	case b.blobs == "":
		log.Fatal("-blobs is needed")
	case b.write < 1 || b.write > 256<<10:
		log.Fatal("-write must be between 1 and 262144")
	case b.rust != "" && b.qemu == "":
		log.Fatal("-vhost-device-vsock needs -qemu")
	}
	if err := b.run(); err != nil {
		log.Fatal(err)
	}
}

func (b *bench) run() (err error) {
	// What is set is inherited, and each connection is a file of the device's.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-run"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.neb, b.services = filepath.Join(b.dir, "neb"), filepath.Join(b.dir, "services.eif")
	guest := filepath.Join(b.dir, "guest")
	for path, pkg := range map[string]string{b.neb: "cmd/neb", guest: "bench/run/guest"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path,
			"github.com/nitro-enclaves-bootstrap/neb/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(guest)
	if err != nil {
		return err
	}
	if err := vm.WriteImage(b.services, b.blobs, eif.X86_64, map[string][]byte{"init": program}); err != nil {
		return err
	}
	image, err := writeLayout(filepath.Join(b.dir, "layout"), program)
	if err != nil {
		return err
	}
	hello, nsm := filepath.Join(b.dir, "hello.eif"), filepath.Join(b.dir, "nsm.eif")
	for eif, command := range map[string][]string{hello: {"/hello"}, nsm: {"/hello", "nsm"}} {
		args := []string{"eif", "build", "--image", image, "--arch", "x86_64", "--blobs", b.blobs, "--output",
			eif}
		for _, word := range command {
			args = append(args, "--cmd", word)
		}
		if out, err := exec.Command(b.neb, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("neb eif build: %w\n%s", err, out)
		}
	}

	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %s, %s, %d in the enclave, load before %.4s, medians of %d\n\n",
		runtime.NumCPU(), b.accel, time.Now().UTC().Format(time.DateOnly), b.cpus, load, b.runs)
	if err := b.hello(hello); err != nil {
		return err
	}
	if err := b.requests(nsm); err != nil {
		return err
	}
	return b.vsock()
}

// requests prints the table of an image that measures the NSM.
func (b *bench) requests(image string) error {
	out, err := b.nebRun(image).Output()
	fmt.Println("| request to the NSM, in the enclave | first | median of 201 | 90 % below |")
	fmt.Println("|---|---|---|---|")
	rows := 0
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "| ") {
			fmt.Println(strings.TrimRight(line, "\r\n"))
			rows++
		}
	}
	fmt.Println()
	if err != nil || rows == 0 {
		return fmt.Errorf("neb run: %v; the enclave said: %s", err, out) //nolint:errorlint // may be nil
	}
	return nil
}

// hello measures the whole command for an image that says hello and ends.
func (b *bench) hello(image string) error {
	var word, whole []float64
	for range b.runs {
		cmd := b.nebRun(image)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		said := waitLine(out, "hello")
		at := time.Since(start)
		if err := cmd.Wait(); err != nil || !said {
			return fmt.Errorf("neb run: %v; it said hello: %v", err, said) //nolint:errorlint // may be nil
		}
		word, whole = append(word, at.Seconds()), append(whole, time.Since(start).Seconds())
	}
	fmt.Println("| neb run of a hello | median | from | to |")
	fmt.Println("|---|---|---|---|")
	for _, row := range []struct {
		what string
		all  []float64
	}{{"until the application's output", word}, {"the whole command", whole}} {
		fmt.Printf("| %s | %.2f s | %.2f s | %.2f s |\n", row.what, median(row.all), slices.Min(row.all),
			slices.Max(row.all))
	}
	fmt.Println()
	return nil
}

// nebRun is a neb run of image.
func (b *bench) nebRun(image string, args ...string) *exec.Cmd {
	args = append([]string{"run", image, "--accel", b.accel, "--cpus", strconv.Itoa(b.cpus), "--memory",
		strconv.Itoa(memoryMiB)}, args...)
	if b.qemu != "" {
		args = append(args, "--qemu", b.qemu)
	}
	return exec.Command(b.neb, args...)
}

// waitLine reads r until a line is want, and returns whether there was one. The rest is read and thrown away.
func waitLine(r io.Reader, want string) bool {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if strings.TrimRight(s.Text(), "\r") == want {
			go io.Copy(io.Discard, r)
			return true
		}
	}
	return false
}

// An enclave is one that runs, with a device for its vsock.
type enclave struct {
	device *exec.Cmd   // the process that is the device
	all    []*exec.Cmd // in the order in which they are ended
	dial   func(port int) (net.Conn, error)
	write  int64
}

func (e *enclave) stop() {
	for _, cmd := range e.all {
		cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
	}
}

// start starts cmd as a part of e.
func (e *enclave) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if err == nil {
		e.all = append([]*exec.Cmd{cmd}, e.all...)
	}
	return err
}

// up starts cmd, on whose standard output the console is, and waits for the services.
func (e *enclave) up(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := e.start(cmd); err != nil {
		return err
	}
	if !waitLine(console, "guest: up") {
		return fmt.Errorf("%s: the enclave did not come up: %s", cmd.Path, &said)
	}
	return nil
}

// withNeb boots the services in neb run.
func (b *bench) withNeb(dir string) (*enclave, error) {
	socket := func(port int) string { return filepath.Join(dir, strconv.Itoa(port)) }
	var args []string
	for _, port := range []int{sendPort, takePort} {
		args = append(args, "--connect", fmt.Sprintf("unix:%s=%d", socket(port), port))
	}
	e := &enclave{device: b.nebRun(b.services, args...), write: b.write}
	e.dial = func(port int) (net.Conn, error) { return net.Dial("unix", socket(port)) }
	return e, e.up(e.device)
}

// withRust boots the services with QEMU's command line of neb run, and the other device.
func (b *bench) withRust(dir string) (*enclave, error) {
	vhost, host := filepath.Join(dir, "vhost"), filepath.Join(dir, "host")
	e := &enclave{device: exec.Command(b.rust, "--guest-cid", "16", "--socket", vhost, "--uds-path", host),
		write: b.write}
	e.dial = func(port int) (net.Conn, error) {
		c, err := net.Dial("unix", host)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(c, "CONNECT %d\n", port)
		answer := make([]byte, 1)
		for line := ""; answer[0] != '\n'; line += string(answer) {
			if _, err := c.Read(answer); err != nil {
				return nil, fmt.Errorf("connection refused after %q: %w", line, err)
			}
		}
		return c, nil
	}
	if err := e.start(e.device); err != nil {
		return e, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(vhost); err == nil {
			break
		} else if time.Now().After(end) {
			return e, err
		}
	}
	return e, e.up(exec.Command(filepath.Join(b.qemu, "bin", "qemu-system-x86_64"),
		"-M", "nitro-enclave,vsock=vsock,id=bench", "-kernel", b.services, "-append",
		"reboot=t no_timer_check panic=-1",
		"-accel", b.accel, "-cpu", "max", "-m", strconv.Itoa(memoryMiB)+"M", "-smp", b.smp(),
		"-nodefaults", "-display", "none", "-chardev", "stdio,id=console,signal=off", "-serial",
		"chardev:console",
		"-chardev", "socket,id=vsock,path="+vhost))
}

// smp is what machine.Start gives QEMU.
func (b *bench) smp() string {
	if b.cpus == 1 && b.accel == "tcg" {
		return "1,maxcpus=2"
	}
	return strconv.Itoa(b.cpus)
}

// vsock measures every device that there is, in turn.
func (b *bench) vsock() error {
	devices := []struct {
		name  string
		start func(dir string) (*enclave, error)
		from  []float64 // MB/s, enclave to host
		to    []float64
		cpu   [2][]float64 // seconds for a GB, in the same order
		held  [3]float64   // MB: at the start, with connections, with connections that nobody reads
	}{
		{name: "neb", start: b.withNeb},
		{name: "vhost-device-vsock", start: b.withRust},
	}
	if b.rust == "" {
		devices = devices[:1]
	}
	for turn := range b.runs + 1 {
		for i := range devices {
			d := &devices[i]
			dir, err := os.MkdirTemp(b.dir, "")
			if err != nil {
				return err
			}
			e, err := d.start(dir)
			if err == nil {
				// The last boot is for memory alone.
				if turn == b.runs {
					d.held, err = e.memory()
				} else {
					err = e.transfer(b.bytes/16, new([]float64), new([]float64), new([2][]float64))
					err = errors.Join(err, e.transfer(b.bytes, &d.from, &d.to, &d.cpu))
				}
			}
			e.stop()
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
	}
	fmt.Printf("The enclave writes %d bytes at once.\n\n", b.write)
	fmt.Printf("| device | enclave to host | processor time of it | host to enclave | processor time of it "+
		"| memory | %d connections open | %[1]d that nobody reads |\n", conns)
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, d := range devices {
		fmt.Printf("| %s | %.0f MB/s | %.2f s/GB | %.0f MB/s | %.2f s/GB | %.1f MB | %.1f MB | %.1f MB |\n",
			d.name,
			median(d.from), median(d.cpu[0]), median(d.to), median(d.cpu[1]), d.held[0], d.held[1], d.held[2])
	}
	return nil
}

// ask connects to a service and tells it n, and how much to write at once.
func (e *enclave) ask(port int, n int64) (net.Conn, error) {
	c, err := e.dial(port)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	return c, binary.Write(c, binary.LittleEndian, [2]int64{n, e.write})
}

// transfer sends n bytes in both directions, one after the other.
func (e *enclave) transfer(n int64, from, to *[]float64, cpu *[2][]float64) error {
	buffer := make([]byte, 256<<10)
	for i, direction := range []struct {
		port   int
		speeds *[]float64
		copy   func(c net.Conn) error
	}{
		{sendPort, from, func(c net.Conn) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard},
				struct{ io.Reader }{io.LimitReader(c, n)}, buffer)
			return err
		}},
		{takePort, to, func(c net.Conn) error {
			for left := n; left > 0; left -= int64(len(buffer)) {
				if _, err := c.Write(buffer[:min(left, int64(len(buffer)))]); err != nil {
					return err
				}
			}
			_, err := io.ReadFull(c, buffer[:1])
			return err
		}},
	} {
		used, start := e.cpu(), time.Now()
		c, err := e.ask(direction.port, n)
		if err != nil {
			return err
		}
		if err := direction.copy(c); err != nil {
			return err
		}
		*direction.speeds = append(*direction.speeds, float64(n)/1e6/time.Since(start).Seconds())
		cpu[i] = append(cpu[i], (e.cpu()-used)/(float64(n)/1e9))
		c.Close()
	}
	return nil
}

// memory is what the device holds, in MB: at the start, with connections open through which some bytes went,
// and with connections that the enclave sends much through and nobody reads.
func (e *enclave) memory() (held [3]float64, err error) {
	held[0] = e.resident()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range conns {
		c, err := e.ask(sendPort, 1000)
		if err != nil {
			return held, fmt.Errorf("connection %d: %w", len(open)+1, err)
		}
		open = append(open, c)
		if _, err := io.CopyN(io.Discard, c, 1000); err != nil {
			return held, fmt.Errorf("connection %d: %w", len(open), err)
		}
	}
	held[1] = e.resident()
	for _, c := range open {
		c.Close()
	}
	open = nil
	for range conns {
		c, err := e.ask(sendPort, 1<<30)
		if err != nil {
			return held, fmt.Errorf("unread connection %d: %w", len(open)+1, err)
		}
		open = append(open, c)
	}
	// Until the device does nothing any more.
	for last := -1.0; e.cpu() != last; time.Sleep(time.Second) {
		last = e.cpu()
		held[2] = max(held[2], e.resident())
	}
	return held, nil
}

// proc reads a file of the device's process.
func (e *enclave) proc(name string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", e.device.Process.Pid, name))
	return string(b)
}

// cpu is the device's processor time so far, in seconds.
func (e *enclave) cpu() float64 {
	_, rest, _ := strings.Cut(e.proc("stat"), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

// resident is the device's memory in MB, without the enclave's.
func (e *enclave) resident() float64 {
	kb := 0.0
	for line := range strings.Lines(e.proc("status")) {
		if name, value, _ := strings.Cut(line, ":"); name == "RssAnon" || name == "RssFile" {
			n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			kb += n
		}
	}
	return kb * 1024 / 1e6
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// writeLayout writes an OCI layout of an image with one file, /hello, and returns the reference that neb
// takes for it.
func writeLayout(dir string, program []byte) (string, error) {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program))})
	_, err2 := w.Write(program)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(plain.Bytes())), nil
	})
	if err != nil {
		return "", err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return "", err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return "", err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	return "oci:" + dir, path.AppendImage(image)
}
