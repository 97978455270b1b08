package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
)

// Exit statuses of neb run that are not the application's.
const (
	exitTimeout  = 124
	exitMachine  = 125 // neb or QEMU failed
	exitNoStatus = 126 // the enclave ended without saying how its application did
	exitSignal   = 128 // and the signal's number
)

// runOptions are the options of neb run.
type runOptions struct {
	memory    int64 // MiB
	cpus      int
	cid       uint32
	timeout   time.Duration
	listen    []string
	connect   []string
	remote    bool
	hostCID   bool
	asJSON    bool
	plot      string
	qemu      string
	accel     string
	cmdline   string
	debugMode bool
	make      buildFlags // for an emulator that is not there yet
}

func newRunCommand(s streams) *cobra.Command {
	var o runOptions
	var path string
	cmd := &cobra.Command{
		Use:   "run EIF",
		Short: "Boot an Enclave Image File on this machine",
		Long: `Boot an Enclave Image File under QEMU, with a console, vsock, the heartbeat and attestation, as an ordinary user.

The enclave's console is standard output; neb's own words go to standard error. neb exits with the application's status:
128 and the signal's number where a signal killed it, 124 at a timeout, 125 when neb or QEMU failed, 126 when the enclave ended
without a status, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 when nobody reads standard output any more.

The first start builds the emulator, which takes some minutes; 'neb build emulator' does it ahead. Attestation documents
have the image's real measurements and are not signed.`,
		Example: `  neb run hello.eif
  neb run server.eif --connect tcp:127.0.0.1:8080=8080
  neb run client.eif --listen 5000=unix:/tmp/parent.sock --listen 5001=exec:'cat > received'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && path != "":
				return usagef("the EIF is given twice: %s and --eif-path %s", args[0], path)
			case len(args) == 1:
				path = args[0]
			case path == "":
				return usagef("which EIF? (see 'neb run --help')")
			}
			return o.run(cmd.Context(), s, path)
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "eif-path", "", "the EIF, as nitro-cli has it")
	f.Int64Var(&o.memory, "memory", 0, "memory in `MiB` (default: four times the EIF, at least 512)")
	f.IntVar(&o.cpus, "cpus", 1, "processors")
	f.Uint32Var(&o.cid, "cid", 16, "vsock address of the enclave")
	f.DurationVar(&o.timeout, "timeout", 0, "end the enclave after this time, with status 124")
	f.StringArrayVar(&o.listen, "listen", nil, "where connections of the enclave to a port of the parent go: `PORT=ENDPOINT`, with unix:PATH, tcp:HOST:PORT or exec:COMMAND; repeatable")
	f.StringArrayVar(&o.connect, "connect", nil, "where the host is let into the enclave: `ENDPOINT=PORT`, with unix:PATH or tcp:HOST:PORT; repeatable")
	f.BoolVar(&o.remote, "remote", false, "allow endpoints beyond this machine's loopback")
	f.BoolVar(&o.hostCID, "cid2", false, "answer for CID 2 as well; on EC2 nobody does")
	f.BoolVar(&o.asJSON, "json", false, "print events, one JSON object a line, instead of the console")
	f.StringVar(&o.plot, "plot", "", "draw where the time of the start went into an SVG `file`")
	f.StringVar(&o.qemu, "qemu", "", "another QEMU: a program, or a directory with bin/qemu-system-*")
	f.StringVar(&o.accel, "accel", "auto", "auto, kvm or tcg: auto uses KVM where it works")
	choices(cmd, "accel", "auto", "kvm", "tcg")
	f.StringVar(&o.cmdline, "cmdline", "", "appended to the kernel's command line; does not change the measurements")
	for _, name := range []string{"cmdline", "qemu"} { // nothing more, and neb's own
		f.SetAnnotation(name, emptySays, nil)
	}
	f.BoolVar(&o.debugMode, "debug-mode", false, "as nitro-cli has it; changes nothing here")
	f.Bool("attach-console", true, "as nitro-cli has it; the console is always shown")
	f.MarkHidden("attach-console")
	f.BoolVar(&o.make.offline, "offline", false, "build a missing emulator from what is in the cache, fetch nothing")
	f.IntVarP(&o.make.jobs, "jobs", "j", 0, "processes at once, for a missing emulator (default: one for each processor)")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if ours, ok := map[string]string{"cpu-count": "cpus", "enclave-cid": "cid"}[name]; ok {
			name = ours
		}
		return pflag.NormalizedName(name)
	})
	return cmd
}

// A listener is a --connect that was opened.
type listener struct {
	net.Listener
	port uint32
}

func (o *runOptions) run(ctx context.Context, s streams, path string) error {
	note := func(format string, args ...any) { fmt.Fprintf(s.err, "neb: "+format+"\n", args...) }
	failed := func(err error) error { return &ExitError{Code: exitMachine, Err: err} }

	if err := o.check(); err != nil {
		return err
	}
	handlers, err := o.handlers(note, s.err)
	if err != nil {
		return err
	}
	listeners, err := o.listeners()
	for _, l := range listeners {
		defer l.Close()
	}
	if err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return failed(err)
	}
	err = warnOfProblems(ctx, note, path)
	switch {
	case err != nil && ctx.Err() != nil:
		return &ExitError{Code: interrupted(ctx), Err: err}
	case err != nil:
		return failed(err)
	}
	if least := machine.MinMemory(st.Size()); o.memory > 0 && o.memory<<20 < least {
		note("warning: %d MiB of memory is less than four times the EIF (%d MiB): nitro-cli would refuse it", o.memory, least>>20)
	}
	if o.debugMode {
		note("--debug-mode changes nothing here; on EC2 the attested PCRs of an enclave in debug mode are zero")
	}

	if o.plot != "" {
		if err := notInput("--plot", o.plot, path); err != nil {
			return err
		}
		if err := writable(o.plot); err != nil {
			return failed(fmt.Errorf("--plot: %w", err))
		}
	}
	if o.qemu == "" {
		dir, done, err := o.emulator(ctx, s)
		switch {
		case err != nil && ctx.Err() != nil:
			return &ExitError{Code: interrupted(ctx), Err: err}
		case err != nil:
			return failed(err)
		}
		defer done()
		o.qemu = dir
	}

	// Somebody who reads no more must not end neb by a signal: sockets and processes would be left.
	piped := make(chan os.Signal, 1)
	signal.Notify(piped, syscall.SIGPIPE)
	defer signal.Stop(piped)
	hurry := make(chan os.Signal, 4) // the second Ctrl-C must not leave them either
	notify(hurry)
	defer signal.Stop(hurry)
	out := &outlet{s.out, make(chan error, 1)}
	w := &watcher{s: streams{out: out, err: s.err}, asJSON: o.asJSON}
	if report := reportPort(path); report != 0 && handlers[report] == nil {
		handlers[report] = w.takeReport
	}
	timeout := context.Background()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		timeout, cancel = context.WithTimeout(timeout, o.timeout)
		defer cancel()
	}
	m, err := machine.Start(context.WithoutCancel(ctx), machine.Config{
		Emulator: o.qemu, EIF: path,
		Memory: o.memory << 20, CPUs: o.cpus, Cmdline: o.cmdline, Accel: o.accel,
		Console: w.console(), Event: w.event,
		Vsock: vsock.Config{CID: o.cid, AllowHostCID: o.hostCID, Handlers: handlers},
	})
	if err != nil {
		return failed(err)
	}
	for _, l := range listeners {
		go m.Forward(l, l.port, func(err error) { note("%v", err) })
	}

	status := 0
	select {
	case <-m.Off():
	case <-ctx.Done():
		status = interrupted(ctx)
	case <-timeout.Done():
		status = exitTimeout
		note("the enclave did not end within %v", o.timeout)
	case err := <-out.failed:
		status = exitMachine
		if errors.Is(err, syscall.EPIPE) {
			status = exitSignal + int(syscall.SIGPIPE) // as a program that nobody told to wait for its enclave
		} else {
			note("standard output: %v", err)
		}
	}
	if status != 0 {
		go m.Stop()
	}
	ended := make(chan error, 1)
	go func() { ended <- o.finish(m, w, status, filepath.Base(path)) }()
	if status == 0 {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			status = interrupted(ctx)
		}
	}
	signals := 1
	if ctx.Err() != nil {
		signals = 2 // the first has brought us here
	}
	for late := time.After(patience); signals > 0; {
		select {
		case err := <-ended:
			return err
		case <-hurry:
			signals--
		case <-late:
			signals = 0
		}
	}
	m.Abandon()
	return &ExitError{Code: status}
}

// patience is how long neb waits, when it was told to end, for the host to read what the enclave sent, and for whoever reads standard output.
const patience = 6 * time.Second

// finish waits for the machine and says how it ended.
func (o *runOptions) finish(m *machine.Machine, w *watcher, status int, name string) error {
	if err := m.Wait(); err != nil {
		return &ExitError{Code: exitMachine, Err: err}
	}
	err := w.end(status)
	if o.plot != "" {
		if err := os.WriteFile(o.plot, w.plot(name), 0o644); err != nil {
			return &ExitError{Code: exitMachine, Err: fmt.Errorf("--plot: %w", err)}
		}
	}
	return err
}

// writable says now whether a file could be written later, and does not open it: a pipe's reader would take that for all of it.
func writable(name string) error {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		name = filepath.Dir(name)
	case err != nil:
		return err
	case st.IsDir():
		return &fs.PathError{Op: "write", Path: name, Err: syscall.EISDIR}
	}
	if err := unix.Access(name, unix.W_OK); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// An outlet notes the first error of writing.
type outlet struct {
	io.Writer
	failed chan error
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		select {
		case o.failed <- err:
		default:
		}
	}
	return n, err
}

// check refuses options that make no sense.
func (o *runOptions) check() error {
	const mostMemory = 1 << 20 // MiB, of what our kernels know
	switch {
	case o.memory < 0 || o.memory > mostMemory:
		return usagef("--memory %d: expected MiB, at most %d", o.memory, mostMemory)
	case o.cpus < 1:
		return usagef("--cpus %d: expected at least 1", o.cpus)
	case o.cid <= vsock.ParentCID || o.cid == 1<<32-1:
		return usagef("--cid %d: expected 4 to 4294967294; 2 is the host and 3 the parent", o.cid)
	case o.timeout < 0:
		return usagef("--timeout %v: expected a positive time", o.timeout)
	}
	switch o.accel {
	case "auto", "kvm", "tcg":
		return nil
	}
	return usagef("--accel %q: expected auto, kvm or tcg", o.accel)
}

// endpoint reads one side of a --listen or --connect.
func (o *runOptions) endpoint(flag, text string) (machine.Endpoint, error) {
	e, err := machine.ParseEndpoint(text)
	if err != nil {
		return e, usagef("%s: %v", flag, err)
	}
	if !e.Local() && !o.remote {
		return e, usagef("%s %v: not a loopback address; --remote allows it", flag, e)
	}
	return e, nil
}

// interrupted is the status after the signal that ended ctx.
func interrupted(ctx context.Context) int {
	var s signalError
	if errors.As(context.Cause(ctx), &s) {
		return exitSignal + int(s.Signal)
	}
	return exitSignal + int(syscall.SIGINT)
}

func vsockPort(flag, text string) (uint32, error) {
	port, err := strconv.ParseUint(text, 10, 32)
	if err != nil || port == 1<<32-1 {
		return 0, usagef("%s: port %q: expected a number up to 4294967294", flag, text)
	}
	return uint32(port), nil
}

// handlers are the parent's ports of --listen.
func (o *runOptions) handlers(note func(string, ...any), stderr io.Writer) (map[uint32]vsock.Handler, error) {
	handlers := map[uint32]vsock.Handler{}
	for _, text := range o.listen {
		left, right, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usagef("--listen %q: expected PORT=ENDPOINT", text)
		}
		port, err := vsockPort("--listen", left)
		if err != nil {
			return nil, err
		}
		if port >= vsock.FirstPort {
			return nil, usagef("--listen: port %d: expected at most %d; neb's own connections into the enclave come from the ports above", port, uint32(vsock.FirstPort-1))
		}
		if handlers[port] != nil {
			return nil, usagef("--listen: port %d is given twice", port)
		}
		e, err := o.endpoint("--listen", right)
		if err != nil {
			return nil, err
		}
		handlers[port] = e.Handler(func(err error) { note("%v", err) }, stderr)
	}
	return handlers, nil
}

// listeners opens the host's side of --connect.
func (o *runOptions) listeners() ([]listener, error) {
	var all []listener
	for _, text := range o.connect {
		cut := strings.LastIndex(text, "=")
		if cut < 0 {
			return all, usagef("--connect %q: expected ENDPOINT=PORT", text)
		}
		port, err := vsockPort("--connect", text[cut+1:])
		if err != nil {
			return all, err
		}
		e, err := o.endpoint("--connect", text[:cut])
		if err != nil {
			return all, err
		}
		l, err := e.Listen()
		if errors.Is(err, machine.ErrCommand) {
			return all, usagef("--connect: %v", err)
		}
		if err != nil {
			return all, &ExitError{Code: exitMachine, Err: fmt.Errorf("--connect: %w", err)}
		}
		all = append(all, listener{l, port})
	}
	return all, nil
}

// warnOfProblems refuses what is no EIF, and says what is wrong with one: it may start here, and be refused on EC2.
func warnOfProblems(ctx context.Context, note func(string, ...any), path string) error {
	report, done, err := inspectEIF(ctx, path, time.Now())
	if err != nil {
		return err
	}
	defer done()
	for _, problem := range report.Problems {
		note("warning: %s; on EC2 the image may be refused ('neb eif verify' says all)", problem)
	}
	return nil
}

// emulator is neb's own QEMU, built if need be. It stays in the store until done is called.
func (o *runOptions) emulator(ctx context.Context, s streams) (dir string, done func(), err error) {
	b, closeStore, err := o.make.builder(s)
	if err != nil {
		return "", nil, err
	}
	if dir, err = b.Emulator(ctx); err != nil {
		closeStore()
		return "", nil, err
	}
	return dir, closeStore, nil
}
