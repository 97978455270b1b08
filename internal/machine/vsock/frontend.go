package vsock

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

// Messages of a vhost-user front end (docs/interop/vhost-user.rst of QEMU). Those that are missing belong to features not offered.
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
	protocol bool // VHOST_USER_F_PROTOCOL_FEATURES was negotiated: queues start disabled
}

type message struct {
	request, flags uint32
	payload        []byte
	files          []*os.File
}

// serve answers messages until the front end goes away, which is no error.
func (f *frontend) serve() error {
	for {
		m, err := f.read()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("vhost-user: %w", err)
		}
		reply, err := f.handle(m)
		for _, file := range m.files {
			if file != nil {
				file.Close()
			}
		}
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

// read reads one message and the descriptors that came with it.
func (f *frontend) read() (*message, error) {
	var head [12]byte
	oob := make([]byte, unix.CmsgSpace(maxRegions*4))
	n, oobn, _, _, err := f.conn.ReadMsgUnix(head[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	m := &message{}
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
		return nil, err
	}
	m.request = binary.NativeEndian.Uint32(head[:])
	m.flags = binary.NativeEndian.Uint32(head[4:])
	size := binary.NativeEndian.Uint32(head[8:])
	if size > maxMessage {
		return nil, fmt.Errorf("message %d of %d bytes", m.request, size)
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(f.conn, m.payload)
	return m, err
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// sizes are the payloads that messages must have at least, in bytes.
var sizes = map[uint32]int{
	msgSetFeatures: 8, msgSetMemTable: 8, msgSetVringNum: 8, msgSetVringAddr: 40, msgSetVringBase: 8, msgGetVringBase: 8,
	msgSetVringKick: 8, msgSetVringCall: 8, msgSetVringErr: 8, msgSetProtocolFeatures: 8, msgSetVringEnable: 8, msgGetConfig: 12,
}

// handle does what m asks and returns the reply of those messages that have one.
func (f *frontend) handle(m *message) ([]byte, error) {
	if len(m.payload) < sizes[m.request] {
		return nil, fmt.Errorf("%d bytes, want %d", len(m.payload), sizes[m.request])
	}
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()

	word := func(i int) uint32 { return binary.NativeEndian.Uint32(m.payload[4*i:]) }
	long := func(i int) uint64 { return binary.NativeEndian.Uint64(m.payload[i:]) }

	switch m.request {
	case msgGetFeatures:
		return u64(features), nil
	case msgSetFeatures:
		if extra := long(0) &^ features; extra != 0 {
			return nil, fmt.Errorf("features %#x were not offered", extra)
		}
		d.features = long(0)
		f.protocol = d.features&featureProtocol != 0
		return nil, nil
	case msgGetProtocolFeatures:
		return u64(protocolFeatures), nil
	case msgSetProtocolFeatures:
		f.replyAck = long(0)&protocolReplyAck != 0
		return nil, nil
	case msgGetQueueNum:
		return u64(queues), nil
	case msgSetOwner, msgSetConfig:
		return nil, nil
	case msgResetOwner:
		d.stop()
		return nil, nil
	case msgGetConfig:
		return f.config(m.payload, word(0), word(1))
	case msgSetMemTable:
		return nil, f.setMemory(m)
	}

	switch m.request {
	case msgSetVringNum, msgSetVringAddr, msgSetVringBase, msgGetVringBase, msgSetVringKick, msgSetVringCall, msgSetVringErr, msgSetVringEnable:
	default:
		return nil, errors.New("not known")
	}
	index := word(0)
	if m.request == msgSetVringKick || m.request == msgSetVringCall || m.request == msgSetVringErr {
		index &= 0xff
	}
	if index >= queues {
		return nil, fmt.Errorf("queue %d of %d", index, queues)
	}
	q := &d.queue[index]
	switch m.request {
	case msgSetVringNum:
		if word(1) > maxRingSize {
			return nil, fmt.Errorf("ring of %d descriptors", word(1))
		}
		q.size = uint16(word(1))
	case msgSetVringBase:
		q.next = uint16(word(1))
	case msgSetVringAddr:
		// flags, then descriptors, used, available, log
		q.addresses = [3]uint64{long(8), long(24), long(16)}
		if err := q.locate(d.mem); err != nil {
			// The enclave's driver chose the addresses: it is not QEMU's fault, and the device stays.
			d.fail(queueNames[index], err)
			return nil, nil
		}
		q.done = binary.LittleEndian.Uint16(q.used[2:])
		q.signalled = q.done
	case msgSetVringKick:
		if q.kick != nil {
			q.kick.Close()
			q.kick = nil
		}
		if word(0)&vringNoFD != 0 || len(m.files) == 0 {
			return nil, errors.New("a queue without a kick descriptor has to be polled, which this device does not")
		}
		q.kick, m.files[0] = m.files[0], nil
		if !f.protocol {
			q.enabled = true
		}
		d.start()
	case msgSetVringCall:
		if q.call != nil {
			q.call.Close()
			q.call = nil
		}
		if word(0)&vringNoFD == 0 && len(m.files) > 0 {
			q.call, m.files[0] = m.files[0], nil
			// QEMU may have missed what was said to the old one.
			if d.running {
				q.call.Write(one[:])
			}
		}
	case msgSetVringErr:
	case msgSetVringEnable:
		q.enabled = word(1) != 0
		d.start()
	case msgGetVringBase:
		d.stop()
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, index), uint32(q.next)), nil
	}
	return nil, nil
}

// config is the configuration space: the enclave's CID, 8 bytes little-endian.
func (f *frontend) config(payload []byte, offset, size uint32) ([]byte, error) {
	space := binary.LittleEndian.AppendUint64(nil, uint64(f.d.cfg.CID))
	if uint64(offset)+uint64(size) > uint64(len(space)) {
		return nil, fmt.Errorf("%d bytes of configuration at %d", size, offset)
	}
	return append(payload[:12:12], space[offset:offset+size]...), nil
}

// setMemory maps the memory that QEMU shares, in place of what there was.
func (f *frontend) setMemory(m *message) error {
	const entry = 32
	n := int(binary.NativeEndian.Uint32(m.payload))
	if n > maxRegions || len(m.payload) < 8+n*entry || len(m.files) < n {
		return fmt.Errorf("%d memory regions in %d bytes with %d descriptors", n, len(m.payload), len(m.files))
	}
	var mem memory
	for i := range n {
		e := m.payload[8+i*entry:]
		at := func(j int) uint64 { return binary.NativeEndian.Uint64(e[8*j:]) }
		r, err := mapRegion(m.files[i], at(0), at(2), at(1), at(3))
		if err != nil {
			mem.unmap()
			return err
		}
		mem = append(mem, r)
	}
	d := f.d
	d.mem.unmap()
	d.mem = mem
	for i := range d.queue {
		if q := &d.queue[i]; q.placed {
			if err := q.locate(mem); err != nil {
				d.fail(queueNames[i], err)
			}
		}
	}
	return nil
}
