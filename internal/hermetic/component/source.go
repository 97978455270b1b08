package component

import (
	"bufio"
	"context"
	"fmt"
	"go/build"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
)

// module is neb's module path.
const module = "github.com/nitro-enclaves-bootstrap/neb"

// SourceDir returns the directory of neb's source, from which the Go programs are built: Source, else
// NEB_SOURCE, else the working directory or one above, else the module version that this neb was built from,
// downloaded.
func (b *Builder) SourceDir(ctx context.Context) (string, error) {
	b.source.Do(func() { b.source.dir, b.source.err = b.findSource(ctx) })
	return b.source.dir, b.source.err
}

func (b *Builder) findSource(ctx context.Context) (string, error) {
	for _, given := range []struct{ name, dir string }{{"--source", b.Source},
		{"NEB_SOURCE", os.Getenv("NEB_SOURCE")}} {
		if given.dir == "" {
			continue
		}
		dir, err := filepath.Abs(given.dir)
		if err != nil {
			return "", err
		}
		found, err := moduleOf(dir)
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", given.name, given.dir, err)
		}
		if found != module {
			return "", fmt.Errorf("%s %s: expected module %s, found %s", given.name, given.dir, module,
				found)
		}
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if found, err := moduleOf(dir); err == nil && found == module {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return b.ownVersion(ctx)
}

// moduleOf returns the path of the module in dir.
func moduleOf(dir string) (string, error) {
	f, err := os.Open(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(name), nil
		}
	}
	return "", fmt.Errorf("%s: no module line", f.Name())
}

// ownVersion downloads the module version that this program was built from.
func (b *Builder) ownVersion(ctx context.Context) (string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Path != module || info.Main.Version == "" || info.Main.Version == "(devel)" ||
		strings.Contains(info.Main.Version, "+dirty") {
		return "", fmt.Errorf("neb's source not found, and this neb was not built from a released version: " +
			"set --source or NEB_SOURCE, or run neb in its checkout")
	}
	dir, err := b.releasedSource(ctx, info.Main.Version, info.Main.Sum)
	if err != nil {
		return "", fmt.Errorf("neb's source at %s: %w", info.Main.Version, err)
	}
	return dir, nil
}

// program lists the files that a main package is compiled from.
type program struct {
	files   []string // relative to the tree, sorted
	outside []string // import paths from other modules, sorted
}

// programIn follows the imports of cmd/name, for Linux on all architectures of enclaves. Tests and files of
// other systems do not belong to it. A package that embeds files does not compile in the sandbox: none does
// so far.
func programIn(source, name string) (program, error) {
	files := map[string]bool{"go.mod": true, "go.sum": true}
	outside := map[string]bool{}
	for _, a := range arch.All {
		c := build.Default
		c.GOOS, c.GOARCH, c.CgoEnabled = "linux", a.Go, false
		c.ToolTags = nil // those of GOAMD64 and GOEXPERIMENT in neb's environment
		seen := map[string]bool{}
		var follow func(dir string) error
		follow = func(dir string) error {
			if seen[dir] {
				return nil
			}
			seen[dir] = true
			p, err := c.ImportDir(filepath.Join(source, dir), 0)
			if err != nil {
				return err
			}
			for _, file := range slices.Concat(p.GoFiles, p.SFiles, p.HFiles) {
				files[path.Join(dir, file)] = true
			}
			for _, path := range p.Imports {
				if inside, ok := strings.CutPrefix(path, module+"/"); ok {
					if err := follow(inside); err != nil {
						return err
					}
				} else if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
					outside[path] = true
				}
			}
			return nil
		}
		if err := follow("cmd/" + name); err != nil {
			return program{}, fmt.Errorf("neb's source %s: %w", source, err)
		}
	}
	return program{slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(outside))}, nil
}
