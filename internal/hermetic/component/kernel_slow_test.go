//go:build slow

package component

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// The same source and lock make the same bytes as root, as an ordinary user and in a container without
// rights, with another number of jobs, umask, time zone, directory and environment.
func TestSameBytesEverywhere(t *testing.T) {
	require.Root(t)
	kernelSource, source := readable(t, tinyKernel(t)), readable(t, sourceOf(t))
	base := task{Arch: "x86_64", Names: []string{"kernel"}, KernelSource: kernelSource, Source: source}
	var first outcome
	for _, c := range []struct {
		name   string
		mode   sandbox.Mode
		uid    int
		change func(*task, *exec.Cmd)
	}{
		{"root", sandbox.Namespaces, 0, func(*task, *exec.Cmd) {}},
		{"user", sandbox.UserNamespaces, ordinary, func(t *task, cmd *exec.Cmd) {
			t.Jobs = 3
			cmd.Dir = "/"
			cmd.Env = append(cmd.Env, "TZ=Asia/Kathmandu", "LC_ALL=de_DE.UTF-8", "HOME=/", "KCFLAGS=-O3",
				"CC=false", "GOFLAGS=-tags=x", "MAKEFLAGS=-i")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary,
				Gid: ordinary}}
		}},
		{"container", sandbox.Chroot, 0, func(t *task, cmd *exec.Cmd) { t.Jail = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := base
			k.Store = ownStore(t, c.uid)
			var prepared exec.Cmd
			c.change(&k, &prepared)
			if c.uid != 0 {
				old := syscall.Umask(0o077)
				defer syscall.Umask(old)
			}
			o := k.child(t, func(cmd *exec.Cmd) {
				cmd.Dir, cmd.SysProcAttr = prepared.Dir, prepared.SysProcAttr
				cmd.Env = append(cmd.Env, prepared.Env...)
			})
			if o.Error != "" {
				t.Fatal(o.Error)
			}
			for _, r := range o.Records {
				if r.Isolation != c.mode {
					t.Errorf("%s: isolation %q, expected %q", r.Component, r.Isolation, c.mode)
				}
			}
			if len(first.Records) == 0 {
				first = o
			}
			got, want := o.files(), first.files()
			if len(got) != 4 {
				t.Errorf("found %v", got)
			}
			for name, sum := range want {
				if got[name] != sum {
					t.Errorf("%s: %s, expected %s", name, got[name], sum)
				}
			}
		})
	}
}

// The cross compiler makes the aarch64 kernel, and the field that its loader reads is written.
func TestAarch64Kernel(t *testing.T) {
	b := sharedBuilder(t)
	tools, err := b.toolchain(lock.Base, lock.GCCaarch64)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), tools.packages))
	outputs, err := b.Build(t.Context(), "aarch64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "Image"))
	if err != nil || len(image) != 64 {
		t.Fatalf("Image: %d bytes, %v", len(image), err)
	}
	if offset := binary.LittleEndian.Uint64(image[8:]); offset != kernel.TextOffset {
		t.Errorf("text_offset is %#x", offset)
	}
	module, err := elf.Open(filepath.Join(outputs[0].Dir, "nsm.ko"))
	if err != nil || module.Machine != elf.EM_AARCH64 {
		t.Errorf("nsm.ko: %+v, %v", module, err)
	}
	var names []string
	for _, f := range outputs[0].Files {
		names = append(names, f.Name)
	}
	if want := []string{"Image", "Image.config", "cmdline", "nsm.ko"}; !slices.Equal(names, want) {
		t.Errorf("found %v", names)
	}
}

// The tiny kernel obeys neither of these, as Kconfig would not.
func TestOptionsThatDoNotSurvive(t *testing.T) {
	b := sharedBuilder(t)
	b.Fragments = []kernel.Fragment{{Name: "mine.config",
		Text: "CONFIG_FINE=y\nCONFIG_UNHEARD_OF=y\n\nCONFIG_OVERRIDDEN=y\n"}}
	_, err := b.Build(t.Context(), "x86_64", "kernel")
	if err == nil || !strings.Contains(err.Error(), "mine.config:2: CONFIG_UNHEARD_OF") ||
		!strings.Contains(err.Error(), "mine.config:4: CONFIG_OVERRIDDEN") ||
		strings.Contains(err.Error(), "FINE") {
		t.Errorf("found %v", err)
	}
	if b.Fragments[0].Text = "CONFIG_FINE=y\n"; err != nil {
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err != nil {
			t.Errorf("a fragment that survives: %v", err)
		}
	}
}

const goodPatch = `--- a/main.c
+++ b/main.c
@@ -3,6 +3,6 @@
 int main(void)
 {
 	/* All that could differ from one build to the next. */
-	puts(__FILE__ " " __DATE__ " " __TIME__ " " __VERSION__ " " STAMP);
+	puts("patched");
 	return 0;
 }
`

func TestPatches(t *testing.T) {
	b := sharedBuilder(t)
	b.Patches = []kernel.Patch{{Name: "good.patch", Text: goodPatch}}
	outputs, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	if image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "bzImage")); err != nil ||
		!bytes.Contains(image, []byte("patched")) {
		t.Errorf("the patch is not in the image: %v", err)
	}
	// One file with two commits, the second of which goes on where the first was.
	again := strings.NewReplacer(`-	puts(__FILE__ " " __DATE__ " " __TIME__ " " __VERSION__ " " STAMP);`,
		`-	puts("patched");`, `+	puts("patched");`, `+	puts("patched twice");`)
	b.Patches = []kernel.Patch{{Name: "series.patch", Text: goodPatch + again.Replace(goodPatch)}}
	if outputs, err = b.Build(t.Context(), "x86_64", "kernel"); err != nil {
		t.Fatal(err)
	}
	if image, err := os.ReadFile(filepath.Join(outputs[0].Dir, "bzImage")); err != nil ||
		!bytes.Contains(image, []byte("patched twice")) {
		t.Errorf("the series is not in the image: %v", err)
	}
	dir := outputs[0].Dir
	b.Patches[0].Name = "/home/me/series.patch"
	if outputs, err = b.Build(t.Context(), "x86_64", "kernel"); err != nil || outputs[0].Dir != dir {
		t.Errorf("the same patch at another place gives another output: %v", err)
	}
	for _, c := range []struct{ name, text, expected string }{
		{"hunk.patch", strings.ReplaceAll(goodPatch, "All that", "Everything that"),
			"main.c: Hunk #1 FAILED at 3"},
		{"fuzz.patch", strings.ReplaceAll(goodPatch, "int main(void)", "int main(int argc)"),
			"main.c: Hunk #1 FAILED at 3"},
		{"file.patch", strings.ReplaceAll(goodPatch, "main.c", "other.c"), "can't find file to patch"},
		{"garbage.patch", "hello\n", "Only garbage was found"},
	} {
		b.Patches = []kernel.Patch{{Name: "good.patch", Text: goodPatch}, {Name: c.name, Text: c.text}}
		_, err := b.Build(t.Context(), "x86_64", "kernel")
		if err == nil || !strings.Contains(err.Error(), "patch "+c.name+" does not apply") ||
			!strings.Contains(err.Error(), c.expected) {
			t.Errorf("%s: expected %q, found %v", c.name, c.expected, err)
		}
	}
}

// A link to a source is that source.
func TestLinkedSource(t *testing.T) {
	b := sharedBuilder(t)
	tree := b.KernelSource
	b.KernelSource = filepath.Join(t.TempDir(), "linux")
	if err := os.Symlink(tree, b.KernelSource); err != nil {
		t.Fatal(err)
	}
	outputs, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile(filepath.Join(tree, "main.c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "main.c"), append(main, "/* more */\n"...),
		0o644); err != nil {
		t.Fatal(err)
	}
	again, err := b.Build(t.Context(), "x86_64", "kernel")
	if err != nil || again[0].Dir == outputs[0].Dir {
		t.Errorf("a change of the source behind the link makes no difference: %v", err)
	}
}

func TestCompilerErrorIsShown(t *testing.T) {
	b := sharedBuilder(t)
	if err := os.WriteFile(filepath.Join(b.KernelSource, "main.c"),
		[]byte("int main(void) { return wrong; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.Build(t.Context(), "x86_64", "kernel")
	if err == nil {
		t.Fatal("expected an error")
	}
	for _, expected := range []string{"kernel x86_64: compiling: ", "exit status 2", "/logs/kernel-x86_64-",
		"main.c:1:25: error: 'wrong' undeclared"} {
		if !strings.Contains(err.Error(), expected) {
			t.Errorf("expected %q in %v", expected, err)
		}
	}
}

// A tarball is as good as a directory.
func TestKernelTarball(t *testing.T) {
	b := sharedBuilder(t)
	source := tinyKernel(t)
	tarball := filepath.Join(t.TempDir(), "linux.tar.gz")
	if out, err := exec.Command("tar", "-czf", tarball, "-C", filepath.Dir(source),
		"--transform=s,^[^/]*,linux-6.12,", filepath.Base(source)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sums := map[string]string{}
	for _, b.KernelSource = range []string{source, tarball} {
		outputs, err := b.Build(t.Context(), "x86_64", "kernel")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range outputs[0].Files {
			if before := sums[f.Name]; before != "" && before != f.SHA256 {
				t.Errorf("%s: %s from the tarball, %s from the directory", f.Name, f.SHA256, before)
			}
			sums[f.Name] = f.SHA256
		}
	}
	for source, expected := range map[string]string{
		filepath.Join(t.TempDir(), "nothing"): "no such file",
		t.TempDir():                           "no file Kconfig",
	} {
		b.KernelSource = source
		if _, err := b.Build(t.Context(), "x86_64", "kernel"); err == nil ||
			!strings.Contains(err.Error(), expected) {
			t.Errorf("%s: found %v", source, err)
		}
	}
}
