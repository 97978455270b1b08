package cli

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
	"github.com/nitro-enclaves-bootstrap/neb/internal/pack"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// command runs neb and returns its status and what it printed.
func command(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = Main(args, &out, &errs)
	return status, out.String(), errs.String()
}

// eifFiles are a directory with blobs that look real, a tree, and a key with its certificate.
type eifFiles struct{ dir string }

func (f eifFiles) path(name string) string { return filepath.Join(f.dir, name) }

func newEIFFiles(t *testing.T) eifFiles {
	t.Helper()
	f := eifFiles{t.TempDir()}
	kernel := make([]byte, 4096)
	copy(kernel[0x1fe:], "\x55\xaa")
	copy(kernel[0x202:], "HdrS")
	kernel[0x211] = 1
	binary.LittleEndian.PutUint16(kernel[0x20e:], 0x300)
	copy(kernel[0x500:], "6.12.117 (build@neb)\x00")
	// An init with a note of what it can do.
	note := append([]byte("Go\x00\x00"+contract.Note), make([]byte, -len(contract.Note)&3)...)
	sizes := []uint32{4, uint32(len(contract.Note)), 4} // of owner and text; type
	var program bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
			Ehsize: 64, Phoff: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 64 + 56, Filesz: uint64(12 + len(note))},
		sizes, note,
	} {
		if err := binary.Write(&program, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}

	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tester"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	template.NotAfter = time.Now().Add(-time.Minute)
	expired, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var tree bytes.Buffer
	w := tar.NewWriter(&tree)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755,
		Size: int64(program.Len())}); err != nil {
		t.Fatal(err)
	}
	w.Write(program.Bytes())
	w.Close()
	for name, content := range map[string][]byte{
		"blobs/bzImage":        kernel,
		"blobs/bzImage.config": []byte("#\n#\n# Linux/x86_64 6.12.117 Kernel Configuration\n"),
		"blobs/cmdline":        []byte("console=ttyS0\n"),
		"blobs/init":           program.Bytes(),
		"tree.tar":             tree.Bytes(),
		"cert.pem":             pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"expired.pem":          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: expired}),
		"key.pem":              pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"custom.json":          []byte(`{"Team":"x"}`),
		"large.json":           []byte(`{"x":"` + strings.Repeat("x", 4096) + `"}`),
		"list.json":            []byte(`[1]`),
	} {
		if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// build makes an EIF and returns its name and its registers.
func (f eifFiles) build(t *testing.T, name string, more ...string) (string, map[string]string) {
	t.Helper()
	args := append([]string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64", "--blobs",
		f.path("blobs"), "--nsm", "", "--output", f.path(name)}, more...)
	status, out, errs := command(args...)
	if status != 0 {
		t.Fatalf("%v: status %d: %s", args, status, errs)
	}
	var info struct{ Measurements map[string]string }
	if err := json.Unmarshal([]byte(out), &info); err != nil ||
		info.Measurements["HashAlgorithm"] != "Sha512_48 { .. }" {
		t.Fatalf("it prints %s (%v)", out, err)
	}
	return f.path(name), info.Measurements
}

func TestEIFCommands(t *testing.T) {
	f := newEIFFiles(t)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	a, pcrs := f.build(t, "a.eif", "--cmd", "/hello", "--name", "n", "--version", "v", "--metadata",
		f.path("custom.json"))
	// nitro-cli's names for the same; --json changes nothing.
	b := f.path("b.eif")
	if status, _, errs := command("eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64",
		"--blobs", f.path("blobs"), "--nsm=", "--output-file", b,
		"--image_name", "n", "--image_version", "v", "--metadata", f.path("custom.json"), "--cmd", "/hello",
		"--json"); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if x, y := readFile(t, a), readFile(t, b); !bytes.Equal(x, y) {
		t.Error("nitro-cli's names make another file")
	}
	signed, signedPCRs := f.build(t, "s.eif", "--cmd", "/hello", "--signing-certificate", f.path("cert.pem"),
		"--private-key", f.path("key.pem"))
	other, _ := f.build(t, "o.eif", "--entrypoint", "/hello", "--cmd", "-v", "--env", "A=b", "--workdir",
		"/srv", "--user", "7", "--cmdline", "quiet")
	if signedPCRs["PCR8"] == "" || pcrs["PCR8"] != "" {
		t.Errorf("PCR8 %q and %q", signedPCRs["PCR8"], pcrs["PCR8"])
	}
	broken := f.path("broken.eif")
	damaged := readFile(t, a)
	damaged[len(damaged)-1] ^= 1
	if err := os.WriteFile(broken, damaged, 0o644); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(f.path("empty"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	inner := sha512.Sum384(nil)
	outer := sha512.Sum384(append(make([]byte, 48), inner[:]...))
	emptyPCR := hex.EncodeToString(outer[:])

	const role = "arn:aws:iam::123456789012:role/Webserver"
	key := " --private-key " + f.path("key.pem") + " --signing-certificate " + f.path("cert.pem")
	expired := " --private-key " + f.path("key.pem") + " --signing-certificate " + f.path("expired.pem")
	build := "eif build --rootfs " + f.path("tree.tar") + " --arch x86_64 --blobs " + f.path("blobs") +
		" --nsm="
	for _, test := range []struct {
		args   string
		status int
		out    string // in standard output
		err    string // in standard error
	}{
		{"eif describe " + a, 0, `"CheckCRC": true`, ""},
		{"eif describe " + a, 0, `"Team": "x"`, ""},
		{"eif describe " + broken, 0, `"CheckCRC": false`, ""},
		{"eif describe " + f.path("tree.tar"), 1, "", "begins with"},
		{"eif describe " + f.path("nothing"), 1, "", "no such file"},
		{"eif describe " + f.dir, 1, "", "is not a regular file"},
		{"eif describe", 2, "", "accepts 1 arg"},

		{"eif verify " + a, 0, ": unsigned", ""},
		{"eif verify " + signed, 0, ": signer-unchecked", ""},
		{"eif verify " + signed + " --signing-certificate " + f.path("cert.pem"), 0, ": verified", ""},
		{"eif verify " + a + " --pcr0 " + pcrs["PCR0"], 0, ": verified", ""},
		{"eif verify " + a + " --pcr0 " + strings.ToUpper(pcrs["PCR0"]), 0, ": verified", ""},
		{"eif verify " + a + " --pcr0 " + pcrs["PCR1"], 1, "PCR0: expected ", ""},
		{"eif verify " + a + " --pcr1 " + pcrs["PCR1"] + " --pcr2 " + pcrs["PCR2"], 0, ": partial", ""},
		{"eif verify " + a + " --pcr0 " + pcrs["PCR0"] + " --pcr2 " + pcrs["PCR1"], 1, "PCR2: expected ", ""},
		{"eif verify " + a + " --pcr8 " + signedPCRs["PCR8"], 1, "found no signature", ""},
		{"eif verify " + signed + " --at 2001-01-01T00:00:00Z", 1, "valid from", ""},
		{"eif verify " + broken + " --json", 1, `"Code": "checksum"`, ""},
		{"eif verify " + a + " --pcr0 123", 2, "", "--pcr0"},
		{"eif verify " + a + " --at yesterday", 2, "", "--at"},

		{"eif diff " + a + " " + b, 0, "", ""},
		{"eif diff " + a + " " + other, 1, `cmdline: "console=ttyS0" and "quiet" (PCR0, PCR1)`, ""},
		{"eif diff " + a + " " + other + " --json", 1, `"Section":"cmdline"`, ""},
		{"eif diff " + a, 2, "", "accepts 2 arg"},

		{"eif extract " + a + " --list", 0, " rootfs/hello\n", ""},
		{"eif extract " + a + " --output " + f.path("parts") + " --unpack", 0, "parts/ramdisk-1", ""},
		{"eif extract " + a, 2, "", "--output or --list is required"},

		{"eif pcr --role-arn " + role, 0,
			`"PCR3": "78fce75db17cd4e0a3fb8dad3ad128ca5e77edbb2b2c7f75329dccd99aa5f6ef4fc1f1a452e315b9e98f9e312e6921e6"`, ""},
		{"eif pcr --signing-certificate " + f.path("cert.pem"), 0, signedPCRs["PCR8"], ""},
		{"eif pcr --instance-id i-0123456789abcdef0", 0,
			`"PCR4": "d6432900ac1c343cb40286898792c55e962aef0cc35c4910c0c286145b51af19e782cb21cc31a042671d7dfbd398251c"`, ""},
		{"eif pcr --input " + f.path("empty"), 0, `"PCR": "` + emptyPCR + `"`, ""},
		{"eif pcr --role-arn x", 2, "", "ARN"},
		{"eif pcr", 2, "", "is required"},

		{"eif policy " + a, 0, `"kms:RecipientAttestation:PCR0": "` + pcrs["PCR0"] + `"`, ""},
		{"eif policy " + a + " --pcr 0 --role-arn " + role, 0, `"kms:RecipientAttestation:PCR3": "78fce75d`,
			""},
		{"eif policy " + a + " --pcr 1 --pcr 2", 1, "", "neither PCR0 nor PCR8"},
		{"eif policy " + a + " --pcr 8", 1, "", "no signature"},
		{"eif policy " + broken, 1, "", "checksum"},

		{"eif sign " + a, 2, "", "--signing-certificate and --private-key are required"},
		{"eif sign " + a + " --private-key " + f.path("key.pem"), 2, "",
			"--private-key needs --signing-certificate"},
		{"eif sign " + a + " --private-key " + f.path("cert.pem") + " --signing-certificate " +
			f.path("cert.pem"), 1, "", "expected a key in PEM"},
		{"eif sign " + broken + key, 1, "", "checksum"},
		{"eif sign " + b + key, 0, signedPCRs["PCR8"], ""},
		{"eif verify " + b + " --pcr8 " + signedPCRs["PCR8"], 0, ": verified", ""},
		{"eif sign " + b + expired, 1, "", "is valid from"},
		{"eif policy " + b + " --pcr 8", 0, signedPCRs["PCR8"], ""},
		{"eif sign " + b + expired + " --allow-expired", 0, "PCR8", ""},
		{"eif policy " + b + " --pcr 8", 0, "PCR8",
			"warning: " + b + ": the signing certificate is valid from"},
		{"eif pcr --signing-certificate " + f.path("expired.pem"), 0, "PCR8",
			"expired.pem: the signing certificate is valid from"},

		{"eif build --output x", 2, "", "exactly one of --image, --docker-uri, --rootfs is required"},
		{"eif build --rootfs x --image y --output x", 2, "",
			"exactly one of --image, --docker-uri, --rootfs is required"},
		{"eif build --rootfs x", 2, "", "--output is required"},
		{"eif build --rootfs x --output y --arch mips", 2, "",
			`invalid --arch "mips": expected x86_64 or aarch64`},
		{"eif build --rootfs x --output y --compat linuxkit", 2, "",
			`invalid --compat "linuxkit": expected nitro-cli`},
		{"eif build --rootfs x --output y --metadata " + f.path("large.json"), 1, "", "4096 bytes"},
		{"eif build --rootfs x --output y --metadata " + f.path("list.json"), 1, "", "JSON object"},
		{build + " --output " + f.path("none.eif"), 1, "", "neither an ENTRYPOINT nor a CMD"},
		{build + " --cmd x --output " + f.path("no/such/directory"), 1, "", "there is no directory"},
	} {
		status, out, errs := command(strings.Fields(test.args)...)
		if status != test.status || !strings.Contains(out, test.out) || !strings.Contains(errs, test.err) {
			t.Errorf("neb %s: status %d, want %d;\nprinted %s\nwant %q;\nsaid %s\nwant %q", test.args, status,
				test.status, out, test.out, errs, test.err)
		}
	}
	if _, err := os.Stat(f.path("none.eif")); err == nil {
		t.Error("a build that failed left a file")
	}
	if left, _ := filepath.Glob(f.path(".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestEmptyFlags gives each flag an empty value, as a shell does whose variable is not set. None may pass for
// one that was not given.
func TestEmptyFlags(t *testing.T) {
	f := newEIFFiles(t)
	a, _ := f.build(t, "a.eif", "--cmd", "/hello")
	says := map[string]bool{"nsm": true, "source": true, "workdir": true, "user": true, "stop-signal": true}
	tried := 0
	for _, c := range []struct {
		cmd  *cobra.Command
		args []string
	}{
		{newEIFBuildCommand(streams{}), []string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch",
			"x86_64", "--blobs", f.path("blobs"), "--nsm=", "--cmd", "/hello", "--output", f.path("e.eif")}},
		{newEIFVerifyCommand(streams{}), []string{"eif", "verify", a}},
		{newEIFExtractCommand(streams{}), []string{"eif", "extract", a}},
		{newEIFSignCommand(streams{}), []string{"eif", "sign", a}},
		{newEIFPCRCommand(streams{}), []string{"eif", "pcr", "--input", a}},
		{newEIFPolicyCommand(streams{}), []string{"eif", "policy", a}},
		{newAttestVerifyCommand(streams{}), []string{"attest", "verify", a}},
	} {
		c.cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Value.Type() != "string" {
				return
			}
			tried++
			args := append(slices.Clone(c.args), "--"+flag.Name, "")
			status, _, errs := command(args...)
			if want := "--" + flag.Name + " is empty"; !says[flag.Name] &&
				(status != 2 || !strings.Contains(errs, want)) || says[flag.Name] && status != 0 {
				t.Errorf("neb %q: status %d; said %s", args, status, errs)
			}
		})
	}
	if tried < 60 {
		t.Errorf("%d flags were tried", tried)
	}
}

// TestEIFMistakes makes mistakes that cost what is there, or that have to be found before anything is built:
// the store is empty, and nothing is fetched.
func TestEIFMistakes(t *testing.T) {
	f := newEIFFiles(t)
	t.Setenv("NEB_CACHE", filepath.Join(t.TempDir(), "cache"))
	if err := errors.Join(os.Mkdir(f.path("tree"), 0o755), os.Symlink("tree", f.path("link")),
		os.Symlink("tree/app.eif", f.path("into")), os.WriteFile(f.path("empty.tar"), nil, 0o644),
		os.WriteFile(f.path("huge"), nil, 0o644),
		os.Truncate(f.path("huge"), 2<<20)); err != nil {
		t.Fatal(err)
	}
	document := f.path("cert.pem")
	for _, test := range []struct {
		args   string // @ stands for the directory
		status int
		want   string
		kept   string // a file that must stay as it is
	}{
		{"eif build --rootfs @/tree --offline --cmd x -o @/tree/app.eif", 2, "is inside --rootfs @/tree", ""},
		{"eif build --rootfs @/tree --offline --cmd x -o @/link/app.eif", 2, "is inside --rootfs @/tree", ""},
		{"eif build --rootfs @/tree.tar --offline --cmd x -o @/tree.tar", 2,
			"would replace the input @/tree.tar", "tree.tar"},
		{"eif build --rootfs @/tree.tar --offline --cmd x --signing-certificate @/cert.pem --private-key " +
			"@/key.pem -o @/key.pem", 2, "would replace the input @/key.pem", "key.pem"},
		{"eif build --rootfs @/tree.tar --arch x86_64 --blobs @/blobs --nsm= --cmd x -o @/blobs/bzImage", 2,
			"would replace the input @/blobs/bzImage", "blobs/bzImage"},
		{"eif build --rootfs @/tree --offline --cmd x -o @/into", 2, "is inside --rootfs @/tree", ""},
		{"eif build --image docker-archive:@/tree.tar:name --offline -o @/tree.tar", 2,
			"would replace the input @/tree.tar", "tree.tar"},
		{"eif build --rootfs @/tree.tar --offline --cmd x --kernel @/blobs/bzImage -o @/blobs/bzImage.config",
			2, "would replace the input @/blobs/bzImage.config", "blobs/bzImage.config"},
		{"eif build --rootfs @/none --offline --cmd x -o @/x.eif", 1, "--rootfs: stat @/none: no such file",
			""},
		{"eif build --rootfs @/tree.tar --offline --init @/none --cmd x -o @/x.eif", 1, "--init: stat @/none",
			""},
		{"eif build --rootfs @/tree.tar --offline --cmd x -o @/none/x.eif", 1, "there is no directory @/none",
			""},
		{"eif build --rootfs @/tree.tar --offline --cmd x --rootfs-format zip -o @/x.eif", 1,
			`root format "zip": expected cpio or erofs`, ""},
		{"eif build --rootfs @/tree.tar --offline --cmd x --stop-signal FOO -o @/x.eif", 1, "StopSignal", ""},
		{"eif build --rootfs @/tree.tar --offline --cmd x --exit-report 9000 -o @/x.eif", 1,
			"ExitReport: port 9000 is reserved for the heartbeat", ""},
		{"eif build --image docker-archive:@/none --offline -o @/x.eif", 1, "@/none: no such file", ""},
		{"eif build --rootfs @/tree.tar --offline --cmd x -o @/x.eif", 1,
			"are missing, and --offline forbids downloads", ""}, // all else being right
		{"eif build --rootfs @/empty.tar --arch x86_64 --blobs @/blobs --nsm= --cmd x -o @/x.eif", 1,
			"@/empty.tar: found an empty file, expected a tar archive", ""},
		{"eif build --rootfs @/tree.tar --arch x86_64 --blobs @/blobs --nsm= --cmd x -o /dev/stdout", 1,
			"/dev/stdout is an open file", ""},
		{"eif build --rootfs @/tree.tar --offline --cmd x --signing-certificate @/huge --private-key " +
			"@/key.pem -o @/x.eif", 1, "@/huge: file is larger than 1048576 bytes", ""},
		{"attest verify " + document + " --public-key @@/key.pem", 1,
			"--public-key: @/key.pem: expected a public key or certificate, found PRIVATE KEY", ""},
		{"attest verify " + document + " --root @/key.pem", 1,
			"@/key.pem: expected a public key or certificate, found PRIVATE KEY", ""},
	} {
		args := strings.Fields(strings.ReplaceAll(test.args, "@/", f.dir+"/"))
		var before []byte
		if test.kept != "" {
			before = readFile(t, f.path(test.kept))
		}
		status, out, errs := command(args...)
		if want := strings.ReplaceAll(test.want, "@/", f.dir+"/"); status != test.status ||
			!strings.Contains(errs, want) {
			t.Errorf("neb %s: status %d, expected %d and %q; said %s%s", test.args, status, test.status, want,
				out, errs)
		}
		if test.kept != "" && !bytes.Equal(before, readFile(t, f.path(test.kept))) {
			t.Errorf("neb %s: %s is another file now", test.args, test.kept)
		}
	}
}

// TestMissingBlobs: neb builds only the blobs that no flag names.
func TestMissingBlobs(t *testing.T) {
	for _, test := range []struct {
		o    eifBuild
		want string
	}{
		{eifBuild{}, "kernel init"},
		{eifBuild{own: pack.Blobs{Kernel: "k"}}, "init"},
		{eifBuild{own: pack.Blobs{Init: "i"}}, "kernel"},
		{eifBuild{own: pack.Blobs{Kernel: "k", Init: "i"}}, ""},
	} {
		if got := strings.Join(test.o.unnamed(), " "); got != test.want {
			t.Errorf("%+v: neb builds %q, expected %q", test.o.own, got, test.want)
		}
	}
	f := newEIFFiles(t)
	status, _, errs := command("eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64", "--kernel",
		f.path("blobs/bzImage"), "--init", f.path("blobs/init"),
		"--cmd", "/hello", "--output", f.path("own.eif"))
	if status != 0 || !bytes.Contains(readFile(t, f.path("own.eif")), []byte(kernel.Cmdline("x86_64"))) {
		t.Errorf("with a kernel and an init of its own: status %d: %s", status, errs)
	}
}

// TestNoEntrypoint clears an image's ENTRYPOINT.
func TestNoEntrypoint(t *testing.T) {
	f := newEIFFiles(t)
	path, _ := f.build(t, "cmd.eif", "--entrypoint", "", "--cmd", "/hello", "--cmd", "")
	if status, _, errs := command("eif", "extract", path, "--output", f.path("parts"),
		"--unpack"); status != 0 {
		t.Fatal(errs)
	}
	if d, err := contract.Decode(string(readFile(t, f.path("parts/1/neb/app")))); err != nil ||
		!slices.Equal(d.Command(), []string{"/hello", ""}) {
		t.Errorf("it starts %q (%v)", d.Command(), err)
	}
}

// TestDockerURI takes an image by one name from an engine and from a registry that have different ones.
func TestDockerURI(t *testing.T) {
	f := newEIFFiles(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	uri := strings.TrimPrefix(server.URL, "http://") + "/app:1"
	newImage := func(command string) v1.Image {
		img, err := mutate.ConfigFile(empty.Image,
			&v1.ConfigFile{Architecture: "amd64", OS: "linux", Config: v1.Config{Cmd: []string{command}},
				RootFS: v1.RootFS{Type: "layers"}})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	tag, err := name.NewTag(uri)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, newImage("/registry")); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := tarball.Write(tag, newImage("/engine"), &saved); err != nil {
		t.Fatal(err)
	}
	has := true
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !has:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such image"}`)
		case r.URL.Path == "/images/"+uri+"/json":
			fmt.Fprintf(w, `{"RepoTags":[%q]}`, uri)
		default:
			w.Write(saved.Bytes())
		}
	}))
	for _, name := range []string{"DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY"} {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_HOST", strings.Replace(engine.URL, "http", "tcp", 1))
	try := func(from, said, start string, flags ...string) {
		t.Helper()
		args := append([]string{"eif", "build", "--arch", "x86_64", "--blobs", f.path("blobs"), "--nsm=",
			"--allow", "command-missing", "--output", f.path("d.eif")}, flags...)
		status, _, errs := command(args...)
		if status != 0 || !strings.Contains(errs, said) {
			t.Errorf("%s: status %d: %s", from, status, errs)
		}
		if !bytes.Contains(readFile(t, f.path("d.eif")), []byte(start)) {
			t.Errorf("%s: the file does not start %s", from, start)
		}
	}
	try("an engine that has it", "", "/engine", "--docker-uri", uri)
	try("--image", "", "/registry", "--image", uri)
	has = false
	try("an engine that has it not", "the Docker engine has no such image", "/registry", "--docker-uri", uri)
	engine.Close()
	try("no engine", "no Docker engine answers at tcp://", "/registry", "--docker-uri", uri)
	try("no engine", "; using the image from its registry", "/registry", "--docker-uri", uri)
}

// TestEIFDescription sets every field of the description by its flag, and reads what was written.
func TestEIFDescription(t *testing.T) {
	f := newEIFFiles(t)
	path, _ := f.build(t, "all.eif", "--entrypoint", "/hello", "--cmd", "two\nlines", "--env", "A=b",
		"--workdir", "/srv", "--user", "7:8", "--stop-signal", "SIGINT",
		"--hostname", "vault", "--loopback=false", "--nsm-owner", "9", "--nsm-mode", "0660", "--exit-report",
		"9001", "--net", "--egress", "api.example.com:443", "--egress", "imds", "--ingress", "443",
		"--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--allow", "userns", "--no-new-privileges",
		"--log-port", "5000", "--modules-open")
	if status, _, errs := command("eif", "extract", path, "--output", f.path("parts"),
		"--unpack"); status != 0 {
		t.Fatal(errs)
	}
	got, err := contract.Decode(string(readFile(t, f.path("parts/1/neb/app"))))
	if err != nil {
		t.Fatal(err)
	}
	want := contract.Description{
		Entrypoint: []string{"/hello"}, Cmd: []string{"two\nlines"}, Env: []string{"A=b"}, WorkingDir: "/srv",
		User: "7:8", StopSignal: "SIGINT",
		Hostname: "vault", LoopbackDown: true, NSMOwner: "9", NSMMode: 0o660, ExitReport: 9001,
		Network: true, Egress: []string{"api.example.com:443", "imds"}, Ingress: []string{"443"},
		CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, Allow: []string{"userns"},
		NoNewPrivileges: true,
		LogPort:         5000, Complete: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the description is %+v, want %+v", got, want)
	}
	for _, record := range []string{"CapAdd=NET_ADMIN", "CapDrop=ALL", "Allow=userns", "LogPort=5000"} {
		if _, out, _ := command("eif", "describe", path); !strings.Contains(out, `"`+record+`"`) {
			t.Errorf("neb eif describe does not show %s: %s", record, out)
		}
	}
	// A field that is new needs a flag, and a place above.
	for i, v := 0, reflect.ValueOf(want); i < v.NumField(); i++ {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "ErofsParts" && name != "Pid1" {
			t.Errorf("this test does not set %s", name)
		}
	}
	modules, err := contract.DecodeModules(string(readFile(t, f.path("parts/0/neb/modules"))))
	if err != nil || !modules.Open {
		t.Errorf("the modules are %+v (%v)", modules, err)
	}

	for _, test := range []struct {
		flag   string
		status int
		err    string
	}{
		{"--nsm-mode=9", 2, "--nsm-mode"},
		{"--nsm-mode=0", 2, "from 0001 to 0777"},
		{"--nsm-mode=01777", 2, "from 0001 to 0777"},
		{"--nsm-owner=a:b:c", 1, "NSMOwner"},
		{"--egress=api.example.com", 1, "without Network: set --net"},
		{"--exit-report=4294967295", 1, "ExitReport"},
		{"--exit-report=4294967296", 2, "--exit-report"},
		{"--stop-signal=SIGNONE", 1, "StopSignal"},
		{"--hostname=a_b", 1, "Hostname"},
		{"--cap-add=NET", 1, "CapAdd"},
		{"--allow=kexec", 2, "--allow"},
		{"--log-port=9000", 1, "LogPort"},
		{"--pid1=no", 2, "--pid1"},
		{"--module=" + f.path("key.pem"), 1, "not a kernel module"},
	} {
		status, _, errs := command("eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64",
			"--blobs", f.path("blobs"), "--nsm=", "--cmd", "x", "--output", f.path("no.eif"), test.flag)
		if status != test.status || !strings.Contains(errs, test.err) {
			t.Errorf("%s: status %d, want %d; said %s, want %q", test.flag, status, test.status, errs,
				test.err)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
