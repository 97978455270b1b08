package nsm

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is where the driver shows the module (drivers/misc/nsm.c).
const Device = "/dev/nsm"

// ioctlRaw is NSM_IOCTL_RAW of linux/nsm.h: _IOWR(0x0A, 0, struct nsm_raw), where the structure is two
// (address, length) pairs of 8 bytes each.
const ioctlRaw = 3<<30 | 32<<16 | 0x0a<<8

// Open opens the module of the enclave that the program runs in. The function it also returns closes it.
func Open() (*Module, func() error, error) {
	device, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	exchange := func(request []byte) ([]byte, error) {
		response := make([]byte, MaxResponse)
		message := [4]uint64{
			uint64(uintptr(unsafe.Pointer(unsafe.SliceData(request)))), uint64(len(request)),
			uint64(uintptr(unsafe.Pointer(unsafe.SliceData(response)))), uint64(len(response)),
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), ioctlRaw, uintptr(unsafe.Pointer(&message)))
		runtime.KeepAlive(request)
		runtime.KeepAlive(response)
		if errno != 0 {
			return nil, os.NewSyscallError("ioctl", errno)
		}
		return response[:min(message[3], uint64(len(response)))], nil
	}
	return &Module{Exchange: exchange}, device.Close, nil
}
