package printable

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
)

func TestText(t *testing.T) {
	for _, c := range []struct{ text, line, stream string }{
		{"plain größe 中", "plain größe 中", "plain größe 中"},
		{"a\nb\tc", `a\nb\tc`, "a\nb\tc"},
		{"\x1b[2J\r\x7f\x00", `\x1b[2J\r\u007f\x00`, `\x1b[2J\r\u007f\x00`},
		{"\u009b31m\u202egnp", `\u009b31m\u202egnp`, `\u009b31m\u202egnp`},
		{"\u2066\u2028\u200b\ufeff", `\u2066\u2028\u200b\ufeff`, `\u2066\u2028\u200b\ufeff`},
		{"\U000e0041", `\udb40\udc41`, `\udb40\udc41`},
		{"\x9b\xff!", "\ufffd\ufffd!", "\ufffd\ufffd!"},
	} {
		if got := Line(c.text); got != c.line {
			t.Errorf("Line(%q) is %q, expected %q", c.text, got, c.line)
		}
		for size := 1; size <= 4; size++ { // characters that come in pieces
			var b bytes.Buffer
			w := Writer(&b)
			for rest := []byte(c.text); len(rest) > 0; {
				n, err := w.Write(rest[:min(size, len(rest))])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if b.String() != c.stream {
				t.Errorf("%q, written by %d bytes, is %q, expected %q", c.text, size, b.String(), c.stream)
			}
		}
	}
	if got := Name("a -> b"); got != `"a -> b"` {
		t.Errorf("a name that looks like a link is %s", got)
	}
	if Raw(Writer(io.Discard)) != io.Discard || Raw(io.Discard) != io.Discard {
		t.Error("Raw returns another writer")
	}
}

// TestJSON prints JSON that keeps its meaning.
func TestJSON(t *testing.T) {
	const want = "a\u009b\u202e\U000e0041\x1b\n\x7f"
	var b bytes.Buffer
	if err := json.NewEncoder(Writer(&b)).Encode(want); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got != want {
		t.Errorf("%s is %q (%v), expected %q", b.Bytes(), got, err, want)
	}
}
