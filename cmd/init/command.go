//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// shell runs a file that is not a program for the kernel, in nitro-cli's mode: the reference init starts its
// command with glibc's execvpe, which does the same.
const shell = "/bin/sh"

// isScript reports whether a file is not an ELF program. The shell's error for a program of another machine
// would not help.
func isScript(path string) bool {
	head, err := beginning(path)
	return err == nil && !strings.HasPrefix(string(head), elfMagic)
}

// beginning returns the first page of a file.
func beginning(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	head := make([]byte, 4096)
	n, err := unix.Pread(fd, head, 0)
	return head[:max(n, 0)], err
}

// start starts the application in its own session, as its user, and returns its process. With Pid1 it returns
// only if it fails.
func (e *enclave) start() (int, error) {
	argv := e.about.Command()
	attr := &syscall.ProcAttr{
		Env:   e.env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if e.structured {
		attr.Sys.Credential = &syscall.Credential{
			Uid: uint32(e.account.UID), Gid: uint32(e.account.GID), Groups: e.account.Groups,
		}
	}
	run := syscall.ForkExec
	if e.about.Pid1 {
		run = e.become
		say(contract.BecomesPid1)
	} else {
		runtime.LockOSThread() // it forks
		if err := e.boundThread(); err != nil {
			return 0, err
		}
	}
	if log != nil {
		app, ours, err := e.pipes()
		if err != nil {
			return 0, err
		}
		attr.Files = []uintptr{0, uintptr(app[0]), uintptr(app[1])}
		defer func() {
			unix.Close(app[0])
			unix.Close(app[1])
			log.done = make(chan struct{})
			go log.run(ours)
		}()
	}
	all := contract.Candidates(argv[0], e.env, !e.structured)
	failed := error(unix.ENOENT)
	at := argv[0]
	for _, path := range all {
		if len(all) > 1 && !exists(path) {
			continue
		}
		// As execvp does, a file that may not be executed is remembered, and the search goes on.
		pid, err := run(path, argv, attr)
		if err == unix.ENOEXEC && !e.structured && isScript(path) {
			pid, err = run(shell, append([]string{shell, path}, argv[1:]...), attr)
			if err != nil {
				err = unix.ENOEXEC // of the file: whyNot says the rest
			}
		}
		if err == nil {
			return pid, nil
		}
		failed, at = err, path
		if err != unix.EACCES && err != unix.ENOENT && err != unix.ENOTDIR {
			break
		}
	}
	f := fail("exec", at, failed)
	if len(all) > 1 && at == argv[0] {
		return 0, f.because("not found as " + strings.Join(all, ", "))
	}
	if cause := e.whyNot(at, failed); cause != "" {
		f.because(cause)
	}
	return 0, f
}

// become executes the application in place of init, and returns only if that fails. It does so on a thread of
// its own, which alone loses its privileges: if it fails, init still has to end the machine.
func (e *enclave) become(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this function
		unix.Setsid()          // no error matters: PID 1 may be the leader of one
		err := e.boundThread()
		if err == nil {
			err = takeAccount(attr.Sys.Credential)
		}
		if err == nil {
			err = syscall.Exec(path, argv, attr.Env)
		}
		failed <- err
	}()
	return 0, <-failed
}

// takeAccount changes the user of this thread. The functions of package syscall change all threads.
func takeAccount(c *syscall.Credential) error {
	groups := unsafe.Pointer(unsafe.SliceData(c.Groups))
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(groups)},
		{unix.SYS_SETRESGID, uintptr(c.Gid), uintptr(c.Gid), uintptr(c.Gid)},
		{unix.SYS_SETRESUID, uintptr(c.Uid), uintptr(c.Uid), uintptr(c.Uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}

// whyNot looks for the cause of a failed exec in the file.
func (e *enclave) whyNot(path string, err error) string {
	var st unix.Stat_t
	if missing := unix.Stat(path, &st); missing != nil {
		if err == unix.ENOENT && !strings.HasPrefix(path, "/") {
			return "the path is relative to " + workingDir()
		}
		if err == unix.ENOENT && unix.Lstat(path, &st) == nil {
			return "it is a symbolic link, and its target is not in the image"
		}
		if err == unix.ENOENT {
			for _, dir := range hidden {
				if strings.HasPrefix(path, dir) && !(e.structured && (dir == "/run/" || dir == "/tmp/")) {
					return "the file system that is mounted at " + dir + " hides it"
				}
			}
			return "the image has no such file"
		}
		return ""
	}
	switch err {
	case unix.EACCES:
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return "it is a directory"
		case st.Mode&0o111 == 0:
			return "it is not executable: chmod +x"
		case e.account.UID != 0:
			return "user " + e.about.User + " has no permission for it or a directory above it"
		}
		return "it or its interpreter is not executable, or is on a file system mounted noexec"
	case unix.ENOENT, unix.ENOEXEC:
		head, err2 := beginning(path)
		if err2 != nil {
			return ""
		}
		cause := diagnose(head, exists)
		if err == unix.ENOEXEC && !e.structured && !strings.HasPrefix(string(head), elfMagic) {
			cause += ", and " + shell + ", which would run it, is not in the image"
		}
		return cause
	}
	return ""
}

// hidden are the directories that mounts hide, see mounts. In structured mode /run and /tmp keep what they
// hold.
var hidden = []string{"/dev/", "/proc/", "/run/", "/sys/", "/tmp/"}

func workingDir() string {
	b := make([]byte, unix.PathMax)
	if n, err := unix.Getcwd(b); err == nil && n > 0 {
		return string(b[:n-1])
	}
	return "the working directory"
}

// diagnose returns why the kernel may reject a file that begins with head.
func diagnose(head []byte, exists func(string) bool) string {
	if line, ok := strings.CutPrefix(string(head), "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		line = strings.TrimLeft(line, " \t")
		interpreter, _, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		switch {
		case strings.HasSuffix(line, "\r"):
			return "its first line ends in a carriage return, which becomes part of the interpreter's " +
				"name: save it with Unix line endings"
		case interpreter == "":
			return "its first line names no interpreter"
		case !exists(interpreter):
			return "it is a script, and its interpreter " + interpreter + " is not in the image"
		}
		return "it is a script, and the kernel rejects its interpreter " + interpreter
	}
	if len(head) == 0 {
		return "it is empty"
	}
	if !strings.HasPrefix(string(head), elfMagic) {
		return "it is neither an ELF file nor a script with #! in its first line"
	}
	machine, loader, err := readELF(head)
	switch {
	case err != nil:
		return err.Error()
	case machine != elfMachine:
		return "it was built for " + machineName(machine) + ", and this enclave is " + machineName(elfMachine)
	case loader != "" && !exists(loader):
		return "it is linked dynamically, and its loader " + loader + " is not in the image"
	}
	return "the kernel rejects this ELF file: it may be truncated"
}

const elfMagic = "\x7fELF"

func machineName(m int) string {
	switch m {
	case 3:
		return "32-bit x86"
	case 40:
		return "32-bit ARM"
	case 62:
		return "x86_64"
	case 183:
		return "aarch64"
	}
	return "another machine"
}

// readELF reads machine and loader (PT_INTERP) of a 64-bit little-endian ELF file from its beginning.
func readELF(head []byte) (machine int, loader string, err error) {
	short := errors.New("the ELF file is truncated")
	if len(head) < 20 {
		return 0, "", short
	}
	machine = int(head[18]) | int(head[19])<<8
	if head[4] != 2 || head[5] != 1 {
		return machine, "", nil
	}
	if len(head) < 64 {
		return 0, "", short
	}
	number := func(at, size int) (n uint64) {
		for i := size - 1; i >= 0; i-- {
			n = n<<8 | uint64(head[at+i])
		}
		return n
	}
	offset, size, count := number(32, 8), number(54, 2), number(56, 2)
	if size < 56 {
		return machine, "", nil
	}
	for i := range count {
		at := offset + i*size
		if at > uint64(len(head)) || at+56 > uint64(len(head)) {
			break // not in the beginning: then this cannot be told
		}
		if number(int(at), 4) != 3 { // PT_INTERP
			continue
		}
		from, n := number(int(at)+8, 8), number(int(at)+32, 8)
		if from > uint64(len(head)) || n > uint64(len(head))-from {
			break
		}
		name, _, _ := strings.Cut(string(head[from:from+n]), "\x00")
		return machine, name, nil
	}
	return machine, "", nil
}
