// Command nixhash writes nix/modules.json: the hash under which Nix fetches the Go modules of go.sum. Run
// it as 'make nix-hash' after a change of go.mod or go.sum. With -check it only reports whether the file is
// up to date.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	source := flag.String("C", ".", "the source tree")
	check := flag.Bool("check", false, "write nothing, fail if the file differs")
	keep := flag.String("keep", "", "leave the modules, laid out as a module proxy, in this new directory")
	flag.Parse()
	if err := run(*source, *keep, *check); err != nil {
		fmt.Fprintf(os.Stderr, "nixhash: %v\n", err)
		os.Exit(1)
	}
}

func run(source, keep string, check bool) error {
	work, err := os.MkdirTemp("", "neb-modules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := keep
	if tree == "" {
		tree = filepath.Join(work, "tree")
	}
	if err := layOut(source, work, tree); err != nil {
		return err
	}
	sum, err := narHash(tree)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(map[string]string{"sha256": sum}, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	path := filepath.Join(source, "nix", "modules.json")
	if !check {
		return os.WriteFile(path, text, 0o644)
	}
	if old, err := os.ReadFile(path); err != nil || string(old) != string(text) {
		return fmt.Errorf("%s is out of date: run 'make nix-hash'", path)
	}
	return nil
}

// layOut downloads the modules of go.sum, as nix/inputs.nix does, from this machine's module cache and its
// proxy.
func layOut(source, work, tree string) error {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	env := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), text, 0o644); err != nil {
			return err
		}
	}
	cache := filepath.Join(work, "cache")
	cmd := exec.Command("go", "mod", "download")
	cmd.Dir = work
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GOMODCACHE="+cache, "GOFLAGS=-modcacherw", "GOWORK=off", "GOSUMDB=off",
		"GOPROXY=file://"+filepath.Join(env[0], "cache", "download")+","+env[1])
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go mod download: %w", err)
	}
	return copyModules(filepath.Join(cache, "cache", "download"), tree)
}

// copyModules copies the files of modules without the cache's own records.
func copyModules(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".mod" && ext != ".zip" {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(at, text, 0o644)
	})
}
