//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const nsmDevice = "/dev/nsm"

// findUser looks up who the application runs as, and makes its environment.
func (e *enclave) findUser() error {
	var err error
	if e.account, err = lookUp("User", e.about.User); err != nil {
		return err
	}
	e.env = environment(e.about.Env, e.account.home, e.hostname())
	return nil
}

// giveDevices gives the application its devices, and keeps other users from attesting in its name.
func (e *enclave) giveDevices() error {
	if exists(nsmDevice) {
		owner, mode := e.account, e.about.NSMMode
		if e.about.NSMOwner != "" {
			var err error
			if owner, err = lookUp("NSMOwner", e.about.NSMOwner); err != nil {
				return err
			}
		}
		if mode == 0 {
			mode = 0o600
		}
		if err := unix.Chown(nsmDevice, owner.uid, owner.gid); err != nil {
			return fail("change the owner of", nsmDevice, err)
		}
		if err := unix.Chmod(nsmDevice, mode); err != nil {
			return fail("change the mode of", nsmDevice, err)
		}
	}
	// /dev/stdout is a link to the console, and must open for whoever writes to it by name.
	if e.console {
		if err := unix.Fchown(1, e.account.uid, e.account.gid); err != nil {
			return fail("change the owner of", "/dev/console", err)
		}
	}
	null, err := open("/dev/null", unix.O_RDONLY)
	if err == nil {
		err = unix.Dup3(null, 0, 0)
		unix.Close(null)
	}
	if err != nil {
		return fail("open", "/dev/null", err)
	}
	return nil
}

// maxFiles is what Docker gives, and the most that fs.nr_open allows by default.
const maxFiles = 1 << 20

// raiseLimits raises the limits that are too low for servers.
func (e *enclave) raiseLimits() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: maxFiles, Max: maxFiles}); err != nil {
		warn(fail("raise the limit of open files to", strconv.Itoa(maxFiles), err))
	}
	return nil
}

// enterWorkingDir makes the working directory and goes there; the application begins where init is.
func (e *enclave) enterWorkingDir() error {
	dir := e.about.WorkingDir
	if dir == "" {
		return nil
	}
	if err := mkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return fail("change to WorkingDir", dir, err)
	}
	return nil
}

// dockerPath is the PATH of an image that has none.
const dockerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment adds what Docker adds, where the image does not have it.
func environment(env []string, home, hostname string) []string {
	all := env
	for _, v := range []struct{ name, value string }{{"PATH", dockerPath}, {"HOME", home}, {"HOSTNAME", hostname}} {
		if _, ok := lookUpEnv(env, v.name); !ok {
			all = append(all, v.name+"="+v.value)
		}
	}
	return all
}

// lookUpEnv returns the last value of a variable: the one that counts where it is set twice.
func lookUpEnv(env []string, name string) (string, bool) {
	for i := len(env) - 1; i >= 0; i-- {
		if n, v, ok := strings.Cut(env[i], "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}
