package debian

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

func FuzzData(f *testing.F) {
	member := func(name, content string) string {
		return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o100644, len(content), content)
	}
	f.Add([]byte("!<arch>\n" + member("data.tar", "abc")))
	f.Add([]byte("!<arch>\n" + member("debian-binary", "2.0\n") + member("data.tar.gz", "\x1f\x8b")))
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, deb []byte) {
		data, err := Data(bytes.NewReader(deb))
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(data, 1<<20))
		}
	})
}
