package netrule

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		egress, ingress string // separated by spaces
		want            string // of the error; "" for none
	}{
		{"api.example.com:443 10.0.0.0/8:5432/tcp *.amazonaws.com:443", "443 8000-8010/udp", ""},
		{"imds vsock * *:443 example.com example.com./tcp [2001:db8::/32]:443 [::1] 192.0.2.1/udp", "", ""},
		{"xn--bcher-kva.example _dns.example.com:53-54", "", ""},
		{"", "443 443/tcp", ""},
		{"Example.COM:443 example.com.:443", "", `egress rule "example.com.:443": it repeats "Example.COM:443"`},
		{"10.0.0.0/33:443", "", `egress rule "10.0.0.0/33:443": column 10: prefix length "33", expected 0 to 32`},
		{"10.1.0.0/8", "", "column 1: the address has bits beyond its prefix, expected 10.0.0.0/8"},
		{"::1:443", "", "column 1: expected one colon; an IPv6 address needs brackets"},
		{"[::1", "", "column 5: expected ]"},
		{"[::1]443", "", "column 6: expected :PORT"},
		{"[192.0.2.1]:443", "", "column 2: expected an IPv6 address in the brackets"},
		{"[::ffff:192.0.2.1]:443", "", "column 2: expected an address without a zone"},
		{"[fe80::1%eth0]:443", "", "column 2: expected an address without a zone"},
		{"169.254.169.254:80", "", "column 1: this is the instance metadata: write imds"},
		{"[fd00:ec2::254]", "", "column 2: this is the instance metadata: write imds"},
		{"bücher.example", "", "column 2: expected ASCII: write a name of other letters in punycode"},
		{"exa$mple.com:443", "", `column 4: '$', expected a name or an address`},
		{"a.*.example.com", "", `column 3: '*', expected a name or an address`},
		{"a..example.com", "", "column 3: label of 0 bytes, expected 1 to 63"},
		{"*..", "", "column 3: label of 0 bytes"},
		{"10.0.0:443", "", "it is neither a name nor an address"},
		{"1.2.3.4.5", "", "it is neither a name nor an address"},
		{strings.Repeat("a", 64) + ".com", "", "label of 64 bytes, expected 1 to 63"},
		{strings.Repeat("a.", 127) + "com", "", "name of 257 bytes, the limit is 253"},
		{strings.Repeat("a", 400), "", "400 bytes, the limit is 300"},
		{"example.com:0", "", `column 13: port "0", expected 1 to 65535`},
		{"example.com:https", "", `column 13: port "https"`},
		{"example.com:443-80", "", "column 13: the first port is larger than the last"},
		{"example.com:80-", "", `column 16: port "", expected 1 to 65535`},
		{":443", "", "column 1: label of 0 bytes"},
		{"example.com:443/sctp", "", `port "443/sctp"`},
		{"", "https", `ingress rule "https": column 1: port "https", expected 1 to 65535`},
		{"", "443 443", `ingress rule "443": it repeats "443"`},
		{"", "imds", `ingress rule "imds"`},
	} {
		_, err := Parse(strings.Fields(c.egress), strings.Fields(c.ingress))
		if c.want == "" && err != nil {
			t.Errorf("%q %q: %v", c.egress, c.ingress, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q %q: %v, want %s", c.egress, c.ingress, err, c.want)
		}
	}
	if _, err := Parse([]string{""}, nil); err == nil {
		t.Error("an empty rule was accepted")
	}
	if _, err := Parse(make([]string, MaxRules+1), nil); err == nil ||
		!strings.Contains(err.Error(), "257 rules, the limit is 256") {
		t.Error(err)
	}
}

func TestAllowVSOCK(t *testing.T) {
	for egress, want := range map[string]bool{"": true, "example.com": false, "*": false, "* vsock": true} {
		r, err := Parse(strings.Fields(egress), nil)
		if err != nil || r.AllowVSOCK() != want {
			t.Errorf("%q: %v %v", egress, r, err)
		}
	}
}

// FuzzParse checks that what is accepted has a host that some packet can match, and one meaning.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"api.example.com:443", "10.0.0.0/8:5432/tcp", "*.amazonaws.com:1-2/udp",
		"imds",
		"[2001:db8::/32]:443", "*", "a.b.:65535", "[::ffff:1.2.3.4]", "é", "[]:1", "/tcp", "1-2/udp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := parseEgress(s); err == nil {
			hosts := 0
			for _, has := range []bool{r.word != "", r.any, r.prefix.IsValid(), r.name != ""} {
				if has {
					hosts++
				}
			}
			if hosts != 1 || r.low > r.high || len(r.name) > maxName+1 {
				t.Fatalf("%q: %+v", s, r)
			}
			if again, err := parseEgress(strings.ToUpper(s)); r.name != "" && r.proto == 0 &&
				(err != nil || again != r) {
				t.Fatalf("%q: case matters: %+v %v", s, again, err)
			}
		}
		if r, err := parseIngress(s); err == nil && (r.low == 0 || r.low > r.high) {
			t.Fatalf("%q: %+v", s, r)
		}
	})
}
