// Command preflight (in bench) measures what the check of `neb eif build` adds to packing a tree of many
// entries:
//
//	go run ./bench/preflight [-names 2000000]
//
// The tree has small files in directories of 1,000, a dynamic program with its loader, and a command that is
// looked for in a long PATH.
package main

import (
	"archive/tar"
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
)

func main() {
	log.SetFlags(0)
	names := flag.Int("names", 2_000_000, "entries of the tree")
	flag.Parse()
	if err := bench(*names); err != nil {
		log.Fatal(err)
	}
}

func bench(names int) error {
	archive, err := os.CreateTemp("", "preflight-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	defer archive.Close()
	if err := write(archive, names); err != nil {
		return err
	}
	tree := image.NewTree("", image.Limits{})
	defer tree.Close()
	start := time.Now()
	if _, err := tree.AddRoot(context.Background(), archive.Name(), ""); err != nil {
		return err
	}
	read := time.Since(start)
	app := preflight.Application{Arch: "x86_64", Root: tree, Config: "CONFIG_64BIT=y\n",
		About: contract.Description{Cmd: []string{"start"}, User: "app",
			Env: []string{"PATH=" + strings.Repeat("/none:", 1000) + "/bin"}}}
	start = time.Now()
	found := app.Check()
	check := time.Since(start)
	start = time.Now()
	if err := tree.WriteTar(io.Discard, nil); err != nil {
		return err
	}
	packed := time.Since(start)
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d processors, %s, load %.4s\n", runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly),
		load)
	fmt.Printf("%d entries: read %.1f s, packed %.1f s, checked %.3f s; %d findings\n", names, read.Seconds(),
		packed.Seconds(), check.Seconds(), len(found))
	return nil
}

// write writes a tree whose command is a script for /bin/sh, which is this program.
func write(file io.Writer, names int) error {
	buffered := bufio.NewWriter(file)
	w := tar.NewWriter(buffered)
	put := func(name string, content []byte) error {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(own)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"bin/sh": program, "bin/start": []byte("#!/bin/sh\n"),
		"etc/passwd": []byte("app:x:1000:1000::/:/bin/sh\n")} {
		if err := put(name, content); err != nil {
			return err
		}
	}
	for i := range names - names/1000 - 10 { // directories are entries too
		if err := put(fmt.Sprintf("data/%d/%d", i/1000, i), []byte("x")); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}
