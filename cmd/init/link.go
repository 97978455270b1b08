//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/netrule"
	"github.com/nitro-enclaves-bootstrap/neb/internal/seccomp"
)

// A netLink is the network device, and the process that carries its frames: this program under the name
// [carrierName].
type netLink struct {
	rules    *netrule.Rules
	tap      int // the device; it exists as long as the descriptor is open
	control  int // to the carrier: it writes a byte when it is connected, and ends when this is shut down
	pid      int // of the carrier; 0 if there is none
	restarts int
}

const (
	carrierName = "neb-net"
	// carrierID is the user and group of the carrier: larger than any that an image can name.
	carrierID = 1<<32 - 3
	// Descriptors of the carrier.
	carrierTAP, carrierControl = 3, 4

	maxRestarts = 10
	// drainLimit limits how long the carrier may carry what the application sent last.
	drainLimit = time.Second
)

// startLink makes the network device and starts the carrier, if the description asks for a network.
func (e *enclave) startLink() (err error) {
	if !e.about.Network {
		return nil
	}
	if e.link.rules, err = netrule.Parse(e.about.Egress, e.about.Ingress); err != nil {
		return fail("network", "", err)
	}
	if e.link.tap, err = makeDevice(contract.NetworkDevice); err != nil {
		return err
	}
	if err := writeResolvConf(); err != nil {
		return err
	}
	return e.startCarrier()
}

// startCarrier starts the process that carries the frames of the device, as a user of its own without
// capabilities.
func (e *enclave) startCarrier() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("network", "control", err)
	}
	argv := []string{carrierName}
	for _, rule := range e.about.Egress {
		argv = append(argv, "egress="+rule)
	}
	for _, rule := range e.about.Ingress {
		argv = append(argv, "ingress="+rule)
	}
	e.link.pid, err = syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		// One processor: the carrier has one thread that works. Nothing preempts it: Go would send it
		// signals, which end its waits.
		Env:   []string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"},
		Files: []uintptr{2, 2, 2, uintptr(e.link.tap), uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{Setsid: true,
			Credential: &syscall.Credential{Uid: carrierID, Gid: carrierID}},
	})
	unix.Close(pair[1])
	if err != nil {
		unix.Close(pair[0])
		return fail("network", "start its process", err)
	}
	e.link.control = pair[0]
	return nil
}

// awaitLink waits until the carrier is connected to the parent, for at most the time of neb.net, and says how
// that went.
func (e *enclave) awaitLink() error {
	if e.link.pid == 0 {
		return nil
	}
	began := time.Now()
	var b [1]byte
	err := await(e.link.control, unix.POLLIN, e.began.Add(e.switches.net))
	if err == nil {
		if n, _ := unix.Read(e.link.control, b[:]); n == 1 {
			say("network up after " + time.Since(began).Round(time.Millisecond).String())
			return nil
		}
		err = unix.EPIPE // the carrier has ended, and said why
	}
	warn(fail("network", "", err).because("the parent (CID 3, port " + strconv.Itoa(contract.NetworkPort) +
		") accepted no connection within " + e.switches.net.String() +
		"; the application starts without, and the network comes up when it does"))
	return nil
}

// carrierEnded starts the carrier again if pid was it. Without it there is no network, and nothing that could
// pass the rules.
func (e *enclave) carrierEnded(pid int) {
	if pid != e.link.pid || pid == 0 {
		return
	}
	e.link.pid = 0
	unix.Close(e.link.control)
	if e.link.restarts++; e.link.restarts > maxRestarts {
		warn(fail("network: neb-net ended too often: the network stays down", "", nil))
		return
	}
	warn(fail("network: neb-net ended: starting it again", "", nil))
	if err := e.startCarrier(); err != nil {
		warn(err)
	}
}

// closeLink ends the carrier, after it has carried what the application sent last.
func (e *enclave) closeLink() {
	if e.link.pid == 0 {
		return
	}
	unix.Shutdown(e.link.control, unix.SHUT_WR)
	for deadline := time.Now().Add(2 * drainLimit); ; {
		var b [16]byte
		if await(e.link.control, unix.POLLIN, deadline) != nil {
			break
		}
		if n, err := unix.Read(e.link.control, b[:]); n <= 0 && err != unix.EINTR {
			break // the carrier has ended
		}
	}
	unix.Kill(e.link.pid, unix.SIGKILL)
	e.link.pid = 0
}

// launch starts the application. If rules limit what it may reach, its processes get no vsock sockets, which
// would lead around them, and no io_uring, which would open such sockets unseen.
func (e *enclave) launch() (pid int, err error) {
	if e.link.rules == nil || e.link.rules.AllowVSOCK() {
		return e.start()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The filter is inherited by the application, and must stay with this thread, which ends with the
		// goroutine.
		runtime.LockOSThread()
		if err = seccomp.Install(noVSOCK, seccomp.Fail(unix.EPERM), seccomp.Allow, 0); err != nil {
			err = fail("close vsock to", "the application", err)
			return
		}
		pid, err = e.start()
	}()
	<-done
	return pid, err
}

// makeDevice makes and configures the TAP device.
func makeDevice(name string) (tap int, err error) {
	const clone = "/dev/net/tun"
	if tap, err = open(clone, unix.O_RDWR|unix.O_NONBLOCK); err != nil {
		return -1, fail("network", clone, err)
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return -1, fail("network", name, err)
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(tap, unix.TUNSETIFF, r); err != nil {
		return -1, fail("network", "make "+name, err)
	}
	// Neither side computes or checks checksums of what vsock carries.
	if err := unix.IoctlSetInt(tap, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM); err != nil {
		return -1, fail("network", "checksums of "+name, err)
	}
	conf := "/proc/sys/net/ipv6/conf/" + name + "/"
	// The addresses are fixed: nobody else has them.
	for _, setting := range []string{"accept_dad", "accept_ra"} {
		if err := writeFile(conf+setting, "0", 0); err != nil {
			warn(fail("write", conf+setting, err))
		}
	}
	for _, s := range []struct {
		what string
		do   func(name string) error
	}{{"IPv4", configure4}, {"IPv6", configure6}} {
		if err := s.do(name); err != nil {
			return -1, fail("network", s.what+" of "+name, err)
		}
	}
	return tap, nil
}

// configure4 sets MTU, address and default route, and brings the device up.
func configure4(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	all := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	mask := netip.PrefixFrom(all, contract.NetworkBits4).Masked().Addr()
	for _, c := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(contract.NetworkMTU); return nil }},
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error {
			return r.SetInet4Addr(contract.NetworkEnclave[0].AsSlice())
		}},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask.AsSlice()) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
			r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
			return nil
		}},
	} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = c.set(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, c.request, r)
		}
		if err != nil {
			return err
		}
	}
	// struct rtentry of linux/route.h: destination, gateway and mask are struct sockaddr_in.
	var route [120]byte
	for at, a := range map[int]netip.Addr{
		8: netip.IPv4Unspecified(), 24: contract.NetworkGateway[0], 40: netip.IPv4Unspecified(),
	} {
		binary.NativeEndian.PutUint16(route[at:], unix.AF_INET)
		copy(route[at+4:], a.AsSlice())
	}
	binary.NativeEndian.PutUint16(route[56:], unix.RTF_UP|unix.RTF_GATEWAY)
	return ioctl(fd, unix.SIOCADDRT, route[:])
}

// configure6 sets address and default route.
func configure6(name string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return err
	}
	index := r.Uint32()
	// struct in6_ifreq of linux/ipv6.h: address, length of the prefix, index.
	var address [24]byte
	copy(address[:], contract.NetworkEnclave[1].AsSlice())
	binary.NativeEndian.PutUint32(address[16:], contract.NetworkBits6)
	binary.NativeEndian.PutUint32(address[20:], index)
	if err := ioctl(fd, unix.SIOCSIFADDR, address[:]); err != nil {
		return err
	}
	// struct in6_rtmsg of linux/ipv6_route.h: destination ::/0, source, gateway, type, lengths, metric, info,
	// flags, index.
	var route [80]byte
	copy(route[32:], contract.NetworkGateway[1].AsSlice())
	binary.NativeEndian.PutUint32(route[56:], 1) // metric
	binary.NativeEndian.PutUint32(route[72:], unix.RTF_UP|unix.RTF_GATEWAY)
	binary.NativeEndian.PutUint32(route[76:], index)
	return ioctl(fd, unix.SIOCADDRT, route[:])
}

func ioctl(fd int, request uintptr, argument []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&argument[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// writeResolvConf replaces the image's /etc/resolv.conf, as Docker does: its name servers are of another
// network. A link would lead to a file that does not exist.
func writeResolvConf() error {
	const name = "/etc/resolv.conf"
	if err := mkdir("/etc", 0o755); err != nil {
		return err
	}
	if err := unix.Unlink(name); err != nil && err != unix.ENOENT {
		return fail("replace", name, err)
	}
	err := writeFile(name, "nameserver "+contract.NetworkGateway[0].String()+"\n", unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return fail("write", name, err)
	}
	return nil
}
