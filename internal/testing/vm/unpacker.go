package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/debian"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// unpackerSource is what makes the kernel's unpacker a program.
//
//go:embed unpacker
var unpackerSource embed.FS

var unpacker built

// Unpacker returns a program that unpacks ramdisks with the code of the locked kernel: init/initramfs.c and
// lib/decompress_*.c. main.c describes what it reads and prints. These files are in the directory "source"
// beside it. It is compiled once for a store.
func Unpacker(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"gcc", "tar", "xz"} {
		require.Command(t, name)
	}
	return unpacker.get(t, "unpacker", func() (string, error) {
		b, err := builder()
		if err != nil {
			return "", err
		}
		ctx, source := context.Background(), b.Lock.Kernel
		files, err := unpackerSource.ReadDir("unpacker")
		if err != nil {
			return "", err
		}
		key, texts := sha256.New(), map[string][]byte{}
		io.WriteString(key, source.SHA256)
		for _, f := range files {
			text, err := unpackerSource.ReadFile("unpacker/" + f.Name())
			if err != nil {
				return "", err
			}
			texts[f.Name()] = text
			key.Write(text)
		}
		dir, _, err := b.Store.Output(ctx, fmt.Sprintf("test-unpacker-%x", key.Sum(nil)),
			func(dir string) error {
				if err := b.Fetch(ctx, []lock.File{source}); err != nil {
					return err
				}
				work, err := b.Store.Work(ctx)
				if err != nil {
					return err
				}
				defer os.RemoveAll(work)
				for name, text := range texts {
					if err := os.WriteFile(filepath.Join(work, name), text, 0o600); err != nil {
						return err
					}
				}
				if err := unpackSource(b.Store.Path(source), work); err != nil {
					return err
				}
				return run(exec.Command("sh", filepath.Join(work, "build.sh"), work, dir))
			})
		return filepath.Join(dir, "unpack"), err
	})
}

// unpackSource unpacks the parts of the kernel's source that the unpacker is made of, from Debian's package.
func unpackSource(deb, dir string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := debian.Data(f)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(data); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return errors.New("the package lacks the kernel's source")
		}
		if err != nil {
			return err
		}
		root, ok := strings.CutSuffix(path.Base(h.Name), ".tar.xz")
		if !ok || !strings.HasPrefix(root, "linux-source-") {
			continue
		}
		cmd := exec.Command("tar", "-xJ", "-C", dir, "--strip-components=1", root+"/init/initramfs.c",
			root+"/usr/default_cpio_list", root+"/include/linux", root+"/lib")
		cmd.Stdin = archive
		return run(cmd)
	}
}

func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd.Path, err, out.String())
	}
	return nil
}
