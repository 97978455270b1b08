// Package netrule is what an enclave with a network may reach and who may reach it: the rules of 'neb eif
// build --egress' and '--ingress', and the packet filter that enforces them between the enclave's TAP device
// and its parent.
//
// It moves no packets itself. cmd/init measures and loads all of it, so it does without fmt.
package netrule

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Words that are rules of egress of their own.
const (
	IMDS  = "imds"  // the parent's instance metadata, which no other rule allows
	VSOCK = "vsock" // sockets of the family vsock in the enclave; the rules do not reach into them
	Any   = "*"     // every name and address, where a rule has a host; never the instance metadata
)

// Limits of a list of rules.
const (
	MaxRules = 256 // of one direction
	maxText  = 300 // bytes of one rule
	maxName  = 253 // bytes of a name (RFC 1035, without the final dot)
)

// Numbers of protocols (IANA).
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// metadata are the addresses of the instance metadata service.
var metadata = []netip.Addr{
	netip.AddrFrom4([4]byte{169, 254, 169, 254}),
	netip.AddrFrom16([16]byte{0xfd, 0, 0x0e, 0xc2, 14: 0x02, 15: 0x54}), // fd00:ec2::254
}

// IsMetadata reports whether a is an address of the instance metadata service.
func IsMetadata(a netip.Addr) bool { return a == metadata[0] || a == metadata[1] }

// A rule is comparable: equal rules are the same.
type rule struct {
	word      string       // IMDS or VSOCK
	any       bool         // every host; in ingress: every peer
	prefix    netip.Prefix // valid: the hosts with these addresses
	name      string       // the host of this name; with a leading dot: all below it
	low, high uint16       // ports; 0 and 0: all, and ICMP echo
	proto     uint8        // 0: TCP and UDP
}

// Rules are the rules of both directions. A direction without a rule is not limited, but for the instance
// metadata.
type Rules struct {
	egress, ingress []rule
	imds, vsock     bool
}

// Parse parses the rules of both directions. An error names the rule, and the column in it.
func Parse(egress, ingress []string) (*Rules, error) {
	r := &Rules{}
	for _, direction := range []struct {
		name  string
		texts []string
		parse func(string) (rule, error)
		to    *[]rule
	}{
		{"egress", egress, parseEgress, &r.egress}, {"ingress", ingress, parseIngress, &r.ingress},
	} {
		if len(direction.texts) > MaxRules {
			return nil, errors.New(direction.name + ": " + strconv.Itoa(len(direction.texts)) +
				" rules, the limit is " + strconv.Itoa(MaxRules))
		}
		first := map[rule]string{}
		for _, text := range direction.texts {
			one, err := direction.parse(text)
			if err == nil && first[one] != "" {
				err = errors.New("it repeats " + strconv.Quote(first[one]))
			}
			if err != nil {
				return nil, errors.New(direction.name + " rule " + strconv.Quote(text) + ": " + err.Error())
			}
			first[one] = text
			r.imds = r.imds || one.word == IMDS
			r.vsock = r.vsock || one.word == VSOCK
			*direction.to = append(*direction.to, one)
		}
	}
	return r, nil
}

// AllowVSOCK reports whether the enclave's processes may open vsock sockets: if egress is limited, they need
// a rule for that, because rules do not reach into them.
func (r *Rules) AllowVSOCK() bool { return r.vsock || len(r.egress) == 0 }

func column(i int, what string) error {
	return errors.New("column " + strconv.Itoa(i+1) + ": " + what)
}

// parseEgress parses HOST[:PORT[-PORT]][/tcp|/udp], imds or vsock. HOST is a name, *.NAME, *, an IPv4 address
// or prefix, or one of IPv6 in brackets.
func parseEgress(text string) (rule, error) {
	if text == IMDS || text == VSOCK {
		return rule{word: text}, nil
	}
	if len(text) > maxText {
		return rule{}, errors.New(strconv.Itoa(len(text)) + " bytes, the limit is " + strconv.Itoa(maxText))
	}
	var r rule
	rest := cutProtocol(text, &r)
	host, from := rest, 0
	ports := len(rest) // where ":PORT" begins
	if strings.HasPrefix(rest, "[") {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return r, column(len(rest), "expected ]")
		}
		host, from, ports = rest[1:end], 1, end+1
		if a, _, _ := strings.Cut(host, "/"); !strings.Contains(a, ":") {
			return r, column(1, "expected an IPv6 address in the brackets")
		}
	} else if i := strings.IndexByte(rest, ':'); i >= 0 {
		host, ports = rest[:i], i
		if strings.Contains(rest[i+1:], ":") {
			return r, column(i, "expected one colon; an IPv6 address needs brackets: [::1]:443")
		}
	}
	if ports < len(rest) {
		if rest[ports] != ':' {
			return r, column(ports, "expected :PORT")
		}
		if err := parsePorts(rest, ports+1, &r); err != nil {
			return r, err
		}
	}
	return r, parseHost(host, from, &r)
}

// parseIngress parses PORT[-PORT][/tcp|/udp].
func parseIngress(text string) (rule, error) {
	r := rule{any: true}
	return r, parsePorts(cutProtocol(text, &r), 0, &r)
}

func cutProtocol(text string, r *rule) string {
	for _, p := range []struct {
		suffix string
		number uint8
	}{{"/tcp", protoTCP}, {"/udp", protoUDP}} {
		if rest, ok := strings.CutSuffix(text, p.suffix); ok {
			r.proto = p.number
			return rest
		}
	}
	return text
}

// parsePorts parses the ports in text from a byte on.
func parsePorts(text string, from int, r *rule) error {
	low, high, ranged := strings.Cut(text[from:], "-")
	for _, one := range []struct {
		text string
		at   int
		to   *uint16
	}{{low, from, &r.low}, {high, from + len(low) + 1, &r.high}} {
		if one.to == &r.high && !ranged {
			r.high = r.low
			break
		}
		n, err := strconv.ParseUint(one.text, 10, 16)
		if err != nil || n == 0 {
			return column(one.at, "port "+strconv.Quote(one.text)+", expected 1 to 65535")
		}
		*one.to = uint16(n)
	}
	if r.low > r.high {
		return column(from, "the first port is larger than the last")
	}
	return nil
}

// parseHost parses the host of a rule, which begins at a byte of it.
func parseHost(host string, from int, r *rule) error {
	if host == Any {
		r.any = true
		return nil
	}
	address, bits, isPrefix := strings.Cut(host, "/")
	if a, err := netip.ParseAddr(address); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return column(from, "expected an address without a zone, and IPv4 as 192.0.2.1")
		}
		if a.Is6() && from == 0 {
			return column(from, "an IPv6 address needs brackets: [::1]:443")
		}
		n := a.BitLen()
		if isPrefix {
			n, err = strconv.Atoi(bits)
			if err != nil || n < 0 || n > a.BitLen() {
				return column(from+len(address)+1,
					"prefix length "+strconv.Quote(bits)+", expected 0 to "+strconv.Itoa(a.BitLen()))
			}
		}
		r.prefix = netip.PrefixFrom(a, n)
		if masked := r.prefix.Masked(); masked != r.prefix {
			return column(from, "the address has bits beyond its prefix, expected "+masked.String())
		}
		if r.prefix.IsSingleIP() && IsMetadata(a) {
			return column(from, "this is the instance metadata: write "+IMDS)
		}
		return nil
	}
	return parseName(host, from, r)
}

func parseName(host string, from int, r *rule) error {
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name, from, r.name = rest, from+2, "."
	}
	if len(name) > maxName {
		return column(from, "name of "+strconv.Itoa(len(name))+" bytes, the limit is "+strconv.Itoa(maxName))
	}
	digits := true // in the last label
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > maxLabel {
			return column(from, "label of "+strconv.Itoa(len(label))+" bytes, expected 1 to "+
				strconv.Itoa(maxLabel))
		}
		digits = true
		for i := 0; i < len(label); i++ {
			c := label[i]
			if c >= 0x80 {
				return column(from+i, "expected ASCII: write a name of other letters in punycode (xn--…)")
			}
			if !hostByte(c) {
				return column(from+i, strconv.QuoteRune(rune(c))+", expected a name or an address")
			}
			digits = digits && '0' <= c && c <= '9'
		}
		from += len(label) + 1
	}
	if digits {
		return column(from-1, "it is neither a name nor an address")
	}
	r.name += name
	return nil
}

// hostByte reports whether names of hosts may have c. Labels of services begin with '_'.
func hostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// named reports whether the rule allows a name, in lower case and without a final dot.
func (r *rule) named(name string) bool {
	return r.any || r.name != "" && (r.name == name || r.name[0] == '.' && strings.HasSuffix(name, r.name))
}

// ported reports whether the rule allows a port of a protocol; port 0 is an ICMP echo.
func (r *rule) ported(proto uint8, port uint16) bool {
	if r.word != "" || r.proto != 0 && r.proto != proto {
		return false
	}
	return r.low == 0 || r.low <= port && port <= r.high
}
