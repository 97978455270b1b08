// Command linuxkit (in bench) measures cmd/linuxkit with large images, and LinuxKit's own program beside it
// if it is given:
//
//	go run ./bench/linuxkit -dir DIR [-upstream LINUXKIT] [-runs 3] [-images one,small,huge]
//
// It builds cmd/linuxkit as releases do, creates the images (OCI layouts, the same bytes each time; they stay
// in -dir for the next run), runs both programs in turn, and prints medians as a Markdown table with the
// machine and its load. upstream must have the patches that nitro-cli needs (prefix, kernel+initrd-nogz).
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
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
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
)

// images are what is measured.
var images = []struct {
	name  string
	about string
	make  func(*layout) error
}{
	{"one", "1 GiB, one gzip layer", func(l *layout) error {
		return l.files(1, 100, 1<<30, gzip.DefaultCompression)
	}},
	{"small", "200,000 files, 140 MB", func(l *layout) error {
		return l.files(1, 200_000, 140_000_000, gzip.DefaultCompression)
	}},
	{"layers", "1 GiB, eight gzip layers", func(l *layout) error {
		return l.files(8, 400, 1<<27, gzip.DefaultCompression)
	}},
	{"huge", "8 GiB, eight gzip layers", func(l *layout) error {
		return l.files(8, 100, 1<<30, gzip.BestSpeed)
	}},
}

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", "", "directory for images and outputs (needs 20 GB for huge)")
	upstream := flag.String("upstream", "", "LinuxKit's own program, to compare with")
	runs := flag.Int("runs", 3, "how often each is run")
	which := flag.String("images", "one,small,layers", "which images, of one, small, layers, huge")
	flag.Parse()
	if *dir == "" {
		log.Fatal("-dir is needed")
	}
	if err := bench(*dir, *upstream, *runs, strings.Split(*which, ",")); err != nil {
		log.Fatal(err)
	}
}

func bench(dir, upstream string, runs int, which []string) error {
	ours := filepath.Join(dir, "linuxkit")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", ours,
		"github.com/nitro-enclaves-bootstrap/neb/cmd/linuxkit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	fmt.Printf("%s, %d processors, %s, load before %s\n\n", model(), runtime.NumCPU(),
		time.Now().UTC().Format("2006-01-02"), load())
	fmt.Println("| image | program | wall | processor time | peak memory | output |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, img := range images {
		if !slices.Contains(which, img.name) {
			continue
		}
		l := &layout{dir: filepath.Join(dir, "cache-"+img.name), name: "docker.io/bench/" + img.name + ":1"}
		if _, err := os.Stat(filepath.Join(l.dir, "index.json")); err != nil {
			log.Printf("making image %s", img.name)
			if err := img.make(l); err != nil {
				return err
			}
		}
		for _, p := range []struct{ name, path, ref string }{{"neb", ours, "oci:" + l.dir},
			{"upstream", upstream, l.name}} {
			if p.path == "" {
				continue
			}
			yaml := filepath.Join(dir, img.name+".yml")
			if err := os.WriteFile(yaml, []byte("init:\n  - "+p.ref+"\n"), 0o644); err != nil {
				return err
			}
			var all []run
			for range runs {
				args := []string{"build", "--name", filepath.Join(dir, "out"), "--format",
					"kernel+initrd-nogz", "--no-sbom", yaml}
				if p.name == "upstream" { // it reads layouts from its cache only
					args = append(args, "--cache", l.dir)
				}
				r, err := measure(p.path, dir, args)
				if err != nil {
					fmt.Printf("| %s | %s | %v | | | |\n", img.about, p.name, err)
					break
				}
				all = append(all, r)
			}
			if len(all) == runs {
				fmt.Printf("| %s | %s | %.1f s | %.1f s | %.0f MB | %d bytes |\n", img.about, p.name,
					median(all, func(r run) float64 { return r.wall }), median(all, func(r run) float64 {
						return r.cpu
					}),
					median(all, func(r run) float64 { return r.peak }), all[0].size)
			}
		}
	}
	for _, p := range []struct{ name, path string }{{"neb", ours}, {"upstream", upstream}} {
		if info, err := os.Stat(p.path); err == nil {
			fmt.Printf("\nBinary, %s: %d bytes\n", p.name, info.Size())
		}
	}
	return nil
}

type run struct {
	wall, cpu float64 // seconds
	peak      float64 // megabytes
	size      int64
}

func measure(program, dir string, args []string) (run, error) {
	out := filepath.Join(dir, "out")
	defer os.Remove(out + "-initrd.img")
	cmd := exec.Command(program, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// Upstream keeps its intermediate file in TMPDIR.
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	start := time.Now()
	err := cmd.Run()
	r := run{wall: time.Since(start).Seconds()}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return r, fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	r.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	r.peak = float64(usage.Maxrss) * 1024 / 1e6
	info, err := os.Stat(out + "-initrd.img")
	if err != nil {
		return r, err
	}
	r.size = info.Size()
	return r, nil
}

func median(all []run, of func(run) float64) float64 {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b run) int { return cmp.Compare(of(a), of(b)) })
	return of(sorted[len(sorted)/2])
}

func model() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// layout is an OCI layout that is being made.
type layout struct {
	dir, name string
	diffIDs   []string
	layers    []descriptor
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// files makes an image of some layers with so many files and bytes in each: a third of the bytes is random,
// the rest is words, so that gzip about halves it.
func (l *layout) files(layers, files int, bytes int64, level int) error {
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	for i := range layers {
		if err := l.layer(i, files, bytes, level); err != nil {
			return err
		}
	}
	return l.finish()
}

func (l *layout) layer(n, files int, total int64, level int) error {
	temp, err := os.Create(filepath.Join(l.dir, "layer"))
	if err != nil {
		return err
	}
	defer temp.Close()
	packed, plain := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(temp, packed), level)
	if err != nil {
		return err
	}
	out := tar.NewWriter(io.MultiWriter(z, plain))
	body := newFiller(uint64(n))
	for i := range files {
		if i%100 == 0 {
			if err := out.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/d%04d/", n, i/100), Mode: 0o755,
				Typeflag: tar.TypeDir}); err != nil {
				return err
			}
		}
		size := total/int64(files)*int64(i+1) - total/int64(files)*int64(i)
		if i == files-1 {
			size = total - total/int64(files)*int64(i)
		}
		if err := out.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/d%04d/file%02d", n, i/100, i%100),
			Mode: 0o644, Size: size}); err != nil {
			return err
		}
		if _, err := io.CopyN(out, body, size); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Close(), z.Close()); err != nil {
		return err
	}
	info, err := temp.Stat()
	if err != nil {
		return err
	}
	l.diffIDs = append(l.diffIDs, fmt.Sprintf("sha256:%x", plain.Sum(nil)))
	l.layers = append(l.layers, descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
		Size: info.Size(), Digest: fmt.Sprintf("sha256:%x", packed.Sum(nil))})
	return os.Rename(temp.Name(), filepath.Join(l.dir, "blobs", "sha256", fmt.Sprintf("%x", packed.Sum(nil))))
}

func (l *layout) finish() error {
	config, err := l.blob("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"/x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": l.diffIDs},
	})
	if err != nil {
		return err
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := l.blob(manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": config, "layers": l.layers})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": l.name}
	for name, content := range map[string]any{
		"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json": map[string]any{"schemaVersion": 2,
			"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{manifest}},
	} {
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(l.dir, name), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) blob(mediaType string, content any) (descriptor, error) {
	raw, err := json.Marshal(content)
	sum := sha256.Sum256(raw)
	d := descriptor{MediaType: mediaType, Size: int64(len(raw)), Digest: fmt.Sprintf("sha256:%x", sum)}
	return d, errors.Join(err, os.WriteFile(filepath.Join(l.dir, "blobs", "sha256", fmt.Sprintf("%x", sum)),
		raw, 0o644))
}

// filler gives blocks of random bytes and blocks of words.
type filler struct {
	r     *rand.Rand
	words [][]byte
	b     []byte
}

func newFiller(seed uint64) *filler {
	f := &filler{r: rand.New(rand.NewPCG(seed, 1))}
	for range 300 {
		w := make([]byte, 3+f.r.IntN(9))
		for i := range w {
			w[i] = byte('a' + f.r.IntN(26))
		}
		f.words = append(f.words, append(w, ' '))
	}
	return f
}

func (f *filler) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		f.b = make([]byte, 0, 4096+16)
		if f.r.IntN(1000) < 273 { // noise, as much as makes 1 GiB a gzip layer of 543 MB
			for len(f.b) < 4096 {
				x := f.r.Uint64()
				f.b = append(f.b, byte(x), byte(x>>8), byte(x>>16), byte(x>>24), byte(x>>32), byte(x>>40),
					byte(x>>48), byte(x>>56))
			}
		}
		for len(f.b) < 4096 {
			f.b = append(f.b, f.words[f.r.IntN(len(f.words))]...)
		}
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}
