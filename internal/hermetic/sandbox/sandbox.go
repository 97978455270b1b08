// Package sandbox runs the commands of a build so that they see nothing but their inputs. It is for
// reproducibility: it does not protect against commands that attack the kernel.
//
// A command runs in a read-only root of unpacked Debian packages ([Unpack]), without network, with fixed
// paths, a fixed host name and a fixed environment. It sees the same in every isolation ([Mode]), so that
// it makes the same bytes.
//
// The first process of a sandbox is this program, executed again: every program that imports this package
// can be that process (see stage.go).
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/tree"
)

// Directories in a sandbox.
const (
	Build = "/build" // writable, the working directory
	Src   = "/src"   // inputs
	Out   = "/out"   // writable, for the output
	Tmp   = "/tmp"   // writable, empty at first
)

// hostname is the host name in a sandbox.
const hostname = "neb"

// baseEnv is part of the environment of every command.
var baseEnv = []string{
	"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=" + Build,
	"LC_ALL=C",
	"TZ=UTC",
	"SOURCE_DATE_EPOCH=0",
}

// Command is a command and its view of the file system.
type Command struct {
	// Root is the directory that the command sees read-only as /, except for its dev, proc, sys, tmp,
	// build, src and out.
	Root string
	// Trees lists further directories that the command sees read-only, by their name in / ("go").
	Trees map[string]string
	// Work is a directory of the caller, for speed on the file system of Root and Trees. The command sees
	// its subdirectories build, src, out and tmp as [Build], [Src], [Out] and [Tmp]; Run creates missing
	// ones, and a subdirectory "root". After the context ended a run, the content of Work is undefined.
	Work string
	// Args is the command line. Args[0] is a path in the sandbox.
	Args []string
	// Env adds to and replaces variables of the base environment. A name without "=" removes the variable.
	Env []string
	// Output receives standard output and standard error. Nil drops them.
	Output io.Writer
}

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Args []string
	Code int // as in a shell: 128+n for signal n
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d", strings.Join(e.Args, " "), e.Code)
}

// spec is what the first process of a sandbox receives.
type spec struct {
	Mode  Mode
	Root  string
	Trees map[string]string
	Work  string
	Args  []string
	Env   []string
}

// Run runs a command in mode m, which comes from [Choose]. Before Run returns it kills all processes that
// the command left behind; they also die with the calling process. If the command fails, the error is an
// [*ExitError].
func (m Mode) Run(ctx context.Context, c Command) error {
	if len(c.Args) == 0 {
		return errors.New("sandbox: no command")
	}
	if err := prepare(c.Work); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if m == Chroot {
		return runChroot(ctx, c)
	}
	return start(ctx, m.spec(c), c.Output)
}

func (m Mode) spec(c Command) spec {
	return spec{Mode: m, Root: c.Root, Trees: c.Trees, Work: c.Work, Args: c.Args, Env: environment(c.Env)}
}

// writable lists the subdirectories of [Command.Work] that a command can write to.
var writable = []string{"build", "src", "out", "tmp"}

func prepare(work string) error {
	for _, name := range append([]string{"root"}, writable...) {
		if err := tree.MkdirAll(filepath.Join(work, name)); err != nil {
			return err
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(work, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: work, Err: err}
	}
	const noexec = 0x8 // ST_NOEXEC of statfs(2)
	if fs.Flags&noexec != 0 {
		return fmt.Errorf("%s is on a file system mounted noexec, where a build cannot run programs; "+
			"set NEB_CACHE to another file system", work)
	}
	return nil
}

// environment returns the base environment with the changes of add. Of duplicate names the last one counts.
func environment(add []string) []string {
	var env []string
	for _, kv := range append(slices.Clone(baseEnv), add...) {
		name, _, set := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		if set {
			env = append(env, kv)
		}
	}
	return env
}

// stageName is argv[0] of a sandbox's first process.
const stageName = "neb-sandbox"

// killDelay is how long a sandbox may take to kill its processes before it is killed.
const killDelay = 10 * time.Second

// start runs this program again as the first process of a sandbox.
func start(ctx context.Context, s spec, output io.Writer) error {
	told, err := json.Marshal(s)
	if err != nil {
		return err
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer specR.Close()
	failR, failW, err := os.Pipe()
	if err != nil {
		specW.Close()
		return err
	}
	defer failR.Close()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{stageName}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{specR, failW} // fds 3 and 4
	cmd.SysProcAttr = s.Mode.attributes()
	cmd.WaitDelay = killDelay
	if s.Mode == Chroot {
		// Without a pid namespace the first process must kill the others before it exits.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	}

	// Pdeathsig is sent when this thread ends, not this process: keep the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	specR.Close()
	failW.Close()
	if err != nil {
		specW.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("sandbox: %w", err)
	}
	go func() {
		specW.Write(told) // the first process reports an incomplete spec
		specW.Close()
	}()
	failed, _ := io.ReadAll(failR) // ends when the command starts
	err = cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(failed) > 0 {
		return fmt.Errorf("sandbox: %s", failed)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		return &ExitError{Args: s.Args, Code: code}
	}
	return err
}
