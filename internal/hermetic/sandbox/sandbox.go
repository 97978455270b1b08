// Package sandbox runs the commands of a build where they see nothing but their inputs.
//
// A command runs in a root of unpacked Debian packages ([Unpack]), which it cannot write to, without network,
// under fixed paths, a fixed host name and an environment that is listed and not inherited. Whatever the machine
// lets neb do to get there ([Mode]), the command sees the same, so that it makes the same bytes.
//
// The first process of a sandbox is neb itself, executed anew: every program that imports this package can be that
// process (see stage.go).
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
)

// Where a command finds its directories.
const (
	Build = "/build" // writable, its working directory
	Src   = "/src"   // inputs
	Out   = "/out"   // writable, what the build keeps
	Tmp   = "/tmp"   // writable, empty at first
)

// hostname is the host name inside.
const hostname = "neb"

// baseEnv is in every command's environment.
var baseEnv = []string{
	"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=" + Build,
	"LC_ALL=C",
	"TZ=UTC",
	"SOURCE_DATE_EPOCH=0",
}

// Command is a command and what it sees.
type Command struct {
	// Root is a directory that the command sees read-only as /. Its own dev, proc, sys, tmp, build, src and out
	// are not seen.
	Root string
	// Trees are further directories that the command sees read-only: where inside (absolute, one level: "/go")
	// to where outside.
	Trees map[string]string
	// Work is a directory of the caller's, on the file system of Root and Trees for speed. Its sub-directories
	// build, src, out and tmp are what the command sees as [Build], [Src], [Out] and [Tmp]; those that are missing
	// are made. Run also uses "root" in it. When the context ends a run, nothing in it can be used.
	Work string
	// Args is the command, its path inside first.
	Args []string
	// Env is added to what every command gets; it wins. A name without = is taken away.
	Env []string
	// Output receives both what the command prints and what it complains about. Nil drops it.
	Output io.Writer
}

// ExitError is a command that ran and failed.
type ExitError struct {
	Args []string
	Code int // as a shell counts: 128+n for a signal n
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d", strings.Join(e.Args, " "), e.Code)
}

// spec is what the first process of a sandbox is told.
type spec struct {
	Mode  Mode
	Root  string
	Trees map[string]string
	Work  string
	Args  []string
	Env   []string
}

// Run runs the command in mode m, which comes from [Choose]. Every process it leaves behind is dead when Run
// returns, and dies when the calling process does.
//
// The error is an [*ExitError] when the command itself failed.
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

// writable are the directories of [Command.Work] that a command can write to.
var writable = []string{"build", "src", "out", "tmp"}

func prepare(work string) error {
	for _, name := range append([]string{"root"}, writable...) {
		if err := mkdirAll(filepath.Join(work, name)); err != nil {
			return err
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(work, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: work, Err: err}
	}
	const noexec = 0x8 // ST_NOEXEC of statfs(2)
	if fs.Flags&noexec != 0 {
		return fmt.Errorf("%s is on a file system mounted noexec, and a build runs programs there; set NEB_CACHE to a directory elsewhere", work)
	}
	return nil
}

// environment is the base with what a command adds and without what it takes away; of two with one name the later one stays.
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

// How long a sandbox may take to kill what runs in it before it is killed itself.
const killDelay = 10 * time.Second

// start runs this program anew as the first process of a sandbox.
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
		// Without a pid namespace the first process has to kill the others before it goes.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	}

	// Pdeathsig is about the thread that started the process, not the process: keep it until the end.
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
		specW.Write(told) // an error shows as one of the first process
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
