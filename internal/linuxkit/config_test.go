package linuxkit_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
)

func TestParse(t *testing.T) {
	text, none := "hello\n", "none"
	c, err := linuxkit.Parse("x.yml", []byte(`---
kernel: {image: k:1, cmdline: "a b", binary: bzImage, tar: none, ucode: none}
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
		Kernel: linuxkit.Kernel{Image: "k:1", Cmdline: "a b", Binary: "bzImage", Tar: &none, UCode: &none},
		Prefix: "rootfs/", Init: []string{"one:1", "two"},
		Files: []linuxkit.File{
			{Path: "/etc/x", Contents: &text, Mode: "0644", UID: 5},
			{Path: "d", Directory: true}, {Path: "l", Symlink: "../d"}, {Path: "s", Source: "~/x", Optional: true},
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
	c := parse("kernel: {image: a, cmdline: one}\ninit: [x]\nprefix: a/\nfiles: [{path: f, contents: x}]")
	c.Append(parse("kernel: {cmdline: two, tar: t}\ninit: [y]\nfiles: [{path: g, contents: x}]"))
	c.Append(parse("prefix: b/"))
	if c.Kernel.Image != "a" || c.Kernel.Cmdline != "two" || *c.Kernel.Tar != "t" || strings.Join(c.Init, " ") != "x y" || c.Prefix != "b/" || len(c.Files) != 2 || c.Files[1].Path != "g" {
		t.Errorf("%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "empty"},
		{"- a", "line 1: expected keys"},
		{"init: [a]\nonboot: []", "line 2: onboot: it runs containers at boot, which needs containerd in the guest; this linuxkit packs enclaves"},
		{"onshutdown: []", "line 1: onshutdown"},
		{"services:\n  - name: x", "line 1: services"},
		{"volumes: []", "line 1: volumes"},
		{"trust: {}", "line 1: trust"},
		{"init: []\nfile: []", `line 2: unknown key "file"`},
		{"files:\n  - path: a\n    contents: x\n    owner: 5", `line 4: unknown key "owner"`},
		{"files:\n  - path: a\n    metadata: yaml", "line 3: metadata"},
		{"kernel:\n  image: a\n  version: 5", `line 3: unknown key "version"`},
		{"init: [a]\ninit: [b]", "line 2: init stands twice"},
		{"init: a", "line 1: init: expected a list"},
		{"init: [5]", `line 1: expected a string, found "5" (int): put it in quotes, "5"`},
		{"init: [\"\"]", "empty name"},
		{"init:\n  - \"@pkg:../pkg/x\"", "line 2: @pkg:../pkg/x: templates"},
		{"prefix: rootfs", "slash at the end"},
		{"prefix: /rootfs/", "no slash at the start"},
		{"files: [{contents: x}]", "line 1: a file without a path"},
		{"files: [{path: a}]", "file a: expected one of"},
		{"files: [{path: a, contents: x, source: y}]", "found 2"},
		{"files: [{path: a, directory: true, contents: x}]", "found 2"},
		{"files:\n- path: a\n  contents: x\n  mode: 0755", `line 4: mode: expected a string, found "0755" (int): put it in quotes, "0755"`},
		{"files: [{path: a, contents: x, mode: \"9\"}]", `mode "9" is not an octal`},
		{"files: [{path: a, contents: x, mode: \"17777\"}]", "is not an octal number up to 7777"},
		{"files: [{path: a, contents: x, uid: bob}]", "expected a number from 0"},
		{"files: [{path: a, contents: x, gid: -1}]", "expected a number from 0"},
		{"files: [{path: a, contents: x, gid: 4294967295}]", "expected a number from 0"},
		{"files: [{path: a, directory: yes please}]", "expected true or false"},
		{"files: [&a {path: a, contents: x}, *a]", "aliases (*a) are not read"},
		{"init: [a]\n---\ninit: [b]", "second document"},
		{"init: [a", "line 1"},
		{"files: {path: a}", "expected a list"},
	} {
		_, err := linuxkit.Parse("x.yml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "x.yml: ") {
			t.Errorf("%q: %v, want x.yml and %q", c.text, err, c.want)
		}
	}
	if _, err := linuxkit.Parse("x", make([]byte, 17<<20)); err == nil {
		t.Error("17 MiB were taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("init: [a]\nprefix: rootfs/\nfiles:\n  - {path: a, contents: x, mode: \"0644\", uid: 1}")
	f.Add("kernel: {image: a, tar: none}\nfiles: [{path: /a/b/, symlink: c}]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := linuxkit.Parse("x", []byte(text))
		if err != nil {
			return
		}
		// What is taken can be built, if it needs nothing from outside, unless a path leads nowhere; and then written.
		if len(c.Init) > 0 || c.Kernel.Image != "" || slices.ContainsFunc(c.Files, func(f linuxkit.File) bool { return f.Source != "" }) {
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
		if err := linuxkit.WriteRamdisk(&b, tree, linuxkit.Ramdisk{}); err != nil && !strings.Contains(err.Error(), "the kernel unpacks at most") {
			t.Error(err)
		} else if err == nil {
			newc(t, b.Bytes())
		}
	})
}
