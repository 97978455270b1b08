package eif_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// exampleFile writes a small file and returns its path.
func exampleFile() (path string, remove func()) {
	dir, err := os.MkdirTemp("", "eif-example-*")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "app.eif")
	f, err := os.Create(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	w, err := eif.NewWriter(f, eif.X86_64)
	if err != nil {
		log.Fatal(err)
	}
	metadata, err := eif.Metadata{ImageName: "app", ImageVersion: "1"}.Encode()
	if err != nil {
		log.Fatal(err)
	}
	for _, section := range []struct {
		kind    eif.SectionType
		content []byte
	}{
		{eif.Kernel, []byte("kernel")},
		{eif.Cmdline, []byte("console=ttyS0")},
		{eif.Meta, metadata},
		{eif.Ramdisk, []byte("init")},
	} {
		if err := w.Next(section.kind); err != nil {
			log.Fatal(err)
		}
		if _, err := w.Write(section.content); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}

func ExampleOpen() {
	path, remove := exampleFile()
	defer remove()

	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	file, err := eif.Open(f, info.Size())
	if err != nil {
		log.Fatal(err)
	}
	pass, err := file.Measure(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	if err := file.CheckCRC(pass); err != nil {
		log.Fatal(err)
	}
	for _, section := range file.Sections {
		fmt.Println(section.Type, section.Size)
	}
	fmt.Println(file.Arch(), pass.PCR0 == pass.PCR1, pass.PCR8 == nil)
	// Output:
	// kernel 6
	// cmdline 13
	// metadata 188
	// ramdisk 4
	// x86_64 true true
}

func ExampleMeasureContent() {
	// PCR3 measures the ARN of the role of the parent instance.
	role := strings.NewReader("arn:aws:iam::123456789012:role/Webserver")
	pcr3, err := eif.MeasureContent(role)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(pcr3.String()[:16])
	// Output: 56a5ec6e5f78ed7a
}

func ExampleParsePCR() {
	pcr, err := eif.ParsePCR(strings.Repeat("0", 96))
	fmt.Println(pcr.IsZero(), err)
	_, err = eif.ParsePCR("abcd")
	fmt.Println(err)
	// Output:
	// true <nil>
	// invalid PCR "abcd": 2 bytes, expected 48
}

func ExampleWriter() {
	var b seekBuffer
	w, err := eif.NewWriter(&b, eif.AArch64)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abort() // does nothing after Close
	if err := w.Next(eif.Kernel); err != nil {
		log.Fatal(err)
	}
	if _, err := w.ReadFrom(bytes.NewReader([]byte("kernel"))); err != nil {
		log.Fatal(err)
	}
	fmt.Println(w.Close())
	// Output:
	// the file has no cmdline section
	// the file has no ramdisk section
	// the file has no metadata section
}
