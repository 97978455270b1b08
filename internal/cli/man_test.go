//go:build linux

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// pages are the commands that a man page is expected for: all that the help shows.
func pages(cmd *cobra.Command, prefix string) []string {
	name := prefix + cmd.Name()
	all := []string{name + ".1"}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, pages(c, name+"-")...)
		}
	}
	return all
}

func TestManPages(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "man"), filepath.Join(t.TempDir(), "man")
	for _, dir := range []string{first, second} {
		var stdout, stderr bytes.Buffer
		if code := Main([]string{"man", dir}, &stdout, &stderr); code != 0 {
			t.Fatalf("neb man: status %d: %s", code, stderr.String())
		}
	}
	for _, page := range pages(newRoot(streams{}), "") {
		one, err := os.ReadFile(filepath.Join(first, page))
		if err != nil {
			t.Error(err)
			continue
		}
		two, _ := os.ReadFile(filepath.Join(second, page))
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs between two runs", page)
		}
		if !strings.Contains(string(one), "Jan 1970") {
			t.Errorf("%s: expected the date of SOURCE_DATE_EPOCH's default", page)
		}
	}
}

func TestCompletions(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var stdout, stderr bytes.Buffer
		if code := Main([]string{"completion", shell}, &stdout, &stderr); code != 0 ||
			!strings.Contains(stdout.String(), "neb") {
			t.Errorf("neb completion %s: status %d, %d bytes: %s", shell, code, stdout.Len(), stderr.String())
		}
	}
}

// What the shell offers are the values that there are.
func TestChoices(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"build ", "all init linuxkit kernel emulator"},
		{"build kernel ", "all init linuxkit emulator"},
		{"build --arch ", "x86_64 aarch64 x86_64,aarch64"},
		{"eif build --arch ", "x86_64 aarch64"},
		{"eif build --rootfs-format ", "cpio erofs"},
		{"eif build --compat ", "nitro-cli"},
		{"completion ", "bash fish powershell zsh"},
	} {
		var stdout, stderr bytes.Buffer
		if code := Main(append([]string{"__complete"}, strings.Split(test.line, " ")...), &stdout,
			&stderr); code != 0 {
			t.Fatalf("neb %s: status %d: %s", test.line, code, stderr.String())
		}
		var found []string
		for line := range strings.Lines(stdout.String()) {
			if value, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); !strings.HasPrefix(value, ":") {
				found = append(found, value)
			}
		}
		if got := strings.Join(found, " "); got != test.want {
			t.Errorf("neb %s: %q is offered, expected %q", test.line, got, test.want)
		}
	}
}

// What is called wrongly ends with 2, in all commands alike.
func TestCalledWrongly(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"help nonsense", `no help on "nonsense"`},
		{"help eif nonsense", `no help on "eif nonsense"`},
		{"completion tcsh", `unknown command "tcsh"`},
		{"completion bash extra", `unknown command "extra"`},
		{"verify --release=", "--release is empty"},
		{"verify --release x --release-key=", "--release-key is empty"},
		{"release 1.0.0 --signing-key=", "--signing-key is empty"},
		{"build --arch=", "--arch is empty"},
		{"build --output=", "--output is empty"},
		{"run x --plot=", "--plot is empty"},
	} {
		var out, errs bytes.Buffer
		if code := Main(strings.Fields(test.line), &out, &errs); code != 2 ||
			!strings.Contains(errs.String(), test.want) {
			t.Errorf("neb %s: status %d, %s%s; expected 2 and %q", test.line, code, &out, &errs, test.want)
		}
	}
	for _, line := range []string{"help", "help eif", "help eif build", "eif --help", "completion"} {
		var out, errs bytes.Buffer
		if code := Main(strings.Fields(line), &out, &errs); code != 0 ||
			!strings.Contains(out.String(), "Usage:") {
			t.Errorf("neb %s: status %d, %s%s", line, code, &out, &errs)
		}
	}
}

// Every command says what it does: the man pages are made of it.
func TestCommandsAreDescribed(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s: has no short description", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its short description ends with a full stop", c.CommandPath())
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(newRoot(streams{}))
}
