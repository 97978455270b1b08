package machine

import (
	"bytes"
	"strings"
	"testing"
)

// terminalCases are texts of an enclave, and what of them reaches a terminal.
var terminalCases = map[string]struct{ in, out string }{
	"text":    {"hello\tworld\r\n", "hello\tworld\r\n"},
	"UTF-8":   {"grün ☃ 🂡", "grün ☃ 🂡"},
	"colours": {"\x1b[1;38:2:1:2:3mred\x1b[m", "\x1b[1;38:2:1:2:3mred\x1b[m"},
	"cursor": {"\x1b[2J\x1b[1;1H\x1b[K\x1b7\x1b8\x1b[?25l",
		"\x1b[2J\x1b[1;1H\x1b[K\x1b7\x1b8\x1b[?25l"},
	"other screen":              {"\x1b[?1049hx\x1b[?1049l\x1b(B", "\x1b[?1049hx\x1b[?1049l\x1b(B"},
	"title":                     {"a\x1b]0;title\ab\x1b]2;title\x1b\\c", "abc"},
	"title of screen":           {"a\x1bktitle\x1b\\b", "ab"},
	"title, C1":                 {"a\u009d0;title\u009cb", "a0;titleb"},
	"title, one byte":           {"a\x9d0;title\x9cb", "a?0;title?b"},
	"clipboard":                 {"a\x1b]52;c;aGVsbG8=\ab", "ab"},
	"unfinished title":          {"a\x1b]0;title\nb", "a\nb"},
	"title in a title":          {"a\x1b]0;\x1b]52;c;x\ab", "ab"},
	"device control":            {"a\x1bP$qm\x1b\\b", "ab"},
	"application, privacy":      {"a\x1b_Gi=1;x\x1b\\\x1b^x\x1b\\\x1bXx\x1b\\b", "ab"},
	"device attributes":         {"a\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1bZb", "ab"},
	"status, position":          {"a\x1b[5n\x1b[6n\x1b[?6nb", "ab"},
	"enquiry":                   {"a\x05b", "ab"},
	"window":                    {"a\x1b[21t\x1b[18t\x1b[8;9;9tb", "ab"},
	"settings":                  {"a\x1b[?25$p\x1b[x\x1b[>q\x1b[?u\x1b[1;1*yb", "ab"},
	"mouse, focus, paste":       {"a\x1b[?1000h\x1b[?1006h\x1b[?1004h\x1b[?2004hb", "ab"},
	"several modes":             {"a\x1b[?25;1000hb", "ab"},
	"keys":                      {"a\x1b[>4;2m\x1b[?1h\x1b=\x1b[>1ub", "ab"},
	"reset, character set":      {"a\x1bc\x1b(0\x1b#8\x1b%Gb", "ab"},
	"C1":                        {"a\u009b6nb", "a6nb"},
	"invalid UTF-8":             {"a\xffb\xc3(c\xe2\x98", "a?b?(c"},
	"overlong":                  {"a\xc0\x9bb\xe0\x82\x9bb", "a??b??b"},
	"escape in a character":     {"a\xe2\x1b[6nb", "ab"},
	"control in a sequence":     {"a\x1b[6\nnb", "a\nnb"},
	"escape in a sequence":      {"a\x1b[\x1b[6nb", "ab"},
	"cancelled":                 {"a\x1b[31\x18mb", "amb"},
	"long":                      {"a\x1b[" + strings.Repeat("1;", 40) + "mb", "ab"},
	"UTF-8 in a sequence":       {"a\x1b[1é6nb", "aé6nb"},
	"intermediates":             {"a\x1b[1 qb\x1b[!pb", "abb"},
	"delete and other controls": {"a\x00\x01\x0e\x0f\x7fb", "ab"},
}

// However the console's bytes are split into writes, the terminal gets the same.
func TestTerminal(t *testing.T) {
	for name, c := range terminalCases {
		for split := 0; split <= len(c.in); split++ {
			var out bytes.Buffer
			w := NewTerminal(&out)
			for _, part := range []string{c.in[:split], c.in[split:]} {
				if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatalf("%s: %d bytes written of %d, %v", name, n, len(part), err)
				}
			}
			if out.String() != c.out {
				t.Errorf("%s, split at %d: %q, expected %q", name, split, &out, c.out)
			}
		}
	}
}
