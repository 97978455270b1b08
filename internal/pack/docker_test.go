package pack_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// commands are configurations of images and options of `docker run`, with what Docker runs.
var commands = []struct {
	name      string
	config    v1.Config
	overrides pack.Overrides
	options   []string // of docker create, the image, and its arguments
	want      string
}{
	{"entrypoint and command", v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"b"}}, pack.Overrides{},
		[]string{"IMAGE"}, "/a b"},
	{"an empty entrypoint", v1.Config{Entrypoint: []string{""}, Cmd: []string{"/b", "c"}}, pack.Overrides{},
		[]string{"IMAGE"}, "/b c"},
	{"an empty entrypoint and a command", v1.Config{Entrypoint: []string{""}, Cmd: []string{"/b"}},
		pack.Overrides{Cmd: []string{"/d"}}, []string{"IMAGE", "/d"}, "/d"},
	{"another command", v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"b"}},
		pack.Overrides{Cmd: []string{"d"}}, []string{"IMAGE", "d"}, "/a d"},
	{"another entrypoint", v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"b"}},
		pack.Overrides{Entrypoint: []string{"/e"}}, []string{"--entrypoint", "/e", "IMAGE"}, "/e"},
	{"no entrypoint, and a command", v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"b"}},
		pack.Overrides{Entrypoint: []string{""}, Cmd: []string{"/d", "e"}}, []string{"--entrypoint", "",
			"IMAGE", "/d", "e"}, "/d e"},
	{"no entrypoint", v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"b"}},
		pack.Overrides{Entrypoint: []string{""}}, []string{"--entrypoint", "", "IMAGE"}, ""},
}

func TestCommands(t *testing.T) {
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			d := pack.Application(c.config, c.overrides)
			if got := strings.Join(d.Command(), " "); got != c.want {
				t.Errorf("the command is %q, want %q", got, c.want)
			}
		})
	}
}

// TestCommandsInDocker shows that the wanted values of TestCommands are Docker's.
func TestCommandsInDocker(t *testing.T) {
	require.Docker(t)
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			archive := archiveOf(t, newImage(t, c.config))
			if out, err := exec.Command("docker", "load", "--input", archive).CombinedOutput(); err != nil {
				t.Fatalf("docker load: %v: %s", err, out)
			}
			defer exec.Command("docker", "image", "rm", tag).Run()
			args := []string{"create"}
			for _, a := range c.options {
				args = append(args, strings.Replace(a, "IMAGE", tag, 1))
			}
			id, err := exec.Command("docker", args...).CombinedOutput()
			if c.want == "" {
				if err == nil || !strings.Contains(strings.ToLower(string(id)), "no command specified") {
					t.Errorf("docker %v: %v, %s", args, err, id)
				}
				return
			}
			if err != nil {
				t.Fatalf("docker %v: %v: %s", args, err, id)
			}
			name := strings.TrimSpace(string(id))
			defer exec.Command("docker", "rm", name).Run()
			out, err := exec.Command("docker", "inspect", "--format", "{{.Path}}{{range .Args}} {{.}}{{end}}",
				name).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
				t.Errorf("docker runs %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}

// TestVolumes builds an image with volumes that its layers have, lack, and have behind a link.
func TestVolumes(t *testing.T) {
	config := v1.Config{Cmd: []string{"/bin/server"}, Volumes: map[string]struct{}{
		"/data": {}, "srv/a/b/": {}, "/tmp": {}, "/": {}, "/srv/a": {}, "/../up": {},
	}}
	b := &pack.Build{
		Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64),
		Image: openImage(t, "docker-archive:"+archiveOf(t, newImage(t, config))),
	}
	second := ramdisk(t, buildFile(t, b), 1)
	for name, mode := range volumes {
		if e := enclaves.Find(second, "rootfs/"+name); e == nil || e.Mode != uint64(0o40000|mode) {
			t.Errorf("%s: %+v, want mode %o", name, e, mode)
		}
	}
}

// volumes are what TestVolumes wants, and what Docker makes.
var volumes = map[string]int64{"data": 0o755, "srv/a/b": 0o755, "tmp": 0o1770, "up": 0o755}

// TestVolumesInDocker shows that the wanted values of TestVolumes are Docker's.
func TestVolumesInDocker(t *testing.T) {
	require.Docker(t)
	config := v1.Config{Cmd: []string{"/bin/server"}, Volumes: map[string]struct{}{"/data": {},
		"srv/a/b/": {}, "/tmp": {}, "/../up": {}}}
	if out, err := exec.Command("docker", "load", "--input",
		archiveOf(t, newImage(t, config))).CombinedOutput(); err != nil {
		t.Fatalf("docker load: %v: %s", err, out)
	}
	defer exec.Command("docker", "image", "rm", tag).Run()
	id, err := exec.Command("docker", "create", tag).Output()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(id))
	defer exec.Command("docker", "rm", "--volumes", name).Run()
	exec.Command("docker", "start", name).Run() // makes the directories, and fails: there is no program
	exported, err := exec.Command("docker", "export", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for in := tar.NewReader(bytes.NewReader(exported)); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimSuffix(h.Name, "/")] = h.Mode & 0o7777
	}
	for name, mode := range volumes {
		if found[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, found[name], mode)
		}
	}
}

// TestRootFSForms packs one root file system as a directory and as a tar archive: the same registers.
func TestRootFSForms(t *testing.T) {
	dir := someTree(t)
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/.wh.foo"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		h.Name, h.Uid, h.Gid = "./"+rel, 0, 0
		if h.PAXRecords = map[string]string{"SCHILY.xattr.security.selinux": "a_label"}; d.IsDir() {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	blobs := pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64)
	var sums, warnings []string
	for _, root := range []string{dir, file} {
		b := &pack.Build{
			Arch: eif.X86_64, Blobs: blobs, RootFS: root, Overrides: start, Warn: func(line string) {
				warnings = append(warnings, line)
			}}
		if enclaves.Find(ramdisk(t, buildFile(t, b), 1), "rootfs/etc/.wh.foo") == nil {
			t.Errorf("%s: etc/.wh.foo is missing", root)
		}
		sums = append(sums, sumOf(t, b))
	}
	if sums[0] != sums[1] {
		t.Errorf("the directory makes %s, and the archive %s", sums[0], sums[1])
	}
	want := file + ": security.selinux of 5 files is left out: it belongs to the machine that the files " +
		"are from"
	if len(warnings) != 2 || warnings[0] != want {
		t.Errorf("the warnings are %q, want %q once for each build", warnings, want)
	}
}

// TestLosses packs many files with capabilities: one warning.
func TestLosses(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range 2002 {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("bin/%04d", i), Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}})
	}
	w.Close()
	file := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	var warnings []string
	b := &pack.Build{
		Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64), RootFS: file,
		Overrides: start,
		Warn:      func(line string) { warnings = append(warnings, line) }, Allow: anything(),
	}
	if _, err := b.To(t.Context(), enclaves.TempFile(t)); err != nil {
		t.Fatal(err)
	}
	want := "rootfs/bin/0000 and 2001 more: extended attribute security.capability is lost: an initramfs " +
		"cannot hold any (an erofs root keeps it)"
	if len(warnings) != 1 || warnings[0] != want {
		t.Errorf("the warnings are %q, want %q", warnings, want)
	}
}

// TestNitroCLIWarns names what nitro-cli drops of an image.
func TestNitroCLIWarns(t *testing.T) {
	var warnings []string
	b := &pack.Build{
		Arch: eif.X86_64, Blobs: pack.BlobsIn(writeBlobs(t, eif.X86_64, nil), eif.X86_64), NitroCLI: true,
		Image: openImage(t, "docker-archive:"+archiveOf(t, newImage(t, defaultConfig))),
		Warn:  func(line string) { warnings = append(warnings, line) },
	}
	second := ramdisk(t, buildFile(t, b), 1)
	for i, want := range []string{`ENTRYPOINT ["/bin/server"], because it has a CMD`, "WORKDIR /srv", "USER 1000:1000"} {
		if i >= len(warnings) || !strings.Contains(warnings[i], "--compat nitro-cli drops the image's "+
			want) {
			t.Errorf("the warnings are %q, want one of %s", warnings, want)
		}
	}
	for name, content := range map[string]string{"cmd": "-v\ntwo words\n", "env": "PATH=/bin\nA=b\n"} {
		e := enclaves.Find(second, name)
		if e == nil || string(e.Content) != content || e.Mode != 0o100644 ||
			e.ModTime != contract.CompleteTime {
			t.Errorf("%s: %+v, want %q", name, e, content)
		}
	}
	// LinuxKit's date, as that of every file that no image brings.
	if e := enclaves.Find(second, "rootfs"); e == nil || e.Mode != 0o40755 ||
		e.ModTime != contract.CompleteTime {
		t.Errorf("rootfs: %+v", e)
	}
}
