package initramfs_test

import (
	"bytes"
	"fmt"
	"io"
	"log"

	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

func Example() {
	var archive bytes.Buffer
	w := initramfs.NewWriter(&archive)
	const body = "hello\n"
	for _, h := range []initramfs.Header{
		{Name: "etc", Mode: initramfs.TypeDir | 0o755},
		{Name: "etc/motd", Mode: initramfs.TypeFile | 0o644, Size: int64(len(body))},
	} {
		if err := w.WriteHeader(&h); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := io.WriteString(w, body); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	for r := initramfs.NewReader(&archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%06o %s %d\n", h.Mode, h.Name, h.Size)
	}
	// Output:
	// 040755 etc 0
	// 100644 etc/motd 6
}

func ExampleHeader_Check() {
	h := initramfs.Header{Name: "a/../b", Mode: initramfs.TypeFile | 0o644}
	fmt.Println(h.Check())
	// Output: "a/../b": name has an empty, "." or ".." part
}
