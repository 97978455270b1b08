//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const (
	lower = "/neb/lower" // the erofs image
	layer = "/neb/rw"    // tmpfs above it
)

// makeRoot makes /rootfs the root, and moves /dev and /proc to it.
func (e *enclave) makeRoot() error {
	var err error
	if n := e.about.ErofsParts; n > 0 {
		err = mountErofs(int(n))
	} else if err = unix.Mount(contract.RootPath, contract.RootPath, "", unix.MS_BIND, ""); err != nil {
		f := fail("mount", contract.RootPath, err)
		err = f.because(unpacking(f.cause))
	}
	if err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc"} {
		if err := move(dir, contract.RootPath+dir); err != nil {
			return err
		}
	}
	if err := unix.Chdir(contract.RootPath); err != nil {
		return fail("change to", contract.RootPath, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fail("mount", "/", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fail("change the root to", contract.RootPath, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fail("change to", "/", err)
	}
	return nil
}

// move moves a mount to a directory, which it creates if missing. The directory must be the image's own: the
// old root is still the root here, and an absolute symbolic link would lead out of the image.
func move(from, to string) error {
	var st unix.Stat_t
	err := unix.Lstat(to, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err == unix.ENOENT {
		if err := mkdir(to, 0o755); err != nil {
			return err
		}
		err = nil
	}
	if err == nil {
		err = unix.Mount(from, to, "", unix.MS_MOVE, "")
	}
	if err != nil {
		return fail("mount", from, err)
	}
	return nil
}

// mountErofs joins the parts of the image, and mounts it with a writable layer above it at /rootfs.
func mountErofs(parts int) error {
	if err := join(parts); err != nil {
		return err
	}
	device, fd, err := loop(contract.RootPart(0))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, dir := range []string{lower, layer, contract.RootPath} {
		if err := mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(device, lower, "erofs", unix.MS_RDONLY, ""); err != nil {
		return fail("mount", lower, err)
	}
	if err := unix.Mount("tmpfs", layer, "tmpfs", 0, "mode=0755"); err != nil {
		return fail("mount", layer, err)
	}
	for _, dir := range []string{layer + "/upper", layer + "/work"} {
		if err := mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + lower + ",upperdir=" + layer + "/upper,workdir=" + layer + "/work"
	if err := unix.Mount("overlay", contract.RootPath, "overlay", 0, options); err != nil {
		return fail("mount", contract.RootPath, err)
	}
	return nil
}

// joinStep is the number of bytes after which join frees the memory of what it has copied: a multiple of a
// page.
const joinStep = 16 << 20

// join appends the later parts of the image to the first.
func join(parts int) error {
	if parts == 1 {
		return nil
	}
	first := contract.RootPart(0)
	to, err := open(first, unix.O_WRONLY|unix.O_APPEND)
	if err != nil {
		return fail("open", first, err)
	}
	defer unix.Close(to)
	for i := 1; i < parts; i++ {
		if err := appendFile(to, contract.RootPart(i)); err != nil {
			return err
		}
	}
	return nil
}

func appendFile(to int, name string) error {
	from, err := open(name, unix.O_RDWR)
	if err != nil {
		return fail("open", name, err)
	}
	defer unix.Close(from)
	buf := make([]byte, 256<<10)
	freed := int64(0)
	for at := int64(0); ; {
		n, err := unix.Pread(from, buf, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail("join", name, err)
		}
		if n == 0 {
			unix.Unlink(name)
			return nil
		}
		at += int64(n)
		for b := buf[:n]; len(b) > 0; {
			n, err := unix.Write(to, b)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fail("join", name, err)
			}
			b = b[n:]
		}
		if at-freed >= joinStep {
			err := unix.Fallocate(from, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, freed, joinStep)
			if err != nil && err != unix.EOPNOTSUPP {
				return fail("join", name, err)
			}
			freed += joinStep
		}
	}
}

// loop makes a read-only loop device for a file. The device is removed with its last user: close fd once it
// is mounted.
func loop(name string) (device string, fd int, err error) {
	file, err := open(name, unix.O_RDONLY)
	if err != nil {
		return "", -1, fail("open", name, err)
	}
	defer unix.Close(file)
	const control = "/dev/loop-control"
	ctl, err := open(control, unix.O_RDWR)
	if err != nil {
		return "", -1, fail("loop device", control, err)
	}
	defer unix.Close(ctl)
	n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", -1, fail("loop device", control, err)
	}
	device = "/dev/loop" + strconv.Itoa(n)
	if fd, err = open(device, unix.O_RDONLY); err != nil {
		return "", -1, fail("loop device", device, err)
	}
	config := unix.LoopConfig{Fd: uint32(file), Size: 4096} // Size is that of a block
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		unix.Close(fd)
		return "", -1, fail("loop device", device, err)
	}
	return device, fd, nil
}
