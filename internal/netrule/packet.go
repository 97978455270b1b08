package netrule

import (
	"encoding/binary"
	"net/netip"
)

// Ethernet, IP and what is above it, as far as a filter needs them (IEEE 802.3; RFC 791, 793, 768, 792, 4443,
// 8200).
const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherIPv6   = 0x86dd

	ipv4Header, ipv6Header = 20, 40
	tcpHeader, udpHeader   = 20, 8
	icmpHeader             = 8

	tcpFIN, tcpSYN, tcpRST, tcpACK = 1, 2, 4, 16

	// maxQuoted is the number of bytes of a rejected packet that an ICMP message quotes: header and ports.
	maxQuoted = ipv6Header + 8
)

// form is what a frame is.
type form uint8

const (
	formOther     form = iota // of a protocol that is not filtered but dropped
	formMalformed             // its lengths contradict each other
	formARP
	formFragment // of IPv4: there are no ports
	formTCP
	formUDP
	formEcho      // ICMP: echo request or reply; both ports are the identifier
	formNeighbour // ICMPv6: neighbour and router discovery
	formControl   // other ICMP
)

// A packet is the parsed content of a frame. The slices are parts of the frame.
type packet struct {
	form         form
	frame        []byte
	ip           []byte // the IP packet, without padding behind it
	proto        uint8
	src, dst     netip.Addr
	sport, dport uint16
	request      bool   // of formEcho
	transport    []byte // with its header
	payload      []byte // of TCP and UDP
}

// parse parses an Ethernet frame.
func parse(frame []byte) packet {
	p := packet{form: formMalformed, frame: frame}
	if len(frame) < etherHeader {
		return p
	}
	b := frame[etherHeader:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		p.form = formARP
		return p
	case etherIPv4:
		if len(b) < ipv4Header || b[0]>>4 != 4 {
			return p
		}
		header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < ipv4Header || total < header || total > len(b) {
			return p
		}
		p.ip, p.proto, p.transport = b[:total], b[9], b[header:total]
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			p.form = formFragment
			return p
		}
	case etherIPv6:
		if len(b) < ipv6Header || b[0]>>4 != 6 {
			return p
		}
		total := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return p
		}
		// Extension headers are protocols that are not known, and so are fragments.
		p.ip, p.proto, p.transport = b[:total], b[6], b[ipv6Header:total]
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	default:
		p.form = formOther
		return p
	}
	p.parseTransport()
	return p
}

func (p *packet) parseTransport() {
	t := p.transport
	switch {
	case p.proto == protoTCP:
		if len(t) < tcpHeader {
			return
		}
		if n := int(t[12]>>4) * 4; n >= tcpHeader && n <= len(t) {
			p.form, p.payload = formTCP, t[n:]
		}
	case p.proto == protoUDP:
		if len(t) >= udpHeader && int(binary.BigEndian.Uint16(t[4:])) == len(t) {
			p.form, p.payload = formUDP, t[udpHeader:]
		}
	case p.proto == protoICMP && p.src.Is4(), p.proto == protoICMPv6 && p.src.Is6():
		if len(t) < icmpHeader {
			return
		}
		p.form = formControl
		switch kind := t[0]; {
		case p.src.Is4() && (kind == 0 || kind == 8), p.src.Is6() && (kind == 128 || kind == 129):
			id := binary.BigEndian.Uint16(t[4:])
			p.form, p.sport, p.dport, p.request = formEcho, id, id, kind == 8 || kind == 128
		case p.src.Is6() && 133 <= kind && kind <= 137:
			p.form = formNeighbour
		}
	default:
		p.form = formOther
	}
	if p.form == formTCP || p.form == formUDP {
		p.sport, p.dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	}
}

// reply makes the frame that rejects p in the name of its destination: a reset for TCP, and otherwise ICMP
// "administratively prohibited". It returns nil for packets that must not be answered. The frame is built in
// buf.
func (p *packet) reply(buf []byte) []byte {
	switch p.form {
	case formTCP:
		return p.reset(buf)
	case formUDP, formEcho:
		quoted := p.ip[:min(len(p.ip), maxQuoted)]
		message := [icmpHeader]byte{3, 13} // RFC 1812, section 5.2.7.1
		proto := uint8(protoICMP)
		if p.src.Is6() {
			message, proto = [icmpHeader]byte{1, 1}, protoICMPv6 // RFC 4443, section 3.1
		}
		return p.answer(buf, proto, 2, message[:], quoted)
	}
	return nil
}

// reset answers a TCP segment as RFC 9293, section 3.10.7.1, says.
func (p *packet) reset(buf []byte) []byte {
	t := p.transport
	flags := t[13]
	if flags&tcpRST != 0 {
		return nil
	}
	be := binary.BigEndian
	var h [tcpHeader]byte
	be.PutUint16(h[:], p.dport)
	be.PutUint16(h[2:], p.sport)
	h[12] = tcpHeader / 4 << 4
	if flags&tcpACK != 0 {
		h[13] = tcpRST
		copy(h[4:8], t[8:12])
	} else {
		h[13] = tcpRST | tcpACK
		length := uint32(len(p.payload))
		for _, f := range []byte{tcpSYN, tcpFIN} {
			if flags&f != 0 {
				length++
			}
		}
		be.PutUint32(h[8:], be.Uint32(t[4:])+length)
	}
	return p.answer(buf, protoTCP, 16, h[:], nil)
}

// datagram answers a UDP datagram.
func (p *packet) datagram(buf, payload []byte) []byte {
	var h [udpHeader]byte
	binary.BigEndian.PutUint16(h[:], p.dport)
	binary.BigEndian.PutUint16(h[2:], p.sport)
	binary.BigEndian.PutUint16(h[4:], uint16(udpHeader+len(payload)))
	return p.answer(buf, protoUDP, 6, h[:], payload)
}

// answer makes a frame from p's destination to its source. The checksum goes to a byte of the header.
func (p *packet) answer(buf []byte, proto uint8, sum int, header, payload []byte) []byte {
	be := binary.BigEndian
	b := append(buf[:0], p.frame[6:12]...)
	b = append(b, p.frame[:6]...)
	b = append(b, p.frame[12:14]...)
	src, dst := p.dst.AsSlice(), p.src.AsSlice()
	length := len(header) + len(payload)
	if p.src.Is4() {
		ip := [ipv4Header]byte{0: 0x45, 8: 64, 9: proto}
		be.PutUint16(ip[2:], uint16(ipv4Header+length))
		copy(ip[12:], src)
		copy(ip[16:], dst)
		be.PutUint16(ip[10:], ^fold(checksum(0, ip[:])))
		b = append(b, ip[:]...)
	} else {
		ip := [ipv6Header]byte{0: 0x60, 6: proto, 7: 64}
		be.PutUint16(ip[4:], uint16(length))
		copy(ip[8:], src)
		copy(ip[24:], dst)
		b = append(b, ip[:]...)
	}
	at := len(b)
	b = append(append(b, header...), payload...)
	var total uint32
	if proto != protoICMP {
		pseudo := [8]byte{2: byte(length >> 8), 3: byte(length), 7: proto}
		total = checksum(checksum(checksum(0, src), dst), pseudo[:])
	}
	s := ^fold(checksum(total, b[at:]))
	if s == 0 && proto == protoUDP {
		s = 0xffff
	}
	be.PutUint16(b[at+sum:], s)
	return b
}

// checksum adds the 16-bit words of b, as RFC 1071 says.
func checksum(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
