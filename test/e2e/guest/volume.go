package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
)

func init() {
	acts["volume"] = volume
}

// The ioctls of <linux/nbd.h>, and its flags: the server says what it can do, and it can flush.
const (
	nbdSetSock      = 0xab00
	nbdSetBlockSize = 0xab01
	nbdDoIt         = 0xab03
	nbdClearSock    = 0xab04
	nbdSetBlocks    = 0xab07
	nbdDisconnect   = 0xab08
	nbdSetFlags     = 0xab0a
	nbdFlags        = 1<<0 | 1<<2
)

const (
	disk   = "/dev/nbd0"
	sector = 512 // also the block size of the disk: a first table may have one sector then
	// tag is what dm-integrity stores for each sector: the IV, and the HMAC of dm-crypt.
	tag = 16 + 32
)

// volume attaches a disk of the parent, at a port and of a size, three times. First it makes an encrypted and
// authenticated volume of it, copies the file system /volume.img there and writes a file. Then it reads the
// file. Then, of a disk that the parent has changed, it reads the volume's first sector.
func volume(args []string) error {
	port, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	unconnected, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	nbd, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fmt.Printf("unconnected socket: %v\n", ioctl(nbd, nbdSetSock, unconnected))
	nbd.Close()

	var sectors uint64
	for _, step := range []struct {
		name string
		do   func(crypt string) error
	}{
		{"write", func(crypt string) error {
			image, err := os.ReadFile("/volume.img")
			if err != nil {
				return err
			}
			if err := os.WriteFile(crypt, image, 0); err != nil {
				return err
			}
			return mounted(crypt, func(dir string) error {
				return os.WriteFile(dir+"/file", []byte(args[2]), 0o600)
			})
		}},
		{"read", func(crypt string) error {
			return mounted(crypt, func(dir string) error {
				content, err := os.ReadFile(dir + "/file")
				fmt.Printf("file: %s\n", content)
				return err
			})
		}},
		{"read what was changed", func(crypt string) error {
			f, err := os.Open(crypt)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Read(make([]byte, sector))
			fmt.Printf("changed disk: %v\n", err)
			return nil
		}},
	} {
		err := attached(uint32(port), size, func(nbd *os.File) error {
			if sectors == 0 {
				if sectors, err = formatIntegrity(nbd); err != nil {
					return err
				}
			}
			return opened(sectors, step.do)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func ioctl(f *os.File, request uint, value int) error {
	return unix.IoctlSetInt(int(f.Fd()), request, value)
}

// attached connects to the parent's server, and has do called while the disk is served from there. The kernel
// remembers a disconnection until nothing has the disk open.
func attached(port uint32, size int, do func(nbd *os.File) error) error {
	nbd, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer nbd.Close()
	c, err := peer.Dial(peer.ParentCID, port)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, set := range []struct {
		request uint
		value   int
	}{
		{nbdSetBlockSize, sector}, {nbdSetBlocks, size / sector}, {nbdSetFlags, nbdFlags},
		{nbdSetSock, int(c.Fd())},
	} {
		if err := ioctl(nbd, set.request, set.value); err != nil {
			return fmt.Errorf("ioctl %#x of %s: %w", set.request, nbd.Name(), err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- ioctl(nbd, nbdDoIt, 0) }()
	// Until it serves, the disk has a size of 0.
	for end, _ := nbd.Seek(0, io.SeekEnd); end == 0; end, _ = nbd.Seek(0, io.SeekEnd) {
		select {
		case err := <-served:
			return fmt.Errorf("%s: not served: %w", disk, err)
		case <-time.After(time.Millisecond):
		}
	}
	err = errors.Join(do(nbd), ioctl(nbd, nbdDisconnect, 0), <-served)
	return errors.Join(err, ioctl(nbd, nbdClearSock, 0))
}

// opened sets up dm-integrity and dm-crypt on a disk, as cryptsetup does for aes-xts-random with hmac-sha256.
func opened(sectors uint64, do func(crypt string) error) error {
	integrity, err := mapDevice("integrity", sectors, integrityTable)
	if err != nil {
		return err
	}
	key := bytes.Repeat([]byte{1, 2, 3, 4}, (32+64)/4)
	crypt, err := mapDevice("crypt", sectors, fmt.Sprintf(
		"capi:authenc(hmac(sha256),xts(aes))-random %s 0 %s 0 1 integrity:%d:aead", hex.EncodeToString(key),
		integrity, tag))
	if err == nil {
		err = errors.Join(do(crypt), deviceMapper(unix.DM_DEV_REMOVE, "crypt", nil))
	}
	return errors.Join(err, deviceMapper(unix.DM_DEV_REMOVE, "integrity", nil))
}

var integrityTable = fmt.Sprintf("%s 0 %d J 0", disk, tag)

// formatIntegrity makes the kernel write the superblock of dm-integrity, with a first table of one sector,
// and returns how many sectors of data the disk has then (provided_data_sectors of its struct superblock).
func formatIntegrity(nbd *os.File) (uint64, error) {
	if _, err := mapDevice("integrity", 1, integrityTable); err != nil {
		return 0, err
	}
	if err := deviceMapper(unix.DM_DEV_REMOVE, "integrity", nil); err != nil {
		return 0, err
	}
	if err := ioctl(nbd, unix.BLKFLSBUF, 0); err != nil { // the kernel has looked for partitions before
		return 0, err
	}
	superblock := make([]byte, sector)
	if _, err := io.ReadFull(io.NewSectionReader(nbd, 0, sector), superblock); err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(superblock, []byte("integrt\x00")) {
		return 0, fmt.Errorf("no superblock of dm-integrity: %x", superblock[:32])
	}
	return binary.LittleEndian.Uint64(superblock[16:]), nil
}

// mapDevice makes a device of one target, whose name it has, and returns its path.
func mapDevice(target string, sectors uint64, table string) (string, error) {
	var minor uint32
	take := func(head *unix.DmIoctl) { minor = unix.Minor(head.Dev) }
	if err := deviceMapper(unix.DM_DEV_CREATE, target, take); err != nil {
		return "", err
	}
	spec := unix.DmTargetSpec{Length: sectors}
	copy(spec.Target_type[:], target)
	err := deviceMapper(unix.DM_TABLE_LOAD, target, nil, append(
		unsafe.Slice((*byte)(unsafe.Pointer(&spec)), unsafe.Sizeof(spec)), table+"\x00"...)...)
	if err == nil {
		err = deviceMapper(unix.DM_DEV_SUSPEND, target, nil) // without its flag it resumes
	}
	if err != nil {
		return "", errors.Join(err, deviceMapper(unix.DM_DEV_REMOVE, target, nil))
	}
	return fmt.Sprintf("/dev/dm-%d", minor), nil
}

// deviceMapper calls an ioctl of <linux/dm-ioctl.h> for a device, with the one target that data holds, if
// any.
func deviceMapper(request uint, name string, take func(*unix.DmIoctl), data ...byte) error {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	buffer := make([]byte, 16<<10)
	head := (*unix.DmIoctl)(unsafe.Pointer(&buffer[0]))
	*head = unix.DmIoctl{Version: [3]uint32{4}, Data_size: uint32(len(buffer)),
		Data_start: uint32(unsafe.Sizeof(*head))}
	if data != nil {
		head.Target_count = 1
	}
	copy(head.Name[:], name)
	copy(buffer[head.Data_start:], data)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), uintptr(request),
		uintptr(unsafe.Pointer(head))); errno != 0 {
		return fmt.Errorf("device mapper: ioctl %#x of %s: %w", request, name, errno)
	}
	if take != nil {
		take(head)
	}
	return nil
}

// mounted has do called with the directory where the file system of a device is mounted.
func mounted(device string, do func(dir string) error) error {
	const dir = "/run/volume"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return errors.Join(do(dir), unix.Unmount(dir, 0))
}
