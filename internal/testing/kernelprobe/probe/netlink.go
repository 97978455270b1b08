package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attribute is one netlink attribute, padded.
func attribute(kind uint16, body []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(body)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), body...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

// message is one netlink message that asks for an acknowledgement.
func message(kind, flags uint16, sequence uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	return append(binary.NativeEndian.AppendUint32(b, 0), body...)
}

// ask sends messages and reads acknowledgements until each of the sequence numbers has one.
func ask(protocol int, want int, messages []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	if err := unix.Sendto(fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for want > 0 {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return fmt.Errorf("no answer: %w", err)
		}
		for b := buffer[:n]; len(b) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(b))
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); code != 0 {
					return fmt.Errorf("message %d: %w", binary.NativeEndian.Uint32(b[8:]), unix.Errno(-code))
				}
				want--
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
	return nil
}

func text(s string) []byte { return append([]byte(s), 0) }

func big32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// links makes one network device of each kind that an enclave's containers use.
func links() error {
	const infoKind, infoData = 1, 2
	for _, kind := range []string{"veth", "bridge", "dummy"} {
		body := make([]byte, unix.SizeofIfInfomsg)
		body = append(body, attribute(unix.IFLA_IFNAME, text("probe-"+kind))...)
		body = append(body, attribute(unix.IFLA_LINKINFO, attribute(infoKind, text(kind)))...)
		if err := ask(unix.NETLINK_ROUTE, 1, message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_ACK, 1,
			body)); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// nftables makes a table with a chain that masquerades what is tracked as new.
func nftables() error {
	header := func(family byte) []byte { return []byte{family, 0, 0, 0} }
	const (
		newTable, newChain, newRule = unix.NFNL_SUBSYS_NFTABLES << 8, unix.NFNL_SUBSYS_NFTABLES<<8 | 3,
			unix.NFNL_SUBSYS_NFTABLES<<8 | 6
		begin, end          = 0x10, 0x11
		create              = unix.NLM_F_CREATE | unix.NLM_F_ACK
		nested              = 0x8000
		postrouting, srcNAT = 4, 100
	)
	batch := []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	hook := append(attribute(1, big32(postrouting)), attribute(2, big32(srcNAT))...)
	expression := func(name string, data []byte) []byte {
		return attribute(1|nested, append(attribute(1, text(name)), attribute(2|nested, data)...))
	}
	ctState := append(attribute(1, big32(1)), attribute(2, big32(0))...) // into register 1, the state
	var all []byte
	all = append(all, message(begin, 0, 0, batch)...)
	all = append(all, message(newTable, create, 1,
		append(header(unix.AF_INET), attribute(1, text("probe"))...))...)
	chain := append(header(unix.AF_INET), attribute(1, text("probe"))...)
	chain = append(chain, attribute(3, text("post"))...)
	chain = append(chain, attribute(4|nested, hook)...)
	chain = append(chain, attribute(7, text("nat"))...)
	all = append(all, message(newChain, create, 2, chain)...)
	rule := append(header(unix.AF_INET), attribute(1, text("probe"))...)
	rule = append(rule, attribute(2, text("post"))...)
	rule = append(rule, attribute(4|nested, append(expression("ct", ctState), expression("masq", nil)...))...)
	all = append(all, message(newRule, create|unix.NLM_F_APPEND, 3, rule)...)
	all = append(all, message(end, 0, 4, batch)...)
	return ask(unix.NETLINK_NETFILTER, 3, all)
}

// targets asks device-mapper which targets it has.
func targets() error {
	const (
		listVersions = 0xc138fd0d // DM_LIST_VERSIONS
		headerSize   = 312
		dataStart    = 16
	)
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	buffer := make([]byte, 16<<10)
	for i, v := range []uint32{4, 0, 0, uint32(len(buffer)), headerSize} {
		binary.NativeEndian.PutUint32(buffer[4*i:], v)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), listVersions,
		uintptr(unsafe.Pointer(&buffer[0]))); errno != 0 {
		return errno
	}
	at := binary.NativeEndian.Uint32(buffer[dataStart:])
	var missing []string
	for _, name := range []string{"crypt", "integrity", "verity", "linear"} {
		if !strings.Contains(string(buffer[at:]), name+"\x00") {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return errors.New("device-mapper lacks " + strings.Join(missing, ", "))
	}
	return nil
}
