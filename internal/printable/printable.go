// Package printable makes text of any origin safe to show to people: names in images, fields of documents,
// errors of registries. A terminal obeys control characters, and an editor or browser the ones that change
// the direction of text; a line break in a value looks like another line.
package printable

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hidden reports whether a character does not show, or changes how others do: C0 and C1 controls, formats
// such as U+202E, line and paragraph separators, private characters.
func hidden(r rune) bool {
	if r < 0x7f {
		return r < 0x20 // as fast as millions of names need it
	}
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp)
}

// appendRune appends a character, escaped if it is hidden. The escapes of what JSON allows in a string as it
// is are those of JSON, so that a document keeps its meaning.
func appendRune(b []byte, r rune) []byte {
	switch {
	case !hidden(r):
		return utf8.AppendRune(b, r)
	case r < 0x20:
		return append(b, strings.Trim(strconv.Quote(string(r)), `"`)...)
	case r < 1<<16:
		return fmt.Appendf(b, `\u%04x`, r)
	}
	high, low := utf16.EncodeRune(r)
	return fmt.Appendf(b, `\u%04x\u%04x`, high, low)
}

// Line returns text as a part of one line: line breaks and everything else that does not show are escaped.
func Line(text string) string {
	if strings.IndexFunc(text, hidden) < 0 && utf8.ValidString(text) {
		return text
	}
	var b []byte
	for _, r := range text {
		b = appendRune(b, r)
	}
	return string(b)
}

// Indent returns a message of several lines, all but the first indented, so that none looks like another
// message.
func Indent(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }

// Name returns a name, quoted as in Go if it would otherwise look like something else.
func Name(name string) string {
	odd := func(r rune) bool { return r == '"' || r == '\\' || !strconv.IsPrint(r) }
	if strings.IndexFunc(name, odd) >= 0 || !utf8.ValidString(name) || strings.Contains(name, " -> ") {
		return strconv.Quote(name)
	}
	return name
}

// writer escapes what does not show, but for line feeds and tabs.
type writer struct {
	w    io.Writer
	rest []byte // the start of a character
}

// Writer returns a writer of text to w. It escapes what does not show, except line feeds and tabs, and
// replaces what is not UTF-8 with U+FFFD.
func Writer(w io.Writer) io.Writer { return &writer{w: w} }

func (p *writer) Write(b []byte) (int, error) {
	shown := func(c byte) bool { return c >= 0x20 && c < 0x7f || c == '\n' || c == '\t' }
	if len(p.rest) == 0 && !slices.ContainsFunc(b, func(c byte) bool { return !shown(c) }) {
		return p.w.Write(b)
	}
	text := append(p.rest, b...)
	out := make([]byte, 0, len(text))
	for len(text) > 0 && utf8.FullRune(text) {
		r, n := utf8.DecodeRune(text)
		text = text[n:]
		if r == '\n' || r == '\t' {
			out = append(out, byte(r))
		} else {
			out = appendRune(out, r)
		}
	}
	p.rest = append([]byte(nil), text...)
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Raw returns what a [Writer] writes to, for what is meant for the terminal itself, and any other writer as
// it is.
func Raw(w io.Writer) io.Writer {
	if p, ok := w.(*writer); ok {
		return p.w
	}
	return w
}
