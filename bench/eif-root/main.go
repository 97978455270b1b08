// Command eif-root (in bench) compares the forms of an application's root: `--rootfs-format cpio` and
// `erofs`, and compressions of the latter.
//
//	go run ./bench/eif-root -blobs result/x86_64 -memory 4096 -runs 3 -forms cpio,erofs,erofs:lz4 TREE...
//
// For each tree (a directory or tar archive with /bin/true in it) and each form it prints the size of the
// EIF, how long packing took, how long the start took until /bin/true had ended (median, with -memory MiB),
// and the smallest memory, in steps of 32 MiB, with which it starts at all. The emulator is neb's. A form
// erofs:X has X for mkfs.erofs's -z instead of what neb chose, with + for each comma: erofs:lz4hc+12.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/store"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
)

func main() {
	log.SetFlags(0)
	blobs := flag.String("blobs", "", "directory with blobs for x86_64")
	qemu := flag.String("qemu", "", "directory of another QEMU")
	memory := flag.Int("memory", 4096, "MiB for the timed starts")
	runs := flag.Int("runs", 3, "timed starts of each")
	limit := flag.Duration("limit", 5*time.Minute, "longest start")
	forms := flag.String("forms", "cpio,erofs", "what to compare, with commas between")
	flag.Parse()
	if *blobs == "" || flag.NArg() == 0 {
		log.Fatal("-blobs and a tree are needed")
	}
	dir, err := os.MkdirTemp("", "eif-root-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := bench{neb: filepath.Join(dir, "neb"), eif: filepath.Join(dir, "x.eif"), blobs: *blobs, qemu: *qemu,
		limit: *limit}
	if out, err := exec.Command("go", "build", "-o", b.neb,
		"github.com/nitro-enclaves-bootstrap/neb/cmd/neb").CombinedOutput(); err != nil {
		log.Fatalf("%v: %s", err, out)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %s, load before %.4s\n\n", runtime.NumCPU(),
		time.Now().UTC().Format("2006-01-02"), load)
	fmt.Println("| tree | form | EIF | packed in | start | smallest memory |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, tree := range flag.Args() {
		for form := range strings.SplitSeq(*forms, ",") {
			if err := b.row(tree, form, *memory, *runs); err != nil {
				log.Printf("%s, %s: %v", tree, form, err)
			}
		}
	}
}

type bench struct {
	neb, eif, blobs, qemu string
	limit                 time.Duration
}

// tools are mkfs.erofs and its like in the sandbox of `neb build`, with another compression than neb's.
type tools struct {
	*component.Builder
	compression string // "" for neb's
}

func (t tools) Work(ctx context.Context) (string, error) { return t.Store.Work(ctx) }

func (t tools) Run(ctx context.Context, work string, args ...string) error {
	for i, arg := range args {
		if strings.HasPrefix(arg, "-z") && t.compression != "" {
			args = slices.Clone(args)
			args[i] = "-z" + strings.ReplaceAll(t.compression, "+", ",")
		}
	}
	return t.Tool(ctx, []string{lock.EROFS}, work, args...)
}

// pack makes the EIF.
func (b *bench) pack(tree, form string) error {
	ctx := context.Background()
	locked, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		return err
	}
	s, err := store.Open("")
	if err != nil {
		return err
	}
	defer s.Close()
	format, compression, _ := strings.Cut(form, ":")
	build := &pack.Build{
		Arch: eif.X86_64, Blobs: pack.BlobsIn(b.blobs, eif.X86_64), RootFS: tree,
		RootFormat: pack.RootFormat(format),
		Overrides:  pack.Overrides{Cmd: []string{"/bin/true"}},
		ErofsTools: tools{&component.Builder{Store: s, Lock: locked}, compression},
	}
	return atomicfile.Write(b.eif, func(f *os.File) error {
		_, err := build.To(ctx, f)
		return err
	})
}

func (b *bench) row(tree, form string, memory, runs int) error {
	start := time.Now()
	if err := b.pack(tree, form); err != nil {
		return err
	}
	packed := time.Since(start)
	info, err := os.Stat(b.eif)
	if err != nil {
		return err
	}
	var times []float64
	for range runs {
		t, err := b.start(memory)
		if err != nil {
			return err
		}
		times = append(times, t)
	}
	took := "-"
	if slices.Sort(times); len(times) > 0 {
		took = fmt.Sprintf("%.1f s", times[len(times)/2])
	}
	// The smallest memory is between a size that is too small, as that of the EIF, and one that is enough.
	low, high := int(info.Size()>>20)/32, (memory+31)/32
	for high-low > 1 {
		middle := (low + high) / 2
		if _, err := b.start(middle * 32); err == nil {
			high = middle
		} else {
			low = middle
		}
	}
	fmt.Printf("| %s | %s | %.1f MB | %.1f s | %s | %d MiB |\n", filepath.Base(tree), form,
		float64(info.Size())/1e6, packed.Seconds(), took, high*32)
	return nil
}

// start boots the EIF and returns the seconds until its application had ended well.
func (b *bench) start(memory int) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.limit)
	defer cancel()
	args := []string{"run", "--json", "--memory", strconv.Itoa(memory), "--timeout", b.limit.String()}
	if b.qemu != "" {
		args = append(args, "--qemu", b.qemu)
	}
	out, err := exec.CommandContext(ctx, b.neb, append(args, b.eif)...).Output()
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(out) {
		var event struct {
			Event string
			Time  float64
		}
		if err := json.Unmarshal(line, &event); err == nil && event.Event == "reboot" {
			return event.Time, nil
		}
	}
	return 0, errors.New("the enclave did not end by itself")
}
