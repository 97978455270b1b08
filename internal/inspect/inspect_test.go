package inspect_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// The entries of archives, in few words.
var cpio, dir, reg, linked, symlink = enclaves.CPIO, enclaves.Dir, enclaves.File, enclaves.Linked,
	enclaves.Symlink

func part(t eif.SectionType, content []byte) enclaves.Section {
	return enclaves.Section{Type: t, Content: content}
}

var (
	goodBoot = cpio(dir("dev"), reg("init", "pid 1"), reg("nsm.ko", "driver"))
	goodApp  = cpio(dir("neb"), reg("neb/app", "x"), dir("rootfs"), dir("rootfs/bin"),
		reg("rootfs/bin/hello", "hello"), reg("cmd", "/bin/hello\n"), reg("env", ""))
	goodMeta = []byte(`{"ImageName":"n","ImageVersion":"v","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00+00:00","BuildTool":"t","BuildToolVersion":"1","OperatingSystem":"Linux","KernelVersion":"6.12"},"DockerInfo":{"a":[]},"CustomMetadata":null}`)
)

func parts(change ...enclaves.Section) []enclaves.Section {
	all := []enclaves.Section{
		part(eif.Kernel, enclaves.BzImage("6.12.117")), part(eif.Cmdline, []byte("console=ttyS0")),
		part(eif.Meta, goodMeta),
		part(eif.Ramdisk, goodBoot), part(eif.Ramdisk, goodApp),
	}
	for _, c := range change {
		if c.Type == eif.Ramdisk {
			all[4] = c
			continue
		}
		for i := range all {
			if all[i].Type == c.Type {
				all[i] = c
			}
		}
	}
	return all
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func inspected(t testing.TB, all []enclaves.Section) *inspect.Report {
	t.Helper()
	out, size := enclaves.Write(t, all)
	r, err := inspect.Inspect(t.Context(), out, size, noon)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newSigner(t testing.TB, name string) *sign.Signer {
	t.Helper()
	key, certificate := enclaves.Certificate(t, name, noon)
	return &sign.Signer{Key: key, Certificate: certificate}
}

func compressed(t testing.TB, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if how == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&out); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestGoodFiles(t *testing.T) {
	gzipped := compressed(t, "gzip", goodApp)
	for name, all := range map[string][]enclaves.Section{
		"as written": parts(),
		"gzip":       parts(part(eif.Ramdisk, compressed(t, "gzip", goodApp))),
		"zstd":       parts(part(eif.Ramdisk, compressed(t, "zstd", goodApp))),
		"plain and zstd": parts(part(eif.Ramdisk,
			append(cpio(dir("neb")), compressed(t, "zstd", goodApp)...))),
		"gzip and plain": parts(part(eif.Ramdisk, slices.Concat(gzipped, make([]byte, -len(gzipped)&3),
			cpio(dir("neb"))))),
		"links in the tree": parts(part(eif.Ramdisk, cpio(dir("rootfs"), symlink("rootfs/lib", "usr/lib"),
			dir("rootfs/usr"), dir("rootfs/usr/lib")))),
		"hard links": parts(part(eif.Ramdisk, cpio(dir("rootfs"), linked("rootfs/a", ""),
			linked("rootfs/b", "x"), dir("rootfs")))),
		"as find and cpio": parts(part(eif.Ramdisk, cpio(dir("."), dir("./rootfs"),
			reg("./rootfs/hello", "x")))),
		"padded names": parts(part(eif.Ramdisk, cpio(dir("rootfs\x00\x00"), reg("rootfs/hello\x00\x00\x00",
			"x")))),
		"as nitro-cli's": parts(part(eif.Ramdisk, cpio(dir("rootfs"), dir("rootfs"), reg("cmd", "x"),
			reg("env", "")))),
	} {
		r := inspected(t, all)
		if result, findings := r.Verify(inspect.Expectation{}); result != inspect.Unsigned ||
			len(findings) > 0 {
			t.Errorf("%s: %s: %q", name, result, findings)
		}
	}
}

func TestVerifyFinds(t *testing.T) {
	for _, test := range []struct {
		name   string
		change enclaves.Section
		want   string
	}{
		{"a kernel that is none", part(eif.Kernel, []byte("hello")), "neither a bzImage nor an Image"},
		{"a kernel for aarch64", part(eif.Kernel, enclaves.Image("6.12.117")), "an uncompressed Image"},
		{"a command line with a newline", part(eif.Cmdline, []byte("a=b\n")), "not printable ASCII"},
		{"a command line with a space of Latin-1", part(eif.Cmdline, []byte("a=b\xa0rdinit=/rootfs/x")),
			"not printable ASCII"},
		{"a command line with a space of Unicode", part(eif.Cmdline, []byte("a=b\u2003rdinit=/rootfs/x")),
			"not printable ASCII"},
		{"metadata that are no JSON", part(eif.Meta, []byte("hello")), "not valid JSON"},
		{"metadata without a name", part(eif.Meta, bytes.Replace(goodMeta, []byte("ImageName"),
			[]byte("Imagename"), 1)), "no ImageName"},
		{"metadata with half of BuildMetadata", part(eif.Meta, bytes.Replace(goodMeta, []byte(`"BuildTool":"t",`), nil, 1)), "no BuildTool"},
		{"custom metadata in a list", part(eif.Meta, bytes.Replace(goodMeta, []byte(`"CustomMetadata":null`), []byte(`"CustomMetadata":[]`), 1)), "expected an object or null"},
		{"another init", part(eif.Ramdisk, cpio(reg("init", "evil"))), `ramdisk 1: "init" does not belong`},
		{"another init, with a slash", part(eif.Ramdisk, cpio(reg("/init", "evil"))), `"/init" does not belong`},
		{"another init, with dots", part(eif.Ramdisk, cpio(dir("rootfs"), reg("rootfs/../init", "evil"))), `"rootfs/../init" does not belong`},
		{"another init, through a link", part(eif.Ramdisk, cpio(dir("rootfs"), symlink("rootfs/a", "/"), reg("rootfs/a/init", "evil"))), `below an earlier entry that is not a directory`},
		{"a root that is a link", part(eif.Ramdisk, cpio(symlink("rootfs", "/"), reg("rootfs/init", "evil"))), `below an earlier entry that is not a directory`},
		{"another init, after a link and dots", part(eif.Ramdisk, cpio(dir("rootfs"), symlink("rootfs/a", "/dev"), reg("rootfs/a/../init", "evil"))), `name has an empty, "." or ".." part`},
		{"another init, before a NUL", part(eif.Ramdisk, cpio(reg("init\x00/../rootfs/x", "evil"))),
			"contains a NUL"},
		{"an empty part", part(eif.Ramdisk, cpio(dir("rootfs"), symlink("rootfs/a", "/"), reg("rootfs/a//", "evil"))), `name has an empty, "." or ".." part`},
		{"another init, through a hard link to a link", part(eif.Ramdisk, cpio(dir("rootfs"), linked("rootfs/x", ""), symlink("rootfs/x", "/init"), linked("rootfs/z", "evil"))), `"rootfs/x" at byte 240: the kernel may unpack something else: duplicate`},
		{"another init, through a hard link below a link", part(eif.Ramdisk, cpio(dir("rootfs"), dir("rootfs/a"), linked("rootfs/a/init", ""), symlink("rootfs/a", "/"), linked("rootfs/z", "evil"))), `"rootfs/a" at byte 364: the kernel may unpack something else: an earlier entry of this name is a directory`},
		{"a trailer that hides an archive", part(eif.Ramdisk,
			cpio(enclaves.Entry{Name: "TRAILER!!!", Content: cpio(dir("rootfs"))})),
			"trailer has mode 0 and"},
		{"another driver", part(eif.Ramdisk, cpio(reg("nsm.ko", "evil"))), "nsm.ko"},
		{"other modules", part(eif.Ramdisk, cpio(dir("neb"), reg("neb/modules", "evil"))), "neb/modules"},
		{"a name outside the contract", part(eif.Ramdisk, cpio(reg("etc", "x"))), "etc"},
		{"compressed, another init", part(eif.Ramdisk, compressed(t, "gzip", cpio(reg("init", "evil")))), `"init" does not belong`},
		{"a ramdisk that is none", part(eif.Ramdisk, []byte("hello, world")), "neither a newc archive"},
		{"a ramdisk that is cut", part(eif.Ramdisk, goodApp[:len(goodApp)-130]), "ramdisk 1"},
		{"a ramdisk with bzip2", part(eif.Ramdisk, []byte("BZh and so on")),
			"compressed with bzip2: expected gzip"},
		{"nothing but zeros", part(eif.Ramdisk, make([]byte, 512)), "expected an archive, found nothing"},
		{"gzip with a field that only common readers skip",
			part(eif.Ramdisk, extraField(compressed(t, "gzip", goodApp))), "may unpack something else"},
		{"two gzip members", part(eif.Ramdisk, append(compressed(t, "gzip", goodApp), compressed(t, "gzip", cpio(reg("init", "evil")))...)), `"init" does not belong`},
		{"a compressed archive behind a plain one", part(eif.Ramdisk, append(bytes.Clone(goodApp), compressed(t, "zstd", cpio(reg("init", "evil")))...)), `"init" does not belong`},
		{"an archive in two streams", part(eif.Ramdisk, append(compressed(t, "gzip", goodApp[:100]),
			compressed(t, "gzip", goodApp[100:])...)), "unexpected EOF"},
		{"a signature that is no CBOR", part(eif.Signature, []byte("hello")), "not valid CBOR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := parts(test.change)
			if test.change.Type == eif.Signature {
				all = append(all, test.change)
			}
			r := inspected(t, all)
			if _, findings := r.Verify(inspect.Expectation{}); !strings.Contains(texts(findings), test.want) {
				t.Errorf("found %q, want %q", findings, test.want)
			}
			description(t, r)
		})
	}
	small := parts()
	small[3].Content = compressed(t, "gzip", goodBoot)
	for len(small[3].Content)%4 == 0 {
		small[3].Content = append(small[3].Content, 0)
	}
	if _, findings := inspected(t, small).Verify(inspect.Expectation{}); !strings.Contains(texts(findings),
		"not a multiple of 4") {
		t.Errorf("a plain ramdisk after a compressed one of odd size: %q", findings)
	}
	odd := parts()
	odd[3].Content = append(bytes.Clone(goodBoot), 0, 0)
	if _, findings := inspected(t, odd).Verify(inspect.Expectation{}); !strings.Contains(texts(findings),
		"not a multiple of 4") {
		t.Errorf("a first ramdisk of odd size: %q", findings)
	}
	odd[4].Content = compressed(t, "gzip", goodApp)
	if _, findings := inspected(t, odd).Verify(inspect.Expectation{}); !strings.Contains(texts(findings),
		"not a multiple of 4") {
		t.Errorf("a compressed ramdisk after a first one of odd size: %q", findings)
	}
}

// TestApplication shows what init is told wherever it stands, and nothing else.
func TestApplication(t *testing.T) {
	const told, other = "Version=1\x00Cmd=/x\x00Network=tap\x00",
		"Version=1\x00Cmd=/x\x00Network=tap\x00Egress=a.example\x00"
	long := reg("rootfs/x", strings.Repeat("x", 2<<20))
	for name, app := range map[string][]byte{
		"first":      cpio(dir("neb"), reg("neb/app", told)),
		"with ./":    cpio(dir("neb"), reg("./neb/app", told)),
		"with /":     cpio(dir("neb"), reg("/neb/app", told)),
		"late":       cpio(dir("rootfs"), long, dir("neb"), reg("neb/app", told)),
		"compressed": compressed(t, "zstd", cpio(dir("neb"), reg("neb/app", told))),
	} {
		r := inspected(t, parts(part(eif.Ramdisk, app)))
		if r.Application == nil || !r.Application.Network || len(r.Application.Egress) > 0 {
			t.Errorf("%s: %+v", name, r.Application)
		}
		if text := description(t, r); !strings.Contains(string(text), `"Unlimited": [`) {
			t.Errorf("%s: %s", name, text)
		}
	}
	for name, app := range map[string][]byte{
		"the bytes of another name replace its own": cpio(dir("neb"), linked("neb/app", other), dir("rootfs"),
			linked("rootfs/x", told)),
		"another name has its bytes": cpio(dir("neb"), linked("neb/app", ""), dir("rootfs"),
			linked("rootfs/x", told)),
	} {
		r := inspected(t, parts(part(eif.Ramdisk, app)))
		if _, findings := r.Verify(inspect.Expectation{}); !strings.Contains(texts(findings),
			"several names") || r.Application != nil {
			t.Errorf("%s: %q, %+v", name, findings, r.Application)
		}
	}
}

// extraField adds an extra field to the header of a gzip stream.
func extraField(gz []byte) []byte {
	out := append(bytes.Clone(gz[:10]), "\x04\x00neb!"...)
	out[3] |= 1 << 2
	return append(out, gz[10:]...)
}

func TestVerifyChecksum(t *testing.T) {
	out, size := enclaves.Write(t, parts())
	if _, err := out.WriteAt([]byte{1}, size-1); err != nil {
		t.Fatal(err)
	}
	r, err := inspect.Inspect(t.Context(), out, size, noon)
	if err != nil {
		t.Fatal(err)
	}
	_, findings := r.Verify(inspect.Expectation{})
	if !slices.ContainsFunc(findings, func(f inspect.Finding) bool { return f.Code == inspect.Checksum }) {
		t.Errorf("a changed byte: %q", findings)
	}
	if _, err := inspect.Inspect(t.Context(), out, 100, noon); err == nil {
		t.Error("100 bytes are a file")
	}
}

// resign signs a file.
func resign(t testing.TB, in *os.File, size int64, s *sign.Signer) (*os.File, int64) {
	t.Helper()
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	out := enclaves.TempFile(t)
	if _, err := sign.EIF(t.Context(), out, f, s); err != nil {
		t.Fatal(err)
	}
	size, err = out.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	return out, size
}

func TestSignAndExpect(t *testing.T) {
	alice, bob := newSigner(t, "alice"), newSigner(t, "bob")
	plain, plainSize := enclaves.Write(t, parts())
	signed, size := resign(t, plain, plainSize, alice)
	r, err := inspect.Inspect(t.Context(), signed, size, noon)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(s *sign.Signer) *x509.Certificate {
		c, err := eif.ParseCertificate(s.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := inspected(t, parts())
	if r.Pass.PCR0 != before.Pass.PCR0 || !r.Signed || !r.SignatureOK ||
		*r.Pass.PCR8 != eif.PCR8(certificate(alice)) {
		t.Errorf("signed: %+v", r.Pass.Measurements)
	}
	var other eif.PCR
	other[0] = 1
	for _, test := range []struct {
		name   string
		want   inspect.Expectation
		result inspect.Result
		find   string // "" for none
	}{
		{"nothing", inspect.Expectation{}, inspect.SignerUnchecked, ""},
		{"the certificate", inspect.Expectation{Certificate: certificate(alice)}, inspect.Verified, ""},
		{"another's certificate", inspect.Expectation{Certificate: certificate(bob)}, inspect.Rejected,
			"bob"},
		{"PCR0", inspect.Expectation{PCRs: map[int]eif.PCR{0: r.Pass.PCR0}}, inspect.Verified, ""},
		{"PCR1 alone", inspect.Expectation{PCRs: map[int]eif.PCR{1: r.Pass.PCR1}}, inspect.Partial, ""},
		{"PCR8", inspect.Expectation{PCRs: map[int]eif.PCR{8: *r.Pass.PCR8}}, inspect.Verified, ""},
		{"another PCR0", inspect.Expectation{PCRs: map[int]eif.PCR{0: other}}, inspect.Rejected,
			"PCR0: expected 01"},
		{"another PCR8", inspect.Expectation{PCRs: map[int]eif.PCR{8: other}}, inspect.Rejected,
			"PCR8: expected 01"},
		{"PCR4", inspect.Expectation{PCRs: map[int]eif.PCR{4: other}}, inspect.Rejected, "determines only"},
	} {
		result, findings := r.Verify(test.want)
		if result != test.result || test.find != "" && !strings.Contains(texts(findings), test.find) {
			t.Errorf("%s: %s, %q; expected %s, %q", test.name, result, findings, test.result, test.find)
		}
	}
	unsigned := inspected(t, parts())
	for name, want := range map[string]inspect.Expectation{"PCR8": {PCRs: map[int]eif.PCR{8: other}},
		"certificate": {Certificate: certificate(alice)}} {
		result, findings := unsigned.Verify(want)
		if result != inspect.Rejected || len(findings) != 1 ||
			!strings.Contains(texts(findings), "a signature, found none") &&
				!strings.Contains(texts(findings), "found no signature") {
			t.Errorf("an unsigned file, %s: %s, %q", name, result, findings)
		}
	}

	// A second signature takes the place of the first; the same one again changes nothing.
	again, againSize := resign(t, signed, size, alice)
	if !sameContent(t, signed, size, again, againSize) {
		t.Error("signing again with the same key gives another file")
	}
	bobs, bobsSize := resign(t, signed, size, bob)
	if r, err = inspect.Inspect(t.Context(), bobs, bobsSize, noon); err != nil || len(r.Problems) > 0 ||
		r.Certificate.Subject.CommonName != "bob" || len(r.File.All(eif.Signature)) != 1 {
		t.Errorf("signed by another: %v, %q", err, r.Problems)
	}
	// At another time the certificate is not valid.
	if r, err = inspect.Inspect(t.Context(), bobs, bobsSize, noon.Add(2*time.Hour)); err != nil ||
		!r.SignatureOK || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Text, "valid from") {
		t.Errorf("an expired certificate: %v, %v, %q", err, r.SignatureOK, r.Problems)
	}
	// A signature moved to another image is found out.
	moved := inspected(t, append(parts(part(eif.Cmdline, []byte("quiet"))),
		part(eif.Signature, content(t, r.File, eif.Signature))))
	if moved.SignatureOK || !strings.Contains(texts(moved.Problems), "another image") {
		t.Errorf("another image's signature: %q", moved.Problems)
	}
}

// texts returns what findings say, one a line.
func texts(findings []inspect.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// description returns what neb eif describe prints.
func description(t *testing.T, r *inspect.Report) []byte {
	t.Helper()
	d, err := r.Describe()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func content(t testing.TB, f *eif.File, kind eif.SectionType) []byte {
	t.Helper()
	s, _ := f.Find(kind)
	b, err := io.ReadAll(f.Content(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sameContent(t testing.TB, a *os.File, na int64, b *os.File, nb int64) bool {
	t.Helper()
	x, err1 := io.ReadAll(io.NewSectionReader(a, 0, na))
	y, err2 := io.ReadAll(io.NewSectionReader(b, 0, nb))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// TestDescribe compares with what nitro-cli describe-eif prints, up to where neb says more.
func TestDescribe(t *testing.T) {
	signer := newSigner(t, "alice")
	meta := bytes.Replace(goodMeta, []byte(`"CustomMetadata":null`), []byte(`"CustomMetadata":{"Team":"x","Z":{"a":1}}`), 1)
	in, size := enclaves.Write(t, parts(part(eif.Meta, meta)))
	signed, size := resign(t, in, size, signer)
	r, err := inspect.Inspect(t.Context(), signed, size, noon)
	if err != nil {
		t.Fatal(err)
	}
	text := description(t, r)
	var signature []string
	for _, b := range r.Certificate.Signature {
		signature = append(signature, fmt.Sprintf("%02X", b))
	}
	want := fmt.Sprintf(`{
  "EifVersion": 4,
  "Measurements": {
    "HashAlgorithm": "Sha512_48 { .. }",
    "PCR0": "%v",
    "PCR1": "%v",
    "PCR2": "%v",
    "PCR8": "%v"
  },
  "IsSigned": true,
  "SigningCertificate": {
    "IssuerName": {
      "commonName": "alice",
      "countryName": "DE",
      "organizationName": "An Organisation"
    },
    "Algorithm": "ecdsa-with-SHA384",
    "NotBefore": "Nov 23 11:00:00 2026 GMT",
    "NotAfter": "Nov 23 13:00:00 2026 GMT",
    "Signature": "%s"
  },
  "CheckCRC": true,
  "SignatureCheck": true,
  "ImageName": "n",
  "ImageVersion": "v",
  "Metadata": {
    "BuildTime": "1970-01-01T00:00:00+00:00",
    "BuildTool": "t",
    "BuildToolVersion": "1",
    "OperatingSystem": "Linux",
    "KernelVersion": "6.12",
    "DockerInfo": {
      "a": []
    },
    "Team": "x",
    "Z": {
      "a": 1
    }
  },
  "Architecture": "x86_64",
`, r.Pass.PCR0, r.Pass.PCR1, r.Pass.PCR2, r.Pass.PCR8, strings.Join(signature, ":"))
	if !strings.HasPrefix(string(text), want) {
		t.Errorf("describe prints\n%s\nwant\n%s", text, want)
	}
	var more struct {
		Sections   []struct{ Type string }
		Unmeasured []string
		Problems   []inspect.Finding
	}
	if err := json.Unmarshal(text, &more); err != nil || len(more.Sections) != 6 ||
		!slices.Contains(more.Unmeasured, "Metadata") || len(more.Problems) > 0 {
		t.Errorf("describe says more: %+v (%v)", more, err)
	}
}

func TestDiff(t *testing.T) {
	exec := reg("rootfs/bin/hello", "hello")
	exec.Mode = 0o100755
	for _, test := range []struct {
		name string
		b    []enclaves.Section
		want []string
	}{
		{"nothing", parts(), nil},
		{"the command line", parts(part(eif.Cmdline, []byte("quiet"))), []string{`cmdline: "console=ttyS0" and "quiet" (PCR0, PCR1)`}},
		{"the kernel", parts(part(eif.Kernel, enclaves.BzImage("6.12.118"))),
			[]string{"kernel: 120000 and 120000 bytes, the first difference at byte 1287 (PCR0, PCR1)"}},
		{"metadata", parts(part(eif.Meta, bytes.Replace(goodMeta, []byte("1970"), []byte("2026"), 1))), []string{`metadata: BuildTime: "1970-01-01T00:00:00+00:00" and "2026-01-01T00:00:00+00:00" (not measured)`}},
		{"metadata of which a key is not known", parts(part(eif.Meta, bytes.Replace(goodMeta, []byte(`"DockerInfo"`), []byte(`"Extra":1,"DockerInfo"`), 1))), []string{`metadata: the same fields, encoded differently: …"elVersion\":\"6.12\"},\"DockerInfo\":{\"a\":[]},\"CustomMetadata\":null}" and …"elVersion\":\"6.12\"},\"Extra\":1,`}},
		{"metadata far behind", parts(part(eif.Meta, bytes.Replace(goodMeta, []byte(`{"a":[]}`), []byte(`{"a":["`+strings.Repeat("x", 300)+`"]}`), 1))), []string{`metadata: DockerInfo: "{\"a\":[]}" and "{\"a\":[\"xxx`}},
		{"files", parts(part(eif.Ramdisk, cpio(dir("neb"), reg("neb/app", "x"), dir("rootfs"),
			dir("rootfs/bin"), exec, reg("rootfs/new", ""), reg("cmd", "/bin/h3llo\n")))), []string{
			"ramdisk 1: rootfs/bin/hello: mode -rw-r--r-- and -rwxr-xr-x (PCR0, PCR2)",
			"ramdisk 1: cmd: content (PCR0, PCR2)",
			"ramdisk 1: env: only the first file has it (PCR0, PCR2)",
			"ramdisk 1: rootfs/new: only the second file has it (PCR0, PCR2)",
		}},
		{"directories with several entries", parts(part(eif.Ramdisk, cpio(dir("rootfs"), dir("rootfs/bin"),
			reg("rootfs/bin/hello", "hello"), reg("cmd", "/bin/hello\n"), reg("env", ""), dir("rootfs"),
			dir("neb"), dir("neb"),
			reg("neb/app", "x")))), []string{
			"ramdisk 1: neb: only the second file has several entries of it (PCR0, PCR2)",
			"ramdisk 1: rootfs: only the second file has several entries of it (PCR0, PCR2)",
		}},
		{"order", parts(part(eif.Ramdisk, cpio(dir("rootfs"), dir("rootfs/bin"),
			reg("rootfs/bin/hello", "hello"), dir("neb"), reg("neb/app", "x"), reg("cmd", "/bin/hello\n"),
			reg("env", "")))), []string{
			"ramdisk 1: the same files in a different order (PCR0, PCR2)",
		}},
		{"compression", parts(part(eif.Ramdisk, compressed(t, "gzip", goodApp))), []string{
			"ramdisk 1: 988 and 197 bytes, the first difference at byte 0; the same files, encoded " +
				"differently (inode numbers, padding or compression) (PCR0, PCR2)",
		}},
		{"a ramdisk less", parts()[:4], []string{"header: section order kernel cmdline metadata ramdisk " +
			"ramdisk and kernel cmdline metadata ramdisk (not measured)",
			"ramdisk 1: only the first file has it (PCR0, PCR2)"}},
		{"one that is no archive", parts(part(eif.Ramdisk, []byte("hello"))),
			[]string{"the files in it cannot be compared"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, sizeA := enclaves.Write(t, parts())
			b, sizeB := enclaves.Write(t, test.b)
			fa, err := eif.Open(a, sizeA)
			if err != nil {
				t.Fatal(err)
			}
			fb, err := eif.Open(b, sizeB)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := inspect.Diff(t.Context(), fa, fb, nil, func(d inspect.Difference) {
				got = append(got, d.String())
			}); err != nil {
				t.Fatal(err)
			}
			ok := len(got) == len(test.want)
			for i := range test.want {
				ok = ok && strings.Contains(got[i], test.want[i])
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// TestDiffBytes compares files that differ in bytes that are in no section, and far behind in a long field.
func TestDiffBytes(t *testing.T) {
	diff := func(a, b []byte) string {
		t.Helper()
		fa, errA := eif.Open(bytes.NewReader(a), int64(len(a)))
		fb, errB := eif.Open(bytes.NewReader(b), int64(len(b)))
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := inspect.Diff(t.Context(), fa, fb, nil, func(d inspect.Difference) {
			got = append(got, d.String())
		}); err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, "\n")
	}
	file := func(meta []byte) []byte {
		out, _ := enclaves.Write(t, parts(part(eif.Meta, meta)))
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a := file(goodMeta)
	b := bytes.Clone(a)
	b[eif.HeaderSize-1] ^= 1 // the checksum is the last field of the header
	if got := diff(a, b); !strings.HasPrefix(got, "header: checksum ") || strings.Contains(got, "\n") {
		t.Errorf("another checksum: %q", got)
	}
	long := func(end string) []byte {
		return bytes.Replace(goodMeta, []byte(`{"a":[]}`), []byte(`{"a":"`+strings.Repeat("x", 300)+end+`"}`), 1)
	}
	want := `metadata: DockerInfo: …"xxxxxxxxxxxxxxxxxxxxone\"}" and …"xxxxxxxxxxxxxxxxxxxxtwo\"}" (from byte 306 on) (not measured)`
	if got := diff(file(long("one")), file(long("two"))); got != want {
		t.Errorf("a long field: %s\nwant %s", got, want)
	}
}

func TestExtract(t *testing.T) {
	in, size := enclaves.Write(t, parts())
	signed, size := resign(t, in, size, newSigner(t, "alice"))
	f, err := eif.Open(signed, size)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "parts")
	names, err := inspect.ExtractSections(t.Context(), f, out)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != "kernel cmdline metadata.json ramdisk-0 ramdisk-1 "+
		"signing-certificate.pem signature.cbor" {
		t.Errorf("the files are %s", got)
	}
	for name, want := range map[string][]byte{"kernel": enclaves.BzImage("6.12.117"),
		"cmdline": []byte("console=ttyS0"), "metadata.json": goodMeta, "ramdisk-1": goodApp} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes (%v)", name, len(got), err)
		}
	}
	if _, err := inspect.ExtractSections(t.Context(), f, out); err == nil {
		t.Error("files are replaced")
	}
	var list bytes.Buffer
	if err := inspect.ListRamdisks(t.Context(), f, &list); err != nil {
		t.Fatal(err)
	}
	if want := "1 -rw-r--r-- 0:0 5 rootfs/bin/hello\n"; !strings.Contains(list.String(), want) {
		t.Errorf("the list is %s", list.String())
	}
	if err := inspect.UnpackRamdisks(t.Context(), f, out, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "1/rootfs/bin/hello")); err != nil ||
		string(got) != "hello" {
		t.Errorf("unpacked: %q (%v)", got, err)
	}
}

// TestListIsNotForged lists names and targets that look like lines of their own.
func TestListIsNotForged(t *testing.T) {
	const forged = "\n1 -rw-r--r-- 0:0 5 innocent"
	in, size := enclaves.Write(t, parts(part(eif.Ramdisk, cpio(dir("rootfs"), reg("rootfs/x"+forged, ""),
		symlink("rootfs/l", "y"+forged), symlink("rootfs/a -> b", "c"), reg("rootfs/\x1b[2K", ""),
		reg("rootfs/größe \"1\"", "")))))
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	if err := inspect.ListRamdisks(t.Context(), f, &list); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(list.String()), "\n")
	want := []string{
		`rootfs`, `"rootfs/x\n1 -rw-r--r-- 0:0 5 innocent"`, `rootfs/l -> "y\n1 -rw-r--r-- 0:0 5 innocent"`, `"rootfs/a -> b" -> c`, `"rootfs/\x1b[2K"`, `"rootfs/größe \"1\""`,
	}
	lines = lines[max(0, len(lines)-len(want)):]
	for i, line := range lines {
		if !strings.HasSuffix(line, " "+want[i]) || !strings.HasPrefix(line, "1 ") {
			t.Errorf("line %d is %s, want it to end in %s", i, line, want[i])
		}
	}
}

// TestUnpackLinks unpacks hard links: the bytes come with the first name or, as GNU cpio writes them, with
// the last, and what joins the names is theirs within one archive.
func TestUnpackLinks(t *testing.T) {
	readOnly := linked("rootfs/r", "")
	readOnly.Mode = 0o100444
	too := linked("rootfs/r-too", "22")
	too.Mode = readOnly.Mode
	two := slices.Concat(
		cpio(dir("rootfs"), linked("rootfs/first", "1"), linked("rootfs/first-too", "")),
		cpio(dir("rootfs/d"), linked("rootfs/last", ""), linked("rootfs/last-too", "22")),
		cpio(readOnly, too))
	in, size := enclaves.Write(t, parts(part(eif.Ramdisk, two)))
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "parts")
	if err := inspect.UnpackRamdisks(t.Context(), f, out, func(string) {}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"first": "1", "first-too": "1", "last": "22", "last-too": "22",
		"r": "22", "r-too": "22"} {
		if got, err := os.ReadFile(filepath.Join(out, "1/rootfs", name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), expected %q", name, got, err, want)
		}
	}
}

// TestLongTarget has a symbolic link that points to more than the kernel takes, out of a ramdisk that is
// small.
func TestLongTarget(t *testing.T) {
	in, size := enclaves.Write(t, parts(part(eif.Ramdisk,
		cpio(dir("rootfs"), symlink("rootfs/l", strings.Repeat("x", 4096))))))
	f, err := eif.Open(in, size)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"list": inspect.ListRamdisks(t.Context(), f, io.Discard),
		"unpack": inspect.UnpackRamdisks(t.Context(), f, filepath.Join(t.TempDir(), "parts"),
			func(string) {}),
	} {
		if err == nil || !strings.Contains(err.Error(),
			"invalid symbolic link of 4096 bytes: expected 1 to 4095") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestInspectEnds: whoever presses Ctrl-C does not wait for a large file.
func TestInspectEnds(t *testing.T) {
	in, size := enclaves.Write(t, parts())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inspect.Inspect(ctx, in, size, noon); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v", err)
	}
}

// BenchmarkDeepNames inspects names as deep as the kernel unpacks them: a ramdisk of a few kilobytes,
// compressed, holds thousands.
func BenchmarkDeepNames(b *testing.B) {
	entries := []enclaves.Entry{dir("rootfs")}
	for range 1000 {
		entries = append(entries, dir("rootfs"+strings.Repeat("/a", 1997)))
	}
	in, size := enclaves.Write(b, parts(part(eif.Ramdisk, cpio(entries...))))
	for b.Loop() {
		if _, err := inspect.Inspect(b.Context(), in, size, noon); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnpackStaysInside unpacks archives that want out.
func TestUnpackStaysInside(t *testing.T) {
	for name, archive := range map[string][]byte{
		"dots":           cpio(reg("../../escaped", "x")),
		"absolute":       cpio(reg("/escaped", "x")),
		"through a link": cpio(symlink("rootfs", "../.."), reg("rootfs/escaped", "x")),
		"absolute link":  cpio(symlink("rootfs", "/tmp"), reg("rootfs/neb-escaped", "x")),
	} {
		in, size := enclaves.Write(t, parts(part(eif.Ramdisk, archive)))
		f, err := eif.Open(in, size)
		if err != nil {
			t.Fatal(err)
		}
		top := t.TempDir()
		out := filepath.Join(top, "a", "b")
		err = inspect.UnpackRamdisks(t.Context(), f, out, func(string) {})
		for _, escaped := range []string{filepath.Join(top, "escaped"), filepath.Join(top, "a/escaped"),
			filepath.Join(out, "escaped"), "/escaped", "/tmp/neb-escaped"} {
			if _, statErr := os.Lstat(escaped); statErr == nil {
				t.Errorf("%s: %s was written (%v)", name, escaped, err)
			}
		}
	}
}

func TestPolicy(t *testing.T) {
	m := eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}
	p := inspect.Policy{}
	if err := p.Add(m); err != nil {
		t.Fatal(err)
	}
	c, err := p.Condition()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	zeros := strings.Repeat("0", 94)
	if want := `{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:PCR0":"01` + zeros + `","kms:RecipientAttestation:PCR1":"02` + zeros + `","kms:RecipientAttestation:PCR2":"03` + zeros + `"}}`; err != nil || string(text) != want {
		t.Errorf("%s (%v)", text, err)
	}
	for name, use := range map[string]func() error{
		"PCR1 alone": func() error {
			p := inspect.Policy{}
			p.Add(m, 1)
			_, err := p.Condition()
			return err
		},
		"PCR1 and PCR2": func() error {
			p := inspect.Policy{}
			p.Add(m, 1, 2)
			_, err := p.Condition()
			return err
		},
		"zero":                  func() error { _, err := inspect.Policy{0: {}}.Condition(); return err },
		"PCR8 of no signature":  func() error { return inspect.Policy{}.Add(m, 8) },
		"a register of no file": func() error { return inspect.Policy{}.Add(m, 4) },
	} {
		if use() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for arn, fine := range map[string]bool{
		"arn:aws:iam::123456789012:role/Webserver":          true,
		"arn:aws-cn:iam::123456789012:role/path/Web+server": true,
		"arn:aws:iam::123456789012:user/x":                  false,
		"arn:aws:iam::123456789012:role/Webserver ":         false, "Webserver": false,
		"arn:aws:iam::1:role/x": false,
	} {
		if err := inspect.CheckRoleARN(arn); (err == nil) != fine {
			t.Errorf("%q: %v", arn, err)
		}
	}
	for id, fine := range map[string]bool{"i-0123456789abcdef0": true, "i-12345678": true, "i-123": false,
		"0123456789abcdef0": false, "i-0123456789ABCDEF0": false} {
		if err := inspect.CheckInstanceID(id); (err == nil) != fine {
			t.Errorf("%q: %v", id, err)
		}
	}
}
