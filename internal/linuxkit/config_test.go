package linuxkit_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

func TestParse(t *testing.T) {
	text := "hello\n"
	c, err := linuxkit.Parse("x.yml", []byte(`---
prefix: rootfs/
init:
  - one:1
  - two
files:
  - path: /etc/x
    contents: |
      hello
    mode: "0644"
    uid: 5
    gid: root
  - {path: d, directory: true}
  - {path: l, symlink: ../d}
  - path: s
    source: ~/x
    optional: true
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &linuxkit.Config{
		Prefix: "rootfs/", Init: []string{"one:1", "two"},
		Files: []linuxkit.File{
			{Path: "/etc/x", Contents: &text, Mode: "0644", UID: 5},
			{Path: "d", Directory: true}, {Path: "l", Symlink: "../d"},
			{Path: "s", Source: "~/x", Optional: true},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, want %+v", c, want)
	}
}

func TestAppend(t *testing.T) {
	parse := func(text string) *linuxkit.Config {
		c, err := linuxkit.Parse("x", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := parse("init: [x]\nprefix: a/\nfiles: [{path: f, contents: x}]")
	c.Append(parse("init: [y]\nfiles: [{path: g, contents: x}]"))
	c.Append(parse("prefix: b/"))
	if strings.Join(c.Init, " ") != "x y" || c.Prefix != "b/" || len(c.Files) != 2 || c.Files[1].Path != "g" {
		t.Errorf("%+v", c)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "file is empty"},
		{"- a", "line 1: cannot unmarshal !!seq"},
		{"init: [a]\nonboot: []", `line 2: key "onboot" is not supported: it needs containerd in the enclave; use neb eif build for`},
		{"onshutdown: []", `line 1: key "onshutdown"`},
		{"services:\n  - name: x", `line 1: key "services"`},
		{"volumes: []", `line 1: key "volumes"`},
		{"trust: {}", `line 1: key "trust"`},
		{"init: [a]\nkernel:\n  image: a", `line 2: key "kernel" is not supported: `},
		{"init: []\nfile: []", `line 2: unknown key "file"`},
		{"files:\n  - path: a\n    contents: x\n    owner: 5", `line 4: unknown key "owner"`},
		{"files:\n  - path: a\n    metadata: yaml", `line 3: key "metadata"`},
		{"onboot: []\nservices: []", `line 2: key "services"`},
		{"init: [a]\ninit: [b]", "line 2: mapping key \"init\" already defined at line 1"},
		{"init: a", "line 1: cannot unmarshal !!str"},
		{"init: [\"\"]", "init[0]: image name is empty"},
		{"init:\n  - a\n  - \"@pkg:../pkg/x\"", "init[1]: @pkg:../pkg/x: @pkg templates are not supported"},
		{"prefix: rootfs", "slash at the end"},
		{"prefix: /rootfs/", "no slash at the start"},
		{"files: [{contents: x}]", "files[0]: path is required"},
		{"files: [{path: a}]", "file a: found 0 of directory, symlink, contents and source"},
		{"files: [{path: a, contents: x, source: y}]", "found 2"},
		{"files: [{path: a, directory: true, contents: x}]", "found 2"},
		{"files: [{path: a, contents: x, mode: \"9\"}]", `invalid mode "9": expected an octal`},
		{"files: [{path: a, contents: x, mode: \"17777\"}]", "expected an octal number up to 7777"},
		{"files: [{path: a, contents: x, uid: bob}]", `line 1: invalid owner "bob": expected a number from 0`},
		{"files: [{path: a, contents: x, gid: -1}]", `invalid owner "-1"`},
		{"files: [{path: a, contents: x, gid: 4294967295}]", `invalid owner "4294967295"`},
		{"files: [{path: a, directory: yes please}]", "into bool"},
		{"init: [a]\n---\ninit: [b]", "second document"},
		{"init: [a", "line 1"},
		{"files: {path: a}", "cannot unmarshal !!map"},
	} {
		_, err := linuxkit.Parse("x.yml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.HasPrefix(err.Error(), "x.yml: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want x.yml and %q on one line", c.text, err, c.want)
		}
	}
	if _, err := linuxkit.Parse("x", make([]byte, 17<<20)); err == nil {
		t.Error("no error for 17 MiB")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("init: [a]\nprefix: rootfs/\nfiles:\n  - {path: a, contents: x, mode: \"0644\", uid: 1}")
	f.Add("prefix: a/\nfiles: [{path: /a/b/, symlink: c}]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := linuxkit.Parse("x", []byte(text))
		if err != nil {
			return
		}
		// A valid file can be built, if it needs nothing from outside, unless a path leads nowhere; and then
		// written.
		if len(c.Init) > 0 || slices.ContainsFunc(c.Files, func(f linuxkit.File) bool {
			return f.Source != ""
		}) {
			return
		}
		tree, err := linuxkit.Build(t.Context(), c, linuxkit.Options{Dir: t.TempDir()})
		if err != nil {
			if len(c.Files) == 0 {
				t.Error(err)
			}
			return
		}
		defer tree.Close()
		var b bytes.Buffer
		if err := tree.WriteRamdisk(&b, image.Ramdisk{}); err != nil &&
			!strings.Contains(err.Error(), ", expected at most ") {
			t.Error(err)
		} else if err == nil {
			images.List(t, b.Bytes())
		}
	})
}
