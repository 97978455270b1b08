package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// chrootID is the user and group ID of commands in mode [Chroot]. Nothing else has this ID, so that file
// permissions protect the toolchain.
const chrootID = 28261

// runChroot runs c without mounts: the root consists of hard links to the toolchain, and the writable
// directories are moved into it and back.
func runChroot(ctx context.Context, c Command) error {
	root := filepath.Join(c.Work, "root")
	if err := tree.Remove(ctx, root); err != nil {
		return err
	}
	if err := c.forest(ctx, root); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	before, err := tree.List(ctx, root, "dev")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	back, err := moveIn(ctx, c.Work, root)
	if err != nil {
		return fmt.Errorf("sandbox: %w", errors.Join(err, back()))
	}
	runErr := start(ctx, Chroot.spec(c), c.Output)
	if ctx.Err() != nil {
		return runErr // the caller drops work; restoring the owners of a kernel's tree would take long
	}
	if err := back(); err != nil {
		return errors.Join(runErr, fmt.Errorf("sandbox: %w", err))
	}
	after, err := tree.List(ctx, root, "dev")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if changed := difference(before, after); changed != "" {
		return fmt.Errorf("sandbox: the build changed %s of the toolchain, "+
			"which must not be used again", changed)
	}
	return runErr
}

// tryChroot probes whether runChroot works.
func tryChroot(ctx context.Context, c Command) error {
	root := filepath.Join(c.Work, "root")
	if err := makeDevices(root); err != nil {
		return err
	}
	if err := os.Chown(filepath.Join(c.Work, "tmp"), chrootID, chrootID); err != nil {
		return err
	}
	return start(ctx, Chroot.spec(c), nil)
}

// forest fills root with hard links to c.Root and c.Trees, and /dev.
func (c Command) forest(ctx context.Context, root string) error {
	if err := tree.MkdirAll(root); err != nil {
		return err
	}
	if err := makeDevices(root); err != nil {
		return err
	}
	if err := tree.Copy(ctx, c.Root, root, true, ownDirs...); err != nil {
		return err
	}
	for inside, outside := range c.Trees {
		if err := tree.Copy(ctx, outside, filepath.Join(root, inside), true); err != nil {
			return err
		}
	}
	return tree.MkdirAll(filepath.Join(root, "proc"))
}

func makeDevices(root string) error {
	dev := filepath.Join(root, "dev")
	if err := tree.MkdirAll(dev); err != nil {
		return err
	}
	for _, d := range devices {
		path := filepath.Join(dev, d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return &os.PathError{Op: "mknod", Path: path, Err: err}
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
		// On a file system mounted nodev a device can be created and not opened.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil && d.name == "null" {
			return err
		}
		if err == nil {
			f.Close()
		}
	}
	for name, target := range devLinks {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// moveIn moves the writable directories of work into root and changes their owner to chrootID. The function
// that it returns undoes that, once.
func moveIn(ctx context.Context, work, root string) (back func() error, err error) {
	var moved []string
	back = func() error {
		for len(moved) > 0 {
			dir := moved[len(moved)-1]
			from := filepath.Join(root, dir)
			if err := giveTree(ctx, from, os.Geteuid(), os.Getegid()); err != nil {
				return err
			}
			if err := os.Rename(from, filepath.Join(work, dir)); err != nil {
				return err
			}
			moved = moved[:len(moved)-1]
		}
		return nil
	}
	for _, dir := range writable {
		if err := os.Rename(filepath.Join(work, dir), filepath.Join(root, dir)); err != nil {
			return back, err
		}
		moved = append(moved, dir)
		if err := giveTree(ctx, filepath.Join(root, dir), chrootID, chrootID); err != nil {
			return back, err
		}
	}
	return back, nil
}

func giveTree(ctx context.Context, dir string, uid, gid int) error {
	return tree.Walk(ctx, dir, nil, func(path string, _ tree.Entry) error {
		return os.Lchown(path, uid, gid)
	})
}

// difference returns a path that differs between two lists of a root.
func difference(a, b []tree.Entry) string {
	for _, pair := range [][2][]tree.Entry{{a, b}, {b, a}} {
		in := map[tree.Entry]bool{}
		for _, e := range pair[1] {
			in[e] = true
		}
		for _, e := range pair[0] {
			if !in[e] {
				return "/" + e.Path
			}
		}
	}
	return ""
}
