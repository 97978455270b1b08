package pack_test

import (
	"crypto/sha512"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// TestNitroCLI replays what nitro-cli build-enclave does with our linuxkit and a Docker engine, computes the
// registers by the specification's formula, and compares them with those of --compat nitro-cli.
func TestNitroCLI(t *testing.T) {
	require.Docker(t)
	config := defaultConfig
	archive := archiveOf(t, newImage(t, config))
	if out, err := exec.Command("docker", "load", "--input", archive).CombinedOutput(); err != nil {
		t.Fatalf("docker load: %v: %s", err, out)
	}
	defer exec.Command("docker", "image", "rm", tag).Run()

	work := t.TempDir()
	linuxkit := filepath.Join(work, "linuxkit")
	if out, err := exec.Command("go", "build", "-o", linuxkit,
		"github.com/nitro-enclaves-bootstrap/neb/cmd/linuxkit").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	dir := writeBlobs(t, eif.X86_64, nil)
	write := func(name, text string) string {
		path := filepath.Join(work, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// CMD wins over ENTRYPOINT, one argument a line.
	cmd := write("cmd", "-v\ntwo words\n")
	env := write("env", "PATH=/bin\nA=b\n")
	bootstrap := write("a.yaml", fmt.Sprintf(`---
files:
  - path: dev
    directory: true
    mode: "0755"
  - path: init
    source: %[1]s/init
    mode: "0755"
  - path: nsm.ko
    source: %[1]s/nsm.ko
    mode: "0755"
`, dir))
	customer := "---\nprefix: rootfs/\ninit:\n  - " + tag + "\nfiles:\n"
	for _, name := range []string{"dev", "run", "sys", "var", "proc", "tmp"} {
		customer += fmt.Sprintf("  - path: rootfs/%s\n    directory: true\n    mode: \"0755\"\n", name)
	}
	customer += fmt.Sprintf("  - path: cmd\n    source: %s\n    mode: \"0644\"\n  - path: env\n    source: "+
		"%s\n    mode: \"0644\"\n", cmd, env)
	for _, args := range [][]string{
		{"build", "--name", work + "/bootstrap-initrd.img", "--format", "kernel+initrd-nogz", "--no-sbom",
			bootstrap},
		{"build", "--docker", "--name", work + "/customer-initrd.img", "--format", "kernel+initrd-nogz",
			"--no-sbom", write("b.yaml", customer)},
	} {
		if out, err := exec.Command(linuxkit, args...).CombinedOutput(); err != nil {
			t.Fatalf("linuxkit %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	kernel, cmdline := read(dir+"/bzImage"), []byte("reboot=k panic=30 console=ttyS0")
	first, second := read(work+"/bootstrap-initrd.img-initrd.img"),
		read(work+"/customer-initrd.img-initrd.img")
	register := func(pieces ...[]byte) string {
		inner := sha512.New384()
		for _, p := range pieces {
			inner.Write(p)
		}
		return fmt.Sprintf("%x", sha512.Sum384(append(make([]byte, 48), inner.Sum(nil)...)))
	}

	f := buildFile(t, &pack.Build{Arch: eif.X86_64, Blobs: pack.BlobsIn(dir, eif.X86_64),
		Image: openImage(t, "docker-archive:"+archive), NitroCLI: true})
	pass, err := f.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		want string
		got  eif.PCR
	}{
		{register(kernel, cmdline, first, second), pass.PCR0},
		{register(kernel, cmdline, first), pass.PCR1},
		{register(second), pass.PCR2},
	} {
		if c.got.String() != c.want {
			t.Errorf("PCR%d is %v, and nitro-cli's would be %s", i, c.got, c.want)
		}
	}
	if e := enclaves.Find(ramdisk(t, f, 1), "cmd"); e == nil || string(e.Content) != "-v\ntwo words\n" {
		t.Errorf("cmd: %+v", e)
	}
	if enclaves.Find(ramdisk(t, f, 1), "neb/app") != nil {
		t.Error("there is a description, which nitro-cli does not write")
	}
}
