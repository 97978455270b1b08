package nsm

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vhost"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// VirtioID is the device's type (include/uapi/linux/virtio_ids.h, VIRTIO_ID_NITRO_SEC_MOD).
const VirtioID = 33

// Device is a [Module] behind a vhost-user connection. It has one queue, in which the driver
// (drivers/misc/nsm.c) gives two buffers for each request: the request to read, then room for the answer to
// write.
type Device struct {
	device *vhost.Device
	module *Module
	report func(err error, failed bool)

	request, answer vhost.Buffer
	asked           bool // request was taken, and its answer's buffer was not
}

// NewDevice makes a module as a device. report is told when the enclave's driver breaks the rules, after
// which the module waits for the driver to reset it, and when QEMU does: then the device has failed.
func NewDevice(cfg Config, report func(err error, failed bool)) *Device {
	d := &Device{module: New(cfg), report: report}
	d.device = vhost.New(vhost.Config{Queues: []string{"NSM"}, Handler: handler{d}})
	return d
}

// Connect returns QEMU's end of a connection to the device, see [vhost.Device.Connect].
func (d *Device) Connect() (*os.File, error) { return d.device.Connect() }

// Close ends the device.
func (d *Device) Close() { d.device.Close() }

// handler has the methods that [vhost.Device] calls.
type handler struct{ *Device }

func (handler) Start() {}

// Stop keeps the registers: they belong to the enclave, not to its driver.
func (h handler) Stop() { h.asked = false }

func (h handler) Broken(err error) { h.report(err, false) }

func (h handler) Failed(err error) { h.report(err, true) }

// Kick answers one request and asks to be called for the next, so that an enclave that never stops asking
// does not keep others from the device's lock.
func (h handler) Kick(int) bool {
	q := h.device.Queue(0)
	h.asked = h.asked || q.Take(&h.request)
	if !h.asked || !q.Take(&h.answer) {
		return false
	}
	h.asked = false
	if err := h.serve(); err != nil {
		q.Fail(err)
		return false
	}
	q.Give(&h.request)
	q.Give(&h.answer)
	q.Notify()
	return true
}

func (h handler) serve() error {
	if h.request.Room() > 0 || h.request.Len() == 0 {
		return errors.New("request: expected a buffer to read that is not empty")
	}
	if n := h.answer.Room(); h.answer.Len() > 0 || n != nsm.MaxResponse {
		return fmt.Errorf("answer: got a buffer of %d bytes, expected one of %d to write", n, nsm.MaxResponse)
	}
	// One byte more than a request may have tells [Module.Answer] that it is too long.
	request := make([]byte, min(h.request.Len(), nsm.MaxRequest+1))
	if _, err := io.ReadFull(&h.request, request); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	_, err := h.answer.Write(h.module.Answer(request))
	return err
}
