package machine

import (
	"encoding/json"
	"net"
)

// A monitor reads QEMU's machine protocol (QMP): one JSON object a line in both directions. It only waits for
// a reset by the enclave, because this machine starts over despite -no-reboot.
type monitor struct {
	ln    net.Listener
	reset func()
}

func listenMonitor(path string, reset func()) (*monitor, error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	q := &monitor{ln: ln, reset: reset}
	go q.serve()
	return q, nil
}

func (q *monitor) close() { q.ln.Close() }

func (q *monitor) serve() {
	c, err := q.ln.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	// QEMU sends nothing but its greeting before this.
	if _, err := c.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n")); err != nil {
		return
	}
	for d := json.NewDecoder(c); ; {
		var message struct {
			Event string
			Data  struct{ Guest bool }
		}
		if d.Decode(&message) != nil {
			return
		}
		switch message.Event {
		case "RESET", "SHUTDOWN", "GUEST_PANICKED":
			if message.Data.Guest || message.Event == "GUEST_PANICKED" {
				q.reset()
			}
		}
	}
}
