package vhost

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Handler is what distinguishes one virtio device from another. The [Device] calls its methods with the
// device locked; they must not wait for anything.
type Handler interface {
	// Start is called when the enclave's driver is ready: from now on the queues can be used. Each queue's
	// Kick follows.
	Start()
	// Kick is called when the driver may have made buffers of a queue available. If it returns true it is
	// called again, after other goroutines have had the chance to lock the device.
	Kick(queue int) (again bool)
	// Stop is called when the driver, the enclave or QEMU is reset or exits. The queues can be used until it
	// returns.
	Stop()
	// Broken is called when the driver breaks the rules of its rings, once until the next Stop.
	Broken(err error)
	// Failed is called when QEMU breaks the rules of vhost-user: the device has no connection any more, and
	// QEMU aborts.
	Failed(err error)
}

// Config describes a device.
type Config struct {
	// Queues are the names of the queues that the device serves, for errors.
	Queues []string
	// OtherQueues is the number of queues behind these that the device has but QEMU serves by itself.
	OtherQueues int
	// Space is the configuration space, as the enclave reads it.
	Space []byte
	// Handler serves the queues.
	Handler Handler
}

// A Device is the back end of one virtio device. It serves one QEMU. Whoever uses a [Queue], or
// state that the [Handler] uses too, holds the device's lock; methods of Handler are called with it.
type Device struct {
	sync.Mutex

	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc // the device is closed
	work   sync.WaitGroup

	serving sync.Mutex // held while a QEMU is served: the end of one would stop the queues of the next

	mem      memory
	features uint64
	queues   []Queue
	running  bool // all queues are ready
	broken   bool // a ring makes no sense: none is used until the device stops
}

// New makes a device. [Device.Connect] connects it.
func New(cfg Config) *Device {
	d := &Device{cfg: cfg, queues: make([]Queue, len(cfg.Queues)+cfg.OtherQueues)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for i := range d.queues {
		d.queues[i].dev = d
		d.queues[i].name = "other"
		if d.served(i) {
			d.queues[i].name = cfg.Queues[i]
		}
	}
	return d
}

// served reports whether the device, and not QEMU, serves queue i.
func (d *Device) served(i int) bool { return i < len(d.cfg.Queues) }

// Queue returns the queue with index i of [Config].Queues.
func (d *Device) Queue(i int) *Queue { return &d.queues[i] }

// Connect connects the device, and returns QEMU's end of the connection for the caller to pass on and close.
// The device serves its own end until QEMU or [Device.Close] closes it.
func (d *Device) Connect() (*os.File, error) {
	ours, theirs, err := SocketPair()
	if err != nil {
		return nil, fmt.Errorf("vhost-user device: %w", err)
	}
	d.work.Go(func() { d.serve(ours) })
	return theirs, nil
}

// SocketPair returns both ends of a connection, one of them for another process to inherit.
func SocketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "socketpair")
	defer file.Close()
	theirs = os.NewFile(uintptr(fds[1]), "socketpair")
	conn, err := net.FileConn(file)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// Close stops the device and closes its connection. It waits for calls of the [Handler] to return.
func (d *Device) Close() {
	d.Lock()
	d.stop()
	d.Unlock()
	d.cancel()
	d.work.Wait()
}

// serve serves one QEMU.
func (d *Device) serve(conn *net.UnixConn) {
	d.serving.Lock()
	defer d.serving.Unlock()
	stop := context.AfterFunc(d.ctx, func() { conn.Close() })
	f := frontend{d: d, conn: conn}
	err := f.serve()
	d.Lock()
	defer d.Unlock()
	d.forget()
	if err != nil && d.ctx.Err() == nil {
		d.cfg.Handler.Failed(err) // before the connection is closed, for which QEMU gives a reason of its own
	}
	stop()
	conn.Close()
}

// start runs the queues if all are ready.
func (d *Device) start() {
	served := d.queues[:len(d.cfg.Queues)]
	for i := range served {
		if q := &served[i]; !q.placed || !q.enabled || q.kick == nil {
			return
		}
	}
	if d.running {
		return
	}
	d.running = true
	for i := range served {
		q := &served[i]
		q.eventIdx = d.features&featureEventIdx != 0
		q.wantKicks(true)
	}
	d.cfg.Handler.Start()
	for i := range served {
		d.watch(i)
		served[i].Wake() // for buffers that were made available before
	}
}

// watch calls the handler whenever the enclave kicks queue i, until the queue stops.
func (d *Device) watch(i int) {
	q := &d.queues[i]
	kick := q.kick
	d.work.Go(func() {
		var count [8]byte
		for again := false; ; {
			if !again {
				if _, err := kick.Read(count[:]); err != nil {
					return
				}
			}
			d.Lock()
			again = q.kick == kick && d.running && d.cfg.Handler.Kick(i)
			d.Unlock()
		}
	})
}

// stop ends the use of the queues.
func (d *Device) stop() {
	if d.running {
		d.cfg.Handler.Stop()
	}
	d.running, d.broken = false, false
	for i := range d.queues {
		if q := &d.queues[i]; q.kick != nil {
			q.kick.Close()
			q.kick = nil
		}
	}
}

// forget stops the device and returns what QEMU lent.
func (d *Device) forget() {
	d.stop()
	for i := range d.queues {
		q := &d.queues[i]
		if q.call != nil {
			q.call.Close()
		}
		*q = Queue{dev: d, name: q.name}
	}
	d.mem.unmap()
	d.mem = nil
	d.features = 0
}

// fail leaves the rings alone until the enclave resets the device.
func (d *Device) fail(queue string, err error) {
	if !d.broken {
		d.broken = true
		d.cfg.Handler.Broken(fmt.Errorf("%s queue: %w", queue, err))
	}
}

// setMemory replaces the memory regions that QEMU shares.
func (d *Device) setMemory(m memory) {
	d.mem.unmap()
	d.mem = m
	for i := range d.queues {
		if q := &d.queues[i]; q.placed {
			if err := q.locate(); err != nil {
				d.fail(q.name, err)
			}
		}
	}
}

// setFile replaces a descriptor of QEMU's by another, or by none, and closes the old one.
func setFile(f **os.File, to *os.File) {
	if *f != nil {
		(*f).Close()
	}
	*f = to
}
