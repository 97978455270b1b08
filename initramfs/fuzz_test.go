package initramfs

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// FuzzWriter gives the writer entries made of the fuzzer's bytes. It rejects them, or what it writes reads
// back the same, each directory before what it holds.
func FuzzWriter(f *testing.F) {
	record := func(name string, mode uint16, links byte, body string) []byte {
		b := binary.BigEndian.AppendUint16([]byte{byte(len(name))}, mode)
		b = append(append(b, links, byte(len(body))), name...)
		return append(b, body...)
	}
	f.Add(bytes.Join([][]byte{
		record("a", TypeDir|0o755, 0, ""), record("a/b", TypeFile|0o644, 0, "body"),
		record("l", TypeSymlink|0o777, 0, "a/b"), record("n", TypeChar|0o600, 0, ""),
	}, nil))
	f.Add(bytes.Join([][]byte{record("x", TypeFile, 2, "1"), record("y", TypeFile, 2, "")}, nil))
	f.Add(record("no/dir", TypeFile, 0, ""))
	f.Add(record(trailer, TypeFile, 0, ""))
	f.Add(record("l", TypeSymlink|0o777, 0, "a\x00b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var wrote []entry
		var out bytes.Buffer
		w := NewWriter(&out)
		for len(data) >= 5 {
			e := entry{Header: Header{
				Mode: uint32(binary.BigEndian.Uint16(data[1:])), Links: uint32(data[3]), Size: int64(data[4]),
				Inode: w.NextInode(),
				UID:   uint32(data[1]), GID: uint32(data[2]), ModTime: uint32(data[3]),
				Major: uint32(data[1]), Minor: uint32(data[4]),
			}}
			name := data[0]
			data = data[5:]
			if len(data) < int(name)+int(e.Size) {
				break
			}
			e.Name, data = string(data[:name]), data[name:]
			e.body, data = string(data[:e.Size]), data[e.Size:]
			if w.WriteHeader(&e.Header) != nil {
				break // nothing more is written, and Close says so
			}
			half := len(e.body) / 2
			_, err := io.WriteString(w, e.body[:half])
			if err == nil {
				_, err = w.ReadFrom(strings.NewReader(e.body[half:] + "more"))
			}
			if nul := e.Mode&TypeMask == TypeSymlink &&
				strings.Contains(e.body, "\x00"); nul != (err != nil) {
				t.Fatalf("body %q: %v", e.body, err)
			} else if nul {
				break
			}
			wrote = append(wrote, e)
		}
		failed := w.err != nil
		if err := w.Close(); (err != nil) != failed {
			t.Fatalf("Close: %v", err)
		}
		if failed {
			return
		}
		if w.Len() != int64(out.Len()) || out.Len()%4 != 0 {
			t.Fatalf("%d bytes, Len says %d", out.Len(), w.Len())
		}
		got, err := read(&out)
		if err != nil || len(got) != len(wrote) {
			t.Fatalf("%d entries written, %d read: %v", len(wrote), len(got), err)
		}
		dirs := map[string]bool{}
		for i, e := range wrote {
			if e.Links == 0 { // the writer's to fill in
				got[i].Links = 0
			}
			if got[i] != e {
				t.Errorf("entry %d: %+v, want %+v", i, got[i], e)
			}
			if at := strings.LastIndexByte(e.Name, '/'); at >= 0 && !dirs[e.Name[:at]] {
				t.Errorf("%q comes before its directory", e.Name)
			}
			dirs[e.Name] = e.Mode&TypeMask == TypeDir
		}
	})
}
