package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// measured is what `neb eif build` prints.
type measured struct {
	Measurements map[string]string
}

// pack makes an EIF for x86_64 from an image and returns its path and measurements.
func pack(t testing.TB, image string, args ...string) (string, measured) {
	t.Helper()
	return packFor(t, "x86_64", image, args...)
}

func packFor(t testing.TB, arch, image string, args ...string) (string, measured) {
	t.Helper()
	dir := blobs(t, arch)
	modules, err := vm.Modules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		args = append(args, "--module", m)
	}
	path := filepath.Join(t.TempDir(), "app.eif")
	out := neb(t, append([]string{"eif", "build", "--image", image, "--arch", arch, "--blobs", dir,
		"--output", path}, args...)...)
	var m measured
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("neb eif build printed %q: %v", out, err)
	}
	return path, m
}

// boot runs an EIF and returns how the run ended.
func boot(t testing.TB, eif string, args ...string) result {
	t.Helper()
	args = append([]string{"--timeout", "10m"}, args...)
	return tryNeb(t, 15*time.Minute, runArgs(append(args, eif)...)...)
}

// runArgs are the arguments of a `neb run`, with the emulator that NEB_QEMU names.
func runArgs(args ...string) []string {
	all := []string{"run"}
	if qemu := os.Getenv("NEB_QEMU"); qemu != "" {
		all = append(all, "--qemu", qemu)
	}
	return append(all, args...)
}

// says fails the test unless a line of the enclave's console is want.
func (r result) says(t testing.TB, want string) {
	t.Helper()
	for line := range strings.Lines(r.stdout) {
		if strings.TrimRight(line, "\r\n") == want {
			return
		}
	}
	t.Fatalf("no line %q on the console; exit status %d\nstdout:\n%s\nstderr:\n%s", want, r.code, r.stdout,
		r.stderr)
}

// find returns the first group of pattern on the console.
func (r result) find(t testing.TB, pattern string) string {
	t.Helper()
	m := regexp.MustCompile("(?m)" + pattern).FindStringSubmatch(r.stdout)
	if m == nil {
		t.Fatalf("nothing like %q on the console; exit status %d\nstdout:\n%s\nstderr:\n%s", pattern,
			r.code, r.stdout, r.stderr)
	}
	return m[1]
}

// registers fails the test unless the guest has found what `neb eif build` printed in each of the registers.
func (r result) registers(t testing.TB, m measured, names ...string) {
	t.Helper()
	for _, name := range names {
		if got := r.find(t, "^"+name+": ([0-9a-f]{96})\r?$"); got != m.Measurements[name] {
			t.Errorf("%s: the module reports %s, neb eif build printed %s", name, got, m.Measurements[name])
		}
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cmd  []string
		want int
	}{
		{"largest status", []string{"/guest", "exit", "255"}, 255},
		{"signal", []string{"/guest", "kill", "9"}, 128 + 9},
		{"no newline at the end", []string{"/guest", "mutter", "5"}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: c.cmd})))
			if r := boot(t, eif); r.code != c.want {
				t.Fatalf("exit status %d, want %d\nstdout:\n%s\nstderr:\n%s", r.code, c.want, r.stdout,
					r.stderr)
			}
		})
	}
}

// TestNobodyReads: neb ends when it is told to, or when its reader has gone, and leaves nothing behind,
// whoever reads its output.
func TestNobodyReads(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "babble"}})))
	for name, c := range map[string]struct {
		args []string
		gone bool // the reader goes, rather than not to read
		want int
	}{
		"timeout":       {[]string{"--timeout", "6s"}, false, 124},
		"timeout, JSON": {[]string{"--timeout", "6s", "--json"}, false, 124},
		"reader gone":   {[]string{"--json"}, true, 128 + 13},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, nebPath, append(runArgs(c.args...), eif)...)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			cmd.Stdout = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if c.gone {
				r.Read(make([]byte, 1))
				r.Close()
			}
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.want {
				t.Errorf("exit status %d, want %d", code, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// TestTwoInterrupts: the first lets a command finish, the second does not, and leaves nothing behind either.
func TestTwoInterrupts(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "call", "3", "5000"}})))
	dir := shortDir(t)
	pid := filepath.Join(dir, "pid")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, nebPath,
		append(runArgs("--listen", "5000=exec:sleep 1000 & echo $! > "+pid+"; echo hi; wait"), eif)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for len(text) == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		text, _ = os.ReadFile(pid)
	}
	cmd.Process.Signal(os.Interrupt)
	time.Sleep(500 * time.Millisecond)
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait() // the command would sleep for much longer than ctx allows
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || syscall.Kill(n, 0) == nil {
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n)); !strings.Contains(string(state),
			") Z ") {
			t.Errorf("process %q is left, %v", text, err)
		}
	}
	os.Remove(pid)
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// TestExitReport runs what an enclave in production is like, without a console: how the application ended,
// and its output, come by vsock, where the image asks for that.
func TestExitReport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cmd  []string
		args []string
		want int
		says string
	}{
		{"status", []string{"/guest", "exit", "7"}, []string{"--exit-report", "9001"}, 7, ""},
		{"log", []string{"/guest", "hello"}, []string{"--exit-report", "9001", "--log-port", "5000"}, 0,
			`neb: log out "hello: uid 0 in /"`},
		{"no such program", []string{"/none"}, []string{"--exit-report", "9001", "--log-port", "5000",
			"--allow",
			"command-missing"}, 126,
			`neb: log neb "exec /none: no such file or directory: the image has no such file"`},
		{"no report", []string{"/guest", "exit", "7"}, nil, 126, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := ociLayout(t, guestImage(t, v1.Config{Cmd: c.cmd}))
			eif, _ := pack(t, image, append(c.args, "--cmdline", "reboot=k panic=30 console=none0")...)
			r := boot(t, eif)
			if !strings.Contains(r.stderr, c.says) {
				t.Errorf("neb did not say %q:\n%s", c.says, r.stderr)
			}
			if r.code != c.want || r.stdout != "" || !strings.Contains(r.stderr, "the console is silent") {
				t.Fatalf("exit status %d, want %d; want nothing on the console, and neb to say "+
					"so\nstdout:\n%s\nstderr:\n%s", r.code, c.want, r.stdout, r.stderr)
			}
		})
	}
}

// TestAArch64 boots an application for the other architecture.
func TestAArch64(t *testing.T) {
	t.Parallel()
	config := v1.Config{
		User: "1000", WorkingDir: "/srv", Entrypoint: []string{"/guest"}, Cmd: []string{"hello"},
	}
	image := ociLayout(t, guestImageFor(t, "arm64", armPath, config))
	eif, _ := packFor(t, "aarch64", image)
	r := boot(t, eif)
	r.says(t, "hello: uid 1000 in /srv")
	if r.code != 0 {
		t.Fatalf("exit status %d, expected 0\nstderr:\n%s", r.code, r.stderr)
	}
	eif, m := packFor(t, "aarch64", image, "--cmd", "pcrs", "--cmd", "0", "--cmd", "1", "--cmd", "2")
	boot(t, eif).registers(t, m, "PCR0", "PCR1", "PCR2")
	eif, _ = packFor(t, "aarch64", image, "--cmd", "exit", "--cmd", "5", "--exit-report", "9001")
	if r := boot(t, eif); r.code != 5 {
		t.Fatalf("exit status %d, want 5\nstderr:\n%s", r.code, r.stderr)
	}
}

// TestWarnings boots in less memory than the image should have: neb warns, and continues.
func TestWarnings(t *testing.T) {
	t.Parallel()
	image := ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}},
		entry{"noise", 0o644, noise(64 << 20)}))
	eif, _ := pack(t, image)
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"--memory", "256"}, []string{"256 MiB of memory is less than the"}},
		{nil, nil},
	} {
		r := boot(t, eif, c.args...)
		r.says(t, "hello: uid 0 in /")
		for _, want := range c.says {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("neb run %q did not say %q:\n%s", c.args, want, r.stderr)
			}
		}
		if r.code != 0 || c.says == nil && r.stderr != "" {
			t.Errorf("neb run %q: exit status %d\nstderr:\n%s", c.args, r.code, r.stderr)
		}
	}
}

func TestTimeout(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}})))
	if r := boot(t, eif, "--timeout", "10ms"); r.code != 124 {
		t.Fatalf("exit status %d after a timeout, want 124\nstderr:\n%s", r.code, r.stderr)
	}
}

// TestOptions gives the machine's options under nitro-cli's names and under ours, and wants the enclave to
// see them.
func TestOptions(t *testing.T) {
	t.Parallel()
	image := ociLayout(t, guestImage(t, v1.Config{Entrypoint: []string{"/guest"}, Cmd: []string{"machine"}}))
	eif, _ := pack(t, image)
	theirs := strings.Fields("--cpu-count 2 --enclave-cid 4711 --memory 640 --attach-console --timeout 10m " +
		"--eif-path " + eif)
	r := tryNeb(t, 15*time.Minute, runArgs(theirs...)...)
	r.says(t, "machine: processors 2, CID 4711")
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit status %d, said %s", r.code, r.stderr)
	}
	boot(t, eif, "--cpus", "3", "--cid", "17").says(t, "machine: processors 3, CID 17")

	// An image that halts the machine ends here all the same.
	eif, _ = pack(t, image, "--cmdline", "reboot=k panic=30 console=ttyS0 random.trust_cpu=on neb.end=halt")
	if r = boot(t, eif); r.code != 0 {
		t.Errorf("neb.end=halt: exit status %d\n%s", r.code, r.stderr)
	}

	// A program that calls CID 2 works nowhere else than here, and here only when asked for.
	eif, _ = pack(t, image, "--cmd", "call", "--cmd", "2", "--cmd", "5000")
	r = boot(t, eif, "--listen", "5000=exec:cat")
	r.says(t, "call: connection reset by peer")
	if !strings.Contains(r.stderr, "wants port 5000 of CID 2: refused; on EC2 the parent is CID 3") {
		t.Errorf("neb said %s", r.stderr)
	}
	boot(t, eif, "--listen", "5000=exec:cat", "--cid2").says(t, "call: answered word")
}

// TestMachineFails: neither the EIF nor QEMU are there, or they are something else. That is 125, and no
// status of an application.
func TestMachineFails(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}})))
	old := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\necho \"'vhost-user-test-device' is not a valid device model name\" >&2\nexit 1\n"
	if err := os.WriteFile(old, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		eif, qemu, says string
	}{
		{eif, old, "expected QEMU 10.1 or later"},
		{"/nowhere.eif", "/bin/false", "/nowhere.eif: no such file"},
		{nebPath, "/bin/false", nebPath},
		{eif, "/nowhere/qemu", "/nowhere/qemu"},
		{eif, "/bin/false", "QEMU: exit status 1"},
	} {
		r := tryNeb(t, time.Minute, "run", c.eif, "--qemu", c.qemu)
		if r.code != 125 || r.stdout != "" || !strings.Contains(r.stderr, c.says) {
			t.Errorf("neb run %s --qemu %s: exit status %d, printed %q, said %s", c.eif, c.qemu, r.code,
				r.stdout, r.stderr)
		}
	}
}

// TestEvents follows a start by its events, which are in order and tell the same as the plot.
func TestEvents(t *testing.T) {
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "exit", "3"}})))
	plot := filepath.Join(t.TempDir(), "boot.svg")
	r := boot(t, eif, "--json", "--plot", plot)
	if r.code != 3 {
		t.Fatalf("exit status %d\n%s", r.code, r.stderr)
	}
	var order []string
	var last float64
	phases := map[string]bool{}
	for line := range strings.Lines(r.stdout) {
		var e struct {
			Event, Text string
			Time        *float64
			Duration    float64
			Status      *int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Time == nil {
			t.Fatalf("%q: %v", line, err)
		}
		switch e.Event {
		case "console", "parent":
		case "phase":
			if *e.Time < 0 || e.Duration < 0 || e.Text == "" {
				t.Errorf("a phase: %s", line)
			}
			phases[e.Text] = true
		case "end":
			if e.Status == nil || *e.Status != 3 {
				t.Errorf("the end: %s", line)
			}
			order = append(order, e.Event)
		default:
			// that of the kernel is reckoned back from its first line
			if e.Event != "kernel" && *e.Time < last {
				t.Errorf("at %v: %s", last, line)
			}
			last = *e.Time
			order = append(order, e.Event)
		}
	}
	// The driver of vsock comes up beside the kernel's lines: where it stands among them is not fixed.
	order = slices.DeleteFunc(order, func(e string) bool { return e == "vsock" })
	if got, want := strings.Join(order, " "),
		"power-on kernel init heartbeat reboot power-off end"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	svg, err := os.ReadFile(plot)
	if err != nil {
		t.Fatal(err)
	}
	if len(phases) < 4 {
		t.Errorf("phases %v", phases)
	}
	for name := range phases {
		if !strings.Contains(string(svg), html.EscapeString(name)) {
			t.Errorf("the plot lacks the phase %q", name)
		}
	}
}

// TestAsUser boots as an ordinary user, who has nothing but the files.
func TestAsUser(t *testing.T) {
	require.Root(t)
	eif, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}})))
	as := ordinaryUser(t, map[string]string{"neb": nebPath, "app.eif": eif, "qemu": vm.Emulator(t)})
	out, err := as("neb", "run", "app.eif", "--qemu", "qemu", "--timeout", "10m")
	if err != nil || !strings.Contains(out, "hello: uid 0 in /") {
		t.Errorf("%v\n%s", err, out)
	}
}

// ordinaryUser makes a directory that belongs to a user who is nobody on the machine, with copies of files
// and directories under the given names. What it returns executes one of them as that user, there.
func ordinaryUser(t *testing.T, files map[string]string) func(name string, args ...string) (string, error) {
	t.Helper()
	const uid = 54321
	dir, err := os.MkdirTemp("", "neb-user") // not t.TempDir, which is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	for name, from := range files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		tool("cp", "-rL", from, to)
	}
	tool("chown", "-R", strconv.Itoa(uid), dir)
	return func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(dir, name), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "NEB_CACHE="+filepath.Join(dir, "cache"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// TestSources packs one image as a Docker engine, a docker archive and an OCI layout hold it: one file, which
// boots as the image's configuration says. (The copy to the layout rewrites the configuration, whose digest
// is in the metadata; what is measured is the same.)
func TestSources(t *testing.T) {
	require.Docker(t)
	tag := dockerImage(t, "ENV GREETING=hello\nUSER 1000:1000\nWORKDIR /srv/app\nENTRYPOINT "+
		"[\"/guest\"]\nCMD [\"hello\"]\n")
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if out, err := exec.Command("docker", "save", "-o", saved, tag).CombinedOutput(); err != nil {
		t.Fatalf("docker save: %v\n%s", err, out)
	}
	converted := filepath.Join(t.TempDir(), "layout")
	copied := exec.Command(require.Command(t, "skopeo"), "--insecure-policy", "copy", "-q",
		"docker-archive:"+saved, "oci:"+converted)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("skopeo copy: %v\n%s", err, out)
	}

	first, want := pack(t, "docker-daemon:"+tag, "--name", "same")
	archive, _ := pack(t, "docker-archive:"+saved, "--name", "same")
	if a, b := fileSum(t, first), fileSum(t, archive); a != b {
		t.Errorf("from the engine %x, from its archive %x", a, b)
	}
	if _, got := pack(t, "oci:"+converted, "--name", "same"); !maps.Equal(got.Measurements,
		want.Measurements) {
		t.Errorf("from the layout %v, from the engine %v", got.Measurements, want.Measurements)
	}
	r := boot(t, first)
	r.says(t, "hello: uid 1000 in /srv/app")
	if r.code != 0 {
		t.Fatalf("exit status %d\nstderr:\n%s", r.code, r.stderr)
	}
}

// TestMeasurements compares what `neb eif build` prints with what the secure module of the booted file
// reports, for a signed file, and with what an attestation document says to `neb attest verify`.
func TestMeasurements(t *testing.T) {
	t.Parallel()
	certificate, key := signer(t)
	for _, format := range []string{"cpio", "erofs"} {
		t.Run(format, func(t *testing.T) {
			image := ociLayout(t, guestImage(t,
				v1.Config{Cmd: []string{"/guest", "pcrs", "0", "1", "2", "8"}}))
			eif, m := pack(t, image, "--rootfs-format", format, "--signing-certificate", certificate,
				"--private-key", key)
			r := boot(t, eif)
			r.registers(t, m, "PCR0", "PCR1", "PCR2", "PCR8")
		})
	}
}

// TestCompat gives nitro-cli's own flags and gets what nitro-cli makes with our linuxkit: no description, CMD
// alone, root, and the registers that the secure module reports. TestNitroCLI of package pack compares them
// with nitro-cli's formula.
func TestCompat(t *testing.T) {
	t.Parallel()
	image := ociLayout(t, guestImage(t,
		v1.Config{Entrypoint: []string{"/none"}, Cmd: []string{"/guest", "pcrs", "0", "1", "2"},
			User: "1000", Env: []string{"A=b"}}))
	dir := blobs(t, "x86_64")
	path := filepath.Join(t.TempDir(), "theirs.eif")
	out := neb(t, "eif", "build", "--docker-uri", image, "--output-file", path, "--blobs", dir, "--arch",
		"x86_64", "--compat", "nitro-cli")
	var m measured
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	listed := neb(t, "eif", "extract", path, "--list")
	for name, want := range map[string]bool{"cmd": true, "env": true, "rootfs/guest": true,
		"neb/complete": true, "neb/app": false} {
		if found := regexp.MustCompile(`(?m)(^|\s)/?` + name + `(\s|$)`).MatchString(listed); found != want {
			t.Errorf("%s is in the list: %v, want %v\n%s", name, found, want, listed)
		}
	}
	r := boot(t, path)
	r.registers(t, m, "PCR0", "PCR1", "PCR2")
	if r.code != 0 {
		t.Errorf("exit status %d", r.code)
	}
}

// TestErofsNeedsSandbox: a compressed root is made by the locked tools, and where nothing can close them off
// the error says what is missing, and no file is left.
func TestErofsNeedsSandbox(t *testing.T) {
	require.Root(t)
	from := blobs(t, "x86_64")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	as := ordinaryUser(t, map[string]string{"neb": nebPath, "test": self, "blobs": from,
		"tree/guest": guestPath})
	for _, c := range []struct {
		format string
		works  bool
	}{{"cpio", true}, {"erofs", false}} {
		out, err := as("test", jailed, "./neb", "eif", "build", "--rootfs", "tree", "--cmd", "/guest",
			"--arch", "x86_64", "--blobs", "blobs",
			"--rootfs-format", c.format, "--output", c.format+".eif")
		if (err == nil) != c.works || !c.works && !strings.Contains(out, "no way to isolate") {
			t.Errorf("%s: %v\n%s", c.format, err, out)
		}
		if listed, _ := as("test", jailed, "/bin/ls"); strings.Contains(listed, c.format+".eif") != c.works {
			t.Errorf("%s: there are now\n%s", c.format, listed)
		}
	}
}

// TestAttestation lets an application that is not root attest, and verifies the document against the file.
func TestAttestation(t *testing.T) {
	image := ociLayout(t, guestImage(t,
		v1.Config{User: "1000", Cmd: []string{"/guest", "attest", "nonce-1"}}))
	eif, _ := pack(t, image)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	neb(t, "attest", "ca", "init")
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, []byte(neb(t, "attest", "ca", "show", "--pem")), 0o644); err != nil {
		t.Fatal(err)
	}
	r := boot(t, eif)
	document, err := base64.StdEncoding.DecodeString(r.find(t, "^document: ([A-Za-z0-9+/=]+)\r?$"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "document.cbor")
	if err := os.WriteFile(path, document, 0o644); err != nil {
		t.Fatal(err)
	}
	nonce := fmt.Sprintf("%x", "nonce-1")
	neb(t, "attest", "verify", path, "--eif", eif, "--nonce", nonce, "--root", root)
	if r := tryNeb(t, time.Minute, "attest", "verify", path, "--eif", eif, "--nonce", nonce); r.code != 1 {
		t.Errorf("under the root of AWS: exit status %d, want 1", r.code)
	}
	other, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}})))
	if r := tryNeb(t, time.Minute, "attest", "verify", path, "--eif", other, "--nonce", nonce, "--root",
		root); r.code != 1 {
		t.Errorf("a document of another image: exit status %d, want 1", r.code)
	}
}

// TestErofs boots an application from a compressed root: files are whole, and can be changed.
func TestErofs(t *testing.T) {
	t.Parallel()
	body := noise(3<<20 + 17)
	image := ociLayout(t, guestImage(t,
		v1.Config{Entrypoint: []string{"/guest"}, Cmd: []string{"sum", "/data/noise", "/guest"}},
		entry{"data", 0o755, nil}, entry{"data/noise", 0o644, body}))
	eif, _ := pack(t, image, "--rootfs-format", "erofs")
	boot(t, eif).says(t, sumLine("/data/noise", body))

	eif, _ = pack(t, image, "--rootfs-format", "erofs", "--cmd", "write", "--cmd", "/data/noise", "--cmd",
		"/data/new")
	r := boot(t, eif)
	r.says(t, "/data/noise: changed")
	r.says(t, "/data/new: changed")
}

func fileSum(t testing.TB, path string) [32]byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

// signer makes a P-384 key and its certificate, as PEM files.
func signer(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "end-to-end test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der},
		key:         {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
