package machine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// ParseListen parses PORT=ENDPOINT: a vsock port of the parent, and the endpoint that serves it.
func ParseListen(text string) (uint32, Endpoint, error) {
	left, right, ok := strings.Cut(text, "=")
	if !ok {
		return 0, Endpoint{}, errors.New("expected PORT=ENDPOINT")
	}
	port, err := parsePort(left)
	if err != nil {
		return 0, Endpoint{}, err
	}
	if port >= vsock.FirstPort {
		return 0, Endpoint{}, fmt.Errorf("port %d: expected at most %d; neb uses the ports above for its "+
			"own connections",
			port, uint32(vsock.FirstPort-1))
	}
	e, err := ParseEndpoint(right)
	return port, e, err
}

// ParseConnect parses ENDPOINT=PORT: an endpoint on the host, and the vsock port of the enclave that serves
// it.
func ParseConnect(text string) (uint32, Endpoint, error) {
	cut := strings.LastIndex(text, "=")
	if cut < 0 {
		return 0, Endpoint{}, errors.New("expected ENDPOINT=PORT")
	}
	port, err := parsePort(text[cut+1:])
	if err != nil {
		return 0, Endpoint{}, err
	}
	e, err := ParseEndpoint(text[:cut])
	return port, e, err
}

func parsePort(text string) (uint32, error) {
	port, err := strconv.ParseUint(text, 10, 32)
	if err != nil || port == 1<<32-1 {
		return 0, fmt.Errorf("port %q: expected a number up to 4294967294", text)
	}
	return uint32(port), nil
}
