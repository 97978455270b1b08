package netrule

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

var (
	enclave4, enclave6 = netip.MustParseAddr("192.168.127.2"), netip.MustParseAddr("fd6e:6562::2")
	gateway4, gateway6 = netip.MustParseAddr("192.168.127.1"), netip.MustParseAddr("fd6e:6562::1")
)

// bench is a filter, what it refused, and the clock.
type bench struct {
	*Filter
	t       testing.TB
	refused []string
	now     int64
}

func newBench(t testing.TB, egress, ingress string) *bench {
	t.Helper()
	r, err := Parse(strings.Fields(egress), strings.Fields(ingress))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Filter: NewFilter(r, gateway4, gateway6), t: t}
	b.Refused = func(r *Refusal) { b.refused = append(b.refused, r.Reason+" "+r.String()) }
	return b
}

// frame makes a frame with an IP packet, by means of answer, which is checked on its own.
func frame(proto uint8, from, to netip.AddrPort, payload []byte) []byte {
	p := packet{frame: make([]byte, 14), src: to.Addr(), dst: from.Addr(), sport: to.Port(),
		dport: from.Port()}
	copy(p.frame, "\x02AAAAA\x02BBBBB")
	binary.BigEndian.PutUint16(p.frame[12:], etherIPv4)
	if from.Addr().Is6() {
		binary.BigEndian.PutUint16(p.frame[12:], etherIPv6)
	}
	h := make([]byte, 8)
	switch proto {
	case protoUDP:
		return p.datagram(nil, payload)
	case protoTCP:
		h = make([]byte, tcpHeader)
		binary.BigEndian.PutUint16(h, from.Port())
		binary.BigEndian.PutUint16(h[2:], to.Port())
		binary.BigEndian.PutUint32(h[4:], 1000)
		h[12], h[13] = 5<<4, tcpSYN
		if len(payload) > 0 {
			h[13] = tcpACK
		}
		return p.answer(nil, proto, 16, h, payload)
	case protoICMP:
		h[0] = 8
	case protoICMPv6:
		h[0] = 128
	}
	return p.answer(nil, proto, 2, h, payload)
}

func port(a netip.Addr, n uint16) netip.AddrPort { return netip.AddrPortFrom(a, n) }

// send sends from the enclave to an address such as "tcp 192.0.2.1:443", and returns "pass" or what the
// enclave is told.
func (b *bench) send(to string, payload ...byte) string {
	b.t.Helper()
	proto, text, _ := strings.Cut(to, " ")
	dst, err := netip.ParseAddrPort(text)
	if err != nil {
		b.t.Fatal(err)
	}
	src := enclave4
	if dst.Addr().Is6() {
		src = enclave6
	}
	n := map[string]uint8{"tcp": protoTCP, "udp": protoUDP, "icmp": protoICMP}[proto]
	if n == protoICMP && dst.Addr().Is6() {
		n = protoICMPv6
	}
	return b.verdict(frame(n, port(src, 40000), dst, payload), b.Out)
}

func (b *bench) verdict(f []byte, judge func([]byte, int64) (bool, []byte)) string {
	b.t.Helper()
	pass, answer := judge(f, b.now)
	switch {
	case pass && answer == nil:
		return "pass"
	case pass:
		b.t.Fatal("passed and answered")
	case answer == nil:
		return "drop"
	}
	sent, a := parse(f), parse(answer)
	if a.src != sent.dst || a.dst != sent.src || !bytes.Equal(answer[:6], f[6:12]) {
		b.t.Fatalf("answer from %v to %v", a.src, a.dst)
	}
	checkSums(b.t, &a)
	switch a.form {
	case formTCP:
		if a.transport[13]&tcpRST == 0 || a.dport != sent.sport {
			b.t.Fatalf("%x is not a reset", answer)
		}
		return "reset"
	case formUDP:
		if binary.BigEndian.Uint16(a.payload[2:])&0x800f != 0x8005 {
			b.t.Fatalf("%x does not refuse", a.payload)
		}
		return "REFUSED"
	}
	if kind := a.transport[:2]; !bytes.Equal(kind, []byte{3, 13}) && !bytes.Equal(kind, []byte{1, 1}) {
		b.t.Fatalf("%x is not a prohibition", answer)
	}
	return "prohibited"
}

// checkSums checks the checksums as a receiver does: with the stored one, the sum is all ones.
func checkSums(t testing.TB, p *packet) {
	t.Helper()
	sum := uint32(0)
	if p.src.Is4() && fold(checksum(0, p.ip[:ipv4Header])) != 0xffff {
		t.Errorf("%x: wrong checksum of the IP header", p.ip)
	}
	if p.proto != protoICMP {
		pseudo := append(p.src.AsSlice(), p.dst.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(p.transport)))
		sum = checksum(sum, append(pseudo, 0, 0, 0, p.proto))
	}
	if fold(checksum(sum, p.transport)) != 0xffff {
		t.Errorf("%x: wrong checksum of protocol %d", p.transport, p.proto)
	}
}

// message makes a DNS message with one question and records.
func message(flags uint16, name string, records ...[]byte) []byte {
	b := []byte{0xab, 0xcd, byte(flags >> 8), byte(flags), 0, 1, 0, byte(len(records)), 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[6:], uint16(len(records)))
	b = append(append(b, wire(name)...), 0, 1, 0, 1)
	return append(b, bytes.Join(records, nil)...)
}

func wire(name string) []byte {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

func record(name string, kind uint16, ttl uint32, data []byte) []byte {
	b := append(wire(name), byte(kind>>8), byte(kind), 0, classIN)
	b = binary.BigEndian.AppendUint32(b, ttl)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func address(name, a string, ttl uint32) []byte {
	ip := netip.MustParseAddr(a)
	if ip.Is6() {
		return record(name, typeAAAA, ttl, ip.AsSlice())
	}
	return record(name, typeA, ttl, ip.AsSlice())
}

// answer delivers an answer of the resolver to a query that was sent over UDP.
func (b *bench) answer(name string, records ...[]byte) {
	b.t.Helper()
	if got := b.send("udp 192.168.127.1:53", message(0x0100, name)...); got != "pass" {
		b.t.Fatalf("query for %s: %s", name, got)
	}
	f := frame(protoUDP, port(gateway4, 53), port(enclave4, 40000), message(0x8180, name, records...))
	if got := b.verdict(f, b.In); got != "pass" {
		b.t.Fatal(got)
	}
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s, want %s", got, want)
	}
}

func TestUnlimited(t *testing.T) {
	b := newBench(t, "", "")
	for _, to := range []string{"tcp 192.0.2.1:443", "udp 192.0.2.1:53", "icmp 192.0.2.1:0",
		"tcp [2001:db8::1]:443", "udp 192.168.127.1:53"} {
		b.want(b.send(to, 1, 2, 3), "pass")
	}
	b.want(b.send("tcp 169.254.169.254:80"), "reset")
	b.want(b.send("udp [fd00:ec2::254]:80"), "prohibited")
	b.want(newBench(t, "imds", "").send("tcp 169.254.169.254:80"), "pass")
}

func TestEgress(t *testing.T) {
	b := newBench(t, "10.0.0.0/8:5432/tcp 192.0.2.7 [2001:db8::/32]:443 api.example.com:443 imds", "")
	for to, want := range map[string]string{
		"tcp 10.1.2.3:5432":       "pass",
		"udp 10.1.2.3:5432":       "prohibited",
		"tcp 10.1.2.3:5433":       "reset",
		"icmp 10.1.2.3:0":         "prohibited",
		"tcp 11.1.2.3:5432":       "reset",
		"tcp 192.0.2.7:1":         "pass",
		"udp 192.0.2.7:9":         "pass",
		"icmp 192.0.2.7:0":        "pass",
		"udp [2001:db8::5]:443":   "pass",
		"tcp [2001:db9::5]:443":   "reset",
		"icmp [2001:db8::5]:0":    "prohibited",
		"tcp 169.254.169.254:80":  "pass",
		"udp 224.0.0.251:5353":    "drop",
		"udp [ff02::fb]:5353":     "drop",
		"tcp 192.168.127.1:8080":  "reset",
		"udp 8.8.8.8:53":          "prohibited",
		"tcp 255.255.255.255:443": "reset",
	} {
		if got := b.send(to); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
	b.refused = nil
	b.send("tcp 203.0.113.1:443")
	b.send("icmp 203.0.113.1:0")
	if got := fmt.Sprint(b.refused); got != "[egress tcp 203.0.113.1:443 egress icmp 203.0.113.1]" {
		t.Error(got)
	}
}

// The queries for names outside are refused, and those of other forms rejected.
func TestNames(t *testing.T) {
	b := newBench(t, "api.example.com:443 *.amazonaws.com", "")
	for name, want := range map[string]string{
		"api.example.com":             "pass",
		"API.Example.com":             "pass",
		"kms.eu-west-1.amazonaws.com": "pass",
		"amazonaws.com":               "REFUSED",
		"evilamazonaws.com":           "REFUSED",
		"api.example.com.evil.org":    "REFUSED",
		"xn--bcher-kva.example":       "REFUSED",
	} {
		query := message(0x0100, name)
		if got := b.send("udp 192.168.127.1:53", query...); got != want {
			t.Errorf("%s over UDP: %s, want %s", name, got, want)
		}
		over := map[string]string{"pass": "pass", "REFUSED": "reset"}[want]
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
		if got := b.send("tcp 192.168.127.1:53", framed...); got != over {
			t.Errorf("%s over TCP: %s, want %s", name, got, over)
		}
		if got := b.send("tcp 192.168.127.1:53", append(framed, framed...)...); got != over {
			t.Errorf("%s twice over TCP: %s, want %s", name, got, over)
		}
		if got := b.send("tcp 192.168.127.1:53", framed[:len(framed)-1]...); got != "reset" {
			t.Errorf("%s cut over TCP: %s", name, got)
		}
	}
	good := message(0x0100, "api.example.com")
	two := bytes.Clone(good)
	two[5] = 2
	dotted := message(0x0100, "api")
	dotted = append(append(dotted[:12:12], "\x0fapi.example.com"...), 0, 0, 1, 0, 1)
	for what, query := range map[string][]byte{
		"empty": {}, "cut": good[:20], "an answer": message(0x8180, "api.example.com"),
		"two questions": two, "an update": message(0x2800, "api.example.com"), "a dot in a label": dotted,
	} {
		if got := b.send("udp 192.168.127.1:53", query...); got != "prohibited" {
			t.Errorf("%s: %s", what, got)
		}
	}
	b.refused = nil
	b.send("udp 192.168.127.1:53", message(0x0100, "evil.org")...)
	b.want(fmt.Sprint(b.refused), "[dns name evil.org]")
}

func TestLearn(t *testing.T) {
	b := newBench(t, "api.example.com:443 *.amazonaws.com", "")
	b.want(b.send("tcp 192.0.2.1:443"), "reset")
	b.answer("api.example.com", address("api.example.com", "192.0.2.1", 300),
		address("other.example.com", "192.0.2.2", 300), // nobody asked for it
		address("api.example.com", "2001:db8::1", 0))
	b.want(b.send("tcp 192.0.2.1:443"), "pass")
	b.want(b.send("tcp 192.0.2.1:80"), "reset")
	b.want(b.send("tcp 192.0.2.2:443"), "reset")
	b.want(b.send("tcp [2001:db8::1]:443"), "pass") // for minTTL

	b.answer("s3.amazonaws.com", record("s3.amazonaws.com", typeCNAME, 5, wire("S3.cdn.example")),
		record("s3.cdn.example", typeCNAME, 5, wire("s3.amazonaws.com")), // a loop
		address("s3.cdn.example", "192.0.2.3", 1<<31))
	b.want(b.send("tcp 192.0.2.3:80"), "pass")

	b.now += 301
	b.want(b.send("tcp 192.0.2.1:443"), "pass") // an open connection outlives the address
	b.want(b.verdict(frame(protoTCP, port(enclave4, 40001), netip.MustParseAddrPort("192.0.2.1:443"), nil),
		b.Out),
		"reset")
	b.now += maxTTL
	b.want(b.verdict(frame(protoTCP, port(enclave4, 40001), netip.MustParseAddrPort("192.0.2.3:80"), nil),
		b.Out),
		"reset")
}

// Over TCP and IPv6, and only from the resolver, and only to whom asked.
func TestLearnFrom(t *testing.T) {
	b := newBench(t, "api.example.com", "")
	reply := message(0x8180, "api.example.com", address("api.example.com", "192.0.2.1", 300))
	for _, from := range []string{"192.0.2.9:53", "192.168.127.1:54", "192.168.127.1:53"} {
		b.verdict(frame(protoUDP, netip.MustParseAddrPort(from), port(enclave4, 40000), reply), b.In)
		b.want(b.send("tcp 192.0.2.1:443"), "reset")
	}
	query := message(0x0100, "api.example.com")
	b.want(b.send("tcp [fd6e:6562::1]:53", append([]byte{0, byte(len(query))}, query...)...), "pass")
	b.verdict(frame(protoTCP, port(gateway6, 53), port(enclave6, 40000),
		append([]byte{0, byte(len(reply))}, reply...)), b.In)
	b.want(b.send("tcp 192.0.2.1:443"), "pass")
}

// Memory is bounded whatever the parent answers and the enclave asks.
func TestBounds(t *testing.T) {
	b := newBench(t, "*.example.com", "")
	var many [][]byte
	for i := range 1000 {
		many = append(many, address("a.example.com", fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), 300))
	}
	b.answer("a.example.com", many...)
	if len(b.learned) != maxAnswers {
		t.Errorf("%d addresses of one answer, want %d", len(b.learned), maxAnswers)
	}
	for i := range 10000 {
		name := fmt.Sprintf("n%d.example.com", i)
		b.answer(name, address(name, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), 300))
	}
	if len(b.learned) > maxLearned {
		t.Errorf("%d addresses, the limit is %d", len(b.learned), maxLearned)
	}
	f := newBench(t, "10.0.0.0/8", "")
	for i := range 3 * maxFlows {
		src := netip.AddrPortFrom(enclave4, uint16(i))
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), 1}), 443)
		f.verdict(frame(protoTCP, src, dst, nil), f.Out)
	}
	if n := len(f.flows[0]) + len(f.flows[1]); n > 2*maxFlows {
		t.Errorf("%d flows, the limit is %d", n, 2*maxFlows)
	}
}

func TestIngress(t *testing.T) {
	b := newBench(t, "", "443 8000-8010/udp")
	outside := netip.MustParseAddrPort("192.0.2.1:5000")
	in := func(proto uint8, n uint16) string {
		return b.verdict(frame(proto, outside, port(enclave4, n), nil), b.In)
	}
	for _, c := range []struct {
		proto uint8
		port  uint16
		want  string
	}{
		{protoTCP, 443, "pass"}, {protoUDP, 443, "pass"}, {protoTCP, 22, "reset"}, {protoUDP, 8005, "pass"},
		{protoTCP, 8005, "reset"}, {protoUDP, 8011, "prohibited"}, {protoICMP, 0, "prohibited"},
	} {
		if got := in(c.proto, c.port); got != c.want {
			t.Errorf("protocol %d port %d: %s, want %s", c.proto, c.port, got, c.want)
		}
	}
	b.want(b.send("udp 192.0.2.1:5000"), "pass") // from port 40000
	b.want(in(protoUDP, 40000), "pass")          // the answer
	b.refused = nil
	in(protoTCP, 22)
	b.want(fmt.Sprint(b.refused), "[ingress tcp port 22 from 192.0.2.1]")
	// A connection from outside may be answered, whatever the rules of egress.
	both := newBench(t, "10.0.0.1", "443")
	both.want(both.verdict(frame(protoTCP, outside, port(enclave4, 443), nil), both.In), "pass")
	both.want(both.verdict(frame(protoTCP, port(enclave4, 443), outside, nil), both.Out), "pass")
	both.want(both.verdict(frame(protoTCP, port(enclave4, 444), outside, nil), both.Out), "reset")
}

// Frames that are not a whole packet of a known protocol.
func TestOddFrames(t *testing.T) {
	good := frame(protoTCP, port(enclave4, 40000), netip.MustParseAddrPort("10.0.0.1:443"), nil)
	change := func(at int, b ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[at:], b)
		return f
	}
	vlan := append(append(bytes.Clone(good[:12]), 0x81, 0, 0, 5), good[12:]...)
	b := newBench(t, "10.0.0.0/8", "443")
	for _, c := range []struct {
		what  string
		frame []byte
		want  string
	}{
		{"good", good, "pass"}, {"padded", append(bytes.Clone(good), 0, 0, 0), "pass"},
		{"ARP", change(12, 8, 6), "pass"},
		{"empty", nil, "drop"}, {"short", good[:13], "drop"}, {"VLAN", vlan, "drop"},
		{"another protocol", change(12, 0x88, 0xcc), "drop"},
		{"cut", good[:len(good)-1], "drop"}, {"header of 0 bytes", change(14, 0x40), "drop"},
		{"version 6 in version 4", change(14, 0x65), "drop"},
		{"first fragment", change(20, 0x20, 0), "drop"}, {"last fragment", change(20, 0, 1), "drop"},
		{"SCTP", change(23, 132), "drop"}, {"TCP header of 0 bytes", change(46, 0), "drop"},
		{"TCP header of 60 bytes", change(46, 0xf0), "drop"}, {"UDP of another length", change(23, 17),
			"drop"},
		{"ICMPv6 in IPv4", change(23, 58), "drop"},
	} {
		if got := b.verdict(c.frame, b.Out); got != c.want {
			t.Errorf("%s from the enclave: %s, want %s", c.what, got, c.want)
		}
		if c.want == "drop" {
			b.want(b.verdict(c.frame, b.In), "drop")
		}
	}
	// A reset is never answered with one.
	b.want(b.verdict(change(47, tcpRST), newBench(t, "10.9.9.9", "").Out), "drop")
}

// FuzzFilter checks that a filter survives every frame, answers with frames that are whole, and passes only
// packets to where the rules allow.
func FuzzFilter(f *testing.F) {
	f.Add(frame(protoTCP, port(enclave4, 1), port(gateway4, 53), []byte{0, 3, 1, 2, 3}))
	f.Add(frame(protoUDP, port(enclave6, 1), port(gateway6, 53), message(0x0100, "a.example.com")))
	f.Add(frame(protoUDP, port(gateway4, 53), port(enclave4, 1),
		message(0x8180, "a.example.com", address("a.example.com", "192.0.2.1", 5))))
	f.Add(frame(protoICMP, port(enclave4, 0), port(netip.MustParseAddr("10.0.0.1"), 0), []byte("ping")))
	f.Fuzz(func(t *testing.T, b []byte) {
		bench := newBench(t, "10.0.0.0/8:443/tcp *.example.com", "443")
		pass, answer := bench.Out(b, 1)
		if p := parse(b); pass && p.form == formTCP && p.dport != dnsPort &&
			!(p.dport == 443 && p.dst.Is4() && p.dst.As4()[0] == 10) {
			t.Fatalf("%x passed", b)
		}
		if a := parse(answer); answer != nil && a.form != formTCP && a.form != formUDP &&
			a.form != formControl {
			t.Fatalf("%x is answered with %x", b, answer)
		}
		bench.In(b, 2)
	})
}

// FuzzAnswers checks that a learner survives every answer, and learns a bounded number of addresses for
// allowed names only.
func FuzzAnswers(f *testing.F) {
	f.Add(message(0x8180, "a.example.com", address("a.example.com", "192.0.2.1", 5)))
	f.Add(message(0x8180, "a.example.com", record("a.example.com", typeCNAME, 5, []byte{0xc0, 12}),
		[]byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4}))
	f.Add(message(0x8180, "evil.org", address("evil.org", "192.0.2.1", 5)))
	loop := message(0x8180, "a")
	f.Add(append(loop[:12:12], 0xc0, 12, 0, 1, 0, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		bench := newBench(t, "*.example.com", "")
		p := packet{form: formUDP, payload: b}
		bench.learn(&p, 1)
		if len(bench.learned) > maxAnswers {
			t.Fatalf("%d addresses", len(bench.learned))
		}
		if name, _, ok := readQuestion(b, true); len(bench.learned) > 0 &&
			(!ok || !strings.HasSuffix(name, ".example.com")) {
			t.Fatalf("learned from %q", name)
		}
	})
}
