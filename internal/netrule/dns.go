package netrule

import (
	"encoding/binary"
	"net/netip"
)

// Messages of the Domain Name System, RFC 1035, as far as a filter needs them.
const (
	dnsPort    = 53
	dnsHeader  = 12
	maxLabel   = 63
	maxPointer = 32 // jumps in one name
	maxAnswers = 64 // records of one message that are read
	maxAliases = 16 // names of one chain of aliases

	flagResponse = 0x8000
	maskOpcode   = 0x7800
	rcodeRefused = 5

	typeA, typeCNAME, typeAAAA = 1, 5, 28
	classIN                    = 1
)

// readName reads the name at a byte of a message, in lower case and without a final dot, and returns the byte
// after it. ok is false for a name that cannot be one of a host: with other bytes than names have, or with
// pointers that do not lead backwards.
func readName(b []byte, at int) (name string, next int, ok bool) {
	var text [maxName + 1]byte
	n, low := 0, at
	for jumps := 0; at < len(b); {
		switch c := int(b[at]); {
		case c == 0:
			if jumps == 0 {
				next = at + 1
			}
			return string(text[:max(n-1, 0)]), next, true
		case c >= 0xc0:
			if at+1 >= len(b) || jumps == maxPointer {
				return "", 0, false
			}
			if jumps++; jumps == 1 {
				next = at + 2
			}
			if at = c&0x3f<<8 | int(b[at+1]); at >= low {
				return "", 0, false
			}
			low = at
		case c > maxLabel || at+1+c > len(b) || n+c+1 > len(text):
			return "", 0, false
		default:
			for _, l := range b[at+1 : at+1+c] {
				if 'A' <= l && l <= 'Z' {
					l += 'a' - 'A'
				}
				if !hostByte(l) {
					return "", 0, false
				}
				text[n] = l
				n++
			}
			text[n] = '.'
			n++
			at += 1 + c
		}
	}
	return "", 0, false
}

// readQuestion reads the only question of a query or answer, and returns the byte after it.
func readQuestion(b []byte, response bool) (name string, next int, ok bool) {
	if len(b) < dnsHeader {
		return "", 0, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	if flags&flagResponse != 0 != response || flags&maskOpcode != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return "", 0, false
	}
	name, next, ok = readName(b, dnsHeader)
	return name, next + 4, ok && next+4 <= len(b)
}

// readAnswers calls learn for each address of the name that was asked for or of its aliases.
func readAnswers(b []byte, learn func(name string, a netip.Addr, ttl uint32)) {
	name, at, ok := readQuestion(b, true)
	if !ok {
		return
	}
	aliases := []string{name}
	for range min(int(binary.BigEndian.Uint16(b[6:])), maxAnswers) {
		owner, next, ok := readName(b, at)
		if !ok || next+10 > len(b) {
			return
		}
		kind, class := binary.BigEndian.Uint16(b[next:]), binary.BigEndian.Uint16(b[next+2:])
		ttl, data := binary.BigEndian.Uint32(b[next+4:]), next+10
		if at = data + int(binary.BigEndian.Uint16(b[next+8:])); at > len(b) {
			return
		}
		ours := false
		for _, a := range aliases {
			ours = ours || a == owner
		}
		if !ours || class != classIN {
			continue
		}
		switch {
		case kind == typeCNAME && len(aliases) < maxAliases:
			if alias, _, ok := readName(b, data); ok {
				aliases = append(aliases, alias)
			}
		case kind == typeA && at-data == 4, kind == typeAAAA && at-data == 16:
			a, _ := netip.AddrFromSlice(b[data:at])
			learn(name, a, ttl)
		}
	}
}
