package vsock

import "encoding/binary"

// The header of every packet, struct virtio_vsock_hdr of the specification: little-endian, no padding.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32 // bytes of payload behind the header
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32 // the sender's receive buffer, and how much its application has taken, ever
}

const (
	headerSize = 44
	// maxPayload is the largest payload accepted in one packet: what Linux sends at most
	// (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
	maxPayload = 64 << 10

	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	// Flags of opShutdown, from the sender's point of view.
	shutdownReceive = 1 // will receive no more
	shutdownSend    = 2 // will send no more
	shutdownBoth    = shutdownReceive | shutdownSend
)

// decode reads h from the first headerSize bytes of b.
func (h *header) decode(b []byte) {
	le := binary.LittleEndian
	*h = header{
		srcCID: le.Uint64(b), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		len: le.Uint32(b[24:]),
		typ: le.Uint16(b[28:]), op: le.Uint16(b[30:]),
		flags:    le.Uint32(b[32:]),
		bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}
}

// encode writes h into the first headerSize bytes of b.
func (h *header) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.len)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}
