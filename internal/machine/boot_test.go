package machine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
)

func guestImage(t *testing.T, arch string) string {
	t.Helper()
	b, err := os.ReadFile(vm.Program(t, arch, "./testdata/guest"))
	if err != nil {
		t.Fatal(err)
	}
	return vm.Image(t, arch, map[string][]byte{"init": b})
}

// commander sends commands to the guest (package peer).
type commander struct {
	t *testing.T
	c *vsock.Conn
	r *bufio.Reader
}

func command(t *testing.T, v *vm.VM) *commander {
	t.Helper()
	c, err := v.Dial(t.Context(), peer.Commands)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &commander{t, c, bufio.NewReader(c)}
}

func (c *commander) do(line string) {
	c.t.Helper()
	start := time.Now()
	fmt.Fprintln(c.c, line)
	c.c.SetReadDeadline(time.Now().Add(vm.Patience))
	answer, err := c.r.ReadString('\n')
	if answer = strings.TrimSpace(answer); answer != "ok" || err != nil {
		c.t.Fatalf("%s: %s %v", line, answer, err)
	}
	c.t.Logf("%s: %v", line, time.Since(start))
}

func echo(_ context.Context, c *vsock.Conn) {
	if c.Accept() == nil {
		io.Copy(c, c)
		c.CloseWrite()
		io.Copy(io.Discard, c)
	}
}

// Both architectures come up, are heard, can be talked to in both directions, and their reboot ends them.
func TestBoot(t *testing.T) {
	for _, arch := range []string{eif.X86_64, eif.AArch64} {
		t.Run(arch, func(t *testing.T) {
			var mu sync.Mutex
			var events []string
			var parent []string
			v := vm.Start(t, machine.Config{
				EIF: guestImage(t, arch), Accel: "tcg",
				Vsock: vsock.Config{Handlers: map[uint32]vsock.Handler{7000: echo}},
				Event: func(e machine.Event) {
					mu.Lock()
					defer mu.Unlock()
					switch e.Kind {
					case machine.Line:
					case machine.Parent:
						parent = append(parent, e.Text)
					default:
						events = append(events, string(e.Kind))
					}
				},
			})
			v.WaitBeat()
			v.Says("guest: up")
			if arch == eif.X86_64 {
				v.Says("Disabling APIC timer") // which the kernel would wait for
			}
			c := command(t, v)
			c.do("echo 7000 10 10000")
			c.do("knock 3 77 2")
			c.do("knock 2 77 2")
			if _, err := v.Dial(t.Context(), 4711); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a port where nobody listens: %v", err)
			}
			fmt.Fprintln(c.c, "reboot")
			v.WaitEnd()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(events, " "); got != "power-on vsock heartbeat reboot power-off" {
				t.Errorf("events: %s", got)
			}
			got := strings.Join(parent, "\n")
			if !strings.Contains(got, "port 77 of the parent") || !strings.Contains(got, "port 77 of CID 2") {
				t.Errorf("events of the parent:\n%s", got)
			}
		})
	}
}

// Two vsock drivers face each other on EC2, the parent's and the enclave's. If each stops receiving until
// what it has to send is taken, they wait for each other for ever. The kernel's patch takes that out of the
// enclave's; here is a parent that still does it, and makes the enclave answer more than its ring holds.
func TestNoDeadlock(t *testing.T) {
	v := vm.Start(t, machine.Config{
		EIF:   guestImage(t, eif.X86_64),
		Vsock: vsock.Config{PushBack: true, Handlers: map[uint32]vsock.Handler{7000: echo}},
	})
	v.WaitBeat()
	v.Says("guest: up")
	ctx, cancel := context.WithTimeout(t.Context(), vm.Patience)
	defer cancel()
	const calls = 6000 // the rings of this machine hold 1024 each
	refused := make(chan error, calls)
	for range calls {
		go func() {
			_, err := v.Dial(ctx, 4711) // nobody listens: each call is answered with a reset
			refused <- err
		}()
	}
	for i := range calls {
		if err := <-refused; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("call %d of %d: %v", i+1, calls, err)
		}
	}
	command(t, v).do("echo 7000 1 1000")
}

// The probe for KVM is a program: it must end as it says where it runs, and be found out where it does not.
func TestProbe(t *testing.T) {
	emulator := vm.Emulator(t)
	for _, arch := range machine.ProbeArchs() {
		for _, idle := range []bool{false, true} {
			limit := vm.Patience
			if idle {
				limit = 2 * time.Second
			}
			ok, err := machine.RunProbe(t.Context(), emulator, arch, t.TempDir(), idle, limit)
			if err != nil {
				t.Fatal(err)
			}
			if ok == idle {
				t.Errorf("%s: a probe that does nothing: %v; it ran: %v", arch, idle, ok)
			}
		}
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.eif")
	if err := os.WriteFile(bad, []byte("no EIF"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := vm.Image(t, eif.X86_64, map[string][]byte{"init": nil})
	for name, c := range map[string]struct {
		cfg  machine.Config
		says string
	}{
		"missing EIF":  {machine.Config{EIF: filepath.Join(dir, "none")}, "none"},
		"no EIF":       {machine.Config{EIF: bad}, "bad.eif"},
		"missing QEMU": {machine.Config{EIF: good, Emulator: filepath.Join(dir, "qemu")}, "QEMU"},
	} {
		if m, err := machine.Start(context.Background(), c.cfg); err == nil ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
			if m != nil {
				m.Stop()
			}
		}
	}
}
