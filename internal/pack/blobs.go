package pack

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Blobs are the files under the application, by their paths.
type Blobs struct {
	Kernel  string // bzImage or Image
	Config  string // the kernel's configuration; "" where there is none
	Cmdline string // the kernel's command line
	Init    string // PID 1
	NSM     string // the driver nsm.ko; "" for an enclave without one
}

// BlobsIn are the blobs in a directory that `neb build` or nitro-cli's package filled: either the directory of one
// architecture, or one with a directory for each.
func BlobsIn(dir, arch string) Blobs {
	name := map[string]string{eif.X86_64: "bzImage", eif.AArch64: "Image"}[arch]
	if _, err := os.Stat(filepath.Join(dir, arch, name)); err == nil {
		dir = filepath.Join(dir, arch)
	}
	return Blobs{
		Kernel:  filepath.Join(dir, name),
		Config:  filepath.Join(dir, name+".config"),
		Cmdline: filepath.Join(dir, "cmdline"),
		Init:    filepath.Join(dir, "init"),
		NSM:     filepath.Join(dir, "nsm.ko"),
	}
}

// openBlobs are the blobs, opened and checked against each other.
type openBlobs struct {
	kernel, init, nsm *os.File // nsm may be nil
	size              struct{ kernel, init, nsm int64 }
	release           string // of the kernel, as it says itself
	system, version   string // for the metadata
	cmdline           string
	structured        bool // init reads contract.Path
	erofs             bool // init mounts an erofs root
}

// open opens the blobs for an architecture and refuses any that cannot work together.
func (b Blobs) open(arch string) (_ *openBlobs, err error) {
	o := &openBlobs{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	for _, blob := range []struct {
		what, path string
		file       **os.File
		size       *int64
	}{
		{"the kernel", b.Kernel, &o.kernel, &o.size.kernel},
		{"init", b.Init, &o.init, &o.size.init},
		{"the driver", b.NSM, &o.nsm, &o.size.nsm},
	} {
		if blob.path == "" {
			continue
		}
		f, err := os.Open(blob.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", blob.what, err)
		}
		*blob.file = f
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", blob.what, err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: %s is no regular file", blob.what, blob.path)
		}
		*blob.size = info.Size()
	}
	if o.kernel == nil || o.init == nil {
		return nil, fmt.Errorf("an enclave needs a kernel and an init: the kernel is %q, init is %q", b.Kernel, b.Init)
	}
	if err := kernel.CheckFile(o.kernel, o.size.kernel, arch); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Kernel, err)
	}
	if o.release, err = kernel.Release(o.kernel, o.size.kernel, arch); err != nil {
		return nil, fmt.Errorf("%s: its version: %w", b.Kernel, err)
	}
	if err := checkProgram(o.init, arch); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Init, err)
	}
	if o.nsm != nil {
		if err := checkModule(o.nsm, arch, o.release); err != nil {
			return nil, fmt.Errorf("%s: %w", b.NSM, err)
		}
	}
	o.system, o.version = "Linux", o.release
	if b.Config != "" {
		if o.system, o.version, err = configVersion(b.Config); err != nil {
			return nil, fmt.Errorf("the kernel's configuration: %w", err)
		}
	}
	if b.Cmdline != "" {
		text, err := stream.ReadFile(b.Cmdline, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("the kernel's command line: %w", err)
		}
		o.cmdline = strings.TrimSpace(string(text))
	}
	can, err := contract.ReadCapabilities(o.init)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.Init, err)
	}
	o.structured = can.Has(contract.ReadsApp) && can.Has(contract.ReadsModules)
	o.erofs = o.structured && can.Has(contract.MountsErofs)
	return o, nil
}

func (o *openBlobs) close() {
	for _, f := range []*os.File{o.kernel, o.init, o.nsm} {
		if f != nil {
			f.Close()
		}
	}
}

// configVersion reads the operating system and the version from the third line of a kernel configuration, the way
// nitro-cli does: "# Linux/x86_64 6.12.117 Kernel Configuration", cut at spaces, slashes and dashes.
func configVersion(path string) (system, version string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for range 3 {
		if !lines.Scan() {
			return "", "", fmt.Errorf("%s has fewer than three lines: the third names the kernel's version", path)
		}
	}
	words := strings.FieldsFunc(lines.Text(), func(r rune) bool { return strings.ContainsRune(" /-", r) })
	if len(words) < 4 {
		return "", "", fmt.Errorf("%s: the third line is %q, and should be like \"# Linux/x86_64 6.12.117 Kernel Configuration\"", path, lines.Text())
	}
	return words[1], words[3], nil
}
