package linuxkit_test

import (
	"bytes"
	"context"
	"strconv"
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
			File(".dockerenv", ""), File("dev/console", "1"), Dir("dev/pts/", 0o700), File("dev/shm", "1"), Dir("etc/", 0o700),
			File("etc/hostname", "1"), File("etc/mtab", "1"), File("etc/hosts", "1"), Dir("etc/resolv.conf/", 0o700), Dir("proc/", 0o500),
			Symlink("sys", "proc"),
		}, append([]string{
			`dev d 755 0:0`, `dev/pts d 700 0:0`, `dev/shm f 644 0:0 "1"`, `etc d 700 0:0`, `etc/mtab f 644 0:0 "1"`, `proc d 500 0:0`,
			`sys l "proc"`,
		}, changed...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLayout(t)
			l.Name(l.Image("amd64", Layers(t, c.layer), Gzip), "")
			tree, err := linuxkit.Build(t.Context(), &linuxkit.Config{Init: []string{"oci:" + l.Dir()}}, linuxkit.Options{
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
