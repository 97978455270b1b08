package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/component"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/lock"
	"github.com/nitro-enclaves-bootstrap/neb/internal/hermetic/output"
	"github.com/nitro-enclaves-bootstrap/neb/internal/release"
)

func newReleaseCommand(s streams) *cobra.Command {
	var (
		flags       buildFlags
		output, key string
	)
	cmd := &cobra.Command{
		Use:   "release VERSION",
		Short: "Make a release: archive, checksums, bill of materials, provenance",
		Long: `Make a release of the blobs for both architectures: an archive in the layout that nitro-cli's packages use, SHA-256
and SHA-384 sums, a bill of materials (CycloneDX), a statement of provenance (SLSA v1), and the kernel's source.

The blobs are built, or taken from the store, in namespaces and without a network; what was built in a chroot alone is
refused. The changelog must say whether PCR1 changed. The same source makes the same archive everywhere, byte for byte; the
other files also name the kind of host and the isolation.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			version := strings.TrimPrefix(args[0], "v")
			if err := release.CheckVersion(version); err != nil {
				return usagef("%v", err)
			}
			var signer crypto.Signer
			if key != "" {
				var err error
				if signer, err = readSigner(key); err != nil {
					return fmt.Errorf("--signing-key: %w", err)
				}
			}
			if _, err := os.Lstat(output); err == nil {
				return fmt.Errorf("%s: is there already; remove it or give another --output", output)
			}
			b, done, err := flags.builder(s)
			if err != nil {
				return err
			}
			defer done()
			source, err := b.SourceDir(cmd.Context())
			if err != nil {
				return err
			}
			if err := checkChangelog(source, version); err != nil {
				return err
			}
			if err := release.CheckSource(source, neb.LockFile); err != nil {
				return err
			}
			commit, err := commitOf(cmd.Context(), source, true)
			if err != nil {
				return err
			}
			if commit != "" {
				files, err := b.SourceFiles(cmd.Context())
				if err != nil {
					return err
				}
				if err := checkTracked(cmd.Context(), source, files); err != nil {
					return err
				}
			}
			if err := b.Fetch(cmd.Context(), []lock.File{b.Lock.Kernel}); err != nil {
				return err
			}
			r, remove, err := buildAll(cmd.Context(), b)
			if err != nil {
				return err
			}
			defer remove()
			r.Version, r.Host, r.Commit, r.Key, r.KernelSource = version, runtime.GOARCH, commit, signer, b.Store.Path(b.Lock.Kernel)
			names, err := r.Make(output)
			if err != nil {
				return err
			}
			for _, name := range names {
				fmt.Fprintln(s.out, filepath.Join(output, name))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "release", "the directory for the release, which must not be there yet")
	cmd.Flags().StringVar(&key, "signing-key", "", "sign the provenance with the key in this PEM `file` (ECDSA on P-256 or Ed25519)")
	flags.addPlain(cmd)
	return cmd
}

// addPlain adds the flags of commands that build from lock and source alone.
func (f *buildFlags) addPlain(cmd *cobra.Command) {
	var all cobra.Command
	f.add(&all)
	for _, name := range []string{"jobs", "offline", "source"} {
		cmd.Flags().AddFlag(all.Flags().Lookup(name))
	}
}

// buildAll builds the whole set for both architectures and places it in a directory, which the returned function removes.
func buildAll(ctx context.Context, b *component.Builder) (r release.Release, remove func(), err error) {
	wanted := map[string][]string{}
	for _, arch := range component.Archs {
		wanted[arch] = component.Names
	}
	built, err := sets(ctx, b, wanted)
	if err != nil {
		return r, nil, err
	}
	work, err := os.MkdirTemp("", "neb-release-")
	if err != nil {
		return r, nil, err
	}
	remove = func() { _ = os.RemoveAll(work) }
	r = release.Release{Lock: neb.LockFile, Blobs: filepath.Join(work, "result")}
	if err := output.Write(r.Blobs, built); err != nil {
		remove()
		return r, nil, err
	}
	for _, set := range built {
		for _, o := range set.Outputs {
			r.Records = append(r.Records, o.Record)
		}
	}
	return r, remove, nil
}

// checkChangelog checks the changelog of the source.
func checkChangelog(source, version string) error {
	text, err := os.ReadFile(filepath.Join(source, "CHANGELOG.md"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: has no CHANGELOG.md: a release is made of neb's checkout", source)
	}
	if err != nil {
		return err
	}
	return release.CheckChangelog(string(text), version)
}

// git runs git in a directory and returns what it prints.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// commitOf is the commit that the source is at, "" where it is no checkout but an unpacked archive. Where it has to be clean, a change that is in no commit is
// an error; so is a file that git does not know: it could be compiled in.
func commitOf(ctx context.Context, source string, clean bool) (string, error) {
	if _, err := os.Stat(filepath.Join(source, ".git")); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if clean {
		changed, err := git(ctx, source, "status", "--porcelain", "--untracked-files=all")
		if err != nil {
			return "", err
		}
		if changed != "" {
			return "", fmt.Errorf("%s: has changes or files that are in no commit:\n%s\na release names the commit it is made of: commit or remove them first", source, changed)
		}
	}
	return git(ctx, source, "rev-parse", "HEAD")
}

// checkTracked checks that git has every source file that is compiled: git status does not speak of one that it was told to ignore.
func checkTracked(ctx context.Context, source string, files []string) error {
	list, err := git(ctx, source, "ls-files", "-z")
	if err != nil {
		return err
	}
	tracked := map[string]bool{}
	for name := range strings.SplitSeq(list, "\x00") {
		tracked[name] = true
	}
	for _, name := range files {
		if !tracked[name] {
			return fmt.Errorf("%s: is compiled in, and git ignores it: a release names the commit it is made of", filepath.Join(source, name))
		}
	}
	return nil
}

// verifyRelease is neb verify --release.
func verifyRelease(ctx context.Context, s streams, archive, keyFile string, flags *buildFlags, cached, asJSON bool) error {
	v, err := release.Verify(archive, neb.LockFile)
	if err != nil {
		return err
	}
	if keyFile != "" {
		key, err := readPublicKey(keyFile)
		if err != nil {
			return fmt.Errorf("--release-key: %w", err)
		}
		if err := v.Signed(key); err != nil {
			return err
		}
	}
	b, done, err := flags.builder(s)
	if err != nil {
		return err
	}
	defer done()
	b.Fresh = !cached
	source, err := b.SourceDir(ctx)
	if err != nil {
		return err
	}
	if err := release.CheckSource(source, neb.LockFile); err != nil {
		return err
	}
	commit, err := commitOf(ctx, source, false)
	if err != nil {
		return err
	}
	if err := v.MadeOf(commit); err != nil {
		return err
	}
	r, remove, err := buildAll(ctx, b)
	if err != nil {
		return err
	}
	defer remove()
	findings, err := v.Compare(r)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	if asJSON {
		if err := printJSON(s, findings); err != nil {
			return err
		}
	}
	wrong := 0
	for _, f := range findings {
		state := output.Same
		if !f.Same() {
			wrong++
			state = output.Different
		}
		if !asJSON {
			fmt.Fprintf(s.out, "%-10s  %s", state, f.Path)
			if !f.Same() {
				fmt.Fprintf(s.out, "  (expected SHA-256 %s, found %s)", f.Expected, f.Found)
			}
			fmt.Fprintln(s.out)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%s: %d of %d files are not what this source and lock make; is this the source of release %s?", archive, wrong, len(findings), v.Version)
	}
	return nil
}

func readSigner(path string) (crypto.Signer, error) {
	block, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			return nil, fmt.Errorf("%s: expected a private key in PEM (PKCS #8 or SEC 1), found a block %q", path, block.Type)
		}
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: expected a key that signs, found %T", path, key)
	}
	return signer, nil
}

func readPublicKey(path string) (crypto.PublicKey, error) {
	block, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: expected a public key in PEM (PKIX), found a block %q", path, block.Type)
	}
	return key, nil
}

// readPEM is the first block of a file that is a key; openssl writes parameters before some.
func readPEM(path string) (*pem.Block, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "KEY") {
			return block, nil
		}
	}
	return nil, fmt.Errorf("%s: expected a key in PEM", path)
}
