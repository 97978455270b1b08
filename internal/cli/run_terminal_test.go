//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// neb run filters the console on a terminal only, and not with --raw. A shell script is QEMU.
func TestRunTerminal(t *testing.T) {
	f := newEIFFiles(t)
	image, _ := f.build(t, "a.eif", "--cmd", "/hello")
	const text = "a\x1b]0;title\ab\x1b[6n\u009bc\xff\x1b[31mred\n"
	script := "#!/bin/sh\nprintf '%s\\n' \"" + strings.TrimSuffix(text, "\n") + "\"\n"
	if err := os.WriteFile(f.path("qemu"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		terminal bool
		flags    []string
		want     string
	}{
		{true, nil, "abc?\x1b[31mred\n"},
		{true, []string{"--raw"}, text},
		{false, nil, text},
	} {
		ours, theirs, err := os.Pipe()
		if c.terminal {
			ours, theirs, err = openTerminal()
		}
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		args := append([]string{"run", image, "--qemu", f.path("qemu"), "--accel", "tcg"}, c.flags...)
		if status := Main(args, theirs, &said); status != exitNoStatus {
			t.Errorf("exit status %d: %s", status, &said)
		}
		theirs.Close()
		got, err := io.ReadAll(ours) // a terminal that nobody has open any more fails
		if string(got) != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		ours.Close()
	}
}

// openTerminal returns both ends of a terminal that changes no bytes.
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	_, err = term.MakeRaw(int(theirs.Fd()))
	return ours, theirs, err
}
