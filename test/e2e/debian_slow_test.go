//go:build slow

package e2e

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/preflight"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// debian are trees of Debian packages, each with what starts in it: a path or pattern below the root, or a
// name along PATH. Those with words are booted with them, and print says.
var debian = []struct {
	packages, command string
	words             []string
	says              string // a regular expression
}{
	{packages: "apache2-bin", command: "/usr/sbin/apache2"},
	{packages: "bash", command: "bash", words: []string{"-c", "echo hello from bash"},
		says: "hello from bash"},
	{packages: "bind9", command: "named"},
	{packages: "busybox-static", command: "busybox", words: []string{"echo", "hello from busybox"},
		says: "hello from busybox"},
	{packages: "curl", command: "curl", words: []string{"--version"}, says: "curl [0-9]"},
	{packages: "default-jre-headless", command: "/usr/lib/jvm/java-*-openjdk-*/bin/java"},
	{packages: "dnsmasq-base", command: "dnsmasq"},
	{packages: "dumb-init", command: "dumb-init"},
	{packages: "etcd-server", command: "etcd"},
	{packages: "execline", command: "/usr/bin/execlineb"},
	{packages: "git", command: "git"},
	{packages: "gnupg", command: "gpg"},
	{packages: "gunicorn", command: "/usr/bin/gunicorn"},
	{packages: "haproxy", command: "haproxy", words: []string{"-v"}, says: "HAProxy version [0-9]"},
	{packages: "lua5.4", command: "/usr/bin/lua5.4"},
	{packages: "mariadb-server", command: "mariadbd"},
	{packages: "memcached", command: "memcached"},
	{packages: "nginx", command: "nginx", words: []string{"-v"}, says: "nginx version: "},
	{packages: "nodejs", command: "node"},
	{packages: "openssh-server", command: "/usr/sbin/sshd"},
	{packages: "openvpn", command: "openvpn"},
	{packages: "perl", command: "perl", words: []string{"-e", "use POSIX; print qq(hello from perl\\n)"},
		says: "hello from perl"},
	{packages: "php-cli", command: "/usr/bin/php8*"},
	{packages: "postfix", command: "/usr/lib/postfix/sbin/master"},
	{packages: "postgresql", command: "/usr/lib/postgresql/*/bin/postgres"},
	{packages: "prometheus", command: "prometheus"},
	{packages: "python3", command: "python3", words: []string{"-c", "import ssl; print('hello from python')"},
		says: "hello from python"},
	{packages: "redis-server", command: "redis-server", words: []string{"--version"}, says: "Redis server v="},
	{packages: "ruby", command: "ruby"},
	{packages: "s6", command: "s6-svscan"},
	{packages: "sqlite3", command: "sqlite3"},
	{packages: "supervisor", command: "/usr/bin/supervisord"},
	{packages: "tcl", command: "/usr/bin/tclsh8*"},
	{packages: "tini", command: "tini"},
	{packages: "unbound", command: "unbound"},
}

// TestDebianTrees checks each tree as neb eif build does before it packs one: there is no error in it. Some are
// packed and booted.
func TestDebianTrees(t *testing.T) {
	require.Root(t)
	for _, program := range []string{"apt-get", "dpkg-deb", "tar"} {
		require.Command(t, program)
	}
	config, err := os.ReadFile(filepath.Join(blobs(t, "x86_64"), "bzImage.config"))
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	archives, empty, status := filepath.Join(work, "archives"), filepath.Join(work, "empty"),
		filepath.Join(work, "status")
	for _, dir := range []string{archives, empty} {
		if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, &said)
		}
		return string(out)
	}
	listed := regexp.MustCompile(`(?m)^'[^']*' (\S+\.deb) `)
	var downloading sync.Mutex // into archives
	tree := func(t *testing.T, packages string) string {
		root := t.TempDir()
		apt := func(archives string, args ...string) string {
			return run(t, "apt-get", append([]string{"-qq", "-y", "--no-install-recommends",
				"-oDir::State::status=" + status, "-oDir::Cache::archives=" + archives, "-oAPT::Sandbox::User=",
				"-oDebug::NoLocking=1", "install", "base-files", packages}, args...)...)
		}
		// What is in the archives would not be listed.
		list := listed.FindAllStringSubmatch(apt(empty, "--print-uris"), -1)
		if len(list) == 0 {
			t.Fatal("apt-get names no packages")
		}
		func() {
			downloading.Lock()
			defer downloading.Unlock()
			apt(archives, "--download-only")
		}()
		// base-files first: its links /bin, /lib and /lib64 must not meet directories.
		slices.SortStableFunc(list, func(a, b []string) int {
			return -cmp.Compare(strings.Index(a[1], "base-files_"), strings.Index(b[1], "base-files_"))
		})
		for _, m := range list {
			run(t, "bash", "-euo", "pipefail", "-c",
				`dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -xf - --keep-directory-symlink`, "bash",
				filepath.Join(archives, m[1]), root)
		}
		return root
	}
	for _, c := range debian {
		t.Run(c.packages, func(t *testing.T) {
			t.Parallel()
			root := tree(t, c.packages)
			command := c.command
			if strings.Contains(command, "*") {
				found, _ := filepath.Glob(root + command)
				if len(found) == 0 {
					t.Fatalf("the tree has no %s", command)
				}
				command = strings.TrimPrefix(found[0], root)
			}
			if c.says == "" {
				files := image.NewTree("", image.Limits{})
				defer files.Close()
				if _, err := files.AddRoot(t.Context(), root, ""); err != nil {
					t.Fatal(err)
				}
				app := preflight.Application{Arch: "x86_64", Root: files, Config: string(config),
					About: contract.Description{Cmd: []string{command}}}
				for _, f := range app.Check() {
					if t.Log(f); f.Severity == preflight.Error {
						t.Fail()
					}
				}
				return
			}
			eif := filepath.Join(t.TempDir(), "app.eif")
			args := []string{"eif", "build", "--rootfs", root, "--arch", "x86_64", "--blobs", blobs(t, "x86_64"),
				"--output", eif, "--cmd", command}
			for _, word := range c.words {
				args = append(args, "--cmd", word)
			}
			neb(t, args...)
			boot(t, eif).find(t, "^("+c.says+")")
		})
	}
}
