//go:build slow

package component

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/sandbox"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// The tests in this file build real kernels.

func realBuilder(t testing.TB) *Builder {
	t.Helper()
	return fetched(t, task{Source: sourceOf(t)})
}

// Both kernels, from the store if they are there: what is in them, and what must not be.
func TestKernels(t *testing.T) {
	b := realBuilder(t)
	for _, arch := range Archs {
		outputs, err := b.Build(t.Context(), arch, "kernel")
		if err != nil {
			t.Fatal(err)
		}
		dir, image := outputs[0].Dir, Files("kernel", arch)[0]
		config, err := os.ReadFile(filepath.Join(dir, image+".config"))
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSuffix(b.Lock.Kernel.Version, "-1")
		name := map[string]string{"x86_64": "x86_64", "aarch64": "arm64"}[arch]
		if line := strings.Split(string(config),
			"\n")[2]; line != "# Linux/"+name+" "+version+" Kernel Configuration" {
			t.Errorf("%s: line 3 of the configuration is %q", arch, line)
		}
		for _, file := range []string{image, "nsm.ko"} {
			content, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{sandbox.Build + "/linux", b.Store.Dir()} {
				if bytes.Contains(content, []byte(path)) {
					t.Errorf("%s/%s has the path %s in it", arch, file, path)
				}
			}
			if file == "nsm.ko" && !bytes.Contains(content, []byte("vermagic="+version)) {
				t.Errorf("%s/nsm.ko is not for Linux %s", arch, version)
			}
		}
	}
}

// As an ordinary user, with another number of jobs, umask, time zone and directory, and with a store that
// has the downloads alone, the set is the same: all of x86_64's, and what is not compiled by the kernel's
// toolchain of aarch64's.
func TestSetAsUser(t *testing.T) {
	b := realBuilder(t)
	require.Root(t)
	source := readable(t, sourceOf(t))
	storeDir := ownStore(t, ordinary)
	copyTo(t, b.Store.Path(b.Lock.Kernel), filepath.Join(storeDir, "downloads", b.Lock.Kernel.SHA256))
	for _, set := range []struct {
		arch  string
		names []string
	}{{"x86_64", Names}, {"aarch64", []string{"init", "linuxkit"}}} {
		outputs, err := b.Build(t.Context(), set.arch, set.names...)
		if err != nil {
			t.Fatal(err)
		}
		k := task{Store: storeDir, Source: source, Arch: set.arch, Names: set.names, Jobs: b.jobs() + 1}
		o := func() outcome {
			defer syscall.Umask(syscall.Umask(0o077)) // the child's alone
			return k.child(t, func(cmd *exec.Cmd) {
				cmd.Dir = "/"
				cmd.Env = append(cmd.Env, "TZ=Pacific/Chatham", "HOME=/", "SOURCE_DATE_EPOCH=1000000000",
					"KBUILD_BUILD_USER=somebody")
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary,
					Gid: ordinary}}
			})
		}()
		if o.Error != "" {
			t.Fatal(o.Error)
		}
		for _, r := range o.Records {
			if r.Isolation != sandbox.UserNamespaces {
				t.Errorf("%s: isolation: %s", r.Component, r.Isolation)
			}
		}
		got := o.files()
		for _, out := range outputs {
			for _, f := range out.Files {
				if got[f.Name] != f.SHA256 {
					t.Errorf("%s for %s: %s as an ordinary user, %s as root", f.Name, set.arch, got[f.Name],
						f.SHA256)
				}
			}
		}
	}
}

// Kconfig drops an option that it does not know, and overrides one that the architecture decides; neb says
// so.
func TestKconfigIsNotObeyed(t *testing.T) {
	b := realBuilder(t)
	b.Fragments = []kernel.Fragment{{Name: "mine.config",
		Text: "CONFIG_UNHEARD_OF=y\n# CONFIG_64BIT is not set\n"}}
	_, err := b.Build(t.Context(), "x86_64", "kernel")
	if err == nil || !strings.Contains(err.Error(),
		"mine.config:1: CONFIG_UNHEARD_OF=y is not in the final configuration") ||
		!strings.Contains(err.Error(), "mine.config:2: CONFIG_64BIT=n became CONFIG_64BIT=y") {
		t.Errorf("found %v", err)
	}
}

// Kconfig obeys the fragments of profiles: only an option that it does not know is missing in the final
// configuration. Nothing is compiled.
func TestProfiles(t *testing.T) {
	b := realBuilder(t)
	b.Fragments = []kernel.Fragment{{Name: "mine.config", Text: "CONFIG_UNHEARD_OF=y\n"}}
	for _, b.Profile = range kernel.Profiles() {
		for _, arch := range Archs {
			_, err := b.Build(t.Context(), arch, "kernel")
			if err == nil || strings.Count(err.Error(), "CONFIG_") != 1 ||
				!strings.Contains(err.Error(), "mine.config:1: CONFIG_UNHEARD_OF") {
				t.Errorf("%s %s: found %v", b.Profile, arch, err)
			}
		}
	}
}

// The toolchain of arm64 hosts unpacks to a root that has what the recipes call. (Building there is untried.)
func TestArm64Toolchain(t *testing.T) {
	b := realBuilder(t)
	files, err := b.Lock.Files("arm64", lock.Base, lock.GCCx86_64, lock.GCCaarch64)
	if err != nil {
		t.Fatal(err)
	}
	require.Fetch(t, b.Fetch(t.Context(), files))
	var packages []sandbox.Package
	for _, f := range files {
		packages = append(packages, sandbox.Package{Name: f.Name, Path: b.Store.Path(f)})
	}
	dir := t.TempDir()
	if err := sandbox.Unpack(t.Context(), dir, packages, nil); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{
		"bin/sh", "usr/bin/make", "usr/bin/gcc", "usr/bin/cc", "usr/bin/awk", "usr/bin/patch", "usr/bin/tar",
		"usr/bin/xz",
		"usr/bin/x86_64-linux-gnu-gcc", "usr/bin/x86_64-linux-gnu-strip", "usr/bin/aarch64-linux-gnu-gcc",
		"usr/bin/aarch64-linux-gnu-strip",
	} {
		f, err := root.Open(name)
		if err != nil {
			t.Error(err)
			continue
		}
		program, err := elf.NewFile(f)
		if err != nil || program.Machine != elf.EM_AARCH64 {
			t.Errorf("%s: expected a program for AArch64, found %+v, %v", name, program, err)
		}
		f.Close()
	}
}
