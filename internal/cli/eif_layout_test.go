package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// TestLayoutCommands runs each command on a file with a gap before its first section, and on one with the
// size in the header that nitro-cli sign-eif leaves.
func TestLayoutCommands(t *testing.T) {
	f := newEIFFiles(t)
	path, pcrs := f.build(t, "s.eif", "--cmd", "/hello", "--signing-certificate", f.path("cert.pem"),
		"--private-key", f.path("key.pem"))
	straight := readFile(t, path)
	count := int(binary.BigEndian.Uint16(straight[26:]))
	for name, change := range map[string]func([]byte) []byte{
		"64 bytes at byte 548": func(b []byte) []byte {
			for i := range count {
				at := b[28+8*i:]
				binary.BigEndian.PutUint64(at, binary.BigEndian.Uint64(at)+64)
			}
			return append(b[:eif.HeaderSize:eif.HeaderSize],
				append(make([]byte, 64), b[eif.HeaderSize:]...)...)
		},
		"nitro-cli sign-eif leaves the old size": func(b []byte) []byte {
			binary.BigEndian.PutUint64(b[284+8*(count-1):], 7)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := change(bytes.Clone(straight))
			sum := crc32.Update(crc32.ChecksumIEEE(file[:544]), crc32.IEEETable, file[eif.HeaderSize:])
			binary.BigEndian.PutUint32(file[544:], sum)
			odd := f.path("odd.eif")
			if err := os.WriteFile(odd, file, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				args    []string
				status  int
				printed bool // the finding is on standard output, not on standard error
			}{
				{[]string{"describe", odd}, 0, true},
				{[]string{"verify", odd}, 1, true},
				{[]string{"diff", odd, path}, 1, true},
				{[]string{"extract", odd, "--list"}, 0, false},
				{[]string{"sign", odd, "--signing-certificate", f.path("cert.pem"), "--private-key",
					f.path("key.pem")},
					0, false},
				{[]string{"repair", odd}, 0, false},
			} {
				if c.args[0] == "repair" { // sign has repaired it
					if err := os.WriteFile(odd, file, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				status, out, errs := command(append([]string{"eif"}, c.args...)...)
				said := errs
				if c.printed {
					said = out
				}
				if status != c.status || !strings.Contains(said, name) {
					t.Errorf("%v: status %d: %s%s", c.args, status, out, errs)
				}
				if c.args[0] != "repair" {
					continue
				}
				var info struct{ Measurements map[string]string }
				if err := json.Unmarshal([]byte(out), &info); err != nil || !maps.Equal(info.Measurements,
					pcrs) {
					t.Errorf("repair prints %s, the registers were %v", out, pcrs)
				}
				if !bytes.Equal(readFile(t, odd), straight) {
					t.Error("the repaired file is not the one that was built")
				}
			}
		})
	}
}

// TestPCIeCommands: nothing prints a PCR0 for an image of a PCIe enclave, and nothing signs or starts it. It
// may name a root file system.
func TestPCIeCommands(t *testing.T) {
	f := newEIFFiles(t)
	path, pcrs := f.build(t, "a.eif", "--cmd", "/hello", "--cmdline", "console=ttyS0 reboot=k root=/dev/dm-0")
	file := readFile(t, path)
	binary.BigEndian.PutUint16(file[6:], 0x340)
	sum := crc32.Update(crc32.ChecksumIEEE(file[:544]), crc32.IEEETable, file[eif.HeaderSize:])
	binary.BigEndian.PutUint32(file[544:], sum)
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"describe", path}, 0, `"pcie pcie-virtio 0x100"`},
		{[]string{"check", path}, 0, "[pcie]"},
		{[]string{"verify", path, "--pcr0", pcrs["PCR0"]}, 1, "the file does not show it"},
		{[]string{"policy", path, "--pcr", "0"}, 1, "PCIe"},
		{[]string{"sign", path, "--signing-certificate", f.path("cert.pem"), "--private-key",
			f.path("key.pem")},
			1, "PCIe"},
		{[]string{"repair", path}, 1, "PCIe"},
	} {
		status, out, errs := command(append([]string{"eif"}, c.args...)...)
		if status != c.status || !strings.Contains(out+errs, c.want) || strings.Contains(out, `"PCR0"`) ||
			strings.Contains(out, "root-option") {
			t.Errorf("%v: status %d: %s%s", c.args, status, out, errs)
		}
	}
}
