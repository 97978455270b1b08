package machine

import (
	"encoding/json"
	"io"
)

// monitor reads QEMU's machine protocol (QMP), one JSON object a line in both directions, until c ends. It
// only waits for a reset by the enclave, because this machine starts over despite -no-reboot.
func monitor(c io.ReadWriteCloser, reset func()) {
	defer c.Close()
	// QEMU sends nothing but its greeting before this.
	if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
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
				reset()
			}
		}
	}
}
