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

// dockerHosts are the lines that Docker writes, besides one with the host name.
const dockerHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"

// writeHosts adds localhost and the host name to /etc/hosts, where they are missing.
func writeHosts(name string) error {
	have, err := readFile("/etc/hosts", 1<<20)
	if err != nil && err != unix.ENOENT {
		return err
	}
	if err := mkdir("/etc", 0o755); err != nil {
		return err
	}
	add := missingHosts(have, name)
	if add == "" {
		return nil
	}
	return writeFile("/etc/hosts", add, unix.O_CREAT|unix.O_APPEND)
}

// missingHosts returns what to add to the text of /etc/hosts. It keeps the image's own lines, which Docker
// hides.
func missingHosts(have, name string) (add string) {
	if have != "" && !strings.HasSuffix(have, "\n") {
		have += "\n"
		add = "\n"
	}
	start := add
	if !resolves(have, "localhost") {
		add += dockerHosts
	}
	if !resolves(have, name) && name != "localhost" {
		add += "127.0.0.1\t" + name + "\n"
	}
	if add == start {
		return ""
	}
	return add
}

// resolves reports whether a line of /etc/hosts has a name.
func resolves(hosts, name string) bool {
	for line := range strings.Lines(hosts) {
		line, _, _ = strings.Cut(line, "#")
		for i, word := range strings.Fields(line) {
			if i > 0 && strings.EqualFold(word, name) {
				return true
			}
		}
	}
	return false
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
