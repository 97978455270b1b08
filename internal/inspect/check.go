package inspect

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Needs is what a check is told besides the file.
type Needs struct {
	Memory int64  // of the enclave, in bytes; 0 if it is not known
	Config string // text of the kernel's configuration; "" if it is not known
	Tools  Tools  // read an erofs root; nil if this machine cannot
}

// Checked is what [Check] found.
type Checked struct {
	Findings []preflight.Finding
	Memory   int64 // that the enclave needs to start, in bytes
}

// Check returns what keeps an enclave from starting from an EIF, and what else is worth knowing about it:
// what [Inspect] finds, and what package preflight finds in its ramdisks.
func Check(ctx context.Context, path string, needs Needs) (*Checked, error) {
	r, in, err := ReadFile(ctx, path, time.Now())
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	f := r.File
	c := &Checked{}
	add := func(all ...preflight.Finding) { c.Findings = append(c.Findings, all...) }
	for _, problem := range slices.Concat(r.Problems, r.Warnings) {
		add(preflight.Find(preflight.Code(problem.Code), "%s", problem.Text))
	}
	tree := image.NewTree("", image.Limits{})
	defer tree.Close()
	err = unpackAll(ctx, tree, f, in)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	c.Memory = r.Memory
	if needs.Memory > 0 && needs.Memory < c.Memory {
		add(preflight.Find(preflight.Memory,
			"it has %d MiB, and needs at least %d MiB: the EIF has %d bytes, "+
				"and its ramdisks %d names and %d pages", needs.Memory>>20, c.Memory>>20, info.Size(),
			r.Usage.Inodes, r.Usage.Pages))
	}
	cmdline, _ := f.Cmdline()
	release := ""
	if s, ok := f.Find(eif.Kernel); ok {
		found := preflight.CheckKernel(f.Content(s), s.Size, f.Arch(), cmdline, needs.Config)
		add(slices.DeleteFunc(found, func(x preflight.Finding) bool {
			return f.PCIe() && x.Code == preflight.RootOption // that enclave has a disk
		})...)
		release, _ = kernel.Release(f.Content(s), s.Size, f.Arch())
	}
	switch {
	case f.PCIe():
	case err != nil:
		add(preflight.Find(preflight.Unchecked, "the trees in the ramdisks: %v", err))
	default:
		found, err := checkTree(ctx, tree, f, release, cmdline, needs)
		if err != nil {
			return nil, err
		}
		add(found...)
	}
	return c, nil
}

// unpackAll unpacks all ramdisks of a file into a tree, one over the other.
func unpackAll(ctx context.Context, tree *image.Tree, f *eif.File, in *os.File) error {
	unpacker, err := tree.Unpacker(in)
	if err != nil {
		return err
	}
	r := newReader(f)
	return r.each(func(_ int, h *initramfs.Header) error {
		at := int64(-1)
		if r.plain > 0 {
			at = r.plain + r.Offset()
		}
		return errors.Join(unpacker.Add(h, r, at), context.Cause(ctx))
	})
}

// checkTree checks PID 1, the NSM driver and the application in the tree that the ramdisks make.
func checkTree(
	ctx context.Context, tree *image.Tree, f *eif.File, release, cmdline string, needs Needs,
) ([]preflight.Finding, error) {
	arch, config := f.Arch(), needs.Config
	init := contract.InitPath
	for option := range strings.FieldsSeq(cmdline) {
		if value, ok := strings.CutPrefix(option, "rdinit="); ok {
			init = value
		}
	}
	found := preflight.CheckPID1(tree, arch, init, config)
	if e, ok := tree.Lookup(strings.TrimPrefix(contract.NSMPath, "/")); ok && e.IsRegular() {
		driver, done, err := tree.Open(e)
		if err != nil {
			return nil, err
		}
		defer done()
		if err := preflight.CheckModule(driver, arch, release); err != nil {
			found = append(found, preflight.Find(preflight.ModuleMismatch, "%s: %v", contract.NSMPath, err))
		}
	}
	text := func(path string) (string, bool) {
		e, ok := tree.Lookup(strings.TrimPrefix(path, "/"))
		if !ok || !e.IsRegular() || e.Size > contract.MaxSize {
			return "", false
		}
		body, done, err := tree.Open(e)
		if err != nil {
			return "", false
		}
		defer done()
		b, err := io.ReadAll(body)
		return string(b), err == nil
	}
	app := preflight.Application{Arch: arch, Config: config}
	unchecked := func(format string, args ...any) ([]preflight.Finding, error) {
		return append(found, preflight.Find(preflight.Unchecked, format, args...)), nil
	}
	if description, ok := text(contract.Path); ok {
		var err error
		if app.About, err = contract.Decode(description); err != nil {
			return append(found, preflight.Find(preflight.InitUnusable, "%v", err)), nil
		}
		if app.About.ErofsParts > 0 {
			app.Root = image.NewTree("", image.Limits{})
			defer app.Root.Close()
			err := unpackErofs(ctx, needs.Tools, f, app.Root)
			if cause := context.Cause(ctx); cause != nil {
				return nil, cause
			}
			if err != nil {
				return unchecked("the erofs root: %v", err)
			}
			return append(found, app.Check()...), nil
		}
	} else {
		command, ok := text(contract.CmdPath)
		if !ok {
			return unchecked("there is neither %s nor %s: PID 1 alone decides what it starts", contract.Path,
				contract.CmdPath)
		}
		environment, _ := text(contract.EnvPath)
		app.Reference = true
		app.About = contract.Description{Cmd: contract.Lines(command), Env: contract.Lines(environment)}
		if len(app.About.Cmd) == 0 {
			return append(found, preflight.Find(preflight.CommandMissing, "%s is empty", contract.CmdPath)),
				nil
		}
	}
	if e, ok := tree.Lookup(strings.TrimPrefix(contract.RootPath, "/")); !ok || !e.IsDir() {
		return unchecked("there is no directory %s: PID 1 alone decides where the application is",
			contract.RootPath)
	}
	var err error
	if app.Root, err = tree.Sub(strings.TrimPrefix(contract.RootPath, "/")); err != nil {
		return nil, err
	}
	return append(found, app.Check()...), nil
}
