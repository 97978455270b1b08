package contract

import "net/netip"

// The network of an enclave with [Description.Network]. init and the parent's side (internal/network) use
// these addresses without asking each other, so that the enclave needs no DHCP client. IPv4 is that of
// gvproxy (containers/gvisor-tap-vsock), which therefore can be the parent's side.
const (
	NetworkDevice = "eth0"
	// NetworkPort is the parent's vsock port to which the enclave connects. It sends NetworkRequest; from
	// then on each side sends Ethernet frames, each after its length as a little-endian number of 16 bits.
	NetworkPort    = 1024
	NetworkRequest = "POST /connect HTTP/1.1\r\nHost: parent\r\nContent-Length: 0\r\n\r\n"
	// NetworkMTU is the largest IP packet, in bytes: one that fits into a frame of 65535 bytes.
	NetworkMTU = 65520
	// NetworkNotice is the type of Ethernet frames that tell the parent what the rules refused
	// (IEEE 802, local experiments). Their content is a notice, see docs/network.md.
	NetworkNotice = 0x88b5

	NetworkBits4, NetworkBits6 = 24, 64 // lengths of the prefixes
)

// Addresses of that network, of IPv4 and IPv6. Host stands for the parent's own loopback address.
var (
	NetworkEnclave = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 168, 127, 2}), unique(2)}
	NetworkGateway = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 168, 127, 1}), unique(1)}
	NetworkHost    = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 168, 127, 254}), unique(254)}
)

// unique returns address n of the unique local prefix fd6e:6562::/64 (RFC 4193).
func unique(n byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 0x6e, 0x65, 0x62, 15: n})
}
