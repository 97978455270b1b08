package machine

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// NewTerminal returns a writer for a console that a person watches on a terminal (ECMA-48, xterm's ctlseqs;
// in UTF-8). It passes text, colours and cursor movement. It drops everything else, because the enclave could
// use it against the terminal's user: sequences that change the title or the clipboard, that report what the
// user does, or that the terminal answers as if the user had typed.
func NewTerminal(w io.Writer) io.Writer { return &terminal{w: w} }

type terminal struct {
	w       io.Writer
	pending []byte // the beginning of a character or sequence
	text    bool   // a control string, whose bytes are dropped until its end
}

const (
	escape = 0x1b
	// longest is the number of bytes of the longest sequence that can pass.
	longest = 64
	// controls pass: bell, backspace, tab, new line, carriage return. Enquiry (5) is answered.
	controls = "\a\b\t\n\r"
	// finals end sequences that move the cursor, erase, insert, or set colours and tabs.
	finals = "ABCDEFGHIJKLMPX@`adefgmrsu"
)

// sequences are those without parameters that pass: save and restore the cursor, line feeds, ASCII.
var sequences = []string{"\x1b7", "\x1b8", "\x1bD", "\x1bE", "\x1bM", "\x1b(B"}

// modes are the private modes that may be set and reset: wrap, blink, show the cursor, the other screen.
var modes = []string{"7", "12", "25", "47", "1047", "1048", "1049"}

func (t *terminal) Write(p []byte) (int, error) {
	var out []byte
	for _, b := range p {
		out = t.add(out, b)
	}
	if _, err := t.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// add appends to out what b completes.
func (t *terminal) add(out []byte, b byte) []byte {
	inside := len(t.pending) > 0
	switch {
	case b == escape:
		t.text = false
		t.pending = append(t.pending[:0], b)
		return out
	case b < 0x20 || b == 0x7f: // ends whatever is unfinished
		bell := t.text && b == '\a' // is the end of the string
		if strings.IndexByte(controls, b) >= 0 && !bell {
			out = append(out, b)
		}
		t.text, t.pending = false, t.pending[:0]
		return out
	case t.text:
		return out
	case !inside && b < utf8.RuneSelf:
		return append(out, b)
	case inside && t.pending[0] == escape && b < utf8.RuneSelf:
		t.sequence(&out, b)
		return out
	case inside && t.pending[0] == escape:
		t.pending = t.pending[:0]
	}
	// Characters of several bytes. The control characters U+0080 to U+009F begin sequences too.
	t.pending = append(t.pending, b)
	if r, size := utf8.DecodeRune(t.pending); size == len(t.pending) && r != utf8.RuneError {
		if r > 0x9f {
			out = append(out, t.pending...)
		}
		t.pending = t.pending[:0]
	} else if utf8.FullRune(t.pending) { // invalid
		t.pending = t.pending[:0]
		if out = append(out, '?'); b < utf8.RuneSelf {
			out = append(out, b)
		}
	}
	return out
}

// sequence adds b to the sequence that has begun, and appends it to out if it is complete and may pass.
func (t *terminal) sequence(out *[]byte, b byte) {
	if len(t.pending) < longest {
		t.pending = append(t.pending, b)
	} else {
		t.pending[longest-1] = 0 // never passes
	}
	kind := t.pending[1]
	switch {
	case kind == '[' && (len(t.pending) == 2 || b < 0x40): // parameters follow
		return
	case kind < 0x30 && b < 0x30: // intermediate bytes follow
		return
	case strings.IndexByte("]PX^_k", kind) >= 0:
		t.text = true
	case kind == '[' && passes(t.pending[2:]), slices.Contains(sequences, string(t.pending)):
		*out = append(*out, t.pending...)
	}
	t.pending = t.pending[:0]
}

// passes reports whether a control sequence may pass, given what follows ESC [.
func passes(s []byte) bool {
	last := len(s) - 1
	parameters, final := s[:last], s[last]
	if mode, private := bytes.CutPrefix(parameters, []byte("?")); private {
		return (final == 'h' || final == 'l') && slices.Contains(modes, string(mode))
	}
	return len(bytes.Trim(parameters, "0123456789;:")) == 0 && strings.IndexByte(finals, final) >= 0
}
