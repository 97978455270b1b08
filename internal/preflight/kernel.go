package preflight

import (
	"encoding/binary"
	"io"
	"regexp"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// features are programs that need an option of the kernel, by their names. The option must be built in: neb
// packs no modules that nobody named.
var features = []struct {
	what, option string
	programs     []string
}{
	{"FUSE file systems", "CONFIG_FUSE_FS", []string{"fusermount", "fusermount3"}},
	{"iptables-legacy", "CONFIG_IP_NF_IPTABLES", []string{"xtables-legacy-multi"}},
	{"nftables", "CONFIG_NF_TABLES", []string{"nft", "xtables-nft-multi"}},
	{"WireGuard", "CONFIG_WIREGUARD", []string{"wg"}},
	{"TUN devices", "CONFIG_TUN", []string{"openvpn", "wireguard-go"}},
	{"overlay file systems", "CONFIG_OVERLAY_FS", []string{"dockerd", "containerd", "podman"}},
	{"encrypted volumes", "CONFIG_DM_CRYPT", []string{"cryptsetup"}},
	{"NFS", "CONFIG_NFS_FS", []string{"mount.nfs"}},
	{"CIFS", "CONFIG_CIFS", []string{"mount.cifs"}},
}

// features adds what programs of the tree need and the kernel lacks, if its configuration is known.
func (c *checker) features() {
	if c.config == "" {
		return
	}
	for _, f := range features {
		if enabled(c.config, f.option) {
			continue
		}
	programs:
		for _, name := range f.programs {
			for _, dir := range strings.Split(contract.DockerPath, ":") {
				if _, _, ok := c.stat(dir + "/" + name); ok {
					c.add(KernelFeature, "%s/%s needs %s, and the kernel has no %s", dir, name, f.what,
						f.option)
					break programs
				}
			}
		}
	}
}

// enabled reports whether an option is built into a kernel, by the text of its configuration.
func enabled(config, option string) bool {
	return strings.HasPrefix(config, option+"=y\n") || strings.Contains(config, "\n"+option+"=y\n")
}

var rootOption = regexp.MustCompile(`(^| )root=\S+`)

// CheckKernel returns what is odd about a kernel of size bytes in the form that its architecture boots, and
// about its command line. config is the text of its configuration, or "" if that is not known.
func CheckKernel(r io.ReaderAt, size int64, archName, cmdline, config string) (found []Finding) {
	if banner := linkedBy(r, size, archName); banner != "" {
		found = append(found, Find(KernelLinker, "its banner says %.200q", banner))
	}
	var offset [8]byte
	if _, err := r.ReadAt(offset[:], 8); err == nil && archName == arch.AArch64 {
		if n := binary.LittleEndian.Uint64(offset[:]); n != kernel.TextOffset {
			found = append(found, Find(TextOffset, "its text_offset is %#x, expected %#x", n,
				kernel.TextOffset))
		}
	}
	// The reference for aarch64 has root=/dev/ram0, which has no effect beside a ramdisk with /init.
	option := strings.TrimSpace(rootOption.FindString(cmdline))
	if option != "" && !(archName == arch.AArch64 && option == "root=/dev/ram0") {
		found = append(found, Find(RootOption, "the command line has %.100q", option))
	}
	if enabled(config, "CONFIG_RANDOMIZE_BASE") && !strings.Contains(" "+cmdline+" ", " nokaslr ") {
		found = append(found, Find(KASLR, "CONFIG_RANDOMIZE_BASE=y"))
	}
	return found
}

// maxKernel is how much of a kernel is searched for its banner, in bytes uncompressed.
const maxKernel = 256 << 20

var lld = regexp.MustCompile(`Linux version [0-9][^\x00\n]{0,250}[ (,]LLD [0-9][^\x00\n)]{0,60}`)

// linkedBy returns the banner of a kernel that LLD linked (init/version-timestamp.c; scripts/mkcompile_h of
// older kernels), or "". It is in the kernel itself, which a bzImage has compressed; one that is compressed
// in a form that package compression does not read is passed over.
func linkedBy(r io.ReaderAt, size int64, archName string) string {
	var in io.Reader = io.NewSectionReader(r, 0, size)
	if archName == arch.X86_64 {
		// Offsets of Documentation/arch/x86/boot.rst: setup_sects, version, payload_offset, payload_length.
		head := make([]byte, 0x250)
		if _, err := r.ReadAt(head, 0); err != nil || binary.LittleEndian.Uint16(head[0x206:]) < 0x208 {
			return ""
		}
		sectors := int64(head[0x1f1])
		if sectors == 0 {
			sectors = 4
		}
		at := (1+sectors)*512 + int64(binary.LittleEndian.Uint32(head[0x248:]))
		n := int64(binary.LittleEndian.Uint32(head[0x24c:]))
		if at > size || n <= 0 || n > size-at {
			return ""
		}
		var err error
		in, err = compression.Open(io.NewSectionReader(r, at, n), n)
		if err != nil || in == nil {
			return ""
		}
	}
	buffer, kept := make([]byte, 1<<20), 0
	for total := int64(0); total < maxKernel; {
		n, err := io.ReadFull(in, buffer[kept:])
		if m := lld.Find(buffer[:kept+n]); m != nil {
			return string(m)
		}
		if err != nil { // at the end, or where more than the kernel follows
			return ""
		}
		total += int64(n)
		kept = copy(buffer, buffer[len(buffer)-maxString:])
	}
	return ""
}
