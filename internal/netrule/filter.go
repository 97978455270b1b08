package netrule

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Reasons of refusals, as fixed words.
const (
	ReasonEgress    = "egress"    // no rule of egress allows the destination
	ReasonDNS       = "dns"       // no rule of egress allows the name
	ReasonIMDS      = "imds"      // the instance metadata
	ReasonIngress   = "ingress"   // no rule of ingress allows the port
	ReasonFragment  = "fragment"  // a fragment of an IP packet
	ReasonMalformed = "malformed" // lengths that contradict each other, or an unknown protocol
)

// Limits of what a filter remembers.
const (
	maxFlows   = 8 << 10 // flows of one generation, of which there are two
	generation = 2 * 3600
	maxLearned = 4096
	minTTL     = 60        // seconds; a program resolves first and connects later
	maxTTL     = 24 * 3600 // seconds
)

// A Refusal is a packet that the rules do not allow.
type Refusal struct {
	Reason string
	Proto  string         // "tcp", "udp", "icmp", or empty
	Remote netip.AddrPort // the other side; the port of ingress is the enclave's
	Name   string         // for ReasonDNS, if it could be read
}

// String returns words for people, such as "tcp 192.0.2.1:443".
func (r *Refusal) String() string {
	switch {
	case r.Reason == ReasonDNS && r.Name != "":
		return "name " + r.Name
	case r.Reason == ReasonDNS:
		return "a query that is not one plain name"
	case r.Proto == "":
		return "packet"
	case r.Proto == "icmp":
		return "icmp " + r.Remote.Addr().String()
	case r.Reason == ReasonIngress:
		return r.Proto + " port " + strconv.Itoa(int(r.Remote.Port())) + " from " + r.Remote.Addr().String()
	}
	return r.Proto + " " + r.Remote.String()
}

// A flow is what the packets of one connection have in common, seen from the enclave.
type flow struct {
	remote       [16]byte
	local, other uint16
	proto        uint8
}

// A lease is an address that was learned from an answer to an allowed name.
type lease struct {
	until int64
	rules [MaxRules / 64]uint64 // the rules of egress that allow its names
}

// A Filter enforces rules. It is not safe for concurrent use.
type Filter struct {
	// Refused is called for each refusal. It may be nil.
	Refused func(*Refusal)

	rules    *Rules
	resolver [2]netip.Addr // the gateway, which answers DNS
	flows    [2]map[flow]struct{}
	rotated  int64
	learned  map[netip.Addr]lease
	buf      []byte
}

// NewFilter returns a filter for an enclave whose gateway, at one address of each family, answers DNS.
func NewFilter(rules *Rules, gateway4, gateway6 netip.Addr) *Filter {
	return &Filter{rules: rules, resolver: [2]netip.Addr{gateway4, gateway6},
		flows:   [2]map[flow]struct{}{{}, {}},
		learned: map[netip.Addr]lease{}, buf: make([]byte, 0, 2048)}
}

// limited reports whether anything but the instance metadata is refused.
func (f *Filter) limited() bool { return len(f.rules.egress)+len(f.rules.ingress) > 0 }

// Out judges a frame from the enclave at a time in seconds, which never goes backwards. pass means to send it
// to the parent. Otherwise answer is a frame for the enclave, nil for none, which is valid until the next
// call.
func (f *Filter) Out(frame []byte, now int64) (pass bool, answer []byte) {
	p := parse(frame)
	switch p.form {
	case formARP:
		return true, nil
	case formNeighbour:
		return p.dst.IsMulticast() || f.isResolver(p.dst), nil
	case formMalformed, formOther:
		if !p.dst.IsMulticast() { // reports of group membership have extension headers
			f.refuse(&p, ReasonMalformed, p.dst, 0, "")
		}
		return false, nil
	}
	if IsMetadata(p.dst) && !f.rules.imds {
		f.refuse(&p, ReasonIMDS, p.dst, p.dport, "")
		return false, p.reply(f.buf)
	}
	if !f.limited() {
		return true, nil
	}
	if p.form == formFragment {
		f.refuse(&p, ReasonFragment, p.dst, 0, "")
		return false, nil
	}
	key := flow{p.dst.As16(), p.sport, p.dport, p.proto}
	if len(f.rules.egress) == 0 {
		f.keep(key, now)
		return true, nil
	}
	if f.isResolver(p.dst) && p.dport == dnsPort && (p.form == formTCP || p.form == formUDP) {
		if pass, answer = f.query(&p); pass {
			f.keep(key, now)
		}
		return pass, answer
	}
	if f.known(key, now) {
		return true, nil
	}
	if p.dst.IsMulticast() || p.dst.IsLinkLocalUnicast() && p.dst.Is6() || p.form == formControl ||
		p.form == formEcho && !p.request {
		return false, nil // discovery and errors, which nobody misses
	}
	if !f.allows(&p, now) {
		f.refuse(&p, ReasonEgress, p.dst, p.dport, "")
		return false, p.reply(f.buf)
	}
	f.keep(key, now)
	return true, nil
}

// In judges a frame from the parent, as Out does. answer is a frame for the parent.
func (f *Filter) In(frame []byte, now int64) (pass bool, answer []byte) {
	p := parse(frame)
	switch p.form {
	case formARP, formNeighbour:
		return true, nil
	case formMalformed, formOther:
		f.refuse(&p, ReasonMalformed, p.src, 0, "")
		return false, nil
	}
	if !f.limited() {
		return true, nil
	}
	if p.form == formFragment {
		f.refuse(&p, ReasonFragment, p.src, 0, "")
		return false, nil
	}
	key := flow{p.src.As16(), p.dport, p.sport, p.proto}
	known := f.known(key, now)
	if known && p.sport == dnsPort && f.isResolver(p.src) && len(f.rules.egress) > 0 {
		f.learn(&p, now)
	}
	if known || p.form == formControl {
		return true, nil
	}
	if len(f.rules.ingress) > 0 {
		open := false
		for i := range f.rules.ingress {
			open = open || p.form != formEcho && f.rules.ingress[i].ported(p.proto, p.dport)
		}
		if !open {
			f.refuse(&p, ReasonIngress, p.src, p.dport, "")
			return false, p.reply(f.buf)
		}
	}
	f.keep(key, now)
	return true, nil
}

func (f *Filter) isResolver(a netip.Addr) bool { return a == f.resolver[0] || a == f.resolver[1] }

func (f *Filter) refuse(p *packet, reason string, remote netip.Addr, port uint16, name string) {
	if f.Refused == nil {
		return
	}
	r := Refusal{Reason: reason, Remote: netip.AddrPortFrom(remote, port), Name: name}
	switch p.form {
	case formTCP:
		r.Proto = "tcp"
	case formUDP:
		r.Proto = "udp"
	case formEcho:
		r.Proto = "icmp"
	}
	f.Refused(&r)
}

// allows reports whether a rule of egress allows the destination of p.
func (f *Filter) allows(p *packet, now int64) bool {
	if IsMetadata(p.dst) {
		return f.rules.imds
	}
	port := p.dport
	if p.form == formEcho {
		port = 0
	}
	from, ok := f.learned[p.dst]
	ok = ok && from.until >= now
	for i := range f.rules.egress {
		r := &f.rules.egress[i]
		if r.ported(p.proto, port) && (r.any || r.prefix.IsValid() && r.prefix.Contains(p.dst) ||
			ok && from.rules[i/64]&(1<<(i%64)) != 0) {
			return true
		}
	}
	return false
}

// naming returns the set of rules of egress that allow a name.
func (f *Filter) naming(name string) (set [MaxRules / 64]uint64, any bool) {
	for i := range f.rules.egress {
		if f.rules.egress[i].named(name) {
			set[i/64] |= 1 << (i % 64)
			any = true
		}
	}
	return set, any
}

// query judges a packet to the resolver: every question in it must be for an allowed name. A segment of TCP
// must hold whole queries: a filter that reassembled streams would have to bound them.
func (f *Filter) query(p *packet) (pass bool, answer []byte) {
	refused := ""
	pass = messages(p, func(b []byte) bool {
		name, end, ok := readQuestion(b, false)
		if ok {
			if _, ok = f.naming(name); !ok && p.form == formUDP {
				answer = p.refusedAnswer(f.buf, b[:end])
			}
			refused = name
		}
		return ok
	})
	if pass {
		return true, nil
	}
	f.refuse(p, ReasonDNS, p.dst, p.dport, refused)
	if answer == nil {
		answer = p.reply(f.buf)
	}
	return false, answer
}

// refusedAnswer answers a query with REFUSED (RFC 1035, section 4.1.1).
func (p *packet) refusedAnswer(buf, question []byte) []byte {
	var b [dnsHeader + maxName + 2 + 4]byte
	n := copy(b[:], question)
	b[2], b[3] = b[2]|flagResponse>>8, rcodeRefused
	clear(b[6:dnsHeader]) // counts of the sections that were cut off
	return p.datagram(buf, b[:n])
}

// messages calls do for each DNS message of a packet until it returns false. It returns false then, and if
// the packet holds a part of a message.
func messages(p *packet, do func([]byte) bool) bool {
	if p.form == formUDP {
		return do(p.payload)
	}
	for b := p.payload; len(b) > 0; {
		if len(b) < 2 {
			return false
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		if n > len(b) || !do(b[2:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// learn remembers the addresses in answers of the resolver to allowed names.
func (f *Filter) learn(p *packet, now int64) {
	messages(p, func(b []byte) bool {
		readAnswers(b, func(name string, a netip.Addr, ttl uint32) {
			set, any := f.naming(name)
			if !any {
				return
			}
			l, ok := f.learned[a]
			if !ok && len(f.learned) >= maxLearned {
				f.forget(now)
			}
			l.until = max(l.until, now+min(max(int64(ttl), minTTL), maxTTL))
			for i := range l.rules {
				l.rules[i] |= set[i]
			}
			f.learned[a] = l
		})
		return true
	})
}

// forget removes the addresses that have expired, and an eighth of the others if there are none.
func (f *Filter) forget(now int64) {
	for a, l := range f.learned {
		if l.until < now {
			delete(f.learned, a)
		}
	}
	for a := range f.learned {
		if len(f.learned) <= maxLearned-maxLearned/8 {
			return
		}
		delete(f.learned, a)
	}
}

// known reports whether a flow was allowed before, and remembers that it was used: a connection outlives the
// address that was learned for it.
func (f *Filter) known(key flow, now int64) bool {
	if _, ok := f.flows[0][key]; ok {
		return true
	}
	_, ok := f.flows[1][key]
	if ok {
		f.keep(key, now)
	}
	return ok
}

// keep remembers a flow. Those that were not used for a whole generation are forgotten.
func (f *Filter) keep(key flow, now int64) {
	if len(f.flows[0]) >= maxFlows || now-f.rotated > generation {
		f.flows[0], f.flows[1] = f.flows[1], f.flows[0]
		clear(f.flows[0])
		f.rotated = now
	}
	f.flows[0][key] = struct{}{}
}
