//go:build slow

package e2e

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// debian are trees of Debian packages, each with what starts in it: a path or pattern below the root, or a
// name along PATH. Those with words are booted with them, and print says.
var debian = []struct {
	packages, command string
	words             []string
	says              string
}{
	{packages: "apache2-bin", command: "/usr/sbin/apache2"},
	{packages: "bash", command: "bash", words: []string{"-c", "echo hello from bash"},
		says: "hello from bash"},
	{packages: "bind9", command: "named"},
	{packages: "busybox-static", command: "busybox", words: []string{"echo", "hello from busybox"},
		says: "hello from busybox"},
	{packages: "curl", command: "curl"},
	{packages: "default-jre-headless", command: "/usr/lib/jvm/java-*-openjdk-*/bin/java"},
	{packages: "dnsmasq-base", command: "dnsmasq"},
	{packages: "dumb-init", command: "dumb-init"},
	{packages: "etcd-server", command: "etcd"},
	{packages: "execline", command: "/usr/bin/execlineb"},
	{packages: "git", command: "git"},
	{packages: "gnupg", command: "gpg"},
	{packages: "gunicorn", command: "/usr/bin/gunicorn"},
	{packages: "haproxy", command: "haproxy"},
	{packages: "lua5.4", command: "/usr/bin/lua5.4"},
	{packages: "mariadb-server", command: "mariadbd"},
	{packages: "memcached", command: "memcached"},
	{packages: "nginx", command: "nginx"},
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
	{packages: "redis-server", command: "redis-server"},
	{packages: "ruby", command: "ruby"},
	{packages: "s6", command: "s6-svscan"},
	{packages: "sqlite3", command: "sqlite3"},
	{packages: "supervisor", command: "/usr/bin/supervisord"},
	{packages: "tcl", command: "/usr/bin/tclsh8*"},
	{packages: "tini", command: "tini"},
	{packages: "unbound", command: "unbound"},
}

// TestDebianTrees builds an EIF of each tree: the check before must find no error in it. Some are booted.
func TestDebianTrees(t *testing.T) {
	require.Root(t)
	for _, program := range []string{"apt-get", "dpkg-deb", "tar"} {
		require.Command(t, program)
	}
	work := t.TempDir()
	archives := filepath.Join(work, "archives")
	empty := filepath.Join(work, "empty")
	status := filepath.Join(work, "status")
	for _, dir := range []string{archives, empty} {
		if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	shell := func(script string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "bash", append([]string{"-euo", "pipefail", "-c",
			script, "bash"},
			args...)...).Output()
		if err != nil {
			t.Fatalf("%s %q: %v", script, args, err)
		}
		return string(out)
	}
	apt := "apt-get -qq -y --no-install-recommends -o Dir::State::status=" + status +
		" -o Dir::Cache::archives=" + archives + " -o APT::Sandbox::User= -o Debug::NoLocking=1 "
	deb := regexp.MustCompile(`(?m)^'[^']*' (\S+\.deb) `)
	boots := 0
	for _, c := range debian {
		t.Run(c.packages, func(t *testing.T) {
			tree := filepath.Join(work, "tree")
			defer os.RemoveAll(tree)
			list := deb.FindAllStringSubmatch(shell(apt+"-o Dir::Cache::archives="+empty+
				" --print-uris install base-files "+c.packages), -1) // what is in the archives is not listed
			if len(list) == 0 {
				t.Fatal("apt-get names no packages")
			}
			shell(apt + "--download-only install base-files " + c.packages)
			// base-files first: its links /bin, /lib and /lib64 must not meet directories.
			slices.SortStableFunc(list, func(a, b []string) int {
				return -cmp.Compare(strings.Index(a[1], "base-files_"), strings.Index(b[1], "base-files_"))
			})
			for _, m := range list {
				shell(`mkdir -p "$2"
					dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -xf - --keep-directory-symlink`,
					filepath.Join(archives, m[1]), tree)
			}
			command := c.command
			if strings.Contains(command, "*") {
				found, _ := filepath.Glob(tree + command)
				if len(found) == 0 {
					t.Fatalf("the tree has no %s", command)
				}
				command = strings.TrimPrefix(found[0], tree)
			}
			eif := filepath.Join(work, "app.eif")
			args := []string{"eif", "build", "--rootfs", tree, "--arch", "x86_64", "--blobs", blobs(t,
				"x86_64"),
				"--output", eif, "--cmd", command}
			for _, word := range c.words {
				args = append(args, "--cmd", word)
			}
			neb(t, args...)
			if c.says == "" {
				return
			}
			boots++
			boot(t, eif).says(t, c.says)
		})
	}
	if boots < 4 && !t.Failed() {
		t.Errorf("%d trees were booted", boots)
	}
}
