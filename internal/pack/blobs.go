package pack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Blobs are the paths of the files under the application.
type Blobs struct {
	Kernel  string // bzImage or Image; an Image may be wrapped for EFI (zboot)
	Config  string // the kernel's configuration; may be empty
	Cmdline string // the kernel's command line
	Init    string // PID 1
	NSM     string // the driver nsm.ko; empty for an enclave without one
}

// BlobsIn returns the blobs in a directory that `neb build` or nitro-cli's package filled: either the
// directory of one architecture, or one with a subdirectory for each.
func BlobsIn(dir, archName string) Blobs {
	image := arch.Image(archName)
	if _, err := os.Stat(filepath.Join(dir, archName, image)); err == nil {
		dir = filepath.Join(dir, archName)
	}
	return Blobs{
		Kernel:  filepath.Join(dir, image),
		Config:  filepath.Join(dir, image+".config"),
		Cmdline: filepath.Join(dir, "cmdline"),
		Init:    filepath.Join(dir, "init"),
		NSM:     filepath.Join(dir, "nsm.ko"),
	}
}

// openBlobs are the blobs, opened and checked against each other.
type openBlobs struct {
	kernel          *io.SectionReader
	nsm             bool   // there is a driver
	release         string // of the kernel, which names it
	system, version string // for the metadata
	cmdline         string
	structured      bool // init reads contract.Path
	confines        bool // and the fields of contract.ReadsApp2 in it
	erofs           bool // init mounts an erofs root
	network         bool // init makes a network device

	files []*os.File
}

// open opens the blobs for an architecture and rejects those that do not work together.
func (b Blobs) open(archName string) (_ *openBlobs, err error) {
	o := &openBlobs{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	if b.Kernel == "" || b.Init == "" {
		return nil, fmt.Errorf("a kernel and an init are required: the kernel is %q, init is %q", b.Kernel,
			b.Init)
	}
	if o.kernel, err = o.file("the kernel", b.Kernel); err != nil {
		return nil, err
	}
	if o.kernel, err = unwrap(o.kernel); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Kernel, err)
	}
	if err := kernel.CheckFile(o.kernel, o.kernel.Size(), archName); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Kernel, err)
	}
	if o.release, err = kernel.Release(o.kernel, o.kernel.Size(), archName); err != nil {
		return nil, fmt.Errorf("%s: its version: %w", b.Kernel, err)
	}
	init, err := o.file("init", b.Init)
	if err != nil {
		return nil, err
	}
	can, err := contract.ReadCapabilities(init)
	if err := errors.Join(preflight.CheckInit(init, archName), err); err != nil {
		return nil, fmt.Errorf("%s: %w", b.Init, err)
	}
	o.structured = can.Has(contract.ReadsApp) && can.Has(contract.ReadsModules)
	o.confines = o.structured && can.Has(contract.ReadsApp2)
	o.erofs = o.structured && can.Has(contract.MountsErofs)
	o.network = o.structured && can.Has(contract.MakesNetwork)
	if o.nsm = b.NSM != ""; o.nsm {
		nsm, err := o.file("the driver", b.NSM)
		if err != nil {
			return nil, err
		}
		if err := preflight.CheckModule(nsm, archName, o.release); err != nil {
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
	return o, nil
}

// file opens a regular file until close.
func (o *openBlobs) file(what, path string) (*io.SectionReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	o.files = append(o.files, f)
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %s is not a regular file", what, path)
	}
	return io.NewSectionReader(f, 0, info.Size()), nil
}

func (o *openBlobs) close() {
	for _, f := range o.files {
		f.Close()
	}
}

// configVersion reads the operating system and the version from the third line of a kernel configuration, the
// way nitro-cli does: "# Linux/x86_64 6.12.117 Kernel Configuration", split at spaces, slashes and dashes.
func configVersion(path string) (system, version string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for range 3 {
		if !lines.Scan() {
			return "", "", fmt.Errorf("%s: fewer than three lines: the third must name the kernel's version",
				path)
		}
	}
	words := strings.FieldsFunc(lines.Text(), func(r rune) bool { return strings.ContainsRune(" /-", r) })
	if len(words) < 4 {
		return "", "", fmt.Errorf("%s: line 3 is %q, expected one like %q",
			path, lines.Text(), "# Linux/x86_64 6.12.117 Kernel Configuration")
	}
	return words[1], words[3], nil
}
