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

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
)

// debian are trees of Debian packages, each with what starts in it and what that prints. The command is a
// path or pattern below the root, or a name along PATH; or /init, a script that is put into the tree.
var debian = []struct {
	packages, command string
	words             []string
	script            string
	says              string // a regular expression
	flags             []string
}{
	{packages: "apache2-bin", command: "/usr/sbin/apache2", words: []string{"-v"},
		says: "Server version: Apache/2"},
	{packages: "bash", command: "bash", words: []string{"-c", "echo hello from bash"},
		says: "hello from bash"},
	{packages: "bind9", command: "named", words: []string{"-v"}, says: "BIND 9"},
	{packages: "busybox-static", command: "busybox", words: []string{"echo", "hello from busybox"},
		says: "hello from busybox"},
	{packages: "curl", command: "curl", words: []string{"-s", "file:///etc/os-release"}, says: "ID=debian"},
	{packages: "default-jre-headless", command: "/usr/lib/jvm/java-*-openjdk-*/bin/java",
		words: []string{"-version"}, says: "openjdk version"},
	{packages: "dnsmasq-base", command: "dnsmasq", words: []string{"--version"},
		says: "Dnsmasq version [0-9]"},
	{packages: "dumb-init", command: "dumb-init", words: []string{"--", "dumb-init", "--version"},
		says: "dumb-init v[0-9]"},
	{packages: "etcd-server", command: "etcd", words: []string{"--version"}, says: "etcd Version: [0-9]"},
	{packages: "execline busybox-static", script: `#!/usr/bin/execlineb -P
backtick -E n { busybox echo -n hello }
busybox echo ${n} from execline
`, says: "hello from execline"},
	{packages: "git", command: "git", words: []string{"init", "/tmp/x"},
		says: "Initialized empty Git repository"},
	{packages: "gnupg", command: "gpg", words: []string{"--print-md", "SHA256", "/usr/bin/gpg"},
		says: "/usr/bin/gpg: [0-9A-F ]+"},
	{packages: "gosu", command: "gosu", words: []string{"0:0", "gosu", "--version"},
		says: "[0-9.]+ \\(go[0-9.]+ "},
	{packages: "gunicorn", command: "/usr/bin/gunicorn", words: []string{"--version"},
		says: "gunicorn \\(version [0-9]"},
	{packages: "haproxy", command: "haproxy", words: []string{"-v"}, says: "HAProxy version [0-9]"},
	{packages: "lua5.4", script: `#!/usr/bin/lua5.4
print("hello from " .. _VERSION)
`, says: "hello from Lua 5.4"},
	{packages: "mariadb-server-core", command: "mariadbd", words: []string{"--version"},
		says: "mariadbd  Ver [0-9]"},
	{packages: "memcached", command: "memcached", words: []string{"--version"}, says: "memcached [0-9]"},
	{packages: "nginx", command: "nginx", words: []string{"-v"}, says: "nginx version: "},
	{packages: "nginx busybox-static", script: `#!/bin/busybox sh
echo 'user root; events {} http { server { root /usr/share/nginx/html; } }' >/tmp/conf
nginx -c /tmp/conf && wget -O- http://127.0.0.1/
`, says: ".*Welcome to nginx!"},
	{packages: "nodejs", command: "node", words: []string{"-e", `
		const http = require("http")
		http.createServer((_, r) => r.end("hello from node")).listen(80, () =>
			http.get("http://127.0.0.1/", r => r.on("data", d => {
				console.log(String(d))
				process.exit()
			})))`},
		says: "hello from node"},
	{packages: "openssh-server", command: "/usr/sbin/sshd", words: []string{"-V"}, says: "OpenSSH_[0-9]"},
	{packages: "openvpn", command: "openvpn", words: []string{"--version"}, says: "OpenVPN [0-9]"},
	{packages: "perl", command: "perl", words: []string{"-e", "use POSIX; print qq(hello from perl\\n)"},
		says: "hello from perl"},
	{packages: "php-cli", command: "/usr/bin/php8*", words: []string{"-r", `print("hello from php\n");`},
		says: "hello from php"},
	{packages: "postfix", command: "postconf", words: []string{"-d", "mail_version"},
		says: "mail_version = [0-9]"},
	{packages: "postgresql", command: "/usr/lib/postgresql/*/bin/postgres", words: []string{"--version"},
		says: "postgres \\(PostgreSQL\\) [0-9]"},
	{packages: "python3", command: "python3", words: []string{"-c", `
import http.server, ssl, threading, urllib.request
server = http.server.HTTPServer(("", 80), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen("http://127.0.0.1/etc/os-release").read().decode())`}, says: "ID=debian"},
	{packages: "redis-server", command: "redis-server", words: []string{"--version"},
		says: "Redis server v="},
	{packages: "ruby", command: "ruby", words: []string{"-e", "puts 'hello from ruby'"},
		says: "hello from ruby"},
	// As s6-overlay has it: /init makes services, and s6-svscan becomes PID 1.
	{packages: "s6 busybox-static", script: `#!/bin/busybox sh
mkdir -p /run/service/hello
cat >/run/service/hello/run <<end
#!/bin/busybox sh
echo hello from s6
s6-svscanctl -t /run/service
end
chmod 755 /run/service/hello/run
exec s6-svscan /run/service
`, flags: []string{"--pid1"}, says: "hello from s6"},
	{packages: "sqlite3", command: "sqlite3", words: []string{":memory:", "select 'hello from ' || 'sqlite'"},
		says: "hello from sqlite"},
	{packages: "supervisor", command: "/usr/bin/supervisord", words: []string{"--version"},
		says: "[0-9.]+\r?$"},
	{packages: "tcl", script: "#!/usr/bin/tclsh\nputs {hello from tcl}\n", says: "hello from tcl"},
	{packages: "tini", command: "tini", words: []string{"--", "tini", "--version"},
		says: "tini version [0-9]"},
	{packages: "unbound", command: "unbound", words: []string{"-V"}, says: "Version [0-9]"},
}

// TestDebianTrees packs and boots each tree: neb eif build finds no error in one that starts.
func TestDebianTrees(t *testing.T) {
	require.Root(t)
	for _, program := range []string{"apt-get", "dpkg-deb", "tar"} {
		require.Command(t, program)
	}
	blobs := blobs(t, "x86_64")
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
			return run(t, "apt-get", slices.Concat([]string{"-qq", "-y", "--no-install-recommends",
				"-oDir::State::status=" + status, "-oDir::Cache::archives=" + archives,
				"-oAPT::Sandbox::User=",
				"-oDir::Cache::pkgcache=" + filepath.Join(work, "cache"), "-oDebug::NoLocking=1",
				"install", "base-files"}, strings.Fields(packages), args)...)
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
				`dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -xf - --keep-directory-symlink \
					--exclude=./usr/share/doc --exclude=./usr/share/locale`, "bash",
				filepath.Join(archives, m[1]), root)
		}
		// Maintainer scripts do not run.
		for name, text := range map[string]string{
			"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n",
		} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	for _, c := range debian {
		t.Run(c.packages, func(t *testing.T) {
			t.Parallel()
			root := tree(t, c.packages)
			command := c.command
			if c.script != "" {
				command = "/init"
				if err := os.WriteFile(filepath.Join(root, command), []byte(c.script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(command, "*") {
				found, _ := filepath.Glob(root + command)
				if len(found) == 0 {
					t.Fatalf("the tree has no %s", command)
				}
				command = strings.TrimPrefix(found[0], root)
			}
			eif := filepath.Join(t.TempDir(), "app.eif")
			args := append([]string{"eif", "build", "--rootfs", root, "--arch", "x86_64", "--blobs", blobs,
				"--output", eif, "--cmd", command}, c.flags...)
			for _, word := range c.words {
				args = append(args, "--cmd", word)
			}
			neb(t, args...)
			boot(t, eif).find(t, "^("+c.says+")")
		})
	}
}
