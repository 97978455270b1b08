package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
)

// chrootID is the user and group ID of commands in mode [Chroot]. Nothing else has this ID, so that file
// permissions protect the toolchain.
const chrootID = 28261

// runChroot runs c without mounts: the root consists of hard links to the toolchain, and the writable
// directories are moved into it and back.
func runChroot(ctx context.Context, c Command) error {
	root := filepath.Join(c.Work, "root")
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := c.forest(root); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	before, err := digest(ctx, root)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	back, err := moveIn(c.Work, root)
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
	after, err := digest(ctx, root)
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
func (c Command) forest(root string) error {
	if err := mkdir(root); err != nil {
		return err
	}
	if err := makeDevices(root); err != nil {
		return err
	}
	if err := linkTree(c.Root, root, ownDirs); err != nil {
		return err
	}
	for inside, outside := range c.Trees {
		to := filepath.Join(root, inside)
		if err := mkdirAll(to); err != nil {
			return err
		}
		if err := linkTree(outside, to, nil); err != nil {
			return err
		}
	}
	return mkdir(filepath.Join(root, "proc"))
}

// mkdir creates a directory with mode 0755, regardless of the umask: chrootID must be able to enter it.
func mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// mkdirAll is mkdir for a directory and its missing parents.
func mkdirAll(path string) error {
	err := mkdir(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = mkdirAll(filepath.Dir(path)); err == nil {
			err = mkdir(path)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func makeDevices(root string) error {
	dev := filepath.Join(root, "dev")
	if err := mkdir(dev); err != nil {
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

// linkTree copies the tree from into the existing directory to, with hard links for files, and without the
// top-level entries in skip.
func linkTree(from, to string, skip []string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		if slices.Contains(skip, rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		at := filepath.Join(to, rel)
		switch e.Type() {
		case fs.ModeDir:
			return mkdir(at)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, at)
		case 0:
			err := os.Link(path, at)
			if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) {
				return copyFile(path, at)
			}
			return err
		}
		return fmt.Errorf("%s: expected a file, directory or symbolic link, found %v", path, e.Type())
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// moveIn moves the writable directories of work into root and changes their owner to chrootID. The function
// that it returns undoes that, once.
func moveIn(work, root string) (back func() error, err error) {
	var moved []string
	back = func() error {
		for len(moved) > 0 {
			dir := moved[len(moved)-1]
			from := filepath.Join(root, dir)
			if err := giveTree(from, os.Geteuid(), os.Getegid()); err != nil {
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
		if err := giveTree(filepath.Join(root, dir), chrootID, chrootID); err != nil {
			return back, err
		}
	}
	return back, nil
}

func giveTree(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// digest returns type, permissions and content of everything in dir, by path.
func digest(ctx context.Context, dir string) (map[string]string, error) {
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content := ""
		switch e.Type() {
		case fs.ModeSymlink:
			content, err = os.Readlink(path)
		case 0:
			content, _, err = stream.SHA256(ctx, path)
		}
		sums["/"+rel] = fmt.Sprint(info.Mode(), " ", content)
		return err
	})
	return sums, err
}

// difference returns the first path, in order, that differs between a and b.
func difference(a, b map[string]string) string {
	first := ""
	for _, pair := range [][2]map[string]string{{a, b}, {b, a}} {
		for path, sum := range pair[0] {
			if other, ok := pair[1][path]; (!ok || other != sum) && (first == "" || path < first) {
				first = path
			}
		}
	}
	return first
}
