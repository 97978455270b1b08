package release

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/sign"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// goBlob is a Go program with one module in it.
var goBlob = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "neb-release-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "blob")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out,
		"./testdata/blob")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, text)
	}
	return hollow(out)
})

// hollow returns an ELF file with nothing but the build information of a program. Compressing the code of
// four programs in every archive would take most of the time of these tests.
func hollow(name string) ([]byte, error) {
	program, err := elf.Open(name)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	section := program.Section(".go.buildinfo")
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	const names = "\x00.go.buildinfo\x00.shstrtab\x00"
	const headers, sections = 64 + 56, 3 * 64 // bytes: of the file with one segment, and of the section table
	at := uint64(headers + sections)
	size := uint64(len(info))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(program.Machine), Version: 1, Phoff: 64,
			Shoff:  headers,
			Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Off: at, Vaddr: section.Addr,
			Filesz: size, Memsz: size},
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Addr: section.Addr, Off: at, Size: size},
		elf.Section64{Name: 15, Type: uint32(elf.SHT_STRTAB), Off: at + size, Size: uint64(len(names))},
		info, []byte(names),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// newRelease is a release of made-up blobs, all but the Go ones of a few bytes.
func newRelease(t *testing.T) Release {
	t.Helper()
	program, err := goBlob()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := Release{Version: "1.2.0", Blobs: dir, Lock: neb.LockFile, Host: "amd64",
		Commit: strings.Repeat("1", 40)}
	for _, b := range Blobs() {
		data := []byte("content of " + b.Path() + "\n")
		if b.Name == "init" || b.Name == "linuxkit" {
			data = program
		}
		path := filepath.Join(dir, filepath.FromSlash(b.Path()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil { // modes are the archive's own
			t.Fatal(err)
		}
	}
	for _, arch := range component.Archs {
		for _, name := range component.Names {
			rec := component.Record{Component: name, Arch: arch, Isolation: sandbox.UserNamespaces}
			for _, f := range component.Files(name, arch) {
				data, err := os.ReadFile(filepath.Join(dir, arch, f))
				if err != nil {
					t.Fatal(err)
				}
				rec.Files = append(rec.Files,
					component.File{Name: f, Size: int64(len(data)),
						SHA256: fmt.Sprintf("%x", sha256.Sum256(data))})
			}
			r.Records = append(r.Records, rec)
		}
	}
	return r
}

func made(t *testing.T, r Release) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "release")
	if _, err := r.Make(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The same blobs give the same release, whatever umask, time, directory and mode of the files.
func TestSameBytes(t *testing.T) {
	r := newRelease(t)
	first := made(t, r)
	again := newRelease(t)
	for _, b := range Blobs() {
		if err := os.Chmod(filepath.Join(again.Blobs, filepath.FromSlash(b.Path())), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	second := made(t, again)
	names, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 4 {
		t.Errorf("expected 4 files, found %d", len(names))
	}
	for _, n := range names {
		one, err1 := os.ReadFile(filepath.Join(first, n.Name()))
		two, err2 := os.ReadFile(filepath.Join(second, n.Name()))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs between two releases of the same blobs", n.Name())
		}
	}
}

// The archive is what tar(1) unpacks to the layout of the packages of nitro-cli.
func TestArchive(t *testing.T) {
	r := newRelease(t)
	dir := made(t, r)
	f, err := os.Open(filepath.Join(dir, "enclaves-blobs-1.2.0.tar.xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for tr := tar.NewReader(plain); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d %q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		found = append(found, fmt.Sprintf("%s %#o", h.Name, h.Mode))
	}
	want := []string{
		"enclaves-blobs/ 0755",
		"enclaves-blobs/LICENSE 0644",
		"enclaves-blobs/LICENSES/ 0755",
		"enclaves-blobs/LICENSES/GPL-2.0-only.txt 0644",
		"enclaves-blobs/LICENSES/Linux-syscall-note.txt 0644",
		"enclaves-blobs/NOTICE 0644",
		"enclaves-blobs/THIRD_PARTY_LICENSES 0644",
		"enclaves-blobs/aarch64/ 0755",
		"enclaves-blobs/aarch64/Image 0644",
		"enclaves-blobs/aarch64/Image.config 0644",
		"enclaves-blobs/aarch64/cmdline 0644",
		"enclaves-blobs/aarch64/init 0755",
		"enclaves-blobs/aarch64/linuxkit 0755",
		"enclaves-blobs/aarch64/nsm.ko 0644",
		"enclaves-blobs/x86_64/ 0755",
		"enclaves-blobs/x86_64/bzImage 0644",
		"enclaves-blobs/x86_64/bzImage.config 0644",
		"enclaves-blobs/x86_64/cmdline 0644",
		"enclaves-blobs/x86_64/init 0755",
		"enclaves-blobs/x86_64/linuxkit 0755",
		"enclaves-blobs/x86_64/nsm.ko 0644",
	}
	if !slices.Equal(found, want) {
		t.Errorf("found\n%s\nexpected\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
}

// The papers name the kernel, each patch, every package of the toolchain, and the modules, with their hashes.
func TestPapers(t *testing.T) {
	r := newRelease(t)
	dir := made(t, r)
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	files, err := l.Files("amd64", lock.Base, lock.GCCx86_64, lock.GCCaarch64)
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, l.Kernel, l.Go.Hosts["amd64"])

	var s sign.Statement[internal]
	readJSON(t, filepath.Join(dir, "enclaves-blobs-1.2.0.provenance.json"), &s)
	materials := map[string]bool{}
	for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
		materials[d.Digest["sha256"]] = true
	}
	bom := new(cdx.BOM)
	text, err := os.Open(filepath.Join(dir, "enclaves-blobs-1.2.0.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	if err := cdx.NewBOMDecoder(text, cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	components, refs := map[string]cdx.Component{}, map[string]bool{}
	for _, c := range *bom.Components {
		if refs[c.BOMRef] {
			t.Errorf("bill: %s is there twice", c.BOMRef)
		}
		refs[c.BOMRef] = true
		if c.Licenses == nil || len(*c.Licenses) == 0 {
			t.Errorf("bill: %s has no licence", c.BOMRef)
		}
		if c.Hashes != nil {
			components[(*c.Hashes)[0].Value] = c
		}
	}
	for _, d := range *bom.Dependencies {
		for _, on := range *d.Dependencies {
			if !refs[on] {
				t.Errorf("bill: %s depends on %s, which is not in it", d.Ref, on)
			}
		}
	}
	for _, f := range files {
		if !materials[f.SHA256] {
			t.Errorf("provenance: lacks %s %s", f.Name, f.Version)
		}
		if _, there := components[f.SHA256]; !there {
			t.Errorf("bill: lacks %s %s", f.Name, f.Version)
		}
	}
	pedigree := components[l.Kernel.SHA256].Pedigree
	for i, p := range kernel.Patches() {
		if sum := sha256.Sum256([]byte(p.Text)); !materials[hex.EncodeToString(sum[:])] {
			t.Errorf("provenance: lacks the patch %s", p.Name)
		}
		if pedigree == nil || (*pedigree.Patches)[i].Diff.Text.Content != p.Text {
			t.Errorf("bill: lacks the patch %s", p.Name)
		}
	}
	if !refs["pkg:golang/golang.org/x/sys@"+sysVersion(t)] {
		t.Error("bill: lacks the Go module golang.org/x/sys of init")
	}
	if s.Predicate.BuildDefinition.ResolvedDependencies[0].Digest["gitCommit"] != r.Commit {
		t.Error("provenance: does not name the commit")
	}
}

func sysVersion(t *testing.T) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name, want string
		change     func(*testing.T, *Release)
	}{
		{"chroot alone", `kernel x86_64: built in isolation "chroot"`, func(t *testing.T, r *Release) {
			for i, rec := range r.Records {
				if rec.Component == "kernel" && rec.Arch == "x86_64" {
					r.Records[i].Isolation = sandbox.Chroot
				}
			}
		}},
		{"no record", "linuxkit aarch64: no record", func(t *testing.T, r *Release) {
			r.Records = slices.DeleteFunc(r.Records,
				func(rec component.Record) bool {
					return rec.Component == "linuxkit" &&
						rec.Arch == "aarch64"
				})
		}},
		{"missing blob", "aarch64/nsm.ko is missing", func(t *testing.T, r *Release) {
			if err := os.Remove(filepath.Join(r.Blobs, "aarch64", "nsm.ko")); err != nil {
				t.Fatal(err)
			}
		}},
		{"init is no Go program", "init: no Go build information", func(t *testing.T, r *Release) {
			if err := os.WriteFile(filepath.Join(r.Blobs, "x86_64", "init"), []byte("#!/bin/sh\n"),
				0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"lock", "neb.lock", func(t *testing.T, r *Release) { r.Lock = []byte("{}") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRelease(t)
			test.change(t, &r)
			dir := filepath.Join(t.TempDir(), "release")
			if _, err := r.Make(t.Context(), dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("expected an error with %q, found %v", test.want, err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("left a release behind")
			}
		})
	}
}

// resum makes the checksum file right again, as somebody would who tampers with care.
func resum(t *testing.T, dir string) {
	t.Helper()
	var files []file
	for _, n := range []string{archiveName("1.2.0"), billName("1.2.0"), provenanceName("1.2.0")} {
		data, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{n, data})
	}
	write(t, filepath.Join(dir, sumsName), sumsOf(files))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit changes a file of the release.
func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, change(data))
}

// repack makes an archive of other entries; each is a name with a type and content.
func repack(t *testing.T, change func([]*tar.Header, map[string][]byte) []*tar.Header) func([]byte) []byte {
	return func(archive []byte) []byte {
		plain, err := xz.NewReader(bytes.NewReader(archive))
		if err != nil {
			t.Fatal(err)
		}
		var headers []*tar.Header
		content := map[string][]byte{}
		for tr := tar.NewReader(plain); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if content[h.Name], err = io.ReadAll(tr); err != nil {
				t.Fatal(err)
			}
			headers = append(headers, h)
		}
		var out bytes.Buffer
		compressed, err := xz.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		tw := tar.NewWriter(compressed)
		for _, h := range change(headers, content) {
			h.Size = int64(len(content[h.Name]))
			if err := tw.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write(content[h.Name]); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(tw.Close(), compressed.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
}

func TestVerify(t *testing.T) {
	r := newRelease(t)
	dir := made(t, r)
	v, err := Verify(filepath.Join(dir, archiveName("1.2.0")), neb.LockFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong := func(change func(*Release)) (paths []string, err error) {
		other := r
		// A host of another kind and another isolation build the same blobs; what the release says of its
		// own stays.
		other.Host, other.Records = "arm64", slices.Clone(r.Records)
		for i := range other.Records {
			other.Records[i].Isolation = sandbox.Namespaces
		}
		change(&other)
		findings, err := v.Compare(other)
		if err == nil && len(findings) != 15 {
			t.Errorf("expected 12 blobs and 3 files, found %d findings", len(findings))
		}
		for _, f := range findings {
			if f.State != output.Same {
				paths = append(paths, f.Path)
			}
		}
		return paths, err
	}
	if paths, err := wrong(func(*Release) {}); err != nil || paths != nil {
		t.Errorf("the same: %v, %v", paths, err)
	}
	if paths, err := wrong(func(r *Release) { r.Commit = "" }); err != nil || paths != nil {
		t.Errorf("source without a commit: %v, %v", paths, err)
	}
	for _, commit := range []string{r.Commit, ""} {
		if err := v.MadeOf(commit); err != nil {
			t.Errorf("source at commit %q: %v", commit, err)
		}
	}
	if err := v.MadeOf(strings.Repeat("2", 40)); err == nil ||
		!strings.Contains(err.Error(),
			"built from commit 1111111111111111111111111111111111111111, the source is at commit 2222") {
		t.Errorf("source at another commit: %v", err)
	}
	// A release that agrees with itself, of a kernel that the source does not make.
	paths, err := wrong(func(other *Release) {
		other.Blobs = t.TempDir()
		if err := os.CopyFS(other.Blobs, os.DirFS(r.Blobs)); err != nil {
			t.Fatal(err)
		}
		edit(t, filepath.Join(other.Blobs, "x86_64", "bzImage"),
			func(b []byte) []byte { return append(b, 0) })
	})
	if want := []string{"x86_64/bzImage", archiveName("1.2.0"), billName("1.2.0"),
		provenanceName("1.2.0")}; err != nil || !slices.Equal(paths, want) {
		t.Errorf("another kernel: expected %v to differ, found %v, %v", want, paths, err)
	}
}

// Papers that agree with each other and with the blobs, and are not what the source makes.
func TestForgedPapers(t *testing.T) {
	r := newRelease(t)
	dir := made(t, r)
	bill, provenance := filepath.Join(dir, billName("1.2.0")), filepath.Join(dir, provenanceName("1.2.0"))
	before, err := os.ReadFile(bill)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, bill, func(b []byte) []byte {
		return bytes.Replace(b, []byte("GPL-2.0-only"),
			[]byte("Apache-2.0"), 1)
	})
	after, err := os.ReadFile(bill)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, provenance, func(b []byte) []byte {
		for name, sum := range digestOf(before) {
			b = bytes.ReplaceAll(b, []byte(sum), []byte(digestOf(after)[name]))
		}
		return b
	})
	resum(t, dir)
	v, err := Verify(filepath.Join(dir, archiveName("1.2.0")), neb.LockFile)
	if err != nil {
		t.Fatal(err)
	}
	findings, err := v.Compare(r)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range findings {
		if f.State != output.Same {
			paths = append(paths, f.Path)
		}
	}
	if want := []string{billName("1.2.0"), provenanceName("1.2.0")}; !slices.Equal(paths, want) {
		t.Errorf("expected %v to differ, found %v", want, paths)
	}

	edit(t, provenance, func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(sandbox.UserNamespaces), []byte(sandbox.Chroot))
	})
	resum(t, dir)
	if v, err = Verify(filepath.Join(dir, archiveName("1.2.0")), neb.LockFile); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Compare(r); err == nil || !strings.Contains(err.Error(), `isolation "chroot"`) {
		t.Errorf("built in a chroot alone: %v", err)
	}
}

// The kernel's source stands beside the archive, if it is the locked one.
func TestKernelSource(t *testing.T) {
	r := newRelease(t)
	l, err := lock.Read(bytes.NewReader(neb.LockFile))
	if err != nil {
		t.Fatal(err)
	}
	source := []byte("Linux\n")
	r.KernelSource = filepath.Join(t.TempDir(), "download")
	write(t, r.KernelSource, source)
	dir := filepath.Join(t.TempDir(), "release")
	if _, err := r.Make(t.Context(), dir); err == nil ||
		!strings.Contains(err.Error(), "expected SHA-256 "+l.Kernel.SHA256) {
		t.Errorf("another source: %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another source: a release is there: %v", err)
	}

	r.Lock = bytes.ReplaceAll(r.Lock, []byte(l.Kernel.SHA256), fmt.Appendf(nil, "%x", sha256.Sum256(source)))
	names, err := r.Make(t.Context(), dir+"/")
	if err != nil {
		t.Fatal(err)
	}
	name := names[len(names)-1]
	if found, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(found, source) ||
		name != path.Base(l.Kernel.Path) {
		t.Errorf("%s: found %q, %v", name, found, err)
	}
	if _, err := Verify(filepath.Join(dir, names[0]), r.Lock); err != nil {
		t.Error(err)
	}
}

// What neb brings itself must be what the source has that it names.
func TestCheckSource(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, data)
	}
	put(lockName, neb.LockFile)
	for _, f := range ownInputs() {
		put(f.name, f.data)
	}
	if err := CheckSource(dir, neb.LockFile); err != nil {
		t.Error(err)
	}
	name := ownInputs()[0].name
	put(name, []byte("# another\n"))
	if err := CheckSource(dir, neb.LockFile); err == nil ||
		!strings.Contains(err.Error(), filepath.FromSlash(name)) {
		t.Errorf("expected an error with %s, found %v", name, err)
	}
}

// differing is an error about the files that a new build makes different.
func differing(t *testing.T, v *Verified, r Release) (err error) {
	t.Helper()
	findings, compareErr := v.Compare(r)
	if compareErr != nil {
		t.Fatal(compareErr)
	}
	for _, f := range findings {
		if f.State != output.Same {
			err = errors.Join(err, fmt.Errorf("%s is %s", f.Path, f.State))
		}
	}
	return err
}

func TestTampering(t *testing.T) {
	archive, bill, provenance := archiveName("1.2.0"), billName("1.2.0"), provenanceName("1.2.0")
	const notMade = "not what 'neb release' makes of the blobs in it"
	r := newRelease(t)
	whole := made(t, r)
	lockElsewhere := bytes.Replace(neb.LockFile, []byte(`"schema"`), []byte(`"schema" `), 1)
	for _, test := range []struct {
		name   string
		want   string // in the error
		lock   []byte // "": the release's own
		resum  bool   // make the checksum files right again
		change func(t *testing.T, dir string)
	}{
		{"one byte of the archive", sumsName + " does not match", nil, false, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, archive), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}},
		{"one byte of the archive, sums made right", archive + ":", nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			}},
		{"archive cut off", archive + ":", nil, true, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, archive), func(b []byte) []byte { return b[:len(b)/2] })
		}},
		{"one byte of a blob", notMade, nil, true, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, archive),
				repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
					c["enclaves-blobs/x86_64/cmdline"][0] ^= 1
					return h
				}))
		}},
		{"one file missing", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, _ map[string][]byte) []*tar.Header {
						return slices.DeleteFunc(h,
							func(h *tar.Header) bool { return h.Name == "enclaves-blobs/aarch64/nsm.ko" })
					}))
			}},
		{"one file extra", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						c["enclaves-blobs/x86_64/extra"] = []byte("x")
						return append(h, &tar.Header{Typeflag: tar.TypeReg,
							Name: "enclaves-blobs/x86_64/extra",
							Mode: 0o644})
					}))
			}},
		{"outside the directory", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						return append(h, &tar.Header{Typeflag: tar.TypeReg, Name: "../etc/passwd",
							Mode: 0o644})
					}))
			}},
		{"a link for a file", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						i := slices.IndexFunc(h, func(h *tar.Header) bool {
							return h.Name == "enclaves-blobs/x86_64/init"
						})
						h[i].Typeflag, h[i].Linkname = tar.TypeSymlink, "/bin/sh"
						c[h[i].Name] = nil
						return h
					}))
			}},
		{"a mode", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						i := slices.IndexFunc(h, func(h *tar.Header) bool {
							return h.Name == "enclaves-blobs/x86_64/init"
						})
						h[i].Mode = 0o644
						return h
					}))
			}},
		{"a licence changed", notMade, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						c["enclaves-blobs/LICENSE"] = []byte("do as you like\n")
						return h
					}))
			}},
		{"an owner", notMade, nil, true, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, archive),
				repack(t, func(h []*tar.Header, _ map[string][]byte) []*tar.Header {
					h[0].Uid = 1000
					return h
				}))
		}},
		{"bytes after the end", archive + ":", nil, true, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, archive), func(b []byte) []byte { return append(b, 0, 0, 0, 0) })
		}},
		{"not an archive", "not an xz file", nil, true, func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, archive), []byte("hello"))
		}},
		{"bill of materials", bill + " is different", nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, bill), func(b []byte) []byte { return append(b, '\n') })
			}},
		{"provenance of another lock", "made with another neb.lock", lockElsewhere, false,
			func(*testing.T, string) {}},
		{"another release, with licences of its own", "made with another neb.lock", lockElsewhere, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, archive),
					repack(t, func(h []*tar.Header, c map[string][]byte) []*tar.Header {
						c["enclaves-blobs/NOTICE"] = []byte("Linux 6.12.1\n")
						return h
					}))
			}},
		{"digest of another archive", provenance + " is different", nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, provenance), func(b []byte) []byte {
					return bytes.Replace(b, []byte(`"sha256": "`), []byte(`"sha256": "0`), 1)
				})
			}},
		{"provenance without a lock", "expected one neb.lock among the resolved dependencies, found 0", nil,
			true, func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, provenance), func(b []byte) []byte {
					return bytes.Replace(b, []byte(`"name": "neb.lock"`), []byte(`"name": "other"`), 1)
				})
			}},
		{"provenance of another version", `version: expected "1.2.0", found "1.3.0"`, nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, provenance), func(b []byte) []byte {
					return bytes.Replace(b, []byte(`"version": "1.2.0"`), []byte(`"version": "1.3.0"`), 1)
				})
			}},
		{"provenance with a field of its own", "not a statement of neb", nil, true,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, provenance),
					func(b []byte) []byte { return bytes.Replace(b, []byte("{"), []byte(`{"more": 1,`), 1) })
			}},
		{"no provenance", provenance + ": missing", nil, false, func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, provenance)); err != nil {
				t.Fatal(err)
			}
		}},
		{"no sums", "SHA256SUMS: missing", nil, false, func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, sumsName)); err != nil {
				t.Fatal(err)
			}
		}},
		{"sums about something else", sumsName + " does not match", nil, false,
			func(t *testing.T, dir string) {
				edit(t, filepath.Join(dir, sumsName),
					func(b []byte) []byte { return append(b, "00  other.txt\n"...) })
			}},
		{"sums about less", sumsName + " does not match", nil, false, func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, sumsName), func(b []byte) []byte {
				lines := strings.SplitAfter(string(b), "\n")
				return []byte(lines[0] + lines[2])
			})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			test.change(t, dir)
			if test.resum {
				resum(t, dir)
			}
			if test.lock == nil {
				test.lock = neb.LockFile
			}
			v, err := Verify(filepath.Join(dir, archive), test.lock)
			if err == nil {
				err = differing(t, v, r)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("expected an error with %q, found: %v", test.want, err)
			}
		})
	}
	t.Run("another name", func(t *testing.T) {
		if _, err := Verify("blobs.tar.xz", neb.LockFile); err == nil ||
			!strings.Contains(err.Error(), "expected the archive of a release") {
			t.Errorf("found %v", err)
		}
	})
}

func TestSigned(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	p256, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize)).Public()
	for name, key := range map[string]crypto.Signer{"Ed25519": ed25519.NewKeyFromSeed(seed),
		"ECDSA P-256": p256} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t)
			r.Key = key
			dir := made(t, r)
			v, err := Verify(filepath.Join(dir, archiveName("1.2.0")), neb.LockFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Signed(key.Public()); err != nil {
				t.Error(err)
			}
			if err := v.Signed(other); err == nil ||
				!strings.Contains(err.Error(), "none of its 1 signatures is by key") {
				t.Errorf("another key: %v", err)
			}
			envelope := filepath.Join(dir, envelopeName("1.2.0"))
			if second, err := os.ReadFile(filepath.Join(made(t, r), envelopeName("1.2.0"))); err != nil {
				t.Error(err)
			} else if first, _ := os.ReadFile(envelope); !bytes.Equal(first, second) {
				t.Error("two signatures of one statement differ")
			}
			foreign, err := sign.Seal(sign.StatementType, []byte(`{"_type": "another statement"}`), key)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(foreign)
			if err != nil {
				t.Fatal(err)
			}
			write(t, envelope, text)
			if err := v.Signed(key.Public()); err == nil ||
				!strings.Contains(err.Error(), "signed statement differs") {
				t.Errorf("another statement: %v", err)
			}
			if err := os.Remove(envelope); err != nil {
				t.Fatal(err)
			}
			if err := v.Signed(key.Public()); err == nil || !strings.Contains(err.Error(), "not signed") {
				t.Errorf("no envelope: %v", err)
			}
		})
	}
}

func TestCheckChangelog(t *testing.T) {
	const text = "# Changelog\n\n## Unreleased\n\nPCR1 will change.\n\n## 1.2.0 (2026-01-02)\n\nPCR1: " +
		"changed: new kernel.\n\n## 1.1.0\n\nDocs.\n\n## 1.0.0\n\nPCR1: TODO\n"
	for version, want := range map[string]string{
		"1.2.0":  "",
		"1.1.0":  "does not say whether PCR1 changed",
		"1.0.0":  "does not say whether PCR1 changed",
		"1.2":    "no section",
		"1.3.0":  "no section",
		"1.2.00": "no section",
	} {
		err := CheckChangelog(text, version)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected %q, found %v", version, want, err)
		}
	}
}

func TestPackageURL(t *testing.T) {
	for want, f := range map[string]lock.File{
		"pkg:deb/debian/bash@5.2.37-2%2Bb5?arch=amd64": {Name: "bash", Version: "5.2.37-2+b5",
			Arch: "amd64", Archive: lock.Debian},
		"pkg:deb/debian/bc@1:1.07.1~rc?arch=arm64": {Name: "bc", Version: "1:1.07.1~rc", Arch: "arm64",
			Archive: lock.Security},
		"pkg:golang/golang.org/toolchain@v0.0.1-go1.2.3": {Name: "golang.org/toolchain",
			Version: "v0.0.1-go1.2.3", Archive: lock.GoProxy},
		"pkg:golang/example.org/m@v2.0.0%2Bincompatible": {Name: "example.org/m",
			Version: "v2.0.0+incompatible", Archive: lock.GoProxy},
	} {
		if got := packageURL(f); got != want {
			t.Errorf("found %s, expected %s", got, want)
		}
	}
}

// Every file of a release has its terms.
func TestTerms(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(terms)),
		slices.Sorted(slices.Values(component.Names)); !slices.Equal(got, want) {
		t.Errorf("terms are known of %v, components are %v", got, want)
	}
}

// Whatever the archive, the answer is an error or all blobs.
func FuzzUnpack(f *testing.F) {
	var small bytes.Buffer
	compressed, err := xz.NewWriter(&small)
	if err != nil {
		f.Fatal(err)
	}
	tw := tar.NewWriter(compressed)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: top, Mode: 0o755}),
		tw.Close(), compressed.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(small.Bytes())
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if files, err := unpack(data); err == nil && len(files) != len(Blobs()) {
			t.Errorf("%d files and no error", len(files))
		}
	})
}
