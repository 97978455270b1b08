package component

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
)

// module is neb's module path.
const module = "github.com/nitro-enclaves-bootstrap/neb"

// sourceTree is a directory with neb's Go module.
type sourceTree struct{ dir string }

// sourceTree finds neb's source: in Source, else in NEB_SOURCE, else in the working directory or above,
// else by downloading the module version that this neb was built from.
func (b *Builder) sourceTree(ctx context.Context) (*sourceTree, error) {
	b.source.Do(func() { b.source.tree, b.source.err = b.findSource(ctx) })
	return b.source.tree, b.source.err
}

// SourceDir returns the directory of neb's source, from which the Go programs are built.
func (b *Builder) SourceDir(ctx context.Context) (string, error) {
	t, err := b.sourceTree(ctx)
	if err != nil {
		return "", err
	}
	return t.dir, nil
}

// SourceFiles returns the files that the Go programs are compiled from, relative to the source tree, sorted.
func (b *Builder) SourceFiles(ctx context.Context) ([]string, error) {
	t, err := b.sourceTree(ctx)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range []string{"init", "linuxkit"} {
		p, err := t.program(name)
		if err != nil {
			return nil, err
		}
		files = append(files, p.files...)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

func (b *Builder) findSource(ctx context.Context) (*sourceTree, error) {
	for _, given := range []struct{ name, dir string }{{"--source", b.Source},
		{"NEB_SOURCE", os.Getenv("NEB_SOURCE")}} {
		if given.dir == "" {
			continue
		}
		dir, err := filepath.Abs(given.dir)
		if err != nil {
			return nil, err
		}
		found, err := moduleOf(dir)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", given.name, given.dir, err)
		}
		if found != module {
			return nil, fmt.Errorf("%s %s: expected module %s, found %s", given.name, given.dir, module,
				found)
		}
		return &sourceTree{dir}, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		if found, err := moduleOf(dir); err == nil && found == module {
			return &sourceTree{dir}, nil
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
func (b *Builder) ownVersion(ctx context.Context) (*sourceTree, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Path != module || info.Main.Version == "" || info.Main.Version == "(devel)" ||
		strings.Contains(info.Main.Version, "+dirty") {
		return nil, fmt.Errorf("neb's source not found, " +
			"and this neb was not built from a released version: " +
			"set --source or NEB_SOURCE, or run neb in its checkout")
	}
	dir, err := b.releasedSource(ctx, info.Main.Version, info.Main.Sum)
	if err != nil {
		return nil, fmt.Errorf("neb's source at %s: %w", info.Main.Version, err)
	}
	return &sourceTree{dir}, nil
}

// program lists the files that a main package is compiled from.
type program struct {
	files   []string // relative to the tree, sorted
	outside []string // import paths from other modules, sorted
}

// program follows the imports of cmd/name. Files for any system belong to it, tests do not. Packages from
// outside count only if a file for Linux imports them: others need not compile on Linux.
func (t *sourceTree) program(name string) (program, error) {
	p := program{files: []string{"go.mod", "go.sum"}}
	seen := map[string]bool{}
	outside := map[string]bool{}
	var follow func(dir string) error
	follow = func(dir string) error {
		if seen[dir] {
			return nil
		}
		seen[dir] = true
		files, imports, err := t.packageFiles(dir)
		if err != nil {
			return err
		}
		p.files = append(p.files, files...)
		for _, path := range imports {
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
		return p, fmt.Errorf("neb's source %s: %w", t.dir, err)
	}
	slices.Sort(p.files)
	for path := range outside {
		p.outside = append(p.outside, path)
	}
	slices.Sort(p.outside)
	return p, nil
}

// packageFiles returns the files and imports of the package in dir. Subdirectories without Go files belong
// to it, because they may be embedded; testdata does not.
func (t *sourceTree) packageFiles(dir string) (files, imports []string, err error) {
	entries, err := os.ReadDir(filepath.Join(t.dir, dir))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case strings.HasSuffix(name, "_test.go"):
		case e.IsDir() && e.Name() != "testdata" && !strings.HasPrefix(e.Name(), "."):
			below, err := t.dataFiles(name)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, below...)
		case e.Type().IsRegular():
			files = append(files, name)
			if !strings.HasSuffix(name, ".go") {
				continue
			}
			linux, err := forLinux(filepath.Join(t.dir, dir), e.Name())
			if err != nil {
				return nil, nil, err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(t.dir, name), nil,
				parser.ImportsOnly)
			if err != nil {
				return nil, nil, err
			}
			for _, spec := range parsed.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return nil, nil, err
				}
				if linux || strings.HasPrefix(path, module+"/") {
					imports = append(imports, path)
				}
			}
		}
	}
	return files, imports, nil
}

// forLinux reports whether the build constraints of a Go file allow Linux on some architecture of enclaves.
func forLinux(dir, name string) (bool, error) {
	for _, a := range arch.All {
		c := build.Default
		c.GOOS, c.GOARCH, c.CgoEnabled = "linux", a.Go, false
		if ok, err := c.MatchFile(dir, name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

var errPackage = errors.New("contains Go files")

// dataFiles returns all files below dir, or none if there are Go files.
func (t *sourceTree) dataFiles(dir string) ([]string, error) {
	var files []string
	err := fs.WalkDir(os.DirFS(t.dir), dir, func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(name, ".go"):
			return errPackage
		case e.Type().IsRegular():
			files = append(files, name)
		}
		return nil
	})
	if errors.Is(err, errPackage) {
		return nil, nil
	}
	return files, err
}
