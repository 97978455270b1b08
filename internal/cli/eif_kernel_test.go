package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
)

// module is a kernel module for machine that needs others, compressed.
func module(t *testing.T, machine elf.Machine, needs string) string {
	t.Helper()
	info := "vermagic=6.12.117 SMP \x00depends=" + needs + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	at := uint64(64 + 3*64)
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type: uint16(elf.ET_REL), Machine: uint16(machine), Version: 1, Ehsize: 64, Shoff: 64,
			Shentsize: 64,
			Shnum:     3, Shstrndx: 2},
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: at, Size: uint64(len(info))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: at + uint64(len(info)),
			Size: uint64(len(names))},
		[]byte(info + names),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(b.Bytes())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

// deb is a Debian package with files, by name, in an uncompressed archive.
func deb(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Typeflag: tar.TypeReg,
			Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(content))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf([]byte("!<arch>\n"), "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", "data.tar", 0, 0, 0, 0o100644,
		data.Len(), data.Bytes())
}

// rpm is an RPM package with files, by name, compressed with pack. Like most, it has no directories that
// another package owns.
func rpm(t *testing.T, files map[string]string, pack func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	const header = "\x8e\xad\xe8\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x05" + // 1 entry, 5 bytes
		"entry of 16 bytesdata"
	var b bytes.Buffer
	b.WriteString("\xed\xab\xee\xdb" + strings.Repeat("\x00", 92) + header + "\x00\x00\x00" + header)
	entries := []enclaves.Entry{enclaves.Dir("./boot"), enclaves.Symlink("./boot/vmlinuz",
		"vmlinuz-6.12.117")}
	for name, content := range files {
		entries = append(entries, enclaves.File("./"+name, content))
	}
	z, err := pack(&b)
	if err == nil {
		_, err = z.Write(enclaves.CPIO(entries...))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

var rpmCompressions = map[string]func(io.Writer) (io.WriteCloser, error){
	"none": func(w io.Writer) (io.WriteCloser, error) { return plain{w}, nil },
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	"xz": func(w io.Writer) (io.WriteCloser, error) { // with the check that rpm writes
		return xz.WriterConfig{CheckSum: xz.SHA256}.NewWriter(w)
	},
}

// TestKernelPackage packs the ready kernel of Debian and RPM packages, and rejects those with which no
// enclave works.
func TestKernelPackage(t *testing.T) {
	f := newEIFFiles(t)
	const modules = "usr/lib/modules/6.12.117/kernel/"
	whole := func() map[string]string {
		return map[string]string{
			"boot/vmlinuz-6.12.117": string(readFile(t, f.path("blobs/bzImage"))),
			"boot/config-6.12.117": "#\n#\n# Linux/x86 6.12.117 Kernel Configuration\n#\nCONFIG_NSM=m\n" +
				"CONFIG_VIRTIO_VSOCKETS=m\nCONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n",
			modules + "drivers/misc/nsm.ko.gz": module(t, elf.EM_X86_64, ""),
			modules + "net/vmw_vsock_virtio_transport.ko.gz": module(t, elf.EM_X86_64,
				"vmw_vsock_virtio_transport_common,vsock"),
			modules + "net/vmw_vsock_virtio_transport_common.ko.gz": module(t, elf.EM_X86_64, "vsock"),
			modules + "net/vsock.ko.gz":                             module(t, elf.EM_X86_64, ""),
			modules + "fs/unused.ko.gz":                             "never read",
			"usr/share/doc/linux/vmlinuz-1":                         "a text",
		}
	}
	config := func(old, new string) func(map[string]string) {
		return func(files map[string]string) {
			const name = "boot/config-6.12.117"
			files[name] = strings.Replace(files[name], old, new, 1)
		}
	}
	put := func(name, content string) func(map[string]string) {
		return func(files map[string]string) { files[name] = content }
	}
	without := func(name string) func(map[string]string) {
		return func(files map[string]string) { delete(files, name) }
	}
	var net []string // further arguments
	build := func(out string, packages ...string) (int, string) {
		args := []string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64", "--init",
			f.path("blobs/init"), "--cmd", "/hello", "--output", out}
		for _, p := range packages {
			args = append(args, "--kernel-package", p)
		}
		args = append(args, net...)
		status, _, errs := command(args...)
		return status, errs
	}
	write := func(name string, content []byte) string {
		t.Helper()
		if err := os.WriteFile(f.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		return f.path(name)
	}

	good := deb(t, whole())
	path := write("good.deb", good)
	if status, errs := build(f.path("good.eif"), path+fmt.Sprintf("@sha256:%X",
		sha256.Sum256(good))); status != 0 {
		t.Fatal(errs)
	}
	if status, _, errs := command("eif", "extract", f.path("good.eif"), "--output", f.path("parts"),
		"--unpack"); status != 0 {
		t.Fatal(errs)
	}
	list := string(readFile(t, f.path("parts/0/neb/modules")))
	last := -1
	for _, name := range []string{"nsm.ko", "/vsock.ko", "_common.ko", "virtio_transport.ko"} {
		at := strings.Index(list, name)
		if at <= last {
			t.Errorf("%s is not after those that it needs:\n%s", name, list)
		}
		last = at
	}
	if strings.Contains(list, "unused") || strings.Contains(list, "virtio_mmio") {
		t.Errorf("modules that are not needed:\n%s", list)
	}
	parts := whole()
	delete(parts, "boot/vmlinuz-6.12.117")
	delete(parts, "boot/config-6.12.117")
	binary := map[string]string{ // Debian's kernels since 6.19
		"usr/lib/modules/6.12.117/vmlinuz": whole()["boot/vmlinuz-6.12.117"],
		"usr/lib/modules/6.12.117/config":  whole()["boot/config-6.12.117"],
	}
	if status, errs := build(f.path("parts.eif"), write("binary.deb", deb(t, binary)),
		write("modules.deb", deb(t, parts))); status != 0 {
		t.Error(errs)
	}
	if !bytes.Equal(readFile(t, f.path("parts.eif")), readFile(t, f.path("good.eif"))) {
		t.Error("the same kernel in two packages gives another EIF")
	}

	fedora := whole()
	for name, content := range whole() {
		if in, ok := strings.CutPrefix(name, "usr/lib/"); ok {
			delete(fedora, name)
			fedora["lib/"+in] = content
		}
	}
	fedora["lib/modules/6.12.117/vmlinuz"], fedora["lib/modules/6.12.117/config"] =
		fedora["boot/vmlinuz-6.12.117"], fedora["boot/config-6.12.117"]
	delete(fedora, "boot/vmlinuz-6.12.117")
	delete(fedora, "boot/config-6.12.117")
	for name, compression := range rpmCompressions {
		for _, files := range []map[string]string{whole(), fedora} {
			if status, errs := build(f.path("rpm.eif"),
				write("linux.rpm", rpm(t, files, compression))); status != 0 {
				t.Errorf("RPM, %s: %s", name, errs)
			} else if !bytes.Equal(readFile(t, f.path("rpm.eif")), readFile(t, f.path("good.eif"))) {
				t.Errorf("RPM, %s: the same kernel gives another EIF", name)
			}
		}
	}

	for _, test := range []struct {
		name   string
		change func(map[string]string)
		want   string
	}{
		{"the driver is built in", config("NSM=m", "NSM=y"), ""},
		{"for another architecture", config("Linux/x86", "Linux/arm64"),
			"the kernel is for arm64, the enclave is for x86_64"},
		{"a module for another architecture", put(modules+"drivers/misc/nsm.ko.gz",
			module(t, elf.EM_AARCH64, "")),
			"built for EM_AARCH64"},
		{"another kernel file", put("boot/vmlinuz-6.12.117", "text"),
			"the kernel is neither a bzImage nor an Image"},
		{"no driver", config("CONFIG_NSM=m\n", ""), "lacks nsm (the driver of the Nitro Secure Module)"},
		{"no vsock", config("CONFIG_VIRTIO_VSOCKETS=m\n", ""), "lacks vmw_vsock_virtio_transport"},
		{"no network", func(map[string]string) {}, "lacks tun (its network)"},
		{"no devices", config("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n", ""),
			"without VIRTIO_MMIO_CMDLINE_DEVICES"},
		{"a module is missing", without(modules + "net/vsock.ko.gz"), "lack the module vsock"},
		{"no kernel", without("boot/vmlinuz-6.12.117"), "no kernel (vmlinuz)"},
		{"no configuration", without("boot/config-6.12.117"), "no configuration (config)"},
		{"no line of the version", config("# Linux/x86", "# "), "does not name its architecture"},
		{"two kernels", put("boot/vmlinuz-6.12.118", "x"), "expected one kernel"},
		{"modules that need each other", put(modules+"net/vsock.ko.gz",
			module(t, elf.EM_X86_64, "vmw_vsock_virtio_transport")),
			"the modules vsock and vmw_vsock_virtio_transport need each other"},
		{"a driver that needs a module", put(modules+"drivers/misc/nsm.ko.gz",
			module(t, elf.EM_X86_64, "vsock")),
			"nsm.ko needs another module"},
		{"a module that is none", put(modules+"drivers/misc/nsm.ko.gz", strings.Repeat("text", 40)),
			"module nsm: bad magic number"},
		{"a compressed module that is cut", put(modules+"drivers/misc/nsm.ko.gz",
			module(t, elf.EM_X86_64, "")[:40]), "module nsm: unexpected EOF"},
	} {
		files := whole()
		test.change(files)
		if net = nil; test.name == "no network" {
			net = []string{"--net"}
		}
		status, errs := build(f.path("bad.eif"), write("bad.deb", deb(t, files)))
		if (status == 0) != (test.want == "") || !strings.Contains(errs, test.want) {
			t.Errorf("%s: status %d, expected %q, found %s", test.name, status, test.want, errs)
		}
	}
	for name, content := range map[string][]byte{
		"empty.deb": nil, "text.deb": []byte("text"), "head.deb": good[:60], "cut.deb": good[:len(good)/2],
		"linux.rpm": {0xed, 0xab, 0xee, 0xdb},
	} {
		if status, errs := build(f.path("bad.eif"), write(name, content)); status != 1 ||
			!strings.Contains(errs, name) {
			t.Errorf("%s: status %d: %s", name, status, errs)
		}
	}
	if status, errs := build(f.path("bad.eif"), path+"@sha256:"+strings.Repeat("0", 64)); status != 1 ||
		!strings.Contains(errs, "expected SHA-256 "+strings.Repeat("0", 64)) {
		t.Errorf("another hash: status %d: %s", status, errs)
	}
	for _, sum := range []string{"", "abc", strings.Repeat("0", 63), strings.Repeat("0", 66),
		strings.Repeat("x", 64)} {
		if status, errs := build(f.path("bad.eif"), path+"@sha256:"+sum); status != 2 ||
			!strings.Contains(errs, "--kernel-package") || !strings.Contains(errs, "64 hexadecimal digits") {
			t.Errorf("hash %q: status %d: %s", sum, status, errs)
		}
	}
	if status, errs := build(path, path); status == 0 || !strings.Contains(errs, "--output") {
		t.Errorf("output over the package: status %d: %s", status, errs)
	}
}
