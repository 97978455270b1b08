package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/mirror"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// The tests of this file run the test binary again, as another process that uses the same store: TestMain
// sees in the environment what it is to do.
const (
	roleVariable  = "NEB_STORE_TEST_ROLE"
	storeVariable = "NEB_STORE_TEST_STORE"
	urlVariable   = "NEB_STORE_TEST_URL"
)

// childData is what children fetch.
var childData = mirror.Content(3_000_000)

// roles are what a child can do.
var roles = map[string]func(*Store) error{
	"fetch": func(s *Store) error {
		m := mirrors()
		m.Archives[lock.Debian] = []string{os.Getenv(urlVariable)}
		return s.Fetch(context.Background(), []lock.File{mirror.Locked("big", childData)},
			FetchOptions{Mirrors: m})
	},
	// Makes an output of 40 files, slowly, and says so after the first.
	"output": func(s *Store) error {
		dir, hit, err := s.Output(context.Background(), "slow-1", func(dir string) error {
			for i := range 40 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), childData[:10_000+i],
					0o644); err != nil {
					return err
				}
				if i == 0 {
					fmt.Println("making")
				}
				time.Sleep(5 * time.Millisecond)
			}
			return nil
		})
		fmt.Println("done", hit, dir)
		return err
	},
	// Uses an output until its standard input ends.
	"use": func(s *Store) error {
		_, _, err := s.Output(context.Background(), "used-1",
			func(dir string) error { return errors.New("not there") })
		fmt.Println("using")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return err
	},
	// A read-only store: what is there is used, what is not is an error.
	"read-only": func(s *Store) error {
		if !s.ReadOnly() {
			return errors.New("the store says that it can be written to")
		}
		have, missing := mirror.Locked("have", childData[:100]), mirror.Locked("missing", childData[:101])
		if err := s.Fetch(context.Background(), []lock.File{have}, FetchOptions{}); err != nil {
			return err
		}
		if err := s.Fetch(context.Background(), []lock.File{have, missing}, FetchOptions{}); err == nil ||
			!strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), missing.Path) {
			return fmt.Errorf("fetch of what is missing: %v", err) //nolint:errorlint // may be nil
		}
		dir, hit, err := s.Output(context.Background(), "have",
			func(string) error { return errors.New("made anew") })
		if err != nil || !hit {
			return fmt.Errorf("output %s: hit %v, %v", dir, hit, err) //nolint:errorlint // may be nil
		}
		_, _, err = s.Output(context.Background(), "missing", func(string) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			return fmt.Errorf("output that is missing: %v", err) //nolint:errorlint // may be nil
		}
		return nil
	},
}

func TestMain(m *testing.M) {
	role := roles[os.Getenv(roleVariable)]
	if role == nil {
		os.Exit(m.Run())
	}
	s, err := Open(os.Getenv(storeVariable))
	if err == nil {
		err = role(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is the test binary as another process.
func child(t *testing.T, role, dir, url string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, storeVariable+"="+dir, urlVariable+"="+url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// TestKilledFetch kills a process with SIGKILL at many moments of a download. Whatever it leaves, the last
// run succeeds, and the store never holds anything that is not right.
func TestKilledFetch(t *testing.T) {
	// 3 MB in about 300 ms.
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) { mirror.Good(childData)(&slow{w}, r) })
	f := mirror.Locked("big", childData)
	dir := filepath.Join(t.TempDir(), "store")
	killed := 0
	for i := range 12 {
		if i == 6 {
			os.RemoveAll(dir) // from the start again, after the first ones went on where they were killed
		}
		cmd, out := child(t, "fetch", dir, m.URL)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+30*(i%6)) * time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		if err := cmd.Wait(); err != nil {
			killed++
			if !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the child failed: %v: %s", err, out)
			}
		}
		entries, _ := os.ReadDir(filepath.Join(dir, downloads))
		for _, e := range entries {
			if sum, _, err := stream.SHA256(t.Context(),
				filepath.Join(dir, downloads, e.Name())); err != nil || sum != e.Name() {
				t.Fatalf("kill %d left a bad file in the store: %s (%v)", i, e.Name(), err)
			}
		}
	}
	if killed == 0 {
		t.Fatal("no child was killed in the middle: the test shows nothing")
	}
	cmd, out := child(t, "fetch", dir, m.URL)
	if err := cmd.Run(); err != nil {
		t.Fatalf("after the kills: %v: %s", err, out)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, f, childData)
}

// slow is a line of about 10 MB/s.
type slow struct{ http.ResponseWriter }

func (s *slow) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k, err := s.ResponseWriter.Write(p[:min(len(p), 100_000)])
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
		s.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(10 * time.Millisecond)
	}
	return n, nil
}

// TestFetchAtOnce has four processes want the same file: it is downloaded once.
func TestFetchAtOnce(t *testing.T) {
	m := mirror.Serve(t, func(w http.ResponseWriter, r *http.Request) { mirror.Good(childData)(&slow{w}, r) })
	dir := filepath.Join(t.TempDir(), "store")
	run(t, 4, func() (*exec.Cmd, *bytes.Buffer) { return child(t, "fetch", dir, m.URL) })
	if n := len(m.Requests()); n != 1 {
		t.Errorf("expected one request, found %d", n)
	}
}

// run runs n children at once and returns what they printed.
func run(t *testing.T, n int, start func() (*exec.Cmd, *bytes.Buffer)) []string {
	t.Helper()
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range n {
		cmd, out := start()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	var printed []string
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("child %d: %v: %s", i, err, outs[i])
		}
		printed = append(printed, outs[i].String())
	}
	return printed
}

// TestOutputAtOnce has four processes want the same output: one makes it, the others wait and use that.
func TestOutputAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	printed := strings.Join(run(t, 4,
		func() (*exec.Cmd, *bytes.Buffer) { return child(t, "output", dir, "") }), "")
	if made := strings.Count(printed, "making"); made != 1 {
		t.Errorf("expected the output to be made once, found %d times", made)
	}
	if hits := strings.Count(printed, "done true"); hits != 3 {
		t.Errorf("expected 3 hits, found %d: %s", hits, printed)
	}
}

// TestKilledOutput kills processes while they make an output: nothing half-made is used, and nothing is left.
func TestKilledOutput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	killed := 0
	for i := range 8 {
		cmd, out := child(t, "output", dir, "")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(30+25*i) * time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		if err := cmd.Wait(); err == nil {
			break // it was done before
		} else if !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the child failed: %v: %s", err, out)
		}
		killed++
	}
	if killed == 0 {
		t.Fatal("no child was killed in the middle: the test shows nothing")
	}
	cmd, out := child(t, "output", dir, "")
	if err := cmd.Run(); err != nil {
		t.Fatalf("after the kills: %v: %s", err, out)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, tmp)); len(left) != 0 {
		t.Errorf("killed processes left %d directories behind", len(left))
	}
	files, err := os.ReadDir(filepath.Join(dir, outputs, "slow-1", treeName))
	if err != nil || len(files) != 40 {
		t.Errorf("expected 40 files, found %d (%v)", len(files), err)
	}
}

// TestPruneInUse prunes while another process uses an output, and while one downloads.
func TestPruneInUse(t *testing.T) {
	s := open(t)
	if _, _, err := s.Output(t.Context(), "used-1", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	cmd, out := child(t, "use", s.Dir(), "")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = nil
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 6)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	everything := func(Item) bool { return true }
	if gone, err := s.Prune(t.Context(), everything); err != nil || len(gone) != 0 {
		t.Errorf("expected nothing to be pruned while it is used, found %v (%v)", gone, err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if gone, err := s.Prune(t.Context(), everything); err != nil || len(gone) != 1 ||
		gone[0].Name != "used-1" {
		t.Errorf("expected used-1 to be pruned, found %v (%v)", gone, err)
	}
	if items, err := s.List(t.Context()); err != nil || len(items) != 0 {
		t.Errorf("expected an empty store, found %v (%v)", items, err)
	}
}

// TestReadOnlyStore uses a store as a user who cannot write to it.
func TestReadOnlyStore(t *testing.T) {
	s := open(t)
	f := mirror.Locked("have", childData[:100])
	if err := os.WriteFile(s.Path(f), childData[:100], 0o444); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Output(t.Context(), "have", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	cmd, out := child(t, "read-only", s.Dir(), "")
	if os.Geteuid() == 0 {
		// Root can write everywhere: be somebody else, who has to reach the store and the test binary.
		openToOthers(t, s.Dir())
		exe := filepath.Join(filepath.Dir(s.Dir()), "test")
		data, err := os.ReadFile(cmd.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(exe, data, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Dir = exe, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else {
		for _, room := range []string{"", downloads, partial, outputs, tmp, logs, locks} {
			path := filepath.Join(s.Dir(), room)
			if err := os.Chmod(path, 0o555); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(path, 0o755) })
		}
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// smallDisk is a directory on a file system of its own with so many bytes.
func smallDisk(t *testing.T, size int64) (dir string, grow func(int64)) {
	t.Helper()
	require.Root(t)
	require.Mount(t)
	dir = t.TempDir()
	mount := func(flags uintptr, size int64) error {
		return unix.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=0755", size))
	}
	if err := mount(0, size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func(size int64) {
		if err := mount(unix.MS_REMOUNT, size); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullStore(t *testing.T) {
	disk, grow := smallDisk(t, 1<<20)
	s, err := Open(filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := mirror.Locked("big", childData)
	m := mirror.Serve(t, mirror.Good(childData))
	err = s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m, m, m)})
	wants(t, err, "big", "the store is full", "neb cache prune")
	absent(t, s)
	var made atomic.Int32
	make := func(dir string) error {
		made.Add(1)
		return os.WriteFile(filepath.Join(dir, "f"), childData, 0o644)
	}
	_, _, err = s.Output(t.Context(), "big", make)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("expected no space, found %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), outputs)); len(left) != 0 {
		t.Error("a half-made output is in the store")
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), tmp)); len(left) != 0 {
		t.Error("a half-made output is left behind")
	}

	grow(16 << 20)
	if err := s.Fetch(t.Context(), []lock.File{f}, FetchOptions{Mirrors: mirrors(m)}); err != nil {
		t.Fatal(err)
	}
	check(t, s, f, childData)
	if _, hit, err := s.Output(t.Context(), "big", make); err != nil || hit {
		t.Errorf("expected the output to be made, found hit %v, %v", hit, err)
	}
	if made.Load() != 2 {
		t.Errorf("expected the output to be made twice, found %d", made.Load())
	}
}
