//go:build slow

package e2e

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
)

// TestLargeImage boots a 1 GB image, in the memory that nitro-cli would ask for.
func TestLargeImage(t *testing.T) {
	body := noise(1 << 29)
	image := ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "sum", "/a", "/b"}},
		entry{"a", 0o644, body}, entry{"b", 0o644, body}))
	eif, _ := pack(t, image)
	r := boot(t, eif, "--timeout", "10m")
	r.says(t, sumLine("/a", body))
	r.says(t, sumLine("/b", body))
}

// TestOddLayout boots a file with a gap before its first section and bytes after the last one.
func TestOddLayout(t *testing.T) {
	const gap = 64
	path, _ := pack(t, ociLayout(t, guestImage(t, v1.Config{Cmd: []string{"/guest", "hello"}})))
	straight, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	odd := slices.Concat(straight[:eif.HeaderSize], make([]byte, gap), straight[eif.HeaderSize:],
		[]byte("more"))
	for i := range int(binary.BigEndian.Uint16(odd[26:])) {
		at := odd[28+8*i:]
		binary.BigEndian.PutUint64(at, binary.BigEndian.Uint64(at)+gap)
	}
	sum := crc32.Update(crc32.ChecksumIEEE(odd[:eif.HeaderSize-4]), crc32.IEEETable, odd[eif.HeaderSize:])
	binary.BigEndian.PutUint32(odd[eif.HeaderSize-4:], sum)
	if err := os.WriteFile(path, odd, 0o644); err != nil {
		t.Fatal(err)
	}
	r := boot(t, path)
	r.says(t, "hello: uid 0 in /")
	if !strings.Contains(r.stderr, "64 bytes at byte 548") {
		t.Errorf("neb did not warn of the gap:\n%s", r.stderr)
	}
}

// TestAArch64KMS is TestKMS on the other architecture.
func TestAArch64KMS(t *testing.T) { dataKey(t, "aarch64", "arm64", armPath) }

// TestSecondSeries is TestCompat and TestMeasurements with the second kernel series: nitro-cli's tree and
// neb's own.
func TestSecondSeries(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "result")
	neb(t, "build", "--kernel", "7.3", "--arch", "x86_64", "-o", dir)
	t.Setenv("NEB_BLOBS", dir)
	TestCompat(t)
	image := ociLayout(t, guestImage(t, v1.Config{Entrypoint: []string{"/guest"}, User: "1000",
		WorkingDir: "/srv"}))
	path, _ := pack(t, image, "--cmd", "hello")
	boot(t, path).says(t, "hello: uid 1000 in /srv")
	path, m := pack(t, image, "--cmd", "pcrs", "--cmd", "0", "--cmd", "1", "--cmd", "2")
	r := boot(t, path)
	r.registers(t, m, "PCR0", "PCR1", "PCR2")
	if r.code != 0 {
		t.Errorf("exit status %d\nstderr:\n%s", r.code, r.stderr)
	}
}
