package output

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// CompareGo makes b build with the second compilers of the lock (see [component.Builder.UseOther]), and
// compares the locked Go toolchain with what the second one made of its source.
func CompareGo(ctx context.Context, b *component.Builder) (Finding, error) {
	locked := b.Lock.Go.Hosts[runtime.GOARCH]
	f := Finding{Path: path.Base(locked.Path), State: Same, Found: locked.SHA256}
	var err error
	if f.Expected, f.Details, err = b.UseOther(ctx); f.Expected != f.Found {
		f.State = Different
	}
	return f, err
}

// CompareOther is [Compare] for what the second compilers built. It does not compare SHA256SUMS. A kernel has
// other code then: the state of its files is Varies, and Details lists the differences.
func CompareOther(dir string, built []Set) ([]Finding, error) {
	findings, err := Compare(dir, built)
	if err != nil {
		return nil, err
	}
	findings = slices.DeleteFunc(findings, func(f Finding) bool { return f.Path == SumsName })
	for _, set := range built {
		for _, o := range set.Outputs {
			for i := range findings {
				f := &findings[i]
				arch, name := path.Split(f.Path)
				if o.Component != "kernel" || arch != set.Arch+"/" || name == "cmdline" ||
					!slices.Contains(component.Files("kernel", set.Arch), name) || f.State != Different {
					continue
				}
				f.State, f.Details, err = vary(filepath.Join(dir, f.Path), filepath.Join(o.Dir, name))
				if err != nil {
					return nil, err
				}
			}
		}
	}
	return findings, nil
}

// ofCompiler matches the lines of a description that depend on the compiler: what Kconfig records of it, and
// code.
var ofCompiler = regexp.MustCompile(`^(# )?CONFIG_(CC|GCC)_|^section |^[0-9]+ bytes$`)

// vary compares a file of a kernel with that of another compiler, by their descriptions: details has the
// lines of the first after "-", of the second after "+". The state is Different if one of them does not
// depend on the compiler.
func vary(file, other string) (state State, details []string, err error) {
	a, err := describe(file)
	if err != nil {
		return "", nil, err
	}
	b, err := describe(other)
	if err != nil {
		return "", nil, err
	}
	state = Varies
	for _, side := range []struct {
		sign       string
		these, not []string
	}{{"-", a, b}, {"+", b, a}} {
		for _, line := range side.these {
			if slices.Contains(side.not, line) {
				continue
			}
			details = append(details, side.sign+line)
			if !ofCompiler.MatchString(line) {
				state = Different
			}
		}
	}
	return state, details, nil
}

// describe describes a file of a kernel: a text by its lines, a module by its sections, an image by its size.
func describe(file string) ([]string, error) {
	data, err := stream.ReadFile(file, 256<<20)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(file) {
	case ".config":
		return strings.Split(string(data), "\n"), nil
	case ".ko":
		module, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			return []string{"not a module: " + err.Error()}, nil
		}
		var lines []string
		for _, s := range module.Sections {
			var content []byte // not s.Data(), which decompresses
			if s.Type != elf.SHT_NOBITS {
				from := io.NewSectionReader(bytes.NewReader(data), int64(s.Offset), int64(s.FileSize))
				content, _ = io.ReadAll(from)
			}
			if s.Name == ".modinfo" {
				lines = append(lines, strings.Split(string(content), "\x00")...)
				continue
			}
			lines = append(lines, fmt.Sprintf("section %s: %d bytes, CRC-32 %08x", s.Name, s.Size,
				crc32.ChecksumIEEE(content)))
		}
		return lines, nil
	}
	return []string{fmt.Sprintf("%d bytes", len(data))}, nil
}
