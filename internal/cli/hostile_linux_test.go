package cli

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/nitro-enclaves-bootstrap/neb"
	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	emulated "github.com/nitro-enclaves-bootstrap/neb/internal/machine/nsm"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// hostile clears a screen, colors and reverses text, and is followed by lines of its own.
const hostile = "h\x1b[2J\x7f\r\u009b31m\u202e\u2066\u2028\nFORGED: verified\nneb: FORGED"

// TestHostileText gives every command that reads files of others a hostile value in every field. Nothing that
// it prints makes a terminal do something, or looks like a line of neb's own.
func TestHostileText(t *testing.T) {
	f := newEIFFiles(t)
	put := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(f.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string, boot, app []byte) {
		t.Helper()
		metadata, err := json.Marshal(map[string]any{
			"ImageName": text, "ImageVersion": text, "DockerInfo": map[string]any{text: []string{text}},
			"BuildMetadata": map[string]string{"BuildTime": text, "BuildTool": text, "BuildToolVersion": text,
				"OperatingSystem": text, "KernelVersion": text},
			"CustomMetadata": map[string]string{text: text},
		})
		if err != nil {
			t.Fatal(err)
		}
		in, _ := enclaves.Write(t, []enclaves.Section{
			{Type: eif.Kernel, Content: enclaves.BzImage(text)}, {Type: eif.Cmdline, Content: []byte(text)},
			{Type: eif.Meta, Content: metadata}, {Type: eif.Ramdisk, Content: boot},
			{Type: eif.Ramdisk, Content: app},
		})
		content, err := io.ReadAll(io.NewSectionReader(in, 0, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		put(name, content)
	}
	odd := hostile + "/" // a directory
	tree := func(text string) []byte {
		return enclaves.CPIO(enclaves.Dir("rootfs"), enclaves.Dir("rootfs/"+odd),
			enclaves.File("rootfs/"+odd+"x", text),
			enclaves.Symlink("rootfs/l"+hostile, text), enclaves.File(hostile, ""))
	}
	boot := enclaves.CPIO(enclaves.File("init", hostile))
	write("a.eif", hostile, boot, tree(hostile))
	write("b.eif", hostile+"2", boot, tree(hostile+"2"))
	write("orphan.eif", hostile, boot, enclaves.CPIO(enclaves.File("rootfs/"+hostile, "")))
	write("zipped.eif", hostile, boot, []byte(hostile))

	key, certificate := enclaves.Certificate(t, hostile, time.Now())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put("hostile.pem", certificate)
	put("hostile.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	root, err := devca.New()
	if err != nil {
		t.Fatal(err)
	}
	module := emulated.New(emulated.Config{ID: hostile, Chain: root.Identity("i-1234567890abcdef0",
		hostile).Chain})
	client := nsm.Module{Exchange: func(request []byte) ([]byte, error) {
		return module.Answer(request), nil
	}}
	document, err := client.Attest([]byte(hostile), []byte(hostile), []byte(hostile))
	if err != nil {
		t.Fatal(err)
	}
	put("document", document)
	put("root.pem", root.PEM())
	put("text", []byte(hostile))

	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/v2/" {
			return
		}
		w.WriteHeader(http.StatusForbidden)
		json.NewEncoder(w).Encode(map[string]any{
			"errors": []map[string]any{{"code": "DENIED", "message": hostile, "detail": hostile}},
		})
	}))
	defer registry.Close()
	image := strings.TrimPrefix(registry.URL, "http://") + "/image:1"

	e := func(name string) string { return f.path(name) }
	shown := 0
	for _, args := range [][]string{
		{"eif", "describe", e("a.eif")}, {"eif", "verify", e("a.eif")}, {"eif", "verify", e("a.eif"),
			"--json"},
		{"eif", "sign", e("a.eif"), "--signing-certificate", e("hostile.pem"), "--private-key",
			e("hostile.key")},
		{"eif", "describe", e("a.eif")}, {"eif", "verify", e("a.eif")},
		{"eif", "verify", e("a.eif"), "--signing-certificate", e("cert.pem")},
		{"eif", "diff", e("a.eif"), e("b.eif")}, {"eif", "diff", e("a.eif"), e("b.eif"), "--json"},
		{"eif", "diff", e("a.eif"), e("orphan.eif")}, {"eif", "diff", e("a.eif"), e("zipped.eif")},
		{"eif", "extract", e("a.eif"), "--list"}, {"eif", "extract", e("orphan.eif"), "--list"},
		{"eif", "extract", e("a.eif"), "--output", e("parts")},
		{"eif", "extract", e("a.eif"), "--output", e("tree"), "--unpack"},
		{"eif", "verify", e("orphan.eif")}, {"eif", "verify", e("zipped.eif")},
		{"eif", "describe", e("orphan.eif")},
		{"eif", "pcr", "--input", e("text")}, {"eif", "policy", e("a.eif")}, {"eif", "repair", e("a.eif")},
		{"eif", "check", e("a.eif")},
		{"eif", "describe", e("text")}, {"eif", "build", "--image", image, "--blobs", e("blobs"), "--output",
			e("o.eif")},
		{"eif", "build", "--image", "archive:" + e("text"), "--blobs", e("blobs"), "--output", e("o.eif")},
		{"attest", "verify", e("document"), "--any-pcr", "--any-nonce", "--allow-debug"},
		{"attest", "verify", e("document"), "--any-pcr", "--any-nonce", "--allow-debug", "--root",
			e("root.pem")},
		{"attest", "verify", e("document"), "--any-pcr", "--nonce", "00", "--root", e("root.pem"), "--json"},
		{"attest", "verify", e("text"), "--any-pcr", "--any-nonce"},
		{"run", e("text")}, {"verify", e("parts")}, {"nothing" + hostile}, {"eif", "describe", e(hostile)},
		{"eif", "verify", e("a.eif"), "--pcr0", hostile}, {"build", hostile},
	} {
		shown += checkHostile(t, args)
	}
	if shown < 100 {
		t.Errorf("the commands printed hostile text %d times, which shows little", shown)
	}
}

// checkHostile runs neb, and checks that nothing that it prints makes a terminal do something, or looks like
// a line of neb's own. It returns how often it printed the hostile text.
func checkHostile(t *testing.T, args []string) (shown int) {
	t.Helper()
	_, out, errs := command(args...)
	for line := range strings.Lines(out + errs) {
		text := strings.TrimSuffix(line, "\n")
		if strings.IndexFunc(text, func(r rune) bool {
			return r != '\t' && (unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) ||
				r == unicode.ReplacementChar)
		}) >= 0 {
			t.Errorf("neb %q: printed %q", args, line)
		}
		if strings.HasPrefix(text, "FORGED") || strings.HasPrefix(text, "neb: FORGED") {
			t.Errorf("neb %q: a line that is not neb's: %q", args, line)
		}
		shown += strings.Count(text, "FORGED")
	}
	return shown
}

// TestHostileNeighbours gives commands that read the store, mirrors, remotes and files of the user a hostile
// value in each: names of files in the store, of trusted keys and directories, answers of a mirror and of a
// registry.
func TestHostileNeighbours(t *testing.T) {
	dir := t.TempDir()
	e := func(name string) string { return filepath.Join(dir, name) }
	put := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(e(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(e(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", e("config"+hostile))
	put("config"+hostile+"/go/telemetry/mode", "off") // the go command would write there after it has ended
	store := "store" + hostile
	t.Setenv("NEB_CACHE", e(store))
	for _, sub := range []string{"downloads", "logs", "outputs", "partial", "tmp", "other" + hostile} {
		put(filepath.Join(store, sub, hostile), hostile)
	}
	key, certificate := enclaves.Certificate(t, hostile, time.Now())
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	put("key.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	put("certificate", string(certificate))
	put("text", hostile)
	quoted, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(quoted)
	put("policy", `{"Version":"2012-10-17","Statement":[{"Sid":`+text+`,"Effect":`+text+`}]}`)
	put("fields", `{`+text+`:1}`)
	put("neb.lock", strings.Replace(string(neb.LockFile), `"name":"linux-source-6.12"`, `"name":`+text, 1))
	put("good.lock", string(neb.LockFile))
	put("manifest/manifest.json", `{`+text+`:`+text+`}`)

	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":%s,"detail":%s}]}`, text, text)
	}))
	defer answers.Close()
	remote := strings.TrimPrefix(answers.URL, "http://") + "/neb"
	archives := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// the only way to a reason of one's own
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			fmt.Fprint(c, "HTTP/1.1 403 FORGED\x1b[2J\u009b31m\u202e\r\nContent-Length: 0\r\n\r\n")
			c.Close()
		}
	}))
	defer archives.Close()
	t.Setenv("NEB_MIRROR", archives.URL)
	t.Setenv("GOPROXY", "off")

	l, err := net.Listen("unix", e("net.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, `{"enclaves":[{"cid":16,"refused":{%s:1},"last_refused":%s}],"published":[%s]}`, text, text,
				text)
			c.Close()
		}
	}()

	for _, test := range []struct {
		args  []string
		quiet bool // it says nothing of what is hostile
	}{
		{[]string{"cache", "ls"}, false}, {[]string{"cache", "ls", "--json"}, false},
		{[]string{"cache", "prune", "--all", "--dry-run"}, false},
		{[]string{"cache", "prune", "--older-than", hostile}, false},
		{[]string{"cache", "pull", "init", "--remote", remote}, false},
		{[]string{"cache", "ls", "--remote", remote}, false},
		{[]string{"cache", "ls", "--remote", hostile}, false},
		{[]string{"trust", "add", hostile, e("key.pub")}, true}, {[]string{"trust", "ls"}, false},
		{[]string{"trust", "ls", "--json"}, false}, {[]string{"trust", "add", hostile, e("key.pub")}, false},
		{[]string{"trust", "add", "a", e("text"), "--expires", hostile}, false},
		{[]string{"trust", "add", "a", e("certificate")}, true},
		{[]string{"trust", "rm", "no" + hostile}, false}, {[]string{"trust", "report", "--remote", remote},
			false},
		{[]string{"attest", "ca", "init"}, false}, {[]string{"attest", "ca", "init"}, false},
		{[]string{"attest", "ca", "show"}, false}, {[]string{"attest", "ca", "show", e(hostile)}, false},
		{[]string{"update", "kernel", "--lock", e("neb.lock"), "--mirror-only"}, false},
		{[]string{"update", "kernel", "--lock", e("good.lock"), "--mirror-only"}, false},
		{[]string{"update", hostile}, false}, {[]string{"update", "--lock", e("fields")}, false},
		{[]string{"update", "--lock", e(hostile), "kernel"}, false},
		{[]string{"release", hostile}, false}, {[]string{"release", "1.0.0", "-o", e(store)}, false},
		{[]string{"verify", e("manifest")}, true}, {[]string{"verify", e(hostile)}, false},
		{[]string{"verify", "--release", e(hostile)}, false},
		{[]string{"kms", "create-key", e("keys"), "--policy", e("policy")}, false},
		{[]string{"kms", "create-key", e("fields")}, true}, {[]string{"kms", "create-key", e("text")}, true},
		{[]string{"kms", "create-key", e("keys"), "--principal", hostile}, false},
		{[]string{"kms", "put-key-policy", e("keys"), "--key", hostile, "--policy", e("policy")}, false},
		{[]string{"kms", "serve", "--listen", hostile}, false},
		{[]string{"net", "status", "--socket", e("net.sock")}, false},
		{[]string{"net", "status", "--socket", e("net.sock"), "--json"}, false},
		{[]string{"net", "status", "--socket", e(hostile)}, false},
		{[]string{"net", "serve", "--listen", "unix:" + e("l"), "--socket", e("s"), "--publish", hostile},
			false},
		{[]string{"net", "serve", "--listen", hostile}, false},
	} {
		if shown := checkHostile(t, test.args); shown == 0 && !test.quiet {
			t.Errorf("neb %q: does not show the hostile text", test.args)
		}
	}
}
