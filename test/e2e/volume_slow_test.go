//go:build slow

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestEncryptedVolume has an enclave mount a volume with encryption and integrity whose blocks its parent
// serves over vsock, with the NBD protocol. The parent reads nothing of it, and what it changes is noticed.
func TestEncryptedVolume(t *testing.T) {
	const port, size, secret = 7000, 16 << 20, "nobody but the enclave reads this"
	image := filepath.Join(t.TempDir(), "volume.img")
	if out, err := exec.Command(require.Command(t, "mke2fs"), "-q", "-t", "ext4", image,
		"4M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	filesystem, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, size)
	var mu sync.Mutex
	connections := 0
	r := &running{t: t, dir: shortDir(t)}
	server := r.serve("unix", "nbd", func(c socket) {
		mu.Lock()
		defer mu.Unlock()
		if connections++; connections == 3 {
			if bytes.Contains(disk, []byte(secret)) {
				t.Error("the parent can read the volume")
			}
			for i := 8 * 512; i < len(disk); i += 512 { // behind the superblock of dm-integrity
				disk[i] ^= 1
			}
		}
		if err := serveNBD(c, disk); err != nil {
			t.Errorf("connection %d: %v", connections, err)
		}
	})
	eif, _ := pack(t, ociLayout(t, guestImage(t,
		v1.Config{Cmd: []string{"/guest", "volume", fmt.Sprint(port), fmt.Sprint(size), secret}},
		entry{"volume.img", 0o600, filesystem})), "--cap-add", "SYS_ADMIN")
	result := boot(t, eif, "--timeout", "4m", "--listen", fmt.Sprintf("%d=%s", port, server))
	for _, line := range []string{"unconnected socket: invalid argument", "file: " + secret,
		"changed disk: read /dev/dm-1: input/output error"} {
		result.says(t, line)
	}
	if result.code != 0 || connections != 3 {
		t.Errorf("exit status %d, %d connections\n%s", result.code, connections, result.stdout)
	}
}

// serveNBD answers the requests of a connection until the client disconnects, as the simple replies of the
// NBD protocol's document (doc/proto.md) have it. There is no negotiation: both sides know the size.
func serveNBD(c io.ReadWriter, disk []byte) error {
	const read, write, disconnect, flush = 0, 1, 2, 3
	for {
		var request struct {
			Magic       uint32
			Flags, Type uint16
			Cookie      [8]byte
			Offset      uint64
			Length      uint32
		}
		if err := binary.Read(c, binary.BigEndian, &request); err != nil {
			return err
		}
		end := request.Offset + uint64(request.Length)
		if request.Magic != 0x25609513 || end > uint64(len(disk)) {
			return fmt.Errorf("invalid request %+v", request)
		}
		answer := append([]byte{0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0}, request.Cookie[:]...)
		switch request.Type {
		case read:
			answer = append(answer, disk[request.Offset:end]...)
		case write:
			if _, err := io.ReadFull(c, disk[request.Offset:end]); err != nil {
				return err
			}
		case disconnect:
			return nil
		case flush:
		default:
			return fmt.Errorf("invalid request %+v", request)
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}
