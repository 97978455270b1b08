// Command eif-root (in bench) compares the forms of an application's root: `--rootfs-format cpio` and `erofs`.
//
//	go run ./bench/eif-root -blobs result/x86_64 -memory 4096 -runs 3 /path/to/tree...
//
// For each tree (a directory or tar archive with /bin/true in it) and each form it prints the size of the EIF, how long
// packing took, how long the start took until /bin/true had ended (median, with -memory MiB), and the smallest memory, in steps
// of 32 MiB, with which it starts at all. The emulator is neb's.
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
	"time"
)

func main() {
	log.SetFlags(0)
	blobs := flag.String("blobs", "", "directory with blobs for x86_64")
	qemu := flag.String("qemu", "", "directory of another QEMU")
	memory := flag.Int("memory", 4096, "MiB for the timed starts")
	runs := flag.Int("runs", 3, "timed starts of each")
	limit := flag.Duration("limit", 5*time.Minute, "longest start")
	forms := flag.String("form", "", "one form alone")
	flag.Parse()
	if *blobs == "" || flag.NArg() == 0 {
		log.Fatal("-blobs and a tree are needed")
	}
	dir, err := os.MkdirTemp("", "eif-root-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := bench{neb: filepath.Join(dir, "neb"), eif: filepath.Join(dir, "x.eif"), blobs: *blobs, qemu: *qemu, limit: *limit}
	if out, err := exec.Command("go", "build", "-o", b.neb, "github.com/nitro-enclaves-bootstrap/neb/cmd/neb").CombinedOutput(); err != nil {
		log.Fatalf("%v: %s", err, out)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %s, load before %.4s\n\n", runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"), load)
	fmt.Println("| tree | form | EIF | packed in | start | smallest memory |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, tree := range flag.Args() {
		for _, form := range []string{"cpio", "erofs"} {
			if *forms != "" && form != *forms {
				continue
			}
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

func (b *bench) row(tree, form string, memory, runs int) error {
	start := time.Now()
	build := exec.Command(b.neb, "eif", "build", "--rootfs", tree, "--arch", "x86_64", "--blobs", b.blobs, "--cmd", "/bin/true", "--rootfs-format", form, "--output", b.eif)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
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
	// The smallest memory is between a size that is too small and one that is enough.
	low, high := 0, (memory+31)/32
	for high-low > 1 {
		middle := (low + high) / 2
		if _, err := b.start(middle * 32); err == nil {
			high = middle
		} else {
			low = middle
		}
	}
	fmt.Printf("| %s | %s | %.1f MB | %.1f s | %s | %d MiB |\n", filepath.Base(tree), form, float64(info.Size())/1e6, packed.Seconds(), took, high*32)
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
