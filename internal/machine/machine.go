package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
)

// lastWords limits how long the host may read what the enclave sent before it ended.
const lastWords = 5 * time.Second

// Config describes a machine. EIF and Emulator are required.
type Config struct {
	// Emulator is the directory with bin/qemu-system-*, or one QEMU program.
	Emulator string
	// EIF is the path of the image to boot. A caller that has opened and measured it gives the other two and
	// Memory as well, so that the image that boots is the one that it read.
	EIF      string
	File     *eif.File
	Measured *eif.Measurements
	// Memory in bytes; 0 means four times the image's size, at least 512 MiB. CPUs; 0 means 1.
	Memory int64
	CPUs   int
	// Cmdline is appended to the image's kernel command line. Measurements do not change with it.
	Cmdline string
	// Accel is "kvm" or "tcg" (emulation); for any other value it is KVM where that works, and else TCG.
	Accel string
	// Console receives what the enclave writes to its serial line, byte for byte. It may be nil.
	Console io.Writer
	// Vsock configures the parent. A handler for [contract.HeartbeatPort] is added unless it has one.
	Vsock vsock.Config
	// Event is called for each event, one at a time. It may be nil, and must not call the machine.
	Event func(Event)
	// Machine is [NitroEnclave], or "" for a machine with this package's own loader and Nitro Secure Module.
	Machine string
	// Root signs attestation documents; nil means one that is made for this machine.
	Root *devca.Authority
	// RoleARN and InstanceID are those of the parent, for PCR3 and PCR4. Empty means no role, and an invented
	// instance.
	RoleARN, InstanceID string
	// Debug makes all registers zero, as EC2 does for an enclave whose console can be read.
	Debug bool
	// Args are further arguments for QEMU.
	Args []string
}

// Event is something that happened, with the time since the start of QEMU.
type Event struct {
	Kind  EventKind
	Since time.Duration
	Text  string // for Line: the line, without its end; for Parent: a sentence
}

// EventKind names events as neb run --json does.
type EventKind string

// The events of a machine. All but [Line] and [Parent] happen at most once.
const (
	PowerOn   EventKind = "power-on"  // QEMU has been started
	Line      EventKind = "console"   // a line of the console
	Ready     EventKind = "vsock"     // the enclave's vsock driver is ready
	Heartbeat EventKind = "heartbeat" // init reported that it is up
	Parent    EventKind = "parent"    // a message about the machine or vsock for the user
	Rebooted  EventKind = "reboot"    // the enclave ended itself
	Ended     EventKind = "power-off" // QEMU is gone
)

// A Machine is an enclave that was started.
type Machine struct {
	cfg     Config
	dir     string // the only directory that QEMU can write, removed at the end
	device  *vsock.Device
	nsm     *nsm.Device
	cmd     *exec.Cmd
	made    time.Time    // before the first event
	started atomic.Int64 // power-on, in nanoseconds after made

	console  sync.WaitGroup
	spoke    atomic.Bool // the console had output
	stderr   tail
	events   sync.Mutex
	once     map[EventKind]bool
	running  chan struct{} // closed when cmd is set
	beat     chan struct{}
	beatOnce sync.Once
	off      chan struct{} // closed when QEMU is gone
	done     chan struct{}
	released sync.Once
	end      sync.Once
	reason   error // why neb killed QEMU, nil if the enclave rebooted or was stopped
	killed   atomic.Bool
	err      error
}

// Start boots the enclave. It returns when QEMU runs; ctx ends it.
func Start(ctx context.Context, cfg Config) (_ *Machine, err error) {
	img := &image{path: cfg.EIF, file: cfg.File}
	if img.file == nil {
		var f io.Closer
		if img, f, err = open(cfg.EIF); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	img.arch = img.file.Arch()
	if cfg.Memory == 0 {
		cfg.Memory = preflight.DefaultMemory(preflight.Usage{}.LeastMemory(img.size))
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	if cfg.InstanceID == "" {
		cfg.InstanceID = instance
	}
	// QEMU takes MiB, and the memory that it shares must be as large.
	cfg.Memory = (cfg.Memory + mib - 1) / mib * mib
	m := &Machine{
		cfg: cfg, made: time.Now(), once: map[EventKind]bool{},
		running: make(chan struct{}), beat: make(chan struct{}), off: make(chan struct{}),
		done: make(chan struct{}),
	}
	if m.dir, err = os.MkdirTemp("", "neb-run-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.release()
		}
	}()
	vc := cfg.Vsock
	vc.Handlers = map[uint32]vsock.Handler{contract.HeartbeatPort: m.answer}
	for port, h := range cfg.Vsock.Handlers {
		vc.Handlers[port] = h
	}
	vc.Report = m.report
	vc.Grace = lastWords
	if m.device, err = vsock.New(vc); err != nil {
		return nil, err
	}
	q, err := findQEMU(ctx, cfg.Emulator, img.arch)
	if err != nil {
		return nil, err
	}
	if cfg.Machine != NitroEnclave {
		if err := m.startNSM(ctx, img); err != nil {
			return nil, err
		}
	}
	args, err := m.arguments(ctx, q, img)
	if err != nil {
		return nil, err
	}
	if err := m.startQEMU(ctx, q, args); err != nil {
		return nil, err
	}
	return m, nil
}

// startQEMU connects the devices and starts QEMU.
func (m *Machine) startQEMU(ctx context.Context, q qemu, args []string) (err error) {
	control, monitorEnd, err := vhost.SocketPair()
	if err != nil {
		return err
	}
	console, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			control.Close()
			console.Close()
		}
	}()
	vsockEnd, err := m.device.Connect()
	if err != nil {
		return err
	}
	inherited := []*os.File{monitorEnd, vsockEnd} // as monitorFD, vsockFD and nsmFD
	if m.nsm != nil {
		nsmEnd, err := m.nsm.Connect()
		if err != nil {
			return err
		}
		inherited = append(inherited, nsmEnd)
	}
	defer func() {
		for _, f := range append(inherited, stdout) {
			f.Close()
		}
	}()
	command := func(namespaces uintptr) *exec.Cmd {
		cmd := q.command(ctx, args...)
		// QEMU's own nitro-enclave machine unpacks the image into its temporary directory.
		cmd.Env = append(cmd.Env, "TMPDIR="+m.dir)
		// QEMU must not receive Ctrl-C, and must die with neb.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL,
			Cloneflags: namespaces}
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdout, &m.stderr, inherited
		return cmd
	}
	// The thread that starts QEMU is confined as QEMU is, and QEMU dies with it: it only waits.
	var lacks []string
	started, ended := make(chan error), make(chan error, 1)
	m.started.Store(int64(time.Since(m.made)))
	ownThread(func() {
		var err error
		m.cmd, lacks, err = start(command, q.files, m.dir)
		started <- err
		if err == nil {
			ended <- m.cmd.Wait()
		}
	})
	if err := <-started; err != nil {
		return err
	}
	close(m.running)
	m.event(Event{Kind: PowerOn})
	for _, l := range lacks {
		m.event(Event{Kind: Parent, Text: l})
	}
	go monitor(control, m.reboot)
	m.console.Go(func() { m.readConsole(console) })
	go func() { m.wait(<-ended) }()
	return nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// release closes and removes what outlives QEMU.
func (m *Machine) release() {
	m.released.Do(func() {
		if m.device != nil {
			m.device.Close()
		}
		if m.nsm != nil {
			m.nsm.Close()
		}
		os.RemoveAll(m.dir)
	})
}

// wait reports the end of QEMU, with the error of waiting for it.
func (m *Machine) wait(err error) {
	m.console.Wait()
	close(m.off)
	m.event(Event{Kind: Ended})
	m.release()
	m.events.Lock()
	defer m.events.Unlock()
	var exit *exec.ExitError
	switch {
	case m.killed.Load():
		m.err = m.reason
	case errors.As(err, &exit):
		m.err = fmt.Errorf("QEMU: %w: %s", err, bytes.TrimSpace(m.stderr))
		if bytes.Contains(m.stderr, []byte("'"+nsmFrontEnd+"' is not a valid device")) {
			m.err = fmt.Errorf("%w: expected QEMU 10.1 or later", m.err)
		}
	default:
		m.err = err
	}
	close(m.done)
}

// Wait waits until the enclave has ended and the host has read what it sent, for at most 5 seconds. It
// returns an error if QEMU failed.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Done is closed at the end of the enclave.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Off is closed when the enclave has ended, before [Machine.Done]: the host may still read what it sent.
func (m *Machine) Off() <-chan struct{} { return m.off }

// Beat is closed when the enclave's heartbeat was answered.
func (m *Machine) Beat() <-chan struct{} { return m.beat }

// Stop ends the enclave at once and waits for it.
func (m *Machine) Stop() error {
	m.kill(nil)
	return m.Wait()
}

// kill ends QEMU for the given reason, of which the first counts. It takes no lock, because a slow Event
// callback may hold the lock.
func (m *Machine) kill(reason error) {
	<-m.running
	m.end.Do(func() {
		m.reason = reason
		m.killed.Store(true)
		m.cmd.Process.Kill()
	})
}

// Abandon ends the enclave as Stop does, without waiting for callbacks and writers, which may never return.
func (m *Machine) Abandon() {
	m.kill(nil)
	m.device.Cut()
	released := make(chan struct{})
	go func() {
		m.release()
		close(released)
	}()
	select {
	case <-released:
	case <-time.After(time.Second): // it waits for a callback
		os.RemoveAll(m.dir)
	}
}

// Dial connects to a vsock port of the enclave. It waits for the enclave's driver until ctx ends.
func (m *Machine) Dial(ctx context.Context, port uint32) (*vsock.Conn, error) {
	return m.device.Dial(ctx, port)
}

// event reports e, unless it is an event that happens once and was reported.
func (m *Machine) event(e Event) {
	if e.Kind != PowerOn {
		// Before the lock: the callback for the last event may be slow.
		e.Since = time.Since(m.made) - time.Duration(m.started.Load())
	}
	m.events.Lock()
	defer m.events.Unlock()
	if e.Kind != Line && e.Kind != Parent {
		if m.once[e.Kind] {
			return
		}
		m.once[e.Kind] = true
	}
	if m.cfg.Event != nil {
		m.cfg.Event(e)
	}
}

// answer serves the heartbeat: it sends the byte back.
func (m *Machine) answer(_ context.Context, c *vsock.Conn) {
	if c.Accept() != nil {
		return
	}
	c.SetDeadline(time.Now().Add(time.Minute)) // init loads modules before it sends, which may take long
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return
	}
	if b[0] != contract.HeartbeatByte {
		text := fmt.Sprintf("heartbeat of byte %#02x, expected %#02x: not answered", b[0],
			contract.HeartbeatByte)
		m.event(Event{Kind: Parent, Text: text})
		return
	}
	if _, err := c.Write(b[:]); err != nil {
		return
	}
	m.event(Event{Kind: Heartbeat})
	if !m.spoke.Load() {
		m.event(Event{Kind: Parent, Text: "the console is silent: the enclave's kernel has no driver for " +
			"the serial line of this machine, or its command line names another console"})
	}
	m.beatOnce.Do(func() { close(m.beat) })
	// The enclave closes first, because its init may check how the connection ends.
	c.Read(b[:])
}

// report turns events of the vsock device, which is locked meanwhile, into events of the machine.
func (m *Machine) report(e vsock.Event) {
	if f := m.cfg.Vsock.Report; f != nil {
		f(e)
	}
	var text string
	switch e.Kind {
	case vsock.Started:
		go m.event(Event{Kind: Ready})
		return
	case vsock.Refused:
		text = fmt.Sprintf("the enclave wants port %d of the parent, where nothing listens: refused",
			e.Addr.Port)
	case vsock.WrongCID:
		text = fmt.Sprintf("the enclave wants port %d of CID %d: refused; on EC2 the parent is CID 3",
			e.Addr.Port, e.Addr.CID)
	case vsock.Full:
		text = "the enclave has opened more connections than are served at once: further ones are refused"
	case vsock.Broken:
		text = fmt.Sprintf("the enclave's vsock driver violates the protocol, vsock fails until a reset: %v",
			e.Err)
	case vsock.Failed:
		m.kill(fmt.Errorf("vsock device: %w", e.Err))
		return
	default:
		return
	}
	go m.event(Event{Kind: Parent, Text: text})
}

// reboot ends QEMU: an enclave that reboots has ended.
func (m *Machine) reboot() {
	m.kill(nil) // before the event: the enclave would boot again meanwhile
	m.event(Event{Kind: Rebooted})
}

// maxLine is the largest number of bytes of a console line in an event; longer lines are truncated.
const maxLine = 16 << 10

// readConsole copies the serial line and splits it into lines.
func (m *Machine) readConsole(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewReaderSize(io.TeeReader(r, (*console)(m)), maxLine)
	for {
		line, more, err := lines.ReadLine()
		if err != nil {
			return
		}
		m.event(Event{Kind: Line, Text: strings.TrimRight(string(line), "\r")})
		for more && err == nil {
			_, more, err = lines.ReadLine()
		}
	}
}

// console is what the console's bytes are written to.
type console Machine

func (c *console) Write(p []byte) (int, error) {
	c.spoke.Store(true)
	if c.cfg.Console != nil {
		c.cfg.Console.Write(p)
	}
	return len(p), nil // the enclave continues when nobody can read it
}

// A tail keeps the end of what is written to it, for errors.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-4096):]
	return len(p), nil
}

// An image is an open EIF.
type image struct {
	path string
	size int64 // 0 if the caller has opened it
	arch string
	file *eif.File
}

func open(path string) (*image, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	file, err := eif.Open(f, st.Size())
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return &image{path: path, size: st.Size(), file: file}, f, nil
}
