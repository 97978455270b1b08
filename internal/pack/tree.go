package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// Modes of what Build puts into ramdisks itself.
const (
	dir0755  = initramfs.TypeDir | 0o755
	dir1777  = initramfs.TypeDir | 0o1777
	file0755 = initramfs.TypeFile | 0o755
	file0644 = initramfs.TypeFile | 0o644
	file0600 = initramfs.TypeFile | 0o600
)

// disk is a ramdisk that is ready to be written.
type disk struct {
	tree     *image.Tree
	complete bool            // the last entry marks the ramdisk as whole
	work     string          // a directory that close removes; may be empty
	usage    preflight.Usage // set by write
}

func (d *disk) close() {
	d.tree.Close()
	if d.work != "" {
		os.RemoveAll(d.work)
	}
}

// write writes the ramdisk.
func (d *disk) write(ctx context.Context, w io.Writer, b *Build, progress func(done, total int64)) error {
	out, err := newCounter(ctx, w, d.tree, progress)
	if err != nil {
		return err
	}
	var marker *image.Marker
	if d.complete {
		marker = linuxkit.Marker()
	}
	d.usage = out.usage
	var lost linuxkit.Losses
	err = d.tree.WriteRamdisk(out, image.Ramdisk{
		Epoch:  b.latest(),
		Marker: marker,
		Lost: func(path, what string) error {
			if e, ok := d.tree.Lookup(path); ok && e.Size > initramfs.MaxSize {
				return fmt.Errorf("%s has %d bytes, a cpio archive cannot hold files of 4 GiB or more: "+
					"use --rootfs-format erofs", path, e.Size)
			}
			return lost.Note(path, what)
		},
	})
	out.end()
	for _, line := range lost.Lines() {
		b.warn("%s (an erofs root keeps it)", line)
	}
	return err
}

// counter is a writer that ends with a context and reports progress.
type counter struct {
	w           io.Writer
	progress    func(done, total int64)
	done, total int64 // the total is an estimate
	usage       preflight.Usage
}

func newCounter(
	ctx context.Context, w io.Writer, t *image.Tree, progress func(done, total int64),
) (*counter, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	c := &counter{w: stream.Writer(ctx, w), progress: progress}
	const header = 160 // bytes, with an average name
	return c, t.Walk(func(e *image.Entry) error {
		size := int64(len(e.Target))
		if c.total += header; e.First {
			c.total += e.Size
			size += e.Size
		}
		c.usage.Entry(e.Mode, size)
		return nil
	})
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.done += int64(n)
	c.progress(min(c.done, c.total-1), c.total)
	return n, err
}

func (c *counter) end() { c.progress(c.total, c.total) }

// ramdisks makes both ramdisks.
func (b *Build) ramdisks(ctx context.Context, blobs *openBlobs) (bootstrap, application *disk, err error) {
	first, second := b.bootstrap, b.application
	if b.NitroCLI {
		first, second = b.nitroBootstrap, b.nitroApplication
	}
	if bootstrap, err = first(ctx, blobs); err != nil {
		return nil, nil, err
	}
	if application, err = second(ctx, blobs); err != nil {
		bootstrap.close()
		return nil, nil, err
	}
	return bootstrap, application, nil
}

func put(t *image.Tree, name string, mode uint32, content []byte) error {
	return t.Put(&image.Entry{Path: strings.TrimPrefix(name, "/"), Mode: mode}, content)
}

func putFile(t *image.Tree, name, path string) error {
	return t.PutFile(&image.Entry{Path: strings.TrimPrefix(name, "/"), Mode: file0644}, path)
}

// bootstrap makes the first ramdisk: what every enclave with these blobs has.
func (b *Build) bootstrap(ctx context.Context, blobs *openBlobs) (*disk, error) {
	t := image.NewTree(b.TempDir, image.Limits{})
	errs := []error{
		put(t, "dev", dir0755, nil),
		t.PutFile(&image.Entry{Path: "init", Mode: file0755}, b.Blobs.Init),
	}
	var modules contract.Modules
	if blobs.nsm {
		modules.Paths = []string{contract.NSMPath}
		errs = append(errs, putFile(t, contract.NSMPath, b.Blobs.NSM))
	}
	for _, file := range b.Modules {
		name := contract.ModuleDir + "/" + filepath.Base(file)
		if slices.Contains(modules.Paths, name) {
			errs = append(errs, fmt.Errorf("two modules have the name %s", filepath.Base(file)))
		}
		modules.Paths = append(modules.Paths, name)
		errs = append(errs, preflight.CheckModuleFile(file, b.Arch, blobs.release), putFile(t, name, file))
	}
	switch {
	case blobs.structured:
		// init loads these modules, and then the kernel loads no others unless ModulesOpen.
		modules.Open = b.ModulesOpen
		text, err := contract.EncodeModules(modules)
		errs = append(errs, err, put(t, contract.ModulesPath, file0644, text))
	case len(b.Modules) > 0:
		errs = append(errs, fmt.Errorf("%s does not read %s and loads only nsm.ko: use neb's init",
			b.Blobs.Init, contract.ModulesPath))
	}
	if err := errors.Join(errs...); err != nil {
		t.Close()
		return nil, fmt.Errorf("the first ramdisk: %w", err)
	}
	return &disk{tree: t}, nil
}

// mount is a directory that a file system is mounted on. Trees that lack one get it.
type mount struct {
	name string
	mode uint32
}

// mounts are the directories that init mounts file systems on.
var mounts = []mount{
	{"dev", dir0755}, {"proc", dir0755}, {"run", dir0755}, {"sys", dir0755}, {"tmp", dir1777},
}

// root puts the application's tree at a prefix of t.
func (b *Build) root(ctx context.Context, t *image.Tree, prefix string) error {
	if b.Image != nil {
		if err := t.AddImage(ctx, b.Image, prefix); err != nil {
			return err
		}
	} else {
		labels, err := t.AddRoot(ctx, b.RootFS, prefix)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			b.warn("%s: %s of %d files is left out: it belongs to the machine that the files are from",
				b.RootFS, name, labels[name])
		}
	}
	in, err := t.Sub(prefix)
	if err != nil {
		return err
	}
	missing := slices.Clone(mounts)
	for volume := range b.config().Volumes {
		missing = append(missing, mount{strings.TrimPrefix(path.Clean("/"+volume), "/"), dir0755})
	}
	for _, m := range missing {
		if _, there := in.Lookup(m.name); !there {
			if err := in.Put(&image.Entry{Path: m.name, Mode: m.mode}, nil); err != nil {
				return err
			}
		}
	}
	b.check(in)
	return nil
}

// warnHidden warns of files that the application will not see if init mounts empty file systems at /run and
// /tmp, as nitro-cli's does. It skips directories and the target of linuxkit's link /etc/resolv.conf.
func (b *Build) warnHidden(t *image.Tree, prefix string) error {
	return t.Walk(func(e *image.Entry) error {
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(e.Path, prefix), "/")
		below := strings.HasPrefix(name, "/run/") || strings.HasPrefix(name, "/tmp/")
		if below && !e.IsDir() && !strings.HasPrefix(name, "/run/resolvconf/") {
			b.warn("%s is hidden by the empty file system that init mounts at %s: move it if the "+
				"application needs it",
				name, name[:4])
		}
		return nil
	})
}

// application makes the second ramdisk.
func (b *Build) application(ctx context.Context, blobs *openBlobs) (*disk, error) {
	d := &disk{tree: image.NewTree(b.TempDir, image.Limits{}), complete: true}
	description := Application(b.config(), b.Overrides)
	description.Complete = true
	err := func() error {
		if err := b.checkUnderstood(description, blobs); err != nil {
			return err
		}
		if description.Network && !blobs.network {
			return fmt.Errorf("%s cannot make a network: use neb's init or omit --net", b.Blobs.Init)
		}
		if b.RootFormat == Erofs {
			if !blobs.erofs {
				return fmt.Errorf("%s cannot mount an erofs root: use neb's init or --rootfs-format cpio",
					b.Blobs.Init)
			}
			if err := put(d.tree, contract.RootPath, dir0755, nil); err != nil {
				return err
			}
			if err := b.erofs(ctx, d, &description); err != nil {
				return err
			}
		} else if err := b.root(ctx, d.tree, strings.TrimPrefix(contract.RootPath, "/")); err != nil {
			return err
		}
		if !blobs.confines {
			if err := b.warnHidden(d.tree, strings.TrimPrefix(contract.RootPath, "/")); err != nil {
				return err
			}
		}
		text, err := contract.Encode(description)
		if err != nil {
			return err
		}
		if err := put(d.tree, contract.Path, file0644, text); err != nil {
			return err
		}
		// Other inits read these instead of the description. neb's does not, so they may be missing if they
		// cannot express it.
		command, ok1 := lines(description.Command())
		environment, ok2 := lines(description.Env)
		if !ok1 || !ok2 {
			return nil
		}
		return errors.Join(
			put(d.tree, contract.CmdPath, file0644, command), put(d.tree, contract.EnvPath, file0644,
				environment))
	}()
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// checkUnderstood rejects a description that /cmd and /env cannot express if init reads only those, and warns
// of the image's values that such an init ignores.
func (b *Build) checkUnderstood(d contract.Description, blobs *openBlobs) error {
	if blobs.structured {
		if d.NeedsApp2() && !blobs.confines {
			return fmt.Errorf("%s knows neither capabilities, --allow, --no-new-privileges, --pid1 nor "+
				"--log-port: use neb's init, or drop them", b.Blobs.Init)
		}
		return nil
	}
	if b.Overrides.beyondLines() {
		return fmt.Errorf("%s does not read %s, only a command and variables: use neb's init, or drop the "+
			"rest",
			b.Blobs.Init, contract.Path)
	}
	_, ok1 := lines(d.Command())
	_, ok2 := lines(d.Env)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s does not read %s, it takes no argument or variable with a line break: use "+
			"neb's init",
			b.Blobs.Init, contract.Path)
	}
	for _, v := range [][2]string{{"WORKDIR", d.WorkingDir}, {"USER", d.User}, {"STOPSIGNAL", d.StopSignal}} {
		if v[1] != "" {
			b.warn("%s does not read %s: it ignores the image's %s %s", b.Blobs.Init, contract.Path, v[0],
				v[1])
		}
	}
	return nil
}

// linuxkitDisk makes a ramdisk as cmd/linuxkit does from the YAML files that nitro-cli writes.
func (b *Build) linuxkitDisk(ctx context.Context, config *linuxkit.Config) (*disk, error) {
	tree, err := linuxkit.Build(ctx, config, linuxkit.Options{
		Open: func(context.Context, string) (*image.Image, error) { return b.Image, nil },
		Dir:  b.TempDir,
	})
	if err != nil {
		return nil, err
	}
	return &disk{tree: tree, complete: len(config.Init) > 0}, nil
}

func (b *Build) nitroBootstrap(ctx context.Context, blobs *openBlobs) (*disk, error) {
	if !blobs.nsm {
		return nil, errors.New("nitro-cli compatibility needs the driver nsm.ko")
	}
	return b.linuxkitDisk(ctx, &linuxkit.Config{Files: []linuxkit.File{
		{Path: "dev", Directory: true, Mode: "0755"},
		{Path: "init", Source: b.Blobs.Init, Mode: "0755"},
		{Path: "nsm.ko", Source: b.Blobs.NSM, Mode: "0755"},
	}})
}

func (b *Build) nitroApplication(ctx context.Context, _ *openBlobs) (*disk, error) {
	config := b.config()
	command := config.Cmd
	if command == nil {
		command = config.Entrypoint
	} else if len(config.Entrypoint) > 0 {
		b.warn("--compat nitro-cli drops the image's ENTRYPOINT %q, because it has a CMD", config.Entrypoint)
	}
	for _, v := range [][2]string{{"WORKDIR", config.WorkingDir}, {"USER", config.User}} {
		if v[1] != "" {
			b.warn("--compat nitro-cli drops the image's %s %s", v[0], v[1])
		}
	}
	c := &linuxkit.Config{Prefix: "rootfs/", Init: []string{"image"}}
	for _, dir := range []string{"dev", "run", "sys", "var", "proc", "tmp"} {
		c.Files = append(c.Files, linuxkit.File{Path: "rootfs/" + dir, Directory: true, Mode: "0755"})
	}
	for _, f := range []struct {
		path  string
		lines []string
	}{{"cmd", command}, {"env", config.Env}} {
		// A line break stays as it is, as in nitro-cli, although init then reads two lines.
		text := strings.Join(append(slices.Clone(f.lines), ""), "\n")
		c.Files = append(c.Files, linuxkit.File{Path: f.path, Contents: &text, Mode: "0644"})
	}
	d, err := b.linuxkitDisk(ctx, c)
	if err != nil {
		return nil, err
	}
	root, err := d.tree.Sub("rootfs")
	if err != nil {
		d.close()
		return nil, err
	}
	b.app.About = contract.Description{Cmd: command, Env: config.Env}
	b.check(root)
	return d, nil
}
