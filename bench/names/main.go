// Command names (in bench) measures what `neb eif` does with small ramdisks of many names:
//
//	go run ./bench/names -dir /var/tmp/bench [-names 2000000]
//
// It builds neb as releases do, makes EIFs whose second ramdisk has so many empty files, compressed with
// zstd, and prints time and memory as a Markdown table with the machine and its load. The second file of
// `diff` has the same names with other times, and the third other names, so that nothing can be forgotten
// before the end.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", "", "directory for neb and the files")
	names := flag.Int("names", 2_000_000, "names in a ramdisk")
	flag.Parse()
	if *dir == "" {
		log.Fatal("-dir is required")
	}
	if err := bench(*dir, *names); err != nil {
		log.Fatal(err)
	}
}

func bench(dir string, names int) error {
	neb := filepath.Join(dir, "neb")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", neb,
		"github.com/nitro-enclaves-bootstrap/neb/cmd/neb")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	var files []string
	for i, format := range []string{"rootfs/%d", "rootfs/%d", "rootfs/x%d"} {
		file := filepath.Join(dir, fmt.Sprintf("names-%d.eif", i))
		size, err := write(file, names, format, uint32(i))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		fmt.Printf("%s: %d names in a ramdisk of %.1f MB\n", file, names, float64(size)/1e6)
		files = append(files, file)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("\n%d processors, %s, load before %.4s\n\n", runtime.NumCPU(),
		time.Now().UTC().Format(time.DateOnly), load)
	fmt.Println("| command | time | processor time | peak memory |\n|---|---|---|---|")
	for _, c := range []struct {
		what string
		args []string
	}{
		{"`describe`", []string{"describe", files[0]}},
		{"`extract --list`", []string{"extract", "--list", files[0]}},
		{"`diff`, every name with another time", []string{"diff", files[0], files[1]}},
		{"`diff`, no name in common", []string{"diff", files[0], files[2]}},
	} {
		cmd := exec.Command(neb, append([]string{"eif"}, c.args...)...)
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start)
		state := cmd.ProcessState
		if state == nil || state.ExitCode() > 1 || state.ExitCode() < 0 {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		fmt.Printf("| %s | %.1f s | %.1f s | %d MB |\n", c.what, took.Seconds(),
			(state.UserTime() + state.SystemTime()).Seconds(), state.SysUsage().(*syscall.Rusage).Maxrss/1000)
	}
	return nil
}

// write makes an EIF, and returns the size of its second ramdisk in bytes.
func write(file string, names int, format string, at uint32) (int64, error) {
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w, err := eif.NewWriter(f, "x86_64")
	if err != nil {
		return 0, err
	}
	for _, s := range []struct {
		kind    eif.SectionType
		content string
	}{{eif.Kernel, "kernel"}, {eif.Cmdline, "a=b"}, {eif.Meta, "{}"}} {
		if err := w.Next(s.kind); err != nil {
			return 0, err
		}
		if _, err := io.WriteString(w, s.content); err != nil {
			return 0, err
		}
	}
	var size int64
	for disk, files := range []int{0, names} {
		if err := w.Next(eif.Ramdisk); err != nil {
			return 0, err
		}
		start, _ := f.Seek(0, io.SeekCurrent)
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return 0, err
		}
		archive := initramfs.NewWriter(z)
		root := []string{"dev", "rootfs"}[disk]
		err = archive.WriteHeader(&initramfs.Header{Name: root, Mode: initramfs.TypeDir | 0o755})
		for i := 0; i < files && err == nil; i++ {
			err = archive.WriteHeader(&initramfs.Header{
				Name: fmt.Sprintf(format, i), Mode: initramfs.TypeFile, ModTime: at})
		}
		if err == nil {
			err = archive.Close()
		}
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			return 0, err
		}
		end, _ := f.Seek(0, io.SeekCurrent)
		size = end - start
	}
	return size, w.Close()
}
