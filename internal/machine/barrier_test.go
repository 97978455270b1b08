package machine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// Where the two sides of TestBarrier meet, each in a cache line of its own.
const (
	ours    = 0x1000 // written by the test, read by the machine
	theirs  = 0x1100 // written by the machine, read by the test
	turn    = 0x1200 // the round, set by the test
	read    = 0x1300 // what the machine read
	ended   = 0x1400 // the round that the machine has ended
	barrier = 0x1500 // what the machine's barrier adds nothing to
)

// barrierCode is the machine's side, for a processor in real mode.
var barrierCode = []byte{
	0x66, 0x31, 0xc0, //             xor eax, eax
	0x8e, 0xd8, //                   mov ds, ax
	0x66, 0xb9, 0x01, 0x00, 0x00, 0x00, // mov ecx, 1
	// round:
	0x66, 0x39, 0x0e, 0x00, 0x12, // cmp [turn], ecx
	0x75, 0xf9, //                   jne round
	0x66, 0x89, 0x0e, 0x00, 0x11, // mov [theirs], ecx
	0xf0, 0x66, 0x83, 0x06, 0x00, 0x15, 0x00, // lock add dword [barrier], 0
	0x66, 0xa1, 0x00, 0x10, //       mov eax, [ours]
	0x66, 0xa3, 0x00, 0x13, //       mov [read], eax
	0x66, 0x89, 0x0e, 0x00, 0x14, // mov [ended], ecx
	0x66, 0x41, //                   inc ecx
	0xeb, 0xdc, //                   jmp round
}

// Linux's barrier between what it writes into a ring and what it reads from it then is an instruction with a
// lock prefix. If that did not hold against other threads, each side could miss what the other has just
// written, and a queue would be dead. Here both sides write, pass their barrier, and read what the other
// writes: never may both miss it.
func TestBarrier(t *testing.T) {
	dir := t.TempDir()
	rom, memory := filepath.Join(dir, "rom"), filepath.Join(dir, "memory")
	if err := os.WriteFile(rom, machine.Firmware(barrierCode), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 16 << 20
	if err := os.WriteFile(memory, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(memory, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	shared, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(shared)
	word := func(at int) *uint32 { return (*uint32)(unsafe.Pointer(&shared[at])) }

	qemu := exec.Command(filepath.Join(vm.Emulator(t), "bin", "qemu-system-x86_64"),
		"-nodefaults", "-display", "none", "-accel", "tcg", "-M", "microvm,acpi=off,memory-backend=memory",
		"-m", "16M", "-smp", machine.SMP(eif.X86_64, "tcg"),
		"-object", "memory-backend-file,id=memory,size=16M,share=on,mem-path="+memory, "-bios", rom)
	qemu.Stderr = os.Stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer qemu.Wait()
	defer qemu.Process.Kill()

	missed := 0
	rounds := 0
	patience := time.Now().Add(vm.Patience)
	var end time.Time // some time after the machine has come up
	for i := uint32(1); i == 1 || time.Now().Before(end); i++ {
		atomic.StoreUint32(word(turn), i)
		for range i % 64 {
			_ = atomic.LoadUint32(word(ended)) // so that the two meet at different places
		}
		atomic.SwapUint32(word(ours), i) // a full barrier even with the race detector, whose stores are none
		seen := atomic.LoadUint32(word(theirs)) == i
		for atomic.LoadUint32(word(ended)) != i {
			if time.Now().After(patience) {
				t.Fatalf("round %d does not end", i)
			}
		}
		if !seen && atomic.LoadUint32(word(read)) != i {
			missed++
		}
		rounds++
		if i == 1 {
			end = time.Now().Add(3 * time.Second)
		}
	}
	t.Logf("%d rounds", rounds)
	if missed > 0 {
		t.Errorf("in %d of %d rounds neither side saw what the other had written before its barrier",
			missed, rounds)
	}
}
