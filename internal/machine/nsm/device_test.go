package nsm

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/virtio"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

const patience = time.Minute

// start starts a device and a driver for it. Errors of the rings arrive in the channel.
func start(t testing.TB) (*virtio.Driver, chan error) {
	t.Helper()
	broken := make(chan error, 1)
	d := NewDevice(Config{ID: testID}, func(err error, _ bool) { broken <- err })
	t.Cleanup(d.Close)
	return virtio.New(t, d.Connect, 1, 8), broken
}

// Where the driver's buffers are in its memory.
const requestAt, answerAt = 1 << 20, 2 << 20

// offer gives a request in descriptor 0 and room for the answer in descriptor 1, with one kick or with two.
func offer(g *virtio.Driver, request []byte, room uint32, kicks int) {
	q := g.Queues[0]
	copy(g.Mem[requestAt:], request)
	g.Describe(q, 0, requestAt, uint32(len(request)), 0, 0)
	g.Describe(q, 1, answerAt, room, virtio.DescWrite, 0)
	if kicks == 2 {
		g.Offer(q, 0)
	} else {
		g.Add(q, 0)
	}
	g.Offer(q, 1)
}

func TestDevice(t *testing.T) {
	g, broken := start(t)
	exchange := func(kicks int) func(request []byte) ([]byte, error) {
		return func(request []byte) ([]byte, error) {
			q := g.Queues[0]
			offer(g, request, nsm.MaxResponse, kicks)
			head, size, ok := g.UsedBuffer(q, patience)
			if !ok || head != 0 || size != 0 {
				t.Fatalf("request: %v, buffer %d, %d bytes", ok, head, size)
			}
			head, size, ok = g.UsedBuffer(q, patience)
			if !ok || head != 1 {
				t.Fatalf("answer: %v, buffer %d", ok, head)
			}
			return bytes.Clone(g.Mem[answerAt:][:size]), nil
		}
	}
	for kicks := 1; kicks <= 2; kicks++ {
		client := nsm.Module{Exchange: exchange(kicks)}
		if r, err := client.DescribePCR(0); err != nil || !r.Locked {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := client.ExtendPCR(16, []byte("x")); err != nil {
			t.Error(err)
		}
		// Nobody signs here.
		if _, err := client.Attest(nil, nil, nil); err == nil ||
			!strings.Contains(err.Error(), "InternalError") {
			t.Error(err)
		}
	}
	long, _ := exchange(1)(make([]byte, nsm.MaxRequest+1))
	if got := diagnose(t, long); got != `{"Error": "InputTooLarge"}` {
		t.Error(got)
	}
	// The driver is loaded anew: the registers stay.
	before, _ := (&nsm.Module{Exchange: exchange(1)}).DescribePCR(16)
	g.Reset()
	g.Start(8)
	after, err := (&nsm.Module{Exchange: exchange(1)}).DescribePCR(16)
	if err != nil || !bytes.Equal(before.Value, after.Value) || bytes.Equal(after.Value, make([]byte, 48)) {
		t.Errorf("before %x, after %x, %v", before.Value, after.Value, err)
	}
	select {
	case err := <-broken:
		t.Error(err)
	default:
	}
}

// TestBroken has drivers that break the rules: the device says so, and works again when the driver was reset.
func TestBroken(t *testing.T) {
	request := encode(t, "GetRandom")
	for name, c := range map[string]struct {
		act  func(*virtio.Driver)
		want string
	}{
		"too little room": {func(g *virtio.Driver) {
			offer(g, request, nsm.MaxResponse-1, 1)
		}, "buffer of 12287 bytes, expected one of 12288"},
		"too much room": {func(g *virtio.Driver) {
			offer(g, request, nsm.MaxResponse+1, 1)
		}, "buffer of 12289 bytes, expected one of 12288"},
		"no room": {func(g *virtio.Driver) {
			offer(g, request, 0, 1)
		}, "buffer of 0 bytes, expected one of 12288"},
		"an empty request": {func(g *virtio.Driver) { offer(g, nil, nsm.MaxResponse, 1) }, "not empty"},
		"outside of memory": {func(g *virtio.Driver) {
			g.Describe(g.Queues[0], 0, 1<<40, 8, 0, 0)
			g.Offer(g.Queues[0], 0)
		}, "outside"},
		"a request to write": {func(g *virtio.Driver) {
			q := g.Queues[0]
			g.Describe(q, 0, requestAt, 8, virtio.DescWrite, 0)
			g.Describe(q, 1, answerAt, nsm.MaxResponse, virtio.DescWrite, 0)
			g.Add(q, 0)
			g.Offer(q, 1)
		}, "expected a buffer to read"},
		"an answer to read": {func(g *virtio.Driver) {
			q := g.Queues[0]
			copy(g.Mem[requestAt:], request)
			g.Describe(q, 0, requestAt, uint32(len(request)), 0, 0)
			g.Describe(q, 1, answerAt, nsm.MaxResponse, 0, 0)
			g.Add(q, 0)
			g.Offer(q, 1)
		}, "expected one of 12288 to write"},
	} {
		t.Run(name, func(t *testing.T) {
			g, broken := start(t)
			c.act(g)
			select {
			case err := <-broken:
				if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "NSM queue") {
					t.Errorf("got %q, expected %q", err, c.want)
				}
			case <-time.After(patience):
				t.Fatal("the device does not say that the ring is broken")
			}
			g.Reset()
			g.Start(8)
			offer(g, request, nsm.MaxResponse, 1)
			if _, _, ok := g.UsedBuffer(g.Queues[0], patience); !ok {
				t.Error("no answer after a reset")
			}
		})
	}
}
