package linuxkit_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/linuxkit"
	. "github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

const hosts = `127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
`

// TestPresented builds images that have nothing, and everything, of what LinuxKit changes.
func TestPresented(t *testing.T) {
	changed := []string{`etc/hosts f 644 0:0 ` + strconv.Quote(hosts), `etc/resolv.conf l "/run/resolvconf/resolv.conf"`}
	for _, c := range []struct {
		name  string
		layer []Entry
		want  []string
	}{
		{"nothing", []Entry{File("app", "1")}, append([]string{
			`app f 644 0:0 "1"`, `dev d 755 0:0`, `dev/pts d 755 0:0`, `dev/shm d 755 0:0`, `etc d 755 0:0`,
			`etc/mtab l "/proc/mounts"`, `proc d 755 0:0`, `sys d 755 0:0`,
		}, changed...)},
		{"everything", []Entry{
			File(".dockerenv", ""), File("dev/console", "1"), Dir("dev/pts/", 0o700), File("dev/shm", "1"),
			Dir("etc/", 0o700),
			File("etc/hostname", "1"), File("etc/mtab", "1"), File("etc/hosts", "1"),
			Dir("etc/resolv.conf/", 0o700), Dir("proc/", 0o500),
			Symlink("sys", "proc"),
		}, append([]string{
			`dev d 755 0:0`, `dev/pts d 700 0:0`, `dev/shm f 644 0:0 "1"`, `etc d 700 0:0`, `etc/mtab f 644 0:0 "1"`, `proc d 500 0:0`,
			`sys l "proc"`,
		}, changed...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLayout(t)
			l.Name(l.Image("amd64", Layers(t, c.layer), Gzip), "")
			tree, err := linuxkit.Build(t.Context(), &linuxkit.Config{Init: []string{"oci:" + l.Dir()}},
				linuxkit.Options{
					Open: func(ctx context.Context, ref string) (*image.Image, error) {
						return image.Open(ctx, ref, image.Options{Arch: "x86_64"})
					},
					Dir: t.TempDir(),
				})
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			var b bytes.Buffer
			if err := tree.WriteRamdisk(&b, image.Ramdisk{}); err != nil {
				t.Fatal(err)
			}
			Compare(t, List(t, b.Bytes()), c.want)
		})
	}
}

// TestModulesThroughLinks puts modules where /lib of an image is a link: as a second image, and as files.
func TestModulesThroughLinks(t *testing.T) {
	layout := func(entries ...Entry) string {
		l := NewLayout(t)
		l.Name(l.Image("amd64", Layers(t, entries), Gzip), "")
		return "oci:" + l.Dir()
	}
	absolute := layout(Dir("usr/lib/", 0o755), Symlink("lib", "/usr/lib"), File("usr/lib/libc", "1"))
	relative := layout(Dir("usr/lib/", 0o755), Symlink("lib", "usr/lib"), File("usr/lib/libc", "1"))
	modules := layout(File("lib/modules/x.ko", "2"))
	text := "2"
	for _, c := range []struct {
		name   string
		config linuxkit.Config
		want   string // an entry, or an error with two images
	}{
		{"image over a link", linuxkit.Config{Init: []string{relative, modules}}, `usr/lib/modules/x.ko f 644 0:0 "2"`},
		{"image over an absolute link", linuxkit.Config{Init: []string{absolute, modules}, Prefix: "r/"}, `r/usr/lib/modules/x.ko f 644 0:0 "2"`},
		{"file through a link", linuxkit.Config{Init: []string{relative}, Prefix: "r/",
			Files: []linuxkit.File{{Path: "r/lib/modules/x.ko", Contents: &text, Mode: "0644"}}}, `r/usr/lib/modules/x.ko f 644 0:0 "2"`},
		{"file through an absolute link", linuxkit.Config{Init: []string{absolute}, Prefix: "r/",
			Files: []linuxkit.File{{Path: "/r/lib/modules/x.ko", Contents: &text, Mode: "0644"}}}, `r/usr/lib/modules/x.ko f 644 0:0 "2"`},
		{"link over modules", linuxkit.Config{Init: []string{modules, relative}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := linuxkit.Build(t.Context(), &c.config, linuxkit.Options{
				Open: func(ctx context.Context, ref string) (*image.Image, error) {
					return image.Open(ctx, ref, image.Options{Arch: "x86_64"})
				},
				Dir: t.TempDir(),
			})
			if c.want == "" {
				for _, want := range []string{modules, relative,
					"lib is not a directory: it would replace one that is not empty"} {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want %s", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			var b bytes.Buffer
			if err := tree.WriteRamdisk(&b, image.Ramdisk{}); err != nil {
				t.Fatal(err)
			}
			lines := List(t, b.Bytes())
			if !slices.Contains(lines, c.want) {
				t.Errorf("%q has no %s", lines, c.want)
			}
		})
	}
}
