package eif_test

import (
	"bytes"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// FuzzOpen reads anything. What is read without a complaint must be what the writer makes of the same
// sections.
func FuzzOpen(f *testing.F) {
	for _, file := range files {
		if b := reference(file.flags, file.sections...); len(b) < 64<<10 {
			f.Add(b)
		}
	}
	f.Add(small())
	f.Add(small()[:560])
	f.Add(reference(1, plain{1, []byte("k")}, plain{2, []byte("c")}, plain{5, []byte(metadata)},
		plain{3, nil}, plain{4, []byte{0x81, 0xa0}}))
	f.Add(reference(0, plain{9, nil}, plain{3, []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, problems := eif.Inspect(bytes.NewReader(b), int64(len(b)))
		if file == nil {
			if len(problems) == 0 {
				t.Fatal("neither a file nor a problem")
			}
			return
		}
		pass, _ := file.Measure(t.Context())
		file.Cmdline()
		file.Metadata()
		if entries, err := file.Signatures(); err == nil {
			entries[0].Verify(eif.PCR{}, now)
		}
		if len(problems) > 0 || file.PCIe() {
			return
		}
		if pass == nil {
			t.Fatal("a file without problems is not measured")
		}
		var out seekBuffer
		w, err := eif.NewWriter(&out, file.Arch())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Copy(t.Context(), file, 0); err != nil {
			t.Fatal(err)
		}
		m, err := w.Measurements()
		if err != nil {
			t.Fatal(err)
		}
		if m.PCR0 != pass.PCR0 || m.PCR1 != pass.PCR1 || m.PCR2 != pass.PCR2 {
			t.Errorf("written %+v, measured %+v", m, pass.Measurements)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if pass.CRC == file.CRC && len(file.Layout) == 0 && !bytes.Equal(out.b, b) {
			t.Error("the file written again is another")
		}
	})
}

func FuzzParseSignature(f *testing.F) {
	f.Add([]byte{0x81, 0xa2})
	f.Add(join([]byte{0x81, 0xa2}, cborText("signing_certificate"), cborIntegers([]byte("x")),
		cborText("signature"), cborIntegers([]byte{0x84, 0x40, 0xa0, 0x40, 0x40})))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := eif.ParseSignature(b)
		if err != nil {
			return
		}
		for _, e := range entries {
			if _, err := e.Verify(eif.PCR{}, now); err == nil {
				t.Error("the fuzzer made a signature")
			}
			e.PCR8()
		}
	})
}
