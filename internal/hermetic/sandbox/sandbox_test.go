package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/confine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// The test binary also plays an ordinary user and a container without rights.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if act := acts[os.Args[1]]; act != nil {
			if err := act(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	code := m.Run()
	if probeOnce.path != "" {
		os.RemoveAll(filepath.Dir(probeOnce.path))
	}
	os.Exit(code)
}

var acts = map[string]func(args []string) error{
	"container": container,
}

// seen is what testdata/probe prints.
type seen struct {
	Dir      string
	Env      []string
	Hostname string
	Umask    int
	Root     []string
	Dev      []string
	Wrote    map[string]string // path to error
	Network  map[string]string // what was tried to error
	Parent   int
	Caps     string
}

// container runs a command of this binary's as an unprivileged container would: root, without mount and
// namespaces.
func container(args []string) error {
	if err := confine.NoNamespaces(); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", append([]string{"test"}, args...), os.Environ())
}

var probeOnce struct {
	sync.Once
	path string
	err  error
}

// probe is the program that runs in the sandboxes of the tests. A test binary can be a dynamic one, which
// does not start in an empty root.
func probe(t *testing.T) string {
	t.Helper()
	probeOnce.Do(func() {
		dir, err := os.MkdirTemp("", "neb-probe-")
		probeOnce.path, probeOnce.err = filepath.Join(dir, "probe"), err
		if err == nil {
			cmd := exec.Command("go", "build", "-o", probeOnce.path, "./testdata/probe")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				probeOnce.err = fmt.Errorf("building the probe: %w: %s", err, out)
			}
		}
	})
	if probeOnce.err != nil {
		t.Fatal(probeOnce.err)
	}
	return probeOnce.path
}

// testRoot is a root with nothing but the probe in it, and a tree beside it.
func testRoot(t *testing.T, dir string) (root, beside string) {
	t.Helper()
	root, beside = filepath.Join(dir, "root"), filepath.Join(dir, "tree")
	for _, d := range []string{root + "/usr/bin", root + "/usr/lib", root + "/src", beside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.CopyFile(t.Context(), probe(t), root+"/usr/bin/probe", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(root+"/usr/lib/tool", []byte("good"), 0o644),
		os.WriteFile(root+"/src/hidden", nil, 0o644),
		os.WriteFile(beside+"/file", nil, 0o644),
		os.Symlink("usr/bin", root+"/bin"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root, beside
}

// ordinary is the ID of a user that does not exist.
const ordinary = 54321

// as are the situations that neb finds itself in: who it is, and what the machine allows.
var as = []struct {
	name string
	mode Mode // that is chosen
	attr syscall.SysProcAttr
	via  []string // acts before the one that is wanted
}{
	{"root", Namespaces, syscall.SysProcAttr{}, nil},
	{"user", UserNamespaces, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary,
		Gid: ordinary}}, nil},
	{"container", Chroot, syscall.SysProcAttr{}, []string{"container"}},
}

// order is what the act "run" is to do.
type order struct {
	Dir        string // writable
	Root, Tree string
	Args, Env  []string
}

// report is what it found.
type report struct {
	Mode   Mode
	Output string
	Error  string
	Code   int // of an ExitError
	Took   time.Duration
}

func init() { acts["run"] = runOrder }

// runOrder chooses a mode and runs a command, as neb does.
func runOrder(args []string) error {
	var o order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// As a shell or a CI runner may leave it open to neb.
	if _, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	runtime.LockOSThread()
	const uname26 = 0x0020000 // UNAME26: uname(2) gives version 2.6.*
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uname26, 0, 0); errno != 0 {
		return errno
	}
	var r report
	var err error
	r.Mode, err = Choose(ctx, o.Dir)
	if err == nil {
		var out bytes.Buffer
		begin := time.Now()
		err = r.Mode.Run(ctx, Command{
			Root: o.Root, Trees: map[string]string{"tree": o.Tree}, Work: filepath.Join(o.Dir, "work"),
			Args: o.Args, Env: o.Env, Output: &out,
		})
		r.Output, r.Took = out.String(), time.Since(begin)
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		r.Code = exit.Code
	}
	if err != nil {
		r.Error = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// inEach runs a command in each situation, and checks that the mode is the one expected there.
func inEach(t *testing.T, args, env []string, check func(t *testing.T, r report, work string)) {
	require.Root(t) // who can become the others
	// Not t.TempDir: an ordinary user does not get there.
	base, err := os.MkdirTemp("/var/tmp", "neb-sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range as {
		t.Run(a.name, func(t *testing.T) {
			dir := filepath.Join(base, a.name)
			root, tree := testRoot(t, dir)
			if c := a.attr.Credential; c != nil {
				if err := giveTree(t.Context(), dir, int(c.Uid), int(c.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			o, err := json.Marshal(order{Dir: dir, Root: root, Tree: tree, Args: args, Env: env})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", slices.Concat(a.via, []string{"run", string(o)})...)
			cmd.SysProcAttr = &a.attr
			cmd.Stderr = os.Stderr
			cmd.Env = []string{"HTTP_PROXY=http://192.0.2.1", "SECRET=x"}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var r report
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if r.Mode != a.mode {
				t.Fatalf("chose mode %q (%s), expected %q", r.Mode, r.Error, a.mode)
			}
			check(t, r, filepath.Join(dir, "work"))
		})
	}
}

// listen listens on a port of this machine's loopback interface.
func listen(t *testing.T) (port string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(bound.(*unix.SockaddrInet4).Port)
}

func TestWhatACommandSees(t *testing.T) {
	port := listen(t)
	inEach(t, []string{"/bin/probe", "see"}, []string{"PORT=" + port, "TZ=UTC-1"},
		func(t *testing.T, r report, work string) {
			checkSeen(t, r, port)
			for _, path := range []string{"out/a", "build/a"} {
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(work, path), &st); err != nil {
					t.Errorf("what the command wrote: %v", err)
				} else if int(st.Uid) == chrootID {
					t.Errorf("%s belongs to the sandbox's user", path)
				}
			}
		})
}

// A real container, unprivileged, as a Docker build has it.
func TestInDocker(t *testing.T) {
	require.Docker(t)
	dir := t.TempDir()
	root, tree := testRoot(t, dir)
	self := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, "sandbox.test"), ".")
	self.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := self.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o777}),
		w.Close()); err != nil {
		t.Fatal(err)
	}
	const name = "neb-test-sandbox"
	load := exec.Command("docker", "import", "-", name)
	load.Stdin = &image
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "--force", name).Run() })

	inside := func(path string) string { return "/shared" + strings.TrimPrefix(path, dir) }
	port := listen(t)
	// on a file system of its own, and on that of the toolchain
	for _, work := range []string{"/tmp", "/shared"} {
		o, err := json.Marshal(order{Dir: work, Root: inside(root), Tree: inside(tree),
			Args: []string{"/bin/probe", "see"}, Env: []string{"PORT=" + port, "TZ=UTC-1"}})
		if err != nil {
			t.Fatal(err)
		}
		run := exec.Command("docker", "run", "--rm", "--network=host", "--volume", dir+":/shared", name,
			"/shared/sandbox.test", "run", string(o))
		run.Stderr = os.Stderr
		out, err := run.Output()
		if err != nil {
			t.Fatalf("docker run: %v", err)
		}
		var r report
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r.Mode != Chroot {
			t.Fatalf("chose mode %q (%s), expected %q", r.Mode, r.Error, Chroot)
		}
		checkSeen(t, r, port)
	}
}

// checkSeen checks what testdata/probe says of its sandbox.
func checkSeen(t *testing.T, r report, port string) {
	t.Helper()
	var s seen
	if r.Error != "" || json.Unmarshal([]byte(r.Output), &s) != nil {
		t.Fatalf("error %q, output %q", r.Error, r.Output)
	}
	equal := func(what string, got, want any) {
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			t.Errorf("%s: expected %s, found %s", what, w, g)
		}
	}
	equal("working directory", s.Dir, Build)
	equal("umask", s.Umask, 0o022)
	equal("environment", s.Env,
		[]string{"HOME=/build", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PORT=" + port,
			"SOURCE_DATE_EPOCH=0", "TZ=UTC-1"})
	equal("devices", s.Dev, "[fd full null random stderr stdin stdout urandom zero]")
	for _, dir := range []string{"bin", "build", "dev", "out", "proc", "src", "tmp", "tree", "usr"} {
		if !slices.Contains(s.Root, dir) {
			t.Errorf("/%s is not there: %v", dir, s.Root)
		}
	}
	if slices.Contains(s.Root, "var") || slices.Contains(s.Root, "etc") {
		t.Errorf("the machine's root is seen: %v", s.Root)
	}
	for path, err := range s.Wrote {
		writable := slices.Contains([]string{"/build/a", "/src/a", "/out/a", "/tmp/a", "/dev/null"}, path)
		if writable != (err == "<nil>") {
			t.Errorf("writing to %s: %s", path, err)
		}
	}
	for kind, err := range s.Network {
		if err == "<nil>" {
			t.Errorf("%s: the network was reached", kind)
		}
	}
	if r.Mode != Chroot {
		equal("host name", s.Hostname, hostname)
		equal("parent process id", s.Parent, 1)
	}
	equal("capabilities", s.Caps, strings.Repeat("0", 16))
}

// What a build of root could do to the machine although it has no capabilities, where inherited files lead,
// and what else is inherited.
func TestNoWayOut(t *testing.T) {
	inEach(t, []string{"/usr/bin/probe", "escape"}, nil, func(t *testing.T, r report, _ string) {
		if r.Error != "" || r.Output != "" {
			t.Errorf("error %q, ways out:\n%s", r.Error, r.Output)
		}
	})
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		act  string
		code int
	}{{"exit", 7}, {"die", 128 + 9}} {
		t.Run(c.act, func(t *testing.T) {
			inEach(t, []string{"/usr/bin/probe", c.act}, nil, func(t *testing.T, r report, _ string) {
				if r.Code != c.code {
					t.Errorf("expected exit status %d, found %d (%s)", c.code, r.Code, r.Error)
				}
			})
		})
	}
}

func TestNoSuchCommand(t *testing.T) {
	inEach(t, []string{"/usr/bin/nothing"}, nil, func(t *testing.T, r report, _ string) {
		if !strings.Contains(r.Error, "start /usr/bin/nothing: no such file") {
			t.Errorf("found %q", r.Error)
		}
	})
}

// A process that leaves its session is dead when the sandbox ends.
func TestNothingIsLeftBehind(t *testing.T) {
	inEach(t, []string{"/usr/bin/probe", "linger"}, nil, func(t *testing.T, r report, work string) {
		if r.Error != "" || r.Output != "started\n" {
			t.Fatalf("error %q, output %q", r.Error, r.Output)
		}
		if left := processesIn(t, filepath.Dir(work)); len(left) > 0 {
			t.Errorf("still running: %v", left)
		}
	})
}

// In a bare chroot nothing but hashes tells that the toolchain was changed: here by a command that is let
// do it.
func TestTamperedToolchain(t *testing.T) {
	inEach(t, []string{"/usr/bin/probe", "tamper"}, nil, func(t *testing.T, r report, work string) {
		if r.Code != 1 {
			t.Errorf("expected the command to fail, found %+v", r)
		}
		tool, err := os.ReadFile(filepath.Join(filepath.Dir(work), "root/usr/lib/tool"))
		if err != nil || string(tool) != "good" {
			t.Errorf("the toolchain is %q, %v", tool, err)
		}
	})
	require.Root(t)
	dir := t.TempDir()
	root, _ := testRoot(t, dir)
	// As the sandbox's own user owns this file, it can write to it.
	if err := os.Lchown(filepath.Join(root, "usr/lib/tool"), chrootID, chrootID); err != nil {
		t.Fatal(err)
	}
	err := Chroot.Run(t.Context(),
		Command{Root: root, Work: filepath.Join(dir, "work"), Args: []string{"/usr/bin/probe", "tamper"}})
	if err == nil || !strings.Contains(err.Error(), "the build changed /usr/lib/tool of the toolchain") {
		t.Errorf("found %v", err)
	}
}

// The user of a chroot comes in, whatever the umask.
func TestChrootUmask(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	root, tree := testRoot(t, dir)
	defer syscall.Umask(syscall.Umask(0o077))
	var out strings.Builder
	err := Chroot.Run(t.Context(), Command{
		Root: root, Trees: map[string]string{"/opt/deep/tree": tree}, Work: filepath.Join(dir,
			"work"), Args: []string{"/usr/bin/probe", "see"}, Output: &out,
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// However a sandbox is ended, by Ctrl-C or by killing neb itself, everything in it ends.
func TestEnd(t *testing.T) {
	require.Root(t)
	for _, m := range []Mode{Namespaces, UserNamespaces, Chroot} {
		t.Run(string(m)+"/cancel", func(t *testing.T) {
			dir := t.TempDir()
			root, _ := testRoot(t, dir)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			err := m.Run(ctx, Command{Root: root, Work: filepath.Join(dir, "work"),
				Args: []string{"/usr/bin/probe", "wait"}})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("found %v", err)
			}
			if left := processesIn(t, dir); len(left) > 0 {
				t.Errorf("still running: %v", left)
			}
		})
		t.Run(string(m)+"/kill", func(t *testing.T) {
			dir := t.TempDir()
			root, _ := testRoot(t, dir)
			o, err := json.Marshal(order{Dir: dir, Root: root, Tree: root,
				Args: []string{"/usr/bin/probe", "wait"}})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", "runmode", string(m), string(o))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the command runs", func() bool { return len(processesIn(t, dir)) > 0 })
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			eventually(t, "everything has ended", func() bool { return len(processesIn(t, dir)) == 0 })
		})
	}
}

func init() {
	acts["runmode"] = func(args []string) error {
		var o order
		if err := json.Unmarshal([]byte(args[1]), &o); err != nil {
			return err
		}
		return Mode(args[0]).Run(context.Background(),
			Command{Root: o.Root, Work: filepath.Join(o.Dir, "work"), Args: o.Args})
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// processesIn finds the processes whose program is the probe of the root below dir.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	probe, err := os.Stat(filepath.Join(dir, "root/usr/bin/probe"))
	if err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var found []string
	for _, link := range links {
		if exe, err := os.Stat(link); err == nil && os.SameFile(exe, probe) {
			found = append(found, link)
		}
	}
	return found
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct{ file, value, expected string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1\n",
			"kernel.apparmor_restrict_unprivileged_userns=0"},
		{"kernel/unprivileged_userns_clone", "0\n", "kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "0\n", "user.max_user_namespaces="},
		{"user/max_user_namespaces", "100\n", "run neb as root"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, c.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.value), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := advice(dir); !strings.Contains(got, c.expected) {
			t.Errorf("%s = %s: found %q, expected %q in it", c.file, c.value, got, c.expected)
		}
	}
}

// An ordinary user where user namespaces are not allowed gets to know what to enable.
func TestNoIsolation(t *testing.T) {
	require.Root(t)
	dir, err := os.MkdirTemp("/var/tmp", "neb-sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	o, _ := json.Marshal(order{Dir: dir})
	cmd := exec.Command("/proc/self/exe", "container", "run", string(o))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	for _, expected := range []string{"no way to isolate a build", "user namespaces: ",
		"operation not permitted", "run neb as root"} {
		if !strings.Contains(r.Error, expected) {
			t.Errorf("found %q, expected %q in it", r.Error, expected)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"LC_ALL=x", "A=1", "A=2", "TZ", "NONE"})
	want := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/build", "SOURCE_DATE_EPOCH=0", "LC_ALL=x",
		"A=2"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, expected %q", got, want)
	}
}

// Where nothing can be executed, neb says so instead of failing in the middle of a build.
func TestNoexec(t *testing.T) {
	require.Root(t)
	require.Mount(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOEXEC, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	err := Namespaces.Run(t.Context(), Command{Root: "/", Work: dir, Args: []string{"/bin/true"}})
	if err == nil || !strings.Contains(err.Error(), "mounted noexec") ||
		!strings.Contains(err.Error(), "NEB_CACHE") {
		t.Errorf("found %v", err)
	}
}
