package pack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/app"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// MaxCustomMetadata is the size of a file with a user's own metadata, in bytes: what nitro-cli takes.
const MaxCustomMetadata = 4096

// maxCmdline is the longest command line that both architectures' kernels take whole, in bytes, without the NUL
// (COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h and arch/arm64/include/uapi/asm/setup.h, both 2048).
const maxCmdline = 2047

// Build says what goes into an Enclave Image File.
type Build struct {
	Arch    string // eif.X86_64 or eif.AArch64
	Blobs   Blobs
	Cmdline string // the kernel's command line instead of the blob's; "" for that

	Tree        *image.Tree     // the application's root
	Config      []byte          // the image's configuration, in JSON; nil for a tree that is not an image's
	Application app.Description // how to start it; Build adds what concerns the ramdisk's form

	Name     string          // of the image, in the metadata; "" for the image's title label
	Version  string          // of the image, in the metadata; "" for the digest of its configuration
	Metadata json.RawMessage // the user's own: an object, or nil
	Time     time.Time       // of the build, in the metadata; zero for 1970
	Tool     string          // version of neb, in the metadata

	Signer *Signer // nil for an image without a signature

	Warn func(string) // gets a line for everything that an archive cannot hold; may be nil
}

// Result is what a build made.
type Result struct {
	eif.Measurements
	Size int64 // of the file, in bytes
}

// Check refuses what can be seen to be wrong before anything is read but the image's configuration.
func (b *Build) Check() error {
	if b.Config != nil {
		var config v1.ConfigFile
		if err := json.Unmarshal(b.Config, &config); err != nil {
			return fmt.Errorf("the image's configuration: %w", err)
		}
		if err := checkArch(&config, b.Arch); err != nil {
			return err
		}
	}
	if len(b.Application.Command()) == 0 {
		return errNoCommand
	}
	if _, err := app.Encode(b.Application); err != nil {
		return fmt.Errorf("the application: %w", err)
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
	if err := checkCmdline(blobs.cmdline); err != nil {
		return nil, err
	}
	metadata, err := b.metadata(blobs)
	if err != nil {
		return nil, err
	}
	files, err := b.files(blobs)
	if err != nil {
		return nil, err
	}

	out, err := eif.NewWriter(w, b.Arch)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	copyIn := func(r io.Reader) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		}
	}
	sections := []struct {
		t     eif.SectionType
		write func(io.Writer) error
	}{
		{eif.Kernel, copyIn(io.NewSectionReader(blobs.kernel, 0, blobs.size.kernel))},
		{eif.Cmdline, copyIn(strings.NewReader(blobs.cmdline))},
		{eif.Meta, copyIn(strings.NewReader(string(metadata)))},
		{eif.Ramdisk, func(w io.Writer) error { return bootstrap(w, blobs) }},
		{eif.Ramdisk, func(w io.Writer) error { return b.application(ctx, w, files) }},
	}
	for _, s := range sections {
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
		if measurements.PCR8, err = sign(out, b.Signer, measurements.PCR0); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return &Result{Measurements: measurements, Size: out.Size()}, nil
}

// sign writes a signature section.
func sign(out *eif.Writer, s *Signer, pcr0 eif.PCR) (*eif.PCR, error) {
	certificate, err := eif.ParseCertificate(s.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the signing certificate: %w", err)
	}
	section, err := eif.Sign(s.Key, s.Certificate, pcr0)
	if err != nil {
		return nil, err
	}
	if err := out.Next(eif.Signature); err != nil {
		return nil, err
	}
	if _, err := out.Write(section); err != nil {
		return nil, err
	}
	pcr8 := eif.PCR8(certificate)
	return &pcr8, nil
}

func checkCmdline(cmdline string) error {
	switch {
	case cmdline == "":
		return errors.New("the kernel's command line is empty: without a console and reboot=k an enclave is silent and does not end")
	case strings.ContainsAny(cmdline, "\n\r\x00"):
		return fmt.Errorf("the kernel's command line %q has a line break or a NUL in it", cmdline)
	case len(cmdline) > maxCmdline:
		return fmt.Errorf("the kernel's command line has %d bytes, and the kernel cuts it after %d", len(cmdline), maxCmdline)
	}
	return nil
}

// metadata are the content of the metadata section.
func (b *Build) metadata(blobs *openBlobs) ([]byte, error) {
	m := eif.Metadata{
		ImageName:    "enclave",
		ImageVersion: "0",
		BuildMetadata: eif.BuildMetadata{
			BuildTime:        b.Time.UTC().Format("2006-01-02T15:04:05+00:00"),
			BuildTool:        "neb",
			BuildToolVersion: b.Tool,
			OperatingSystem:  blobs.system,
			KernelVersion:    blobs.version,
		},
		CustomMetadata: b.Metadata,
	}
	if b.Time.IsZero() {
		m.BuildMetadata.BuildTime = "1970-01-01T00:00:00+00:00"
	}
	if b.Config != nil {
		var config v1.ConfigFile
		if err := json.Unmarshal(b.Config, &config); err != nil {
			return nil, fmt.Errorf("the image's configuration: %w", err)
		}
		if title := config.Config.Labels[titleLabel]; title != "" {
			m.ImageName = title
		}
		m.ImageVersion = configDigest(b.Config)
		var err error
		if m.DockerInfo, err = dockerInfo(b.Config); err != nil {
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

// mode bits of what Build puts into ramdisks itself.
const (
	dir0755  = initramfs.TypeDir | 0o755
	dir1777  = initramfs.TypeDir | 0o1777
	file0755 = initramfs.TypeFile | 0o755
	file0644 = initramfs.TypeFile | 0o644
)

// bootstrap writes the first ramdisk: what every enclave with these blobs has.
func bootstrap(w io.Writer, blobs *openBlobs) error {
	archive := initramfs.NewWriter(w)
	put := func(name string, mode uint32, size int64, r io.Reader) error {
		if err := archive.WriteHeader(&initramfs.Header{Name: name, Mode: mode, Size: size}); err != nil {
			return err
		}
		_, err := archive.ReadFrom(r)
		return err
	}
	errs := []error{
		put("dev", dir0755, 0, nil),
		put("init", file0755, blobs.size.init, io.NewSectionReader(blobs.init, 0, blobs.size.init)),
	}
	if blobs.structured {
		// init then loads the named modules and no other, for ever.
		var modules app.Modules
		if blobs.nsm != nil {
			modules.Paths = []string{app.NSMPath}
		}
		text, err := app.EncodeModules(modules)
		errs = append(errs, err,
			put("neb", dir0755, 0, nil),
			put(strings.TrimPrefix(app.ModulesPath, "/"), file0644, int64(len(text)), strings.NewReader(string(text))))
	}
	if blobs.nsm != nil {
		errs = append(errs, put(strings.TrimPrefix(app.NSMPath, "/"), file0644, blobs.size.nsm, io.NewSectionReader(blobs.nsm, 0, blobs.size.nsm)))
	}
	return errors.Join(append(errs, archive.Close())...)
}

// file is a small file of the second ramdisk.
type file struct {
	name    string
	content []byte
}

// files are what the second ramdisk has besides the application's tree, but for its last entry.
func (b *Build) files(blobs *openBlobs) ([]file, error) {
	d := b.Application
	d.Complete = true
	description, err := app.Encode(d)
	if err != nil {
		return nil, fmt.Errorf("the application: %w", err)
	}
	// An init that does not know the description reads these; ours does not, and they can be left out where they cannot
	// say it.
	var files []file
	command, ok1 := lines(d.Command())
	environment, ok2 := lines(d.Env)
	if ok1 && ok2 {
		files = append(files, file{app.CmdPath, command}, file{app.EnvPath, environment})
	} else if !blobs.structured {
		return nil, fmt.Errorf("%s does not read %s, and an argument or variable with a line break in it cannot be said otherwise", b.Blobs.Init, app.Path)
	}
	return append(files, file{app.Path, description}), nil
}

// mounts are the directories that init mounts things on. An image that lacks one gets it.
var mounts = []struct {
	name string
	mode uint32
}{
	{"dev", dir0755}, {"proc", dir0755}, {"run", dir0755}, {"sys", dir0755}, {"tmp", dir1777},
}

// application writes the second ramdisk: the application.
func (b *Build) application(ctx context.Context, w io.Writer, files []file) error {
	archive := initramfs.NewWriter(w)
	put := func(name string, mode uint32, content []byte) error {
		h := &initramfs.Header{Name: strings.TrimPrefix(name, "/"), Mode: mode, Size: int64(len(content))}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	errs := []error{put("neb", dir0755, nil)}
	for _, f := range files {
		errs = append(errs, put(f.name, file0644, f.content))
	}
	errs = append(errs, put(app.RootPath, dir0755, nil), b.tree(ctx, archive, strings.TrimPrefix(app.RootPath, "/")+"/"))
	errs = append(errs, put(app.CompletePath, file0644, []byte(app.Complete)))
	return errors.Join(append(errs, archive.Close())...)
}

// tree writes the application's tree below a prefix.
func (b *Build) tree(ctx context.Context, archive *initramfs.Writer, prefix string) error {
	for _, m := range mounts {
		if _, ok := b.Tree.Lookup(m.name); !ok {
			if err := b.Tree.Put(&image.Entry{Path: m.name, Mode: m.mode}, nil); err != nil {
				return err
			}
		}
	}
	first := archive.NextInode() - 1
	return b.Tree.Walk(func(e *image.Entry) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		return b.entry(archive, prefix, first, e)
	})
}

// entry writes one entry of the application's tree. first is the number before that of the tree's first inode.
func (b *Build) entry(archive *initramfs.Writer, prefix string, first uint32, e *image.Entry) error {
	for _, x := range e.Xattrs {
		b.warn("%s: its extended attribute %s is lost: a cpio archive cannot hold it (an erofs root can)", e.Path, x.Name)
	}
	h := &initramfs.Header{
		Name: prefix + e.Path, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: uint32(min(max(e.ModTime, 0), 1<<32-1)),
		Major: e.Major, Minor: e.Minor, Inode: first + e.Inode, Links: e.Links,
	}
	if e.IsDir() {
		h.Links = 0
	}
	if e.First {
		h.Size = e.Size + int64(len(e.Target))
	}
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	switch {
	case h.Size == 0:
		return nil
	case e.Target != "":
		_, err := io.WriteString(archive, e.Target)
		return err
	}
	if _, err := b.Tree.CopyBody(archive, e); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

func (b *Build) warn(format string, args ...any) {
	if b.Warn != nil {
		b.Warn(fmt.Sprintf(format, args...))
	}
}
