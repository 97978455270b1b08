//go:build linux

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/fetch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/kms"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/timeline"
	"github.com/nitro-enclaves-bootstrap/neb/internal/machine/vsock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
)

// Exit statuses of neb run that are not the application's.
const (
	exitTimeout  = 124
	exitMachine  = 125 // neb or QEMU failed
	exitNoStatus = 126 // the enclave ended without reporting its application's status
	exitSignal   = 128 // plus the signal's number
)

// runOptions are the flags of neb run.
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
	raw       bool
	plot      string
	qemu      string
	accel     string
	cmdline   string
	machine   string
	parent    parentFlags
	authority string
	root      *devca.Authority // as authority says
	debugMode bool
	net       bool
	netFlags  netFlags
	netGiven  string // a flag of them that was given
	kms       bool
	kmsKeys   string
	kmsPort   uint32
	build     buildFlags // of a missing emulator
	pcrs      pcrFlags
}

func newRunCommand(s streams) *cobra.Command {
	var o runOptions
	var path string
	cmd := &cobra.Command{
		Use:   "run EIF",
		Short: "Boot an Enclave Image File on this machine",
		Long: `Boot an Enclave Image File under QEMU with a console, vsock, the heartbeat and attestation, as
an ordinary user.

The enclave's console goes to standard output, neb's messages to standard error. The exit status is the
application's, or 128 plus the number of the signal that killed it. Other statuses: 124 timeout, 125 neb or
QEMU failed, 126 the enclave ended without reporting a status, 130 after Ctrl-C, 143 after SIGTERM, 129 after
SIGHUP, 141 standard output was closed.

The first run downloads the emulator (40 MB); 'neb build emulator' does that in advance. The enclave's Nitro
Secure Module signs attestation documents with the image's real measurements, under the root that 'neb attest
ca init' created, or under a root for this run only.`,
		Example: `  neb run hello.eif
  neb run server.eif --connect tcp:127.0.0.1:8080=8080
  neb run client.eif --listen 5000=unix:/tmp/parent.sock --listen 5001=exec:'cat > received'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && path != "":
				return usagef("--eif-path cannot be combined with the argument %s", args[0])
			case len(args) == 1:
				path = args[0]
			case path == "":
				return usagef("an EIF is required (see 'neb run --help')")
			}
			o.netGiven = o.netFlags.given(cmd)
			return o.run(cmd.Context(), s, path)
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "eif-path", "", "the EIF `file`, as in nitro-cli")
	f.Int64Var(&o.memory, "memory", 0,
		"memory in `MiB` (default: what 'neb eif check' prints, at least 512)")
	f.IntVar(&o.cpus, "cpus", 1, "`number` of processors")
	f.Uint32Var(&o.cid, "cid", 16, "vsock `address` of the enclave")
	f.DurationVar(&o.timeout, "timeout", 0, "stop the enclave after this time, with exit status 124")
	f.StringArrayVar(&o.listen, "listen", nil,
		"serve a vsock port of the parent: `PORT=ENDPOINT`, where ENDPOINT is unix:PATH, tcp:HOST:PORT "+
			"or exec:COMMAND; repeatable")
	f.StringArrayVar(&o.connect, "connect", nil,
		"forward connections on the host to a vsock port of the enclave: `ENDPOINT=PORT`, where ENDPOINT "+
			"is unix:PATH or tcp:HOST:PORT; repeatable")
	f.BoolVar(&o.remote, "remote", false, "allow endpoints other than this machine's loopback addresses")
	f.BoolVar(&o.hostCID, "cid2", false, "answer on CID 2 as well; on EC2 nothing answers there")
	f.BoolVar(&o.asJSON, "json", false, "print events, one JSON object a line, instead of the console")
	f.BoolVar(&o.raw, "raw", false,
		"let the enclave send any escape sequence to a terminal, such as one that changes its title")
	f.StringVar(&o.plot, "plot", "", "write a plot of the start to an SVG `file`")
	f.StringVar(&o.qemu, "qemu", "",
		"`path` of another QEMU: a program, or a directory with bin/qemu-system-*")
	f.StringVar(&o.accel, "accel", "auto", "`accelerator`: auto, kvm or tcg; auto uses KVM if it works")
	choices(cmd, "accel", "auto", "kvm", "tcg")
	f.StringVar(&o.cmdline, "cmdline", "",
		"`text` to append to the kernel's command line; the measurements do not change")
	allowEmpty(cmd, "cmdline", "qemu")
	f.StringVar(&o.machine, "machine", "",
		"`name` of another machine: nitro-enclave, QEMU's own emulation, whose documents are unsigned "+
			"(x86_64, with a --qemu that has it)")
	choices(cmd, "machine", machine.NitroEnclave)
	o.parent.add(cmd)
	o.pcrs = addPCRFlags(cmd, 0, 1, 2, 8)
	f.StringVar(&o.authority, "attestation-ca", "",
		"sign attestation documents under the root in this `directory`; 'new' creates a root for this run "+
			"(default: the root of 'neb attest ca init' if it exists, else 'new')")
	f.BoolVar(&o.kms, "kms", false, "serve a stand-in for AWS KMS on a vsock port of the parent")
	f.StringVar(&o.kmsKeys, "kms-keys", "", "`file` with the keys of --kms (default: as 'neb kms serve')")
	f.Uint32Var(&o.kmsPort, "kms-port", kms.Port, "vsock `port` of --kms")
	f.BoolVar(&o.net, "net", false, "connect an enclave that was built with --net to the network")
	o.netFlags.add(cmd)
	f.BoolVar(&o.debugMode, "debug-mode", false, "make all attested PCRs zero, as EC2 does in debug mode")
	f.Bool("attach-console", true,
		"no effect: the console is always attached; for compatibility with nitro-cli")
	f.MarkHidden("attach-console")
	f.BoolVar(&o.build.offline, "offline", false, "do not download a missing emulator")
	o.build.addMirrorOnly(cmd)
	aliases(cmd, map[string]string{"cpu-count": "cpus", "enclave-cid": "cid"})
	return cmd
}

func (o *runOptions) run(ctx context.Context, s streams, path string) error {
	failed := func(err error) error {
		if ctx.Err() != nil {
			return &ExitError{Code: interrupted(ctx), Err: err}
		}
		return &ExitError{Code: exitMachine, Err: err}
	}
	if err := o.check(); err != nil {
		return err
	}
	want, err := o.pcrs.values()
	if err != nil {
		return err
	}
	if o.root, err = devca.Choose(o.authority); err != nil {
		return failed(fmt.Errorf("attestation authority: %w", err))
	}
	parent := services{ports: map[uint32]service{}}
	defer parent.close()
	for _, add := range []func(streams, *services) error{o.addListen, o.addConnect, o.addKMS, o.addNet} {
		if err := add(s, &parent); err != nil {
			return err
		}
	}
	report, in, err := inspect.ReadFile(ctx, path, time.Now())
	if err != nil {
		return failed(err)
	}
	defer in.Close()
	if err := expectPCRs(report.Pass.Measurements, want); err != nil {
		return failed(fmt.Errorf("%s: %w", path, err))
	}
	if err := checkImage(s, path, report); err != nil {
		return failed(err)
	}
	var description contract.Description
	if report.Application != nil {
		description = *report.Application
	}
	least := report.Memory
	if o.memory > 0 && o.memory<<20 < least {
		complain(s, "warning: %d MiB of memory is less than the %d MiB that the image needs to start",
			o.memory,
			least>>20)
	}
	var plot *atomicfile.File
	if o.plot != "" {
		if err := notInput("--plot", o.plot, path); err != nil {
			return err
		}
		if plot, err = atomicfile.New(o.plot); err != nil {
			return failed(fmt.Errorf("--plot: %w", err))
		}
		defer plot.Discard()
	}
	if o.qemu == "" {
		b, done, err := o.build.builder(ctx, s)
		if err != nil {
			return failed(err)
		}
		defer done()
		o.qemu, err = b.Emulator(ctx)
		var gone *fetch.GoneError
		if errors.As(err, &gone) {
			if o.qemu, err = machine.Installed(ctx, report.File.Arch()); err != nil {
				err = fmt.Errorf(
					"%w\nemulator: run 'neb update emulator', or install QEMU 10.1 or later (%w)", gone, err)
			} else {
				complain(s, "warning: the locked emulator is gone from the mirrors, using %s: "+
					"'neb update emulator' locks a newer one", o.qemu)
			}
		}
		if err != nil {
			return failed(err)
		}
	}

	// SIGPIPE must not end neb: sockets and processes would be left behind. Neither must a second Ctrl-C.
	piped := make(chan os.Signal, 1)
	signal.Notify(piped, syscall.SIGPIPE)
	defer signal.Stop(piped)
	hurry := make(chan os.Signal, 4)
	notify(hurry)
	defer signal.Stop(hurry)
	to := s.out
	if !o.asJSON {
		to = printable.Raw(to) // the console
	}
	out := &outlet{to, make(chan error, 1)}
	tl := timeline.New(func(e timeline.Event) {
		switch {
		case e.Event == string(machine.Parent):
			complain(s, "%s", *e.Text)
		case e.Event == timeline.Log && !o.asJSON:
			complain(s, "log %s %q", e.Stream, *e.Text)
		}
		if o.asJSON {
			_ = json.NewEncoder(out).Encode(e)
		}
	})
	if port := description.ExitReport; port != 0 && parent.ports[port].handler == nil {
		parent.ports[port] = service{"the image's exit report", tl.ServeReport}
	}
	if port := description.LogPort; port != 0 && parent.ports[port].handler == nil {
		parent.ports[port] = service{"the image's log port", tl.ServeLog}
	}
	parent.timeline = tl
	switch _, served := parent.ports[contract.NetworkPort]; {
	case description.Network && !served:
		complain(s, "warning: the image asks for a network: give it one with --net")
	case o.net && !description.Network:
		complain(s, "warning: the image asks for no network, --net has no effect: build it with --net")
	}
	timeout := context.Background()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		timeout, cancel = context.WithTimeout(timeout, o.timeout)
		defer cancel()
	}
	var console io.Writer
	if !o.asJSON {
		console = out
		if f, ok := printable.Raw(s.out).(*os.File); ok && !o.raw && term.IsTerminal(int(f.Fd())) {
			console = machine.NewTerminal(out)
		}
	}
	m, err := machine.Start(context.WithoutCancel(ctx), machine.Config{
		Emulator: o.qemu, EIF: path, File: report.File, Measured: &report.Pass.Measurements,
		Memory: cmp.Or(o.memory<<20, preflight.DefaultMemory(least)), CPUs: o.cpus, Cmdline: o.cmdline,
		Accel: o.accel, Machine: o.machine,
		Root: o.root, RoleARN: o.parent.role, InstanceID: o.parent.instance, Debug: o.debugMode,
		Console: console, Event: tl.Add,
		Vsock: vsock.Config{CID: o.cid, AllowHostCID: o.hostCID, Handlers: parent.handlers()},
	})
	if err != nil {
		return failed(err)
	}
	for _, start := range parent.started {
		start(m)
	}

	forced := 0 // the exit status if neb stops the enclave
	select {
	case <-m.Off():
	case <-ctx.Done():
		forced = interrupted(ctx)
	case <-timeout.Done():
		forced = exitTimeout
		complain(s, "timeout: the enclave did not end within %v", o.timeout)
	case err := <-out.failed:
		forced = exitMachine
		if errors.Is(err, syscall.EPIPE) {
			forced = exitSignal + int(syscall.SIGPIPE)
		} else {
			complain(s, "standard output: %v", err)
		}
	}
	if forced != 0 {
		go m.Stop()
	}
	ended := make(chan error, 1)
	go func(forced int) { ended <- finish(m, tl, forced, plot, filepath.Base(path)) }(forced)
	if forced == 0 {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			forced = interrupted(ctx)
		}
	}
	signals := 1
	if ctx.Err() != nil {
		signals = 2 // hurry has received the first one as well
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
	return &ExitError{Code: forced}
}

// patience is how long neb waits, after it was told to end, until the host has read the enclave's data and
// the reader of standard output has read the console.
const patience = 6 * time.Second

// finish waits until the machine has ended, and returns the error of neb run; forced is the exit status if
// neb stopped the enclave, and 0 if the enclave ended by itself.
func finish(m *machine.Machine, tl *timeline.Timeline, forced int, plot *atomicfile.File,
	title string) error {
	if err := m.Wait(); err != nil {
		return &ExitError{Code: exitMachine, Err: err}
	}
	ending := tl.Ending()
	if forced == exitTimeout {
		ending = timeline.Ending{Result: timeline.Timeout}
	} else if forced != 0 {
		ending = timeline.Ending{Result: timeline.Stopped}
	}
	status, err := exitStatus(ending, forced)
	tl.Finish(ending, status)
	if plot != nil {
		_, err := plot.Write(tl.SVG(title))
		if err := errors.Join(err, plot.Commit()); err != nil {
			return &ExitError{Code: exitMachine, Err: fmt.Errorf("--plot: %w", err)}
		}
	}
	if status == 0 {
		return nil
	}
	return &ExitError{Code: status, Err: err}
}

// exitStatus returns neb run's exit status after e, and an error if the application's status is not known.
func exitStatus(e timeline.Ending, forced int) (int, error) {
	switch e.Result {
	case timeline.Exited:
		return e.Status, nil
	case timeline.Killed:
		n, _ := contract.Signal(e.Signal) // 128 for a name that this neb does not know
		return exitSignal + n, nil
	case timeline.NoStatus:
		err := errors.New("the enclave ended without reporting the status of its application")
		if e.Reason != "" {
			err = fmt.Errorf("%w: %s", err, e.Reason)
		}
		return exitNoStatus, err
	}
	return forced, nil
}

// An outlet reports the first error of a writer.
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

// check rejects values that no machine can have.
func (o *runOptions) check() error {
	const mostMemory = 1 << 20 // MiB, the most that neb's kernels support
	switch {
	case o.memory < 0 || o.memory > mostMemory:
		return usagef("invalid --memory %d: expected MiB, at most %d", o.memory, mostMemory)
	case o.cpus < 1:
		return usagef("invalid --cpus %d: expected at least 1", o.cpus)
	case o.cid <= vsock.ParentCID || o.cid == 1<<32-1:
		return usagef("invalid --cid %d: expected 4 to 4294967294; 2 is the host, 3 the parent", o.cid)
	case o.timeout < 0:
		return usagef("invalid --timeout %v: expected a positive duration", o.timeout)
	case o.accel != "auto" && o.accel != "kvm" && o.accel != "tcg":
		return usagef("invalid --accel %q: expected auto, kvm or tcg", o.accel)
	case o.machine != "" && o.machine != machine.NitroEnclave:
		return usagef("invalid --machine %q: expected %s", o.machine, machine.NitroEnclave)
	case o.machine != "" && o.qemu == "":
		return usagef("--machine needs --qemu: the emulator of neb does not have it")
	}
	return o.parent.measure(func(int, eif.PCR) {})
}

// interrupted returns the exit status after the signal that ended ctx.
func interrupted(ctx context.Context) int {
	var s signalError
	if errors.As(context.Cause(ctx), &s) {
		return exitSignal + int(s.Signal)
	}
	return exitSignal + int(syscall.SIGINT)
}

// checkImage prints what is wrong with an EIF that may start here and not on EC2, and fails for one that
// cannot start here.
func checkImage(s streams, path string, report *inspect.Report) error {
	if report.File.PCIe() {
		return fmt.Errorf("%s: the image is of a PCIe enclave, whose root is a disk: "+
			"neb run emulates enclaves without a PCI bus", path)
	}
	warnLayout(s, path, report.File)
	for _, problem := range report.Problems {
		complain(s, "warning: %s; EC2 may reject this image ('neb eif verify' lists all problems)", problem)
	}
	return nil
}
