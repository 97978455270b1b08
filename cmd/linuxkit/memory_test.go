//go:build !race

// The race detector takes several times the program's memory.

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestMain runs linuxkit if a test has started this binary, to measure a process with nothing else in it.
func TestMain(m *testing.M) {
	if os.Getenv("NEB_TEST_AS_LINUXKIT") == "" {
		os.Exit(m.Run())
	}
	status := run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stat, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Stderr.Write(stat)
	os.Exit(status)
}

// TestPeakMemory builds from images with many layers on many processors, and bounds the peak memory.
func TestPeakMemory(t *testing.T) {
	const most = 96 << 10 // kB
	content := func(i, size int) []byte {
		line := fmt.Sprintf("%d: a line of some length\n", i)
		return Layer(t, File(fmt.Sprint(i), strings.Repeat(line, size/len(line))))
	}
	zstdLayer := func(plain []byte, window int) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, c := range []struct {
		name    string
		n, size int
		window  int // 0 is gzip
		skip    string
		raised  bool // the limit of windows
		said    string
	}{
		{name: "64 gzip layers", n: 64, size: 2 << 20},
		{name: "12 zstd layers as container tools write them", n: 12, size: 20 << 20, window: 8 << 20},
		{name: "4 zstd layers with long windows", n: 4, size: 40 << 20, window: 32 << 20},
		{name: "a zstd layer with too long a window", n: 1, size: 1 << 20, window: 128 << 20,
			said: "found more than 33554432 bytes of window for a zstd layer: raise LINUXKIT_MAX_WINDOW if " +
				"you trust the image"},
		{name: "a zstd layer with a long window that is allowed", n: 1, size: 1 << 20, window: 128 << 20,
			raised: true},
		{name: "a skippable frame first", n: 1, size: 1 << 20, window: 128 << 20,
			skip: "\x50\x2a\x4d\x18\x02\x00\x00\x00xx", said: "more than 33554432 bytes of window"},
		{name: "a longer window later", n: 1, size: 1 << 20, window: 32 << 20,
			skip: string(zstdLayer([]byte("x"), 1<<20)),
			said: "window size exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLayout(t)
			var plain [][]byte
			var blobs []Descriptor
			for i := range c.n {
				layer := content(i, c.size)
				plain = append(plain, layer)
				if c.window == 0 {
					blobs = append(blobs, l.Blob(string(Gzip), Gzip.Pack(t, layer)))
				} else {
					blobs = append(blobs, l.Blob(string(Zstd),
						append([]byte(c.skip), zstdLayer(layer, c.window)...)))
				}
			}
			l.Name(l.Manifest(l.JSON("application/vnd.oci.image.config.v1+json", Config("amd64", plain)),
				blobs), "")
			dir := t.TempDir()
			yaml := write(t, dir, "x.yml", fmt.Sprintf("init: [%q]", "oci:"+l.Dir()))
			cmd := exec.Command(os.Args[0], "build", "--arch", "amd64", "--dir", dir, "--format",
				"kernel+initrd-nogz", yaml)
			cmd.Env = append(os.Environ(), "NEB_TEST_AS_LINUXKIT=1", "GOMAXPROCS=64")
			if c.raised {
				cmd.Env = append(cmd.Env, "LINUXKIT_MAX_WINDOW=134217728")
			}
			out, err := cmd.CombinedOutput()
			if (err == nil) != (c.said == "") || !strings.Contains(string(out), c.said) {
				t.Fatalf("%v: %s\nwant %q", err, out, c.said)
			}
			var peak int
			_, after, _ := strings.Cut(string(out), "VmHWM:")
			if _, err := fmt.Sscanf(after, "%d kB", &peak); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d MB", peak>>10)
			if peak > most && !c.raised {
				t.Errorf("%d kB of memory were in use, want at most %d", peak, most)
			}
			if _, err := os.Stat(filepath.Join(dir, "x-initrd.img")); (err == nil) != (c.said == "") {
				t.Errorf("the ramdisk: %v", err)
			}
		})
	}
}
