// Command build measures neb build: what it fetches, how long it takes the second time, and how long a kernel
// takes from nothing, as a share of what another configuration takes on the same source, in the same sandbox,
// in the same run.
//
//	go run ./bench/build                               bytes to fetch, and the second build
//	go run ./bench/build -cold                         and the kernel from nothing, in a store of its own
//	go run ./bench/build -cold -reference bzImage.config   and the share of that configuration
//
// The machine, its load and the date are printed with the numbers.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
)

// repeats is how often the second build is timed.
const repeats = 9

func main() {
	cold := flag.Bool("cold", false, "build the x86_64 kernel from nothing, too")
	reference := flag.String("reference", "", "a kernel `configuration` to compare with (needs -cold)")
	flag.Parse()
	if _, err := os.Stat(*reference); *reference != "" && (!*cold || err != nil) {
		fmt.Fprintf(os.Stderr, "-reference %s needs -cold, and a file: %v\n", *reference, err)
		os.Exit(2)
	}
	if err := run(context.Background(), *cold, *reference); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func say(what, format string, args ...any) {
	fmt.Printf("%-52s %s\n", what, fmt.Sprintf(format, args...))
}

func run(ctx context.Context, cold bool, reference string) error {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	say("machine", "%s, %d processors, load %s, %s", runtime.GOARCH, runtime.NumCPU(),
		strings.Fields(string(load))[0], time.Now().UTC().Format(time.DateOnly))
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return err
	}
	if err := fetched(l); err != nil {
		return err
	}
	if cold {
		if err := kernels(ctx, l, reference); err != nil {
			return err
		}
	}
	return second(ctx)
}

// fetched adds up what a first build fetches.
func fetched(l *lock.Lock) error {
	for _, c := range []struct {
		what string
		sets []string
	}{
		{"x86_64", []string{lock.Base, lock.GCCx86_64}},
		{"x86_64 and aarch64", []string{lock.Base, lock.GCCx86_64, lock.GCCaarch64}},
	} {
		files, err := l.Files(runtime.GOARCH, c.sets...)
		if err != nil {
			return err
		}
		total := l.Kernel.Size
		for _, f := range files {
			total += f.Size
		}
		say("Debian packages fetched for "+c.what, "%.1f MB in %d files", float64(total)/1e6, len(files)+1)
	}
	return nil
}

// kernels times the kernel from nothing but downloads, and the reference.
func kernels(ctx context.Context, l *lock.Lock, reference string) error {
	dir, err := os.MkdirTemp("/var/tmp", "neb-bench-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	defer s.Close()
	sets := []string{lock.Base, lock.GCCx86_64}
	files, err := l.Files(runtime.GOARCH, sets...)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := s.Fetch(ctx, append(files, l.Kernel), store.FetchOptions{}); err != nil {
		return err
	}
	say("fetching that", "%.1f s", time.Since(begin).Seconds())

	b := &component.Builder{Store: s, Lock: l}
	nothing := filepath.Join(dir, "nothing")
	if err := os.Mkdir(nothing, 0o755); err != nil {
		return err
	}
	unpacked, err := clock(func() error { return b.Tool(ctx, sets, nothing, "/bin/true") })
	if err != nil {
		return err
	}
	say("unpacking the toolchain", "%v", unpacked)
	ours, err := clock(func() error {
		_, err := b.Build(ctx, "x86_64", "kernel")
		return err
	})
	if err != nil {
		return err
	}
	say("neb build kernel, toolchain there", "%v", ours)
	if reference == "" {
		return nil
	}

	// As ours: the source is taken out of its package, the toolchain hashed, the tree unpacked, compiled and
	// removed.
	theirs, err := clock(func() error {
		work := filepath.Join(s.Dir(), "reference")
		if err := errors.Join(placeSource(s.Path(l.Kernel), filepath.Join(work, "src")),
			copyFile(reference, filepath.Join(work, "src", "config")),
			os.WriteFile(filepath.Join(work, "src", "build.sh"),
				[]byte(fmt.Sprintf(referenceScript, runtime.NumCPU())), 0o644)); err != nil {
			return err
		}
		if err := b.Tool(ctx, sets, work, "/bin/sh", "-eu", sandbox.Src+"/build.sh"); err != nil {
			return err
		}
		return os.RemoveAll(work)
	})
	if err != nil {
		return err
	}
	say("the reference configuration, toolchain there", "%v", theirs)
	say("share", "%.2f; of processor time %.2f", ours.wall.Seconds()/theirs.wall.Seconds(),
		ours.cpu.Seconds()/theirs.cpu.Seconds())
	return nil
}

// A reading is how long something took, and the processor time that it and its children had. The second
// hardly depends on what else the machine does.
type reading struct{ wall, cpu time.Duration }

func (r reading) String() string {
	return fmt.Sprintf("%.1f s (processor time %.1f s)", r.wall.Seconds(), r.cpu.Seconds())
}

func clock(work func() error) (reading, error) {
	used := func() (total time.Duration, err error) {
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				return 0, err
			}
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return total, nil
	}
	before, err := used()
	if err != nil {
		return reading{}, err
	}
	begin := time.Now()
	if err := work(); err != nil {
		return reading{}, err
	}
	wall := time.Since(begin)
	after, err := used()
	return reading{wall, after - before}, err
}

const referenceScript = `mkdir linux
XZ_DEFAULTS=-T0 tar -x -f /src/linux.tar -C linux --strip-components=1 --no-same-owner
cd linux
cp /src/config .config
echo CONFIG_NSM=m >> .config
export ARCH=x86_64 CROSS_COMPILE=x86_64-linux-gnu- KBUILD_BUILD_TIMESTAMP=@0
make olddefconfig
make -j%d bzImage modules
`

// placeSource takes the kernel's tarball out of its package.
func placeSource(deb, dir string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := debian.Data(f)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(data); ; {
		h, err := archive.Next()
		if err != nil {
			return err
		}
		if strings.HasSuffix(h.Name, ".tar.xz") {
			return write(filepath.Join(dir, "linux.tar"), archive)
		}
	}
}

func write(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return write(to, f)
}

// second times neb build when everything is in the store.
func second(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "neb-bench-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "neb")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program,
		"./cmd/neb").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	var times []time.Duration
	for i := range repeats + 1 {
		begin := time.Now()
		cmd := exec.CommandContext(ctx, program, "build", "--output", filepath.Join(dir, "result"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("neb build: %w: %s", err, out)
		}
		if i > 0 { // the first is what the others find there
			times = append(times, time.Since(begin))
		}
	}
	slices.Sort(times)
	say(fmt.Sprintf("second neb build, median of %d (fastest, slowest)", repeats), "%d ms (%d, %d)",
		times[repeats/2].Milliseconds(), times[0].Milliseconds(), times[repeats-1].Milliseconds())
	return nil
}
