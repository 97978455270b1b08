package pack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// MaxMetadata is the largest file with a user's own metadata, in bytes. nitro-cli has the same limit.
const MaxMetadata = 4096

// RootFormat is how the second ramdisk holds the application's tree.
type RootFormat string

// The formats: entries of the ramdisk itself, which the kernel unpacks into memory; or one compressed,
// read-only image in it, which init mounts below a writable layer.
const (
	CPIO  RootFormat = "cpio"
	Erofs RootFormat = "erofs"
)

// Build describes an Enclave Image File to make.
type Build struct {
	Arch    string // eif.X86_64 or eif.AArch64
	Blobs   Blobs
	Cmdline string // the kernel's command line; "" for that of Blobs

	Image      *image.Image // the container image; nil for RootFS
	RootFS     string       // a directory or tar archive with the application's tree
	RootFormat RootFormat   // "" is CPIO
	Overrides  Overrides    // of the image's configuration

	Modules     []string // kernel modules that init loads after nsm.ko, in this order; plain or compressed
	ModulesOpen bool     // the enclave may load modules later too

	Name     string          // of the image, in the metadata; "" for the image's title label
	Version  string          // of the image, in the metadata; "" for the digest of its configuration
	Metadata json.RawMessage // the user's own: an object, or nil
	Tool     string          // version of neb, in the metadata

	// Epoch is SOURCE_DATE_EPOCH in seconds since 1970: the time of the build, and the upper limit of file
	// times. If it is nil, the build's time is 0, and file times are those of the image, or 0 with RootFS.
	Epoch *int64

	Signer *sign.Signer // nil for an image without a signature

	// NitroCLI makes what nitro-cli makes with the same blobs and neb's linuxkit, with all that it drops:
	// ENTRYPOINT if there is a CMD, WORKDIR and USER.
	NitroCLI bool

	Allow []preflight.Code // findings of these codes neither end the build nor cause a warning

	TempDir    string     // for the bodies of layers; "" is os.TempDir()
	ErofsTools ErofsTools // makes erofs images; nil if this machine cannot
	// bytes written of the application's tree or its erofs image; may be nil
	Progress func(done, total int64)
	Warn     func(string) // receives a line for everything that an archive cannot hold; may be nil

	app      preflight.Application // without its root
	findings []preflight.Finding
}

// Result is what a build made.
type Result struct {
	eif.Measurements
	Size   int64 // of the file, in bytes
	Memory int64 // that the enclave needs to start, in bytes
}

// config returns the image's configuration, or an empty one without an image.
func (b *Build) config() v1.Config {
	if b.Image == nil {
		return v1.Config{}
	}
	return b.Image.Config().Config
}

// Check rejects a build that must fail, before any blob is built and any layer is read.
func (b *Build) Check() error {
	config := b.config()
	switch {
	case b.RootFormat != "" && b.RootFormat != CPIO && b.RootFormat != Erofs:
		return fmt.Errorf("root format %q: expected %s or %s", b.RootFormat, CPIO, Erofs)
	case b.NitroCLI && b.RootFormat == Erofs:
		return errors.New("an erofs root cannot be combined with nitro-cli compatibility")
	case b.NitroCLI && b.Image == nil:
		return errors.New("nitro-cli compatibility needs a container image: use --image")
	case b.NitroCLI && config.Entrypoint == nil && config.Cmd == nil:
		return errNoCommand
	case b.NitroCLI && !b.Overrides.none():
		return errors.New("overrides of the image's configuration cannot be combined with nitro-cli " +
			"compatibility")
	case b.NitroCLI && (len(b.Modules) > 0 || b.ModulesOpen):
		return errors.New("kernel modules besides nsm.ko cannot be combined with nitro-cli compatibility")
	case b.RootFormat == Erofs && b.ErofsTools == nil:
		return errors.New("an erofs root needs the sandbox of 'neb build', which this machine cannot run: " +
			"use cpio")
	}
	if !b.NitroCLI {
		if err := checkDescription(Application(config, b.Overrides)); err != nil {
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

// checkDescription rejects what init would reject or cannot start.
func checkDescription(d contract.Description) error {
	if len(d.Command()) == 0 {
		return errNoCommand
	}
	if d.Command()[0] == "" {
		return errors.New("the first word of the command is empty: set --entrypoint or --cmd")
	}
	if _, err := contract.Encode(d); err != nil {
		return fmt.Errorf("configuration of the image, or an option in its place: %s",
			strings.TrimPrefix(err.Error(), contract.Path+": "))
	}
	return nil
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
	b.app = preflight.Application{
		Arch: b.Arch, About: Application(b.config(), b.Overrides), Reference: !blobs.structured || b.NitroCLI,
	}
	if b.Blobs.Config != "" {
		text, err := stream.ReadFile(b.Blobs.Config, 4<<20)
		if err != nil {
			return nil, err
		}
		b.app.Config = string(text)
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
	if err := b.judge(blobs); err != nil {
		return nil, err
	}

	out, err := eif.NewWriter(w, b.Arch)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	content := func(r io.Reader) func() error {
		return func() error {
			_, err := out.ReadFrom(r)
			return err
		}
	}
	var usage preflight.Usage
	for _, s := range []struct {
		t     eif.SectionType
		write func() error
	}{
		{eif.Kernel, content(blobs.kernel)},
		{eif.Cmdline, content(strings.NewReader(blobs.cmdline))},
		{eif.Meta, content(bytes.NewReader(metadata))},
		{eif.Ramdisk, func() error { return bootstrap.write(ctx, out, b, nil) }},
		{eif.Ramdisk, func() error { return application.write(ctx, out, b, b.Progress) }},
	} {
		if err := out.Next(s.t); err != nil {
			return nil, err
		}
		start := out.Size()
		if err := s.write(); err != nil {
			return nil, fmt.Errorf("the %v section: %w", s.t, err)
		}
		if s.t == eif.Ramdisk {
			usage.Ramdisks += out.Size() - start
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
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
	usage.Pages = bootstrap.usage.Pages + application.usage.Pages
	usage.Inodes = bootstrap.usage.Inodes + application.usage.Inodes
	return &Result{Measurements: measurements, Size: out.Size(), Memory: usage.LeastMemory(out.Size())}, nil
}

// check looks for what keeps the application in a tree from starting.
func (b *Build) check(root *image.Tree) {
	b.app.Root = root
	b.findings = b.app.Check()
}

// judge warns of what was found, and fails if the enclave would not start, unless the caller allows that.
func (b *Build) judge(blobs *openBlobs) error {
	all := append(b.findings,
		preflight.CheckKernel(blobs.kernel, blobs.kernel.Size(), b.Arch, blobs.cmdline, b.app.Config)...)
	failed := &preflight.Failed{}
	for _, f := range all {
		if f.Severity == preflight.Note || slices.Contains(b.Allow, f.Code) {
			continue
		}
		b.warn("%v", f)
		if f.Severity == preflight.Error {
			failed.Findings = append(failed.Findings, f)
		}
	}
	if len(failed.Findings) > 0 {
		return failed
	}
	return nil
}

// ReadMetadata reads a user's own metadata from a file: a JSON object or null, of at most [MaxMetadata]
// bytes.
func ReadMetadata(path string) (json.RawMessage, error) {
	text, err := stream.ReadFile(path, MaxMetadata)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil && string(bytes.TrimSpace(text)) != "null" {
		return nil, fmt.Errorf("%s: expected a JSON object: %w", path, err)
	}
	return text, nil
}

// titleLabel is the annotation and label that names an image (OCI image specification, annotations.md).
const titleLabel = "org.opencontainers.image.title"

// metadata returns the content of the metadata section.
func (b *Build) metadata(blobs *openBlobs) ([]byte, error) {
	built := int64(0)
	if b.Epoch != nil {
		built = *b.Epoch
	}
	m := eif.Metadata{
		ImageName:    "enclave",
		ImageVersion: "0",
		BuildMetadata: eif.BuildMetadata{
			BuildTime:        time.Unix(built, 0).UTC().Format("2006-01-02T15:04:05+00:00"),
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

// latest returns the upper limit of file times in seconds since 1970, or nil for none. Layers have times that
// are the same everywhere; those of a root file system depend on when this machine's copy was made.
func (b *Build) latest() *int64 {
	if b.Epoch == nil && b.RootFS != "" {
		return new(int64)
	}
	return b.Epoch
}

func (b *Build) warn(format string, args ...any) {
	if b.Warn != nil {
		b.Warn(fmt.Sprintf(format, args...))
	}
}
