//go:build linux && (amd64 || arm64)

package main

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// findUser looks up the application's user and makes its environment.
func (e *enclave) findUser() error {
	var err error
	if e.account, err = lookUp("User", e.about.User); err != nil {
		return err
	}
	e.env = environment(e.about.Env, e.account.Home, e.hostname())
	return nil
}

// giveDevices gives the application its devices. Other users cannot use the NSM.
func (e *enclave) giveDevices() error {
	if exists(contract.NSMDevice) {
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
		if err := unix.Chown(contract.NSMDevice, owner.UID, owner.GID); err != nil {
			return fail("change the owner of", contract.NSMDevice, err)
		}
		if err := unix.Chmod(contract.NSMDevice, mode); err != nil {
			return fail("change the mode of", contract.NSMDevice, err)
		}
	}
	// /dev/stdout is a link to the console, which the application may open by that name.
	if e.console {
		if err := unix.Fchown(1, e.account.UID, e.account.GID); err != nil {
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

// maxFiles is Docker's limit, and the default of fs.nr_open.
const maxFiles = 1 << 20

// raiseLimits raises the limits that are too low for servers.
func (e *enclave) raiseLimits() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: maxFiles, Max: maxFiles}); err != nil {
		warn(fail("raise the limit of open files to", strconv.Itoa(maxFiles), err))
	}
	return nil
}

// enterWorkingDir creates the working directory and changes to it; the application inherits it.
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

// environment adds the variables that Docker adds, unless the image has them.
func environment(env []string, home, hostname string) []string {
	all := env
	for _, v := range []struct{ name, value string }{
		{"PATH", contract.DockerPath}, {"HOME", home}, {"HOSTNAME", hostname},
	} {
		if _, ok := contract.LookUpEnv(env, v.name); !ok {
			all = append(all, v.name+"="+v.value)
		}
	}
	return all
}
