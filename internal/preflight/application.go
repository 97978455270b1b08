package preflight

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// Application is what init starts, and where it finds it.
type Application struct {
	Arch      string // of the enclave
	Root      *image.Tree
	About     contract.Description
	Reference bool   // nitro-cli's rules: the user is root, a script without #! goes to the shell
	Config    string // of the kernel; "" if it is not known
}

// Check returns what keeps the application from starting, and what it may miss.
func (a *Application) Check() []Finding {
	c := checker{root: a.Root, arch: a.Arch, config: a.Config, env: a.About.Env, cwd: "/",
		reference: a.Reference}
	for _, v := range a.About.Env {
		if i := strings.IndexByte(v, '='); i < 1 {
			c.add(EnvMalformed, "Env has %.100q", v)
		}
	}
	if !a.Reference {
		c.account = c.user("USER", a.About.User)
		if a.About.NSMOwner != "" {
			c.user("--nsm-owner", a.About.NSMOwner)
		}
		if dir := a.About.WorkingDir; dir != "" {
			c.cwd = "/" + strings.TrimLeft(dir, "/")
			if e, _, ok := c.stat(c.cwd); ok && !e.IsDir() {
				c.add(WorkdirFile, "WORKDIR %.200q is a file", dir)
			}
		}
	}
	if command := a.About.Command(); len(command) > 0 {
		c.command(command[0])
	}
	c.features()
	return c.found
}

// checker looks at a tree as the kernel, the dynamic loader and init see it.
type checker struct {
	root      *image.Tree
	arch      string
	config    string
	env       []string
	cwd       string
	account   *contract.Account // nil for root, and for a user who is not known
	reference bool
	found     []Finding
}

func (c *checker) add(code Code, format string, args ...any) {
	c.found = append(c.found, Find(code, format, args...))
}

// user finds a user as init does. It returns nil for root.
func (c *checker) user(field, spec string) *contract.Account {
	account, err := contract.FindAccount(spec, c.text("/etc/passwd"), c.text("/etc/group"))
	if err != nil {
		c.add(UserUnknown, "%s %.100q: %v", field, spec, err)
		return nil
	}
	if account.UID == 0 {
		return nil
	}
	return &account
}

// Bounds of what is read and followed.
const (
	maxText  = 1 << 20 // bytes of a configuration file
	maxLinks = 40      // symbolic links on the way to a file (path_resolution(7))
)

// text returns the content of a small file, or "" if there is none.
func (c *checker) text(name string) string {
	e, _, ok := c.stat(name)
	if !ok || !e.IsRegular() {
		return ""
	}
	return string(c.read(e, 0, maxText))
}

// read returns at most n bytes of a file from byte at on. A file that cannot be read is like an empty one: it
// fails when the tree is packed.
func (c *checker) read(e *image.Entry, at int64, n int64) []byte {
	if at < 0 || at >= e.Size {
		return nil
	}
	r, done, err := c.root.Open(e)
	if err != nil {
		return nil
	}
	defer done()
	b := make([]byte, min(n, e.Size-at))
	k, err := r.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return b[:k]
}

// stat follows symbolic links to a file, and returns it with the path where the last of them leads.
func (c *checker) stat(name string) (e *image.Entry, at string, ok bool) {
	for range maxLinks {
		if strings.Trim(name, "/") == "" {
			return &image.Entry{Mode: initramfs.TypeDir | 0o755}, "/", true
		}
		if e, ok = c.root.Lookup(strings.Trim(name, "/")); !ok {
			return nil, name, false
		}
		if e.Mode&initramfs.TypeMask != initramfs.TypeSymlink {
			return e, name, true
		}
		if strings.HasPrefix(e.Target, "/") {
			name = e.Target
		} else {
			// Not path.Join: what .. is depends on the links before it.
			name = strings.TrimRight(name, "/")
			name = name[:strings.LastIndexByte(name, '/')+1] + e.Target
		}
	}
	return nil, name, false
}

// absolute returns a path as the application's process sees it.
func (c *checker) absolute(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return strings.TrimRight(c.cwd, "/") + "/" + name
}

// may reports whether the application's user has a permission (4 read, 1 execute) for a file. Root may
// execute what anyone may.
func (c *checker) may(e *image.Entry, bit uint32) bool {
	a := c.account
	switch {
	case a == nil:
		return bit != 1 || e.IsDir() || e.Mode&0o111 != 0
	case uint32(a.UID) == e.UID:
		return e.Mode>>6&bit != 0
	case uint32(a.GID) == e.GID || slices.Contains(a.Groups, e.GID):
		return e.Mode>>3&bit != 0
	}
	return e.Mode&bit != 0
}

// blocked returns the directory above a file that the application's user may not search, or "".
func (c *checker) blocked(name string) string {
	if c.account == nil {
		return ""
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '/' {
			if e, _, ok := c.stat(name[:i]); ok && !c.may(e, 1) {
				return name[:i]
			}
		}
	}
	return ""
}

// isMounted reports whether a path is in a directory of the image that init hides with a file system.
func isMounted(path string) bool {
	return slices.ContainsFunc([]string{"/dev/", "/proc/", "/sys/"}, func(dir string) bool {
		return strings.HasPrefix(path, dir)
	})
}

// command checks the program that init starts.
func (c *checker) command(name string) {
	all := contract.Candidates(name, c.env, c.reference)
	var refused []Finding
	for _, candidate := range all {
		at := c.absolute(candidate)
		e, real, ok := c.stat(at)
		if !ok || isMounted(at) {
			continue
		}
		if f := c.executable(at, real, e); f != nil {
			refused = append(refused, *f) // the search goes on, as execvp's does
			continue
		}
		c.found = append(c.found, c.program(at, real, e, 0)...)
		return
	}
	if len(refused) > 0 {
		c.found = append(c.found, refused[0])
		return
	}
	switch at := c.absolute(all[0]); {
	case len(all) > 1:
		c.add(CommandMissing,
			"the command %.200q is in none of the directories of PATH: not found as %.2000s",
			name, quoted(all))
	case isMounted(at):
		c.add(CommandMissing, "the command %.200q is in a directory where init mounts a file system", name)
	default:
		why := "the tree has no such file"
		if e, ok := c.root.Lookup(strings.Trim(at, "/")); ok {
			why = fmt.Sprintf("it is a symbolic link to %.200q, which is not in the tree", e.Target)
		}
		c.add(CommandMissing, "the command %.200q: %s", at, why)
	}
}

func quoted(all []string) string {
	text := fmt.Sprintf("%q", all)
	return strings.Trim(text, "[]")
}

// executable returns why the application's user may not execute a file.
func (c *checker) executable(at, real string, e *image.Entry) *Finding {
	blocked := c.blocked(at)
	if blocked == "" && real != at {
		blocked = c.blocked(real)
	}
	why := ""
	switch {
	case blocked != "":
		why = fmt.Sprintf("user %d may not search %.200q", c.account.UID, blocked)
	case e.IsDir():
		why = "it is a directory"
	case !e.IsRegular():
		why = "it is not a regular file"
	case e.Mode&0o111 == 0:
		why = fmt.Sprintf("it is not executable (mode %04o)", e.Mode&0o7777)
	case !c.may(e, 1):
		why = fmt.Sprintf("user %d may not execute it (mode %04o, owner %d:%d)", c.account.UID, e.Mode&0o7777,
			e.UID, e.GID)
	default:
		return nil
	}
	f := Find(CommandPermission, "%.200q: %s", at, why)
	return &f
}

// maxDepth is how many scripts may be each other's interpreters (exec_binprm of fs/exec.c).
const maxDepth = 5

// program checks a file that the kernel starts, and what it needs: interpreters, loader and libraries.
func (c *checker) program(at, real string, e *image.Entry, depth int) []Finding {
	head := c.read(e, 0, 256) // BINPRM_BUF_SIZE
	line, isScript := strings.CutPrefix(string(head), "#!")
	switch {
	case isScript:
		return c.script(at, line, depth)
	case strings.HasPrefix(string(head), elfMagic):
		return c.elf(at, real, e)
	case c.reference && depth == 0 && len(head) > 0:
		const shell = "/bin/sh"
		if e, real, ok := c.stat(shell); ok && c.executable(shell, real, e) == nil {
			return nil
		}
		return only(CommandFormat, "%.200q is neither an ELF program nor begins with #!, "+
			"and the tree has no /bin/sh to run it", at)
	case len(head) == 0:
		return only(CommandFormat, "%.200q is empty", at)
	}
	return only(CommandFormat, "%.200q is neither an ELF program nor begins with #!: found %.16q", at, head)
}

// script checks the interpreter of a script. line is its first line without #!, and what follows in the bytes
// that the kernel reads (load_script of fs/binfmt_script.c).
func (c *checker) script(at, line string, depth int) []Finding {
	line, _, _ = strings.Cut(line, "\n")
	line = strings.TrimLeft(line, " \t")
	name, argument, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	argument = strings.Trim(argument, " ")
	switch {
	case strings.HasSuffix(line, "\r"):
		return only(ScriptCRLF, "%.200q: its first line is %.200q", at, "#!"+line)
	case name == "":
		return only(ScriptInterpreter, "%.200q: its first line names no interpreter", at)
	case depth >= maxDepth:
		return only(ScriptInterpreter, "%.200q: more than %d scripts are each other's interpreters",
			at, maxDepth)
	}
	full := c.absolute(name)
	e, real, ok := c.stat(full)
	if !ok {
		return only(ScriptInterpreter, "%.200q: its interpreter %.200q is not in the tree", at, name)
	}
	if f := c.executable(full, real, e); f != nil {
		return only(ScriptInterpreter, "%.200q: its interpreter: %s", at, f.Text)
	}
	found := c.program(full, real, e, depth+1)
	if path.Base(name) == "env" && len(found) == 0 {
		if word := envWord(argument); word != "" {
			return c.viaEnv(at, word)
		}
	}
	return found
}

// envWord returns the command of a line "#!/usr/bin/env …", or "" if it cannot be told.
func envWord(argument string) string {
	if !strings.HasPrefix(argument, "-") {
		return argument // the kernel passes all of it as one word
	}
	rest, split := strings.CutPrefix(argument, "-S")
	if !split || strings.ContainsAny(rest, `"'\$`) {
		return ""
	}
	for word := range strings.FieldsSeq(rest) {
		if strings.HasPrefix(word, "-") {
			return ""
		}
		if !strings.Contains(word, "=") {
			return word
		}
	}
	return ""
}

// viaEnv looks for a command as env(1) does.
func (c *checker) viaEnv(at, word string) []Finding {
	for _, candidate := range contract.Candidates(word, c.env, c.reference) {
		full := c.absolute(candidate)
		if e, real, ok := c.stat(full); ok && c.executable(full, real, e) == nil {
			return c.program(full, real, e, maxDepth-1)
		}
	}
	return only(ScriptInterpreter, "%.200q: env finds no %.200q along PATH", at, word)
}

// CheckPID1 returns why the kernel cannot start PID 1 from the tree that the ramdisks make. name is /init, or
// what rdinit= on the command line says.
func CheckPID1(root *image.Tree, arch, name, config string) []Finding {
	c := checker{root: root, arch: arch, config: config, cwd: "/"}
	var found []Finding
	e, real, ok := c.stat(name)
	if !ok {
		return only(InitUnusable, "the ramdisks have no %.200q", name)
	}
	if f := c.executable(name, real, e); f != nil {
		found = []Finding{*f}
	} else {
		found = c.program(name, real, e, 0)
	}
	for i, f := range found {
		if f.Severity == Error {
			found[i] = Find(InitUnusable, "%s", f.Text)
		}
	}
	return found
}
