package machine_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// A program in QEMU's place, as a guest that has taken over QEMU, can do nothing to the host, with namespaces
// of its own and without.
func TestConfined(t *testing.T) {
	intruder := vm.Program(t, component.Host(), "./testdata/intruder")
	// The directory that neb build makes: its loader is what neb starts.
	emulator := t.TempDir()
	for _, path := range []string{"lib/ld-linux-test.so.2", "libexec/qemu-system-x86_64"} {
		if err := os.MkdirAll(filepath.Join(emulator, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(intruder, filepath.Join(emulator, path)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("TMPDIR", t.TempDir()) // not beside the host's files below
	path := vm.Image(t, eif.X86_64, map[string][]byte{"init": nil})

	for name, c := range map[string]struct {
		emulator   string
		namespaces bool
		can        string // besides own-file
	}{
		"emulator":               {emulator, true, ""},
		"emulator, no namespace": {emulator, false, ""},
		"--qemu":                 {intruder, true, "read list exec exec-own"},
		"--qemu, no namespace":   {intruder, false, "read list exec exec-own"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.namespaces {
				require.Namespaces(t)
			} else {
				machine.WithoutNamespaces(t)
			}
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			tcp := listen(t, "tcp", "127.0.0.1:0")
			listen(t, "unix", filepath.Join(dir, "socket"))
			listen(t, "unix", "@"+filepath.Join(dir, "socket"))

			var console bytes.Buffer
			m, err := machine.Start(t.Context(), machine.Config{
				EIF: path, Emulator: c.emulator, Accel: "tcg", Console: &console,
				Args: []string{dir, tcp, strconv.Itoa(os.Getpid())},
				Event: func(e machine.Event) {
					if e.Kind == machine.Parent && strings.Contains(e.Text, "QEMU can use") {
						require.Lacks(t, e.Text)
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Wait(); err != nil {
				t.Fatal(err)
			}
			attempts := 0
			for line := range strings.Lines(console.String()) {
				name, result, _ := strings.Cut(strings.TrimSpace(line), " ")
				may := name == "own-file" || strings.Contains(" "+c.can+" ", " "+name+" ")
				if done := result == "done"; done != may {
					t.Errorf("%s: %s", name, result)
				}
				attempts++
			}
			if attempts != 23 {
				t.Errorf("%d attempts:\n%s", attempts, &console)
			}
			if content, err := os.ReadFile(secret); string(content) != "secret" {
				t.Errorf("the secret is %q: %v", content, err)
			}
		})
	}
}

// A QEMU that breaks the protocol of a device is ended, with the reason.
func TestDeviceFails(t *testing.T) {
	intruder := vm.Program(t, component.Host(), "./testdata/intruder")
	path := vm.Image(t, eif.X86_64, map[string][]byte{"init": nil})
	for fd, device := range map[int]string{machine.VsockFD: "vsock device", machine.NSMFD: "NSM device"} {
		m, err := machine.Start(t.Context(), machine.Config{
			EIF: path, Emulator: intruder, Accel: "tcg", Args: []string{fmt.Sprintf("garbage %d", fd)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Wait(); err == nil || !strings.HasPrefix(err.Error(), device+": vhost-user: message") {
			t.Errorf("%s: %v", device, err)
		}
	}
}

func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
