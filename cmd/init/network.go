//go:build linux && (amd64 || arm64)

package main

import (
	"strings"

	"golang.org/x/sys/unix"
)

func (e *enclave) hostname() string {
	if e.about.Hostname != "" {
		return e.about.Hostname
	}
	return "enclave"
}

// setNetwork sets the host name, brings lo up, and creates the files that a resolver reads. It only warns
// about errors, because many applications work without these.
func (e *enclave) setNetwork() error {
	name := e.hostname()
	if err := unix.Sethostname([]byte(name)); err != nil {
		warn(fail("set the host name", name, err))
	}
	if !e.about.LoopbackDown {
		if err := loopbackUp(); err != nil {
			warn(fail("bring up", "lo", err))
		}
	}
	if err := writeHosts(name); err != nil {
		warn(fail("write", "/etc/hosts", err))
	}
	if err := makeResolvTarget(); err != nil {
		warn(fail("create", "/run/resolvconf/resolv.conf", err))
	}
	return nil
}

// loopbackUp sets IFF_UP; the kernel then adds 127.0.0.1/8 and ::1/128 by itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// writeHosts creates /etc/hosts if it is missing or empty: image builders leave an empty one.
func writeHosts(name string) error {
	var st unix.Stat_t
	err := unix.Stat("/etc/hosts", &st)
	if err == nil && (st.Size > 0 || st.Mode&unix.S_IFMT != unix.S_IFREG) {
		return nil
	}
	if err != nil && err != unix.ENOENT {
		return err
	}
	if err := mkdir("/etc", 0o755); err != nil {
		return err
	}
	text := "127.0.0.1\tlocalhost " + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	return writeFile("/etc/hosts", text, unix.O_CREAT)
}

// makeResolvTarget creates the target of linuxkit's link /etc/resolv.conf, because /run is empty at each
// start.
func makeResolvTarget() error {
	const dir, file = "/run/resolvconf", "/run/resolvconf/resolv.conf"
	b := make([]byte, len(file)+8)
	n, err := unix.Readlink("/etc/resolv.conf", b)
	if err != nil || strings.TrimPrefix(string(b[:n]), "..") != file {
		return nil
	}
	if err := mkdir(dir, 0o755); err != nil {
		return err
	}
	return writeFile(file, "", unix.O_CREAT)
}
