package pack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// MaxCustomMetadata is the size of a file with a user's own metadata, in bytes: what nitro-cli takes.
const MaxCustomMetadata = 4096

// RootFormat is a form in which the application's tree travels.
type RootFormat string

// The forms: as entries of the second ramdisk, which the kernel unpacks into memory; or as one compressed, read-only image
// in it, which init mounts below a writable layer.
const (
	CPIO  RootFormat = "cpio"
	Erofs RootFormat = "erofs"
)

// Build says what goes into an Enclave Image File.
type Build struct {
	Arch    string // eif.X86_64 or eif.AArch64
	Blobs   Blobs
	Cmdline string // the kernel's command line instead of the blob's; "" for that

	Image      *image.Image // the container image; nil for RootFS
	RootFS     string       // a directory or tar archive with the application's tree
	RootFormat RootFormat   // "" is CPIO
	Overrides  Overrides    // of what the image says about its application

	Modules     []string // kernel modules that init loads after nsm.ko, in this order; plain or compressed
	ModulesOpen bool     // modules can be loaded later too

	Name     string          // of the image, in the metadata; "" for the image's title label
	Version  string          // of the image, in the metadata; "" for the digest of its configuration
	Metadata json.RawMessage // the user's own: an object, or nil
	Epoch    *int64          // SOURCE_DATE_EPOCH: time of the build, and the latest that a file has; nil for 1970 and as they are, or 1970 in a directory
	Tool     string          // version of neb, in the metadata

	Signer *sign.Signer // nil for an image without a signature

	// NitroCLI makes what nitro-cli makes with the same blobs and our linuxkit, with all that it leaves out: ENTRYPOINT where
	// there is a CMD, WORKDIR and USER.
	NitroCLI bool

	TempDir    string                  // for the layers' bodies; "" is os.TempDir()
	ErofsTools ErofsTools              // makes erofs images; nil where that cannot be done
	Progress   func(done, total int64) // gets the bytes written so far, of the application's tree or of its erofs image; may be nil
	Warn       func(string)            // gets a line for everything that an archive cannot hold; may be nil
}

// Result is what a build made.
type Result struct {
	eif.Measurements
	Size int64 // of the file, in bytes
}

// config is what the image says about its application; nothing without an image.
func (b *Build) config() v1.Config {
	if b.Image == nil {
		return v1.Config{}
	}
	return b.Image.Config().Config
}

// Check refuses what can be seen to be wrong before a blob is there and a layer is read.
func (b *Build) Check() error {
	if b.Image != nil {
		if err := checkArch(b.Image.Config(), b.Arch); err != nil {
			return err
		}
	}
	switch b.RootFormat {
	case "", CPIO:
	case Erofs:
		if b.NitroCLI {
			return errors.New("nitro-cli makes no erofs root: leave one of the two out")
		}
		if b.ErofsTools == nil {
			return errors.New("an erofs root is made with mkfs.erofs in the sandbox of 'neb build', which this machine does not have: use cpio")
		}
	default:
		return fmt.Errorf("root format %q: expected %s or %s", b.RootFormat, CPIO, Erofs)
	}
	if b.NitroCLI && !b.Overrides.none() {
		return errors.New("nitro-cli takes the application as the image has it: leave out what overrides it")
	}
	if b.NitroCLI && (len(b.Modules) > 0 || b.ModulesOpen) {
		return errors.New("nitro-cli packs no modules but nsm.ko, and leaves loading open: leave out what says otherwise")
	}
	if !b.NitroCLI {
		if err := checkDescription(Application(b.config(), b.Overrides)); err != nil {
			return err
		}
	}
	if b.Cmdline != "" {
		if err := kernel.CheckCmdline(b.Cmdline); err != nil {
			return err
		}
	}
	if b.Signer != nil {
		return b.Signer.Check()
	}
	return nil
}

// checkDescription refuses what init would refuse, or could not start.
func checkDescription(d contract.Description) error {
	if len(d.Command()) == 0 {
		return errNoCommand
	}
	if d.Command()[0] == "" {
		return errors.New("the first word of the command is empty, and no program has that name: say what to start (--entrypoint, --cmd)")
	}
	_, err := contract.Encode(d)
	return err
}

// To writes the file to w, which must be empty.
func (b *Build) To(ctx context.Context, w io.WriteSeeker) (*Result, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	blobs, err := b.Blobs.open(b.Arch)
	if err != nil {
		return nil, err
	}
	defer blobs.close()
	if b.Cmdline != "" {
		blobs.cmdline = b.Cmdline
	}
	if err := kernel.CheckCmdline(blobs.cmdline); err != nil {
		return nil, err
	}
	metadata, err := b.metadata(blobs)
	if err != nil {
		return nil, err
	}
	bootstrap, application, err := b.ramdisks(ctx, blobs)
	if err != nil {
		return nil, err
	}
	defer bootstrap.close()
	defer application.close()

	out, err := eif.NewWriter(w, b.Arch)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	silent := *b // the first ramdisk is written in no time
	silent.Progress = nil
	copyIn := func(r io.Reader) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		}
	}
	for _, s := range []struct {
		t     eif.SectionType
		write func(io.Writer) error
	}{
		{eif.Kernel, copyIn(io.NewSectionReader(blobs.kernel, 0, blobs.size.kernel))},
		{eif.Cmdline, copyIn(strings.NewReader(blobs.cmdline))},
		{eif.Meta, copyIn(bytes.NewReader(metadata))},
		{eif.Ramdisk, func(w io.Writer) error { return bootstrap.write(ctx, w, &silent) }},
		{eif.Ramdisk, func(w io.Writer) error { return application.write(ctx, w, b) }},
	} {
		if err := out.Next(s.t); err != nil {
			return nil, err
		}
		if err := s.write(out); err != nil {
			return nil, fmt.Errorf("the %v section: %w", s.t, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	measurements, err := out.Measurements()
	if err != nil {
		return nil, err
	}
	if b.Signer != nil {
		if measurements.PCR8, err = b.Signer.Append(out, measurements.PCR0); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return &Result{Measurements: measurements, Size: out.Size()}, nil
}

// metadata are the content of the metadata section.
func (b *Build) metadata(blobs *openBlobs) ([]byte, error) {
	m := eif.Metadata{
		ImageName:    "enclave",
		ImageVersion: "0",
		BuildMetadata: eif.BuildMetadata{
			BuildTime:        b.time().Format("2006-01-02T15:04:05+00:00"),
			BuildTool:        "neb",
			BuildToolVersion: b.Tool,
			OperatingSystem:  blobs.system,
			KernelVersion:    blobs.version,
		},
		CustomMetadata: b.Metadata,
	}
	if b.Image != nil {
		if title := b.config().Labels[titleLabel]; title != "" {
			m.ImageName = title
		}
		m.ImageVersion = strings.TrimPrefix(b.Image.ConfigDigest(), "sha256:")
		var err error
		if m.DockerInfo, err = dockerInfo(b.Image); err != nil {
			return nil, err
		}
	}
	if b.Name != "" {
		m.ImageName = b.Name
	}
	if b.Version != "" {
		m.ImageVersion = b.Version
	}
	return m.Encode()
}

// time is that of the build, as the metadata have it.
func (b *Build) time() time.Time {
	if b.Epoch != nil {
		return time.Unix(*b.Epoch, 0).UTC()
	}
	return time.Unix(0, 0).UTC()
}

// latest is the latest time that a file can have, in seconds since 1970; nil for any. Images and archives bring times of their
// own, those of a directory say when this machine's copy was made.
func (b *Build) latest() *int64 {
	if info, err := os.Stat(b.RootFS); b.Epoch == nil && b.RootFS != "" && err == nil && info.IsDir() {
		return new(int64)
	}
	return b.Epoch
}

func (b *Build) warn(format string, args ...any) {
	if b.Warn != nil {
		b.Warn(fmt.Sprintf(format, args...))
	}
}
