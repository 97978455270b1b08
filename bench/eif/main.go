// Command eif (in bench) measures `neb eif build` and `neb eif describe` on large images, beside sha384sum
// and gzip over the same bytes in the same run:
//
//	go run ./bench/eif -dir /var/tmp/bench -blobs result/x86_64 [-runs 3] [-sizes 1,8]
//
// It builds neb as releases do, makes an OCI archive with one gzip layer of each size (in GiB; the same bytes
// each time, kept in -dir for the next run), and prints medians as a Markdown table with the machine and its
// load.
//
// The first column is what cannot be avoided: SHA-384 over the layer's bytes, and inflating the layer.
// Building may take 1.5 times as long, describing 1.2 times as long as sha384sum of the file.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
)

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", "", "directory for images and outputs (needs four times the largest size)")
	blobs := flag.String("blobs", "", "directory with blobs for x86_64")
	runs := flag.Int("runs", 3, "how often each is run")
	sizes := flag.String("sizes", "1", "sizes of the root in GiB, separated by commas")
	flag.Parse()
	if *dir == "" || *blobs == "" {
		log.Fatal("-dir and -blobs are needed")
	}
	if err := bench(*dir, *blobs, *runs, strings.Split(*sizes, ",")); err != nil {
		log.Fatal(err)
	}
}

func bench(dir, blobs string, runs int, sizes []string) error {
	neb := filepath.Join(dir, "neb")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", neb,
		"github.com/nitro-enclaves-bootstrap/neb/cmd/neb")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %s, load before %.4s\n\n", runtime.NumCPU(),
		time.Now().UTC().Format("2006-01-02"), load)
	fmt.Println("| root | sha384sum and gzip -d of the layer | build | peak memory | sha384sum of the EIF " +
		"| describe | peak memory |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, size := range sizes {
		n, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		base := filepath.Join(dir, "eif-"+size)
		if err := makeImage(base, int64(n)<<30); err != nil {
			return err
		}
		commands := [][]string{
			{"sha384sum", base + ".layer"},
			{"gzip", "-dc", base + ".layer.gz"},
			{neb, "eif", "build", "--image", "oci-archive:" + base + ".oci.tar", "--arch", "x86_64",
				"--blobs", blobs, "--cmd", "/f0", "--allow", "command-format", "--output", base + ".eif"},
			{"sha384sum", base + ".eif"},
			{neb, "eif", "describe", base + ".eif"},
		}
		results := make([][]result, len(commands))
		for range runs {
			for i, c := range commands {
				r, err := measure(c)
				if err != nil {
					return err
				}
				results[i] = append(results[i], r)
			}
		}
		wall := func(i int) float64 { return median(results[i], func(r result) float64 { return r.wall }) }
		peak := func(i int) float64 { return median(results[i], func(r result) float64 { return r.peak }) }
		least := wall(0) + wall(1)
		fmt.Printf("| %s GiB | %.1f s | %.1f s (%.2f) | %.0f MB | %.1f s | %.1f s (%.2f) | %.0f MB |\n",
			size, least, wall(2), wall(2)/least, peak(2), wall(3), wall(4), wall(4)/wall(3), peak(4))
	}
	return nil
}

type result struct {
	wall float64 // seconds
	peak float64 // megabytes
}

func measure(args []string) (result, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{wall: time.Since(start).Seconds()}
	if err != nil {
		return r, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	r.peak = float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024 / 1e6
	return r, nil
}

func median(all []result, of func(result) float64) float64 {
	var values []float64
	for _, r := range all {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// makeImage makes base.layer, base.layer.gz and base.oci.tar, unless they are there: 100 files, half of whose
// bytes can be compressed away.
func makeImage(base string, size int64) (err error) {
	if _, err := os.Stat(base + ".oci.tar"); err == nil {
		return nil
	}
	log.Printf("making %s.oci.tar", base)
	plain, err1 := os.Create(base + ".layer")
	packed, err2 := os.Create(base + ".layer.gz")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	z := gzip.NewWriter(packed)
	w := tar.NewWriter(io.MultiWriter(plain, z))
	noise := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<16)
	for i := range 100 {
		n := size / 100 &^ (1<<16 - 1)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("f%d", i), Mode: 0o755, Size: n}); err != nil {
			return err
		}
		for range n >> 16 {
			noise.Read(block[:1<<15])
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close(), plain.Close(), packed.Close()); err != nil {
		return err
	}

	layer, err := tarball.LayerFromFile(base + ".layer.gz")
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, configFor(img)); err != nil {
		return err
	}
	tree := base + ".oci"
	defer os.RemoveAll(tree)
	path, err := layout.Write(tree, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(img); err != nil {
		return err
	}
	out, err := os.Create(base + ".oci.tar.part")
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	if err := errors.Join(archive.AddFS(os.DirFS(tree)), archive.Close(), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), base+".oci.tar")
}

func configFor(img v1.Image) *v1.ConfigFile {
	file, err := img.ConfigFile()
	if err != nil {
		log.Fatal(err)
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	return file
}
