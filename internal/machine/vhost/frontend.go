package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Feature bits that the device offers (specification, 6; vhost-user).
const (
	featureIndirect = 1 << 28 // VIRTIO_RING_F_INDIRECT_DESC
	featureEventIdx = 1 << 29 // VIRTIO_RING_F_EVENT_IDX
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
	features        = featureIndirect | featureEventIdx | featureProtocol | featureVersion1
)

// Protocol features of vhost-user.
const (
	protocolMQ       = 1 << 0
	protocolReplyAck = 1 << 3
	protocolConfig   = 1 << 9
	protocolFeatures = protocolMQ | protocolReplyAck | protocolConfig
)

// Messages of a vhost-user front end (docs/interop/vhost-user.rst of QEMU). The missing ones belong to
// features that are not offered.
const (
	msgGetFeatures         = 1
	msgSetFeatures         = 2
	msgSetOwner            = 3
	msgResetOwner          = 4
	msgSetMemTable         = 5
	msgSetVringNum         = 8
	msgSetVringAddr        = 9
	msgSetVringBase        = 10
	msgGetVringBase        = 11
	msgSetVringKick        = 12
	msgSetVringCall        = 13
	msgSetVringErr         = 14
	msgGetProtocolFeatures = 15
	msgSetProtocolFeatures = 16
	msgGetQueueNum         = 17
	msgSetVringEnable      = 18
	msgGetConfig           = 24
	msgSetConfig           = 25
)

const (
	flagVersion   = 1
	flagReply     = 4
	flagNeedReply = 8

	// maxMessage bounds a message's payload: the largest is the configuration space with its header.
	maxMessage = 512
	vringNoFD  = 1 << 8
)

// A frontend is one connection of QEMU.
type frontend struct {
	d        *Device
	conn     *net.UnixConn
	replyAck bool
	protocol bool // VHOST_USER_F_PROTOCOL_FEATURES was negotiated: QEMU enables each queue
}

type message struct {
	request, flags uint32
	payload        []byte
	files          []*os.File
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	for _, file := range m.files {
		if file != nil {
			file.Close()
		}
	}
}

// serve answers messages until QEMU closes the connection, for which it returns nil.
func (f *frontend) serve() error {
	for {
		m := &message{}
		err := f.read(m)
		if err != nil {
			m.close()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("vhost-user: %w", err)
		}
		reply, err := f.handle(m)
		m.close()
		if err != nil {
			err = fmt.Errorf("vhost-user: message %d: %w", m.request, err)
		}
		if reply == nil && m.flags&flagNeedReply != 0 && f.replyAck {
			reply = make([]byte, 8)
			if err != nil {
				reply[0] = 1
			}
		}
		if reply != nil {
			b := make([]byte, 12, 12+len(reply))
			binary.NativeEndian.PutUint32(b, m.request)
			binary.NativeEndian.PutUint32(b[4:], flagVersion|flagReply)
			binary.NativeEndian.PutUint32(b[8:], uint32(len(reply)))
			if _, err := f.conn.Write(append(b, reply...)); err != nil {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// read reads one message into m, and the descriptors that came with it.
func (f *frontend) read(m *message) error {
	var head [12]byte
	oob := make([]byte, unix.CmsgSpace(maxRegions*4))
	n, oobn, _, _, err := f.conn.ReadMsgUnix(head[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return err
	}
	if controls, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, c := range controls {
			fds, _ := unix.ParseUnixRights(&c)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				unix.SetNonblock(fd, true)
				m.files = append(m.files, os.NewFile(uintptr(fd), "vhost-user"))
			}
		}
	}
	if _, err := io.ReadFull(f.conn, head[n:]); err != nil {
		return err
	}
	m.request = binary.NativeEndian.Uint32(head[:])
	m.flags = binary.NativeEndian.Uint32(head[4:])
	size := binary.NativeEndian.Uint32(head[8:])
	if size > maxMessage {
		return fmt.Errorf("message %d of %d bytes", m.request, size)
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(f.conn, m.payload)
	return err
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// sizes are the smallest payloads of messages, in bytes.
var sizes = map[uint32]int{
	msgSetFeatures: 8, msgSetMemTable: 8, msgSetVringNum: 8, msgSetVringAddr: 40, msgSetVringBase: 8,
	msgGetVringBase: 8, msgSetVringKick: 8, msgSetVringCall: 8, msgSetVringErr: 8, msgSetProtocolFeatures: 8,
	msgSetVringEnable: 8, msgGetConfig: 12,
}

// handle executes m and returns its reply, or nil for messages that have none.
func (f *frontend) handle(m *message) ([]byte, error) {
	if len(m.payload) < sizes[m.request] {
		return nil, fmt.Errorf("payload has %d bytes, expected %d", len(m.payload), sizes[m.request])
	}
	d := f.d
	d.Lock()
	defer d.Unlock()

	switch m.request {
	case msgGetFeatures:
		return u64(features), nil
	case msgSetFeatures:
		if extra := m.long(0) &^ features; extra != 0 {
			return nil, fmt.Errorf("features %#x were not offered", extra)
		}
		d.features = m.long(0)
		f.protocol = d.features&featureProtocol != 0
		return nil, nil
	case msgGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case msgSetProtocolFeatures:
		f.replyAck = m.long(0)&protocolReplyAck != 0
		return nil, nil
	case msgGetQueueNum:
		return u64(uint64(len(d.queues))), nil
	case msgSetOwner, msgSetConfig:
		return nil, nil
	case msgResetOwner:
		d.stop()
		return nil, nil
	case msgGetConfig:
		return d.config(m)
	case msgSetMemTable:
		mem, err := m.memory()
		if err == nil {
			d.setMemory(mem)
		}
		return nil, err
	case msgSetVringNum, msgSetVringAddr, msgSetVringBase, msgGetVringBase, msgSetVringEnable:
		return f.vring(m, m.word(0))
	case msgSetVringKick, msgSetVringCall, msgSetVringErr:
		return f.vring(m, m.word(0)&0xff)
	}
	return nil, errors.New("unknown message")
}

// vring executes a message that concerns the queue with the given index.
func (f *frontend) vring(m *message, index uint32) ([]byte, error) {
	d := f.d
	if int64(index) >= int64(len(d.queues)) {
		return nil, fmt.Errorf("queue %d: the device has %d queues", index, len(d.queues))
	}
	q := &d.queues[index]
	switch m.request {
	case msgSetVringNum:
		if m.word(1) > maxRingSize {
			return nil, fmt.Errorf("ring of %d descriptors, expected at most %d", m.word(1), maxRingSize)
		}
		q.size = uint16(m.word(1))
	case msgSetVringBase:
		q.next = uint16(m.word(1))
	case msgSetVringAddr:
		// The payload is index and flags, then the addresses of descriptors, used, available, and log.
		q.addresses = [3]uint64{m.long(8), m.long(24), m.long(16)}
		if err := q.locate(); err != nil {
			// The enclave's driver chose the addresses: QEMU made no mistake, and its connection stays.
			d.fail(q.name, err)
			return nil, nil
		}
		q.done = binary.LittleEndian.Uint16(q.used[2:])
		q.notified = q.done
	case msgSetVringKick:
		file := m.file()
		setFile(&q.kick, file)
		if file == nil {
			return nil, errors.New("no kick descriptor: polling of queues is not supported")
		}
		if !f.protocol {
			q.enabled = true
		}
		d.start()
	case msgSetVringCall:
		file := m.file()
		setFile(&q.call, file)
		// QEMU may have missed a notification through the old descriptor.
		if file != nil && d.running {
			file.Write(one[:])
		}
	case msgSetVringEnable:
		q.enabled = m.word(1) != 0
		d.start()
	case msgGetVringBase:
		d.stop()
		return binary.NativeEndian.AppendUint32(m.payload[:4:4], uint32(q.next)), nil
	}
	return nil, nil
}

// word returns the 32-bit word with index i of the payload.
func (m *message) word(i int) uint32 { return binary.NativeEndian.Uint32(m.payload[4*i:]) }

// long returns the 64-bit word at byte i of the payload.
func (m *message) long(i int) uint64 { return binary.NativeEndian.Uint64(m.payload[i:]) }

// file takes the descriptor that came with a kick or call message, or returns nil if it has none.
func (m *message) file() *os.File {
	if m.word(0)&vringNoFD != 0 || len(m.files) == 0 {
		return nil
	}
	file := m.files[0]
	m.files[0] = nil
	return file
}

// config answers a read of the configuration space: m's payload is offset, size and flags, and the reply
// repeats them.
func (d *Device) config(m *message) ([]byte, error) {
	offset, size, space := uint64(m.word(0)), uint64(m.word(1)), d.cfg.Space
	if offset+size > uint64(len(space)) {
		return nil, fmt.Errorf("configuration space of %d bytes: read of %d at %d", len(space), size, offset)
	}
	return append(m.payload[:12:12], space[offset:offset+size]...), nil
}

// memory maps the regions of m.
func (m *message) memory() (memory, error) {
	const entry = 32 // bytes a region: guest address, size, user address, offset of the file
	n := int(m.word(0))
	if n > maxRegions || len(m.payload) < 8+n*entry || len(m.files) < n {
		return nil, fmt.Errorf("%d memory regions: message has %d bytes and %d descriptors",
			n, len(m.payload), len(m.files))
	}
	var mem memory
	for i := range n {
		at := 8 + i*entry
		r, err := mapRegion(m.files[i], m.long(at), m.long(at+16), m.long(at+8), m.long(at+24))
		if err != nil {
			mem.unmap()
			return nil, fmt.Errorf("memory region at %#x: %w", m.long(at), err)
		}
		mem = append(mem, r)
	}
	return mem, nil
}
