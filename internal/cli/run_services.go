//go:build linux

package cli

import (
	"errors"
	"fmt"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/timeline"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// services are what neb run offers beside the enclave. Each option that adds some has a method of runOptions
// for it.
type services struct {
	ports    map[uint32]service       // by vsock port of the parent
	started  []func(*machine.Machine) // called when the enclave runs
	closers  []func()                 // called before neb run returns, the last first
	timeline *timeline.Timeline       // for events; set before the enclave starts
}

// A service serves one vsock port of the parent.
type service struct {
	by      string // the option that asked for it, for errors
	handler vsock.Handler
}

// serve adds a handler for a vsock port of the parent. It is wrong usage if the port has one.
func (v *services) serve(port uint32, by string, handler vsock.Handler) error {
	if other, ok := v.ports[port]; ok {
		return usagef("%s: port %d of the parent is given twice, also by %s", by, port, other.by)
	}
	v.ports[port] = service{by, handler}
	return nil
}

func (v *services) handlers() map[uint32]vsock.Handler {
	all := map[uint32]vsock.Handler{}
	for port, s := range v.ports {
		all[port] = s.handler
	}
	return all
}

func (v *services) close() {
	for i := len(v.closers) - 1; i >= 0; i-- {
		v.closers[i]()
	}
}

// addListen adds a handler for each --listen.
func (o *runOptions) addListen(s streams, parent *services) error {
	for _, text := range o.listen {
		port, e, err := machine.ParseListen(text)
		if err == nil {
			err = o.allow(e)
		}
		if err != nil {
			return usagef("invalid --listen %q: %v", text, err)
		}
		handler := e.Handler(func(err error) { complain(s, "%v", err) }, s.err)
		if err := parent.serve(port, fmt.Sprintf("--listen %q", text), handler); err != nil {
			return err
		}
	}
	return nil
}

// addConnect opens the host's side of each --connect.
func (o *runOptions) addConnect(s streams, parent *services) error {
	for _, text := range o.connect {
		port, e, err := machine.ParseConnect(text)
		if err == nil {
			err = o.allow(e)
		}
		if err != nil {
			return usagef("invalid --connect %q: %v", text, err)
		}
		l, err := e.Listen()
		if errors.Is(err, machine.ErrCommand) {
			return usagef("invalid --connect %q: %v", text, err)
		}
		if err != nil {
			return &ExitError{Code: exitMachine, Err: fmt.Errorf("--connect: %w", err)}
		}
		parent.closers = append(parent.closers, func() { l.Close() })
		parent.started = append(parent.started, func(m *machine.Machine) {
			go m.Forward(l, port, func(err error) { complain(s, "%v", err) })
		})
	}
	return nil
}

// errNotLocal is the error of addresses that only --remote allows.
var errNotLocal = errors.New("not a loopback address; allow it with --remote")

// allow rejects an endpoint beyond this machine, unless --remote is given.
func (o *runOptions) allow(e machine.Endpoint) error {
	if !e.Local() && !o.remote {
		return errNotLocal
	}
	return nil
}
