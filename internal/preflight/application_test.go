package preflight

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// binary64 is an ELF file for the dynamic loader.
type binary64 struct {
	machine        elf.Machine // 0 is x86_64
	kind           elf.Type    // 0 is ET_DYN
	loader         string
	needed         []string
	rpath, runpath string
}

func (b binary64) String() string {
	if b.machine == 0 {
		b.machine = elf.EM_X86_64
	}
	if b.kind == 0 {
		b.kind = elf.ET_DYN
	}
	table := []byte{0}
	var dynamic []elf.Dyn64
	name := func(tag elf.DynTag, s string) {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(tag), Val: uint64(len(table))})
		table = append(append(table, s...), 0)
	}
	for _, n := range b.needed {
		name(elf.DT_NEEDED, n)
	}
	if b.rpath != "" {
		name(elf.DT_RPATH, b.rpath)
	}
	if b.runpath != "" {
		name(elf.DT_RUNPATH, b.runpath)
	}
	// Header, three program headers, the loader's name, the table of strings, the dynamic section.
	const address = 0x400000
	loaderAt := uint64(64 + 3*56)
	tableAt := loaderAt + uint64(len(b.loader)) + 1
	dynamicAt := tableAt + uint64(len(table))
	dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_STRTAB), Val: address + tableAt}, elf.Dyn64{})
	size := dynamicAt + uint64(16*len(dynamic))
	interp := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: loaderAt, Filesz: uint64(len(b.loader)) + 1}
	if b.loader == "" {
		interp.Type = uint32(elf.PT_NULL)
	}
	var out bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type:  uint16(b.kind), Machine: uint16(b.machine), Version: 1, Ehsize: 64, Phoff: 64,
			Phentsize: 56, Phnum: 3,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: address, Filesz: size},
		interp,
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynamicAt, Filesz: uint64(16 * len(dynamic))},
		append([]byte(b.loader), 0), table, dynamic,
	} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return out.String()
}

// files are a tree: content by path. A path that ends in / is a directory, content that begins with "-> " a
// symbolic link, and "0640 7:8 " before content sets mode and owner.
type files map[string]string

func (f files) root(t testing.TB) *image.Tree {
	t.Helper()
	tree := image.NewTree(t.TempDir(), image.Limits{})
	t.Cleanup(func() { tree.Close() })
	for name, content := range f {
		e := &image.Entry{Path: strings.Trim(name, "/"), Mode: initramfs.TypeFile | 0o755}
		if strings.HasSuffix(name, "/") {
			e.Mode = initramfs.TypeDir | 0o755
		}
		var mode, uid, gid uint32
		if n, _ := fmt.Sscanf(content, "%o %d:%d ", &mode, &uid, &gid); n == 3 {
			e.Mode = e.Mode&^0o7777 | mode
			e.UID, e.GID = uid, gid
			_, content, _ = strings.Cut(content, " ")
			_, content, _ = strings.Cut(content, " ")
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			e.Mode, e.Target, content = initramfs.TypeSymlink|0o777, target, ""
		}
		if err := tree.Put(e, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

const (
	glibc = "/lib64/ld-linux-x86-64.so.2"
	musl  = "/lib/ld-musl-x86_64.so.1"
)

var (
	static  = binary64{kind: elf.ET_EXEC}.String()
	library = binary64{}.String()
	sh      = files{"bin/sh": static}
)

func with(all ...files) files {
	sum := files{}
	for _, f := range all {
		for name, content := range f {
			sum[name] = content
		}
	}
	return sum
}

// needs is a program with glibc's loader.
func needs(libraries ...string) string { return binary64{loader: glibc, needed: libraries}.String() }

const users = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"

// TestApplication: each case is a tree and what starts in it; most failed at boot in reports from the field.
func TestApplication(t *testing.T) {
	run := func(words ...string) contract.Description { return contract.Description{Cmd: words} }
	loop := files{}
	for i := range 9 {
		loop[fmt.Sprintf("s%d", i)] = fmt.Sprintf("#!/s%d\n", i+1)
	}
	loop["s9"] = "#!/s0\n"
	for _, c := range []struct {
		name  string
		tree  files
		about contract.Description
		want  string // code and a part of the text, or "" for nothing
	}{
		{"a static program", files{"app": static}, run("/app"), ""},
		{"no such file", files{"app": static}, run("/myapp"),
			`command-missing "/myapp": the tree has no such file`},
		{"no such file for nobody", files{}, run("/app"), "command-missing"},
		{"along PATH", files{"opt/app": static}, contract.Description{Cmd: []string{"app"},
			Env: []string{"PATH=/bin:/opt"}}, ""},
		{"along the last PATH", files{"opt/app": static}, contract.Description{Cmd: []string{"app"},
			Env: []string{"PATH=/bin", "PATH=/opt"}}, ""},
		{"not along PATH", files{"opt/app": static}, run("app"), `command-missing "/usr/local/sbin/app"`},
		{"an empty PATH", files{"srv/app": static}, contract.Description{Cmd: []string{"app"},
			WorkingDir: "/srv",
			Env:        []string{"PATH="}}, ""},
		{"relative to WORKDIR", files{"srv/app": static}, contract.Description{Cmd: []string{"./app"},
			WorkingDir: "/srv"}, ""},
		{"relative to no WORKDIR", files{"srv/app": static}, run("./app"), "command-missing"},
		{"WORKDIR is a file", files{"srv": "x", "app": static}, contract.Description{Cmd: []string{"/app"},
			WorkingDir: "/srv"}, `workdir-file "/srv"`},
		{"WORKDIR is made", files{"app": static}, contract.Description{Cmd: []string{"/app"},
			WorkingDir: "/new"}, ""},
		{"an ENTRYPOINT with a CMD", files{"app": static}, contract.Description{Entrypoint: []string{"/app"},
			Cmd: []string{"/none"}}, ""},
		{"through links", files{"usr/bin/app": static, "bin": "-> usr/bin", "app": "-> bin/app"},
			run("/app"), ""},
		{"through .. of a link", files{"a/b/app": static, "l": "-> a/b", "app": "-> l/../b/app"},
			run("/app"), ""},
		{"a dangling link", files{"app": "-> bin/none"}, run("/app"),
			`command-missing "bin/none", which is not in`},
		{"a loop of links", files{"a": "-> b", "b": "-> a"}, run("/a"), "command-missing"},
		{"a directory", files{"app/": ""}, run("/app"), "command-permission it is a directory"},
		{"not executable", files{"app": "0644 0:0 " + static}, run("/app"), "command-permission mode 0644"},
		{"not executable along PATH", files{"bin/app": "0644 0:0 " + static, "usr/bin/app": static},
			contract.Description{Cmd: []string{"app"}, Env: []string{"PATH=/bin:/usr/bin"}}, ""},
		{"root of others' files", files{"app": "0100 7:7 " + static}, run("/app"), ""},
		{"for root only", files{"app": "0700 0:0 " + static}, contract.Description{Cmd: []string{"/app"},
			User: "1000"},
			"command-permission user 1000 may not execute it (mode 0700, owner 0:0)"},
		{"for the owner", files{"app": "0700 1000:0 " + static}, contract.Description{Cmd: []string{"/app"},
			User: "1000"}, ""},
		{"for the group", files{"app": "0710 0:5 " + static}, contract.Description{Cmd: []string{"/app"},
			User: "1000:5"}, ""},
		{"in a closed directory", files{"d/": "0700 0:0 ", "d/app": static}, contract.Description{
			Cmd: []string{"/d/app"}, User: "1000"}, `command-permission user 1000 may not search "/d"`},
		{"in a closed directory behind a link", files{"d/": "0700 0:0 ", "d/app": static, "app": "-> d/app"},
			contract.Description{Cmd: []string{"/app"}, User: "1000"}, `may not search "/d"`},
		{"below /proc", files{"proc/app": static}, run("/proc/app"), "command-missing init mounts"},

		{"a user by name", files{"app": static, "etc/passwd": users},
			contract.Description{Cmd: []string{"/app"},
				User: "app"}, ""},
		{"an unknown user", files{"app": static, "etc/passwd": users},
			contract.Description{Cmd: []string{"/app"},
				User: "appuser"}, `user-unknown USER "appuser": no such user`},
		{"an unknown group", files{"app": static, "etc/passwd": users},
			contract.Description{Cmd: []string{"/app"},
				User: "app:staff"}, "user-unknown no such group"},
		{"an unknown owner of /dev/nsm", files{"app": static}, contract.Description{Cmd: []string{"/app"},
			NSMOwner: "attest"}, "user-unknown --nsm-owner"},
		{"a variable without =", files{"app": static}, contract.Description{Cmd: []string{"/app"},
			Env: []string{"DEBUG"}},
			`env-malformed Env has "DEBUG"`},

		{"empty", files{"app": ""}, run("/app"), "command-format is empty"},
		{"text", files{"app": "hello\x1b[2J"}, run("/app"), `command-format found "hello\x1b[2J"`},
		{"a script", with(sh, files{"app": "#!/bin/sh\necho\n"}), run("/app"), ""},
		{"a script with spaces", with(sh, files{"app": "#! \t/bin/sh -e\n"}), run("/app"), ""},
		{"a script without a line end", with(sh, files{"app": "#!/bin/sh"}), run("/app"), ""},
		{"no shell", files{"app": "#!/bin/bash\n"}, run("/app"),
			`script-interpreter "/bin/bash" is not in the tree`},
		{"CRLF", with(sh, files{"app": "#!/bin/sh\r\necho\r\n"}), run("/app"), `script-crlf "#!/bin/sh\r"`},
		{"CRLF after env", with(sh, files{"app": "#!/bin/sh -e\r\n"}), run("/app"), "script-crlf"},
		{"names nothing", files{"app": "#!\n"}, run("/app"), "script-interpreter names no interpreter"},
		{"interpreter not executable", files{"app": "#!/bin/sh\n", "bin/sh": "0644 0:0 " + static},
			run("/app"),
			"script-interpreter mode 0644"},
		{"interpreter is a script", with(sh, files{"app": "#!/mid\n", "mid": "#!/bin/sh\n"}), run("/app"),
			""},
		{"interpreters in a loop", loop, run("/s0"), "script-interpreter more than 5 scripts"},
		{"interpreter is its own", files{"app": "#!/app\n"}, run("/app"), "script-interpreter more than 5"},
		{"env", files{"app": "#!/usr/bin/env python3\n", "usr/bin/env": static, "usr/bin/python3": static},
			run("/app"),
			""},
		{"env without the program", files{"app": "#!/usr/bin/env python3\n", "usr/bin/env": static},
			run("/app"),
			`script-interpreter env finds no "python3"`},
		{"env with an argument", files{"app": "#!/usr/bin/env python3 -u\n", "usr/bin/env": static,
			"usr/bin/python3": static}, run("/app"), `env finds no "python3 -u"`},
		{"env -S", files{"app": "#!/usr/bin/env -S A=b python3 -u\n", "usr/bin/env": static,
			"usr/bin/python3": static}, run("/app"), ""},
		{"interpreter of another machine", files{"app": "#!/bin/sh\n",
			"bin/sh": binary64{machine: elf.EM_AARCH64}.String()}, run("/app"), "command-arch EM_AARCH64"},

		{"another architecture", files{"app": binary64{machine: elf.EM_AARCH64}.String()}, run("/app"),
			`command-arch "/app" is for EM_AARCH64, the enclave is for EM_X86_64`},
		{"32 bits", files{"app": "\x7fELF\x01\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x03\x00" +
			strings.Repeat("\x00", 40)}, run("/app"), "command-arch EM_386"},
		{"big-endian", files{"app": "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16" +
			strings.Repeat("\x00", 40)}, run("/app"), "command-arch EM_S390"},
		{"an object file", files{"app": binary64{kind: elf.ET_REL}.String()}, run("/app"),
			"command-format ET_REL"},
		{"cut in its header", files{"app": static[:30]}, run("/app"), "command-format is truncated"},
		{"cut after its magic", files{"app": static[:4]}, run("/app"), "command-format is truncated"},
		{"cut in its program headers", files{"app": static[:100]}, run("/app"),
			"command-format before its program headers"},
		{"cut in a segment", files{"app": static[:len(static)-1]}, run("/app"),
			"command-format its segments end at byte"},

		{"no loader", files{"app": needs()}, run("/app"), `loader-missing "` + glibc + `"`},
		{"Alpine's program in Debian", files{"app": binary64{loader: musl}.String(),
			"lib64/ld-linux-x86-64.so.2": library},
			run("/app"), "loader-missing ld-musl"},
		{"loader of another machine", files{"app": needs(),
			glibc[1:]: binary64{machine: elf.EM_AARCH64}.String()},
			run("/app"), "loader-missing which is no loader for EM_X86_64"},
		{"loader is text", files{"app": needs(), glibc[1:]: "x"}, run("/app"), "loader-missing"},
		{"another loader", files{"app": binary64{loader: "/own/ld", needed: []string{"none.so"}}.String(),
			"own/ld": library}, run("/app"), ""},
		{"a library", files{"app": needs("libc.so.6"), glibc[1:]: library,
			"usr/lib/x86_64-linux-gnu/libc.so.6": library, "lib": "-> usr/lib"}, run("/app"), ""},
		{"no library", files{"app": needs("libssl.so.3"), glibc[1:]: library}, run("/app"),
			`library-missing "/app" needs "libssl.so.3", which the loader "` + glibc + `" does not find`},
		{"a library of a library", files{"app": needs("a.so"), glibc[1:]: library,
			"lib/a.so": binary64{needed: []string{"b.so"}}.String()}, run("/app"),
			`library-missing through "/lib/a.so", needs "b.so"`},
		{"libraries in a circle", files{"app": needs("a.so"), glibc[1:]: library,
			"lib/a.so": binary64{needed: []string{"b.so"}}.String(),
			"lib/b.so": binary64{needed: []string{"a.so", "ld-linux-x86-64.so.2"}}.String()}, run("/app"),
			""},
		{"a library for another machine", files{"app": needs("a.so"), glibc[1:]: library,
			"lib/a.so": binary64{machine: elf.EM_AARCH64}.String()}, run("/app"), "library-missing"},
		{"a library behind one for another machine", files{"app": needs("a.so"), glibc[1:]: library,
			"lib64/a.so": binary64{machine: elf.EM_AARCH64}.String(), "usr/lib/a.so": library}, run("/app"),
			""},
		{"LD_LIBRARY_PATH", files{"app": needs("a.so"), glibc[1:]: library, "opt/a.so": library},
			contract.Description{Cmd: []string{"/app"}, Env: []string{"LD_LIBRARY_PATH=/none:/opt"}}, ""},
		{"ld.so.conf", files{"app": needs("a.so"), glibc[1:]: library, "opt/x/a.so": library,
			"etc/ld.so.conf":             "# all\ninclude ld.so.conf.d/*.conf\n",
			"etc/ld.so.conf.d/x.conf":    "/opt/x\n",
			"etc/ld.so.conf.d/x.ignored": "/opt/y\n"}, run("/app"), ""},
		{"ld.so.conf that includes itself", files{"app": needs("a.so"), glibc[1:]: library,
			"etc/ld.so.conf": "include /etc/ld.so.conf\ninclude /etc/ld.so.conf\n"}, run("/app"),
			"library-missing"},
		{"ld.so.cache", files{"app": needs("a.so"), glibc[1:]: library, "opt/z/a.so": library,
			"etc/ld.so.cache": "glibc-ld.so.cache1.1\x00\x01a.so\x00/opt/z/a.so\x00"}, run("/app"), ""},
		{"ld.so.cache of a library that is gone", files{"app": needs("a.so"), glibc[1:]: library,
			"etc/ld.so.cache": "glibc-ld.so.cache1.1\x00a.so\x00/opt/z/a.so\x00"}, run("/app"),
			"library-missing"},
		{"RUNPATH with $ORIGIN", files{"opt/bin/app": binary64{loader: glibc, needed: []string{"a.so"},
			runpath: "$ORIGIN/../lib"}.String(), glibc[1:]: library, "opt/lib/a.so": library},
			run("/opt/bin/app"), ""},
		{"$ORIGIN behind a link", files{"opt/bin/app": binary64{loader: glibc, needed: []string{"a.so"},
			runpath: "${ORIGIN}/../lib"}.String(), glibc[1:]: library, "opt/lib/a.so": library,
			"app": "-> opt/bin/app"}, run("/app"), ""},
		{"RUNPATH is not inherited", files{"app": binary64{loader: glibc, needed: []string{"a.so"},
			runpath: "/opt"}.String(), glibc[1:]: library,
			"opt/a.so": binary64{needed: []string{"b.so"}}.String(), "opt/b.so": library}, run("/app"),
			"library-missing"},
		{"RPATH is inherited", files{"app": binary64{loader: glibc, needed: []string{"a.so"},
			rpath: "/opt"}.String(),
			glibc[1:]: library, "opt/a.so": binary64{needed: []string{"b.so"}}.String(), "opt/b.so": library},
			run("/app"), ""},
		{"RPATH in a circle", files{"app": binary64{loader: glibc, needed: []string{"a.so"},
			rpath: "/l"}.String(),
			glibc[1:]: library, "l": "-> m", "m": "-> l"}, run("/app"), "library-missing"},
		{"$LIB", files{"app": binary64{loader: glibc, needed: []string{"a.so"}, rpath: "/opt/$LIB"}.String(),
			glibc[1:]: library, "opt/lib64/a.so": library}, run("/app"), ""},
		{"a library by its path", files{"app": needs("/opt/a.so"), glibc[1:]: library, "opt/a.so": library},
			run("/app"),
			""},
		{"hwcaps", files{"app": needs("a.so"), glibc[1:]: library,
			"lib/glibc-hwcaps/x86-64-v3/a.so": library},
			run("/app"), ""},
		{"Nix", files{"nix/app": binary64{loader: "/nix/store/g/lib/ld-linux-x86-64.so.2",
			needed: []string{"libc.so.6"}}.String(),
			"nix/store/g/lib/ld-linux-x86-64.so.2": library, "nix/store/g/lib/libc.so.6": library},
			run("/nix/app"), ""},
		{"musl", files{"app": binary64{loader: musl, needed: []string{"libc.musl-x86_64.so.1",
			"libz.so.1"}}.String(),
			musl[1:]: library, "usr/lib/libz.so.1": library}, run("/app"), ""},
		{"musl without the library", files{"app": binary64{loader: musl,
			needed: []string{"libz.so.1"}}.String(),
			musl[1:]: library, "usr/lib/x86_64-linux-gnu/libz.so.1": library}, run("/app"),
			"library-missing"},
		{"musl's path file", files{"app": binary64{loader: musl, needed: []string{"libz.so.1"}}.String(),
			musl[1:]: library, "opt/libz.so.1": library, "etc/ld-musl-x86_64.path": "/none\n/opt\n"},
			run("/app"), ""},
		{"RPATH of musl's objects is inherited", files{"app": binary64{loader: musl, needed: []string{"a.so"},
			runpath: "/opt"}.String(), musl[1:]: library,
			"opt/a.so": binary64{needed: []string{"b.so"}}.String(),
			"opt/b.so": library}, run("/app"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := Application{Arch: arch.X86_64, Root: c.tree.root(t), About: c.about}
			expect(t, app.Check(), c.want)
		})
	}
}

// expect wants one finding with a code and a text, or none.
func expect(t *testing.T, found []Finding, want string) {
	t.Helper()
	if want == "" {
		if len(found) > 0 {
			t.Errorf("found %v, want nothing", found)
		}
		return
	}
	code, text, _ := strings.Cut(want, " ")
	if !strings.Contains(code, "-") { // the text alone
		code, text = "", want
	}
	if len(found) != 1 || code != "" && string(found[0].Code) != code || !strings.Contains(found[0].Text,
		text) {
		t.Errorf("found %v, want %q", found, want)
	}
	for _, f := range found {
		if strings.ContainsAny(f.Text, "\x1b\r\n") {
			t.Errorf("%q is not escaped", f.Text)
		}
	}
}

// TestReference checks applications by the rules of nitro-cli's init.
func TestReference(t *testing.T) {
	for _, c := range []struct {
		name    string
		tree    files
		command string
		want    string
	}{
		{"a script without #!", with(sh, files{"app": "echo hello\n"}), "/app", ""},
		{"the same without a shell", files{"app": "echo hello\n"}, "/app", "command-format no /bin/sh"},
		{"an empty file", with(sh, files{"app": ""}), "/app", "command-format is empty"},
		{"along its own path", files{"bin/app": static}, "app", ""},
		{"USER is ignored", files{"app": "0700 0:0 " + static}, "/app", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := Application{Arch: arch.X86_64, Root: c.tree.root(t), Reference: true,
				About: contract.Description{Cmd: []string{c.command}, User: "nobody"}}
			expect(t, app.Check(), c.want)
		})
	}
}

// TestFeatures: what the kernel lacks is named if its configuration is known.
func TestFeatures(t *testing.T) {
	const config = "#\nCONFIG_FUSE_FS=y\nCONFIG_WIREGUARD=m\n# CONFIG_NF_TABLES is not set\n"
	tree := files{"app": static, "usr/bin/fusermount3": static, "usr/bin/wg": static, "usr/sbin/nft": static}
	app := Application{Arch: arch.X86_64, Root: tree.root(t),
		About: contract.Description{Cmd: []string{"/app"}}}
	expect(t, app.Check(), "")
	app.Config = config
	found := app.Check()
	if len(found) != 2 || found[0].Code != KernelFeature || !strings.Contains(found[0].Text,
		"CONFIG_NF_TABLES") ||
		!strings.Contains(found[1].Text, "CONFIG_WIREGUARD") || found[0].Severity != Warning {
		t.Errorf("found %v", found)
	}
	old := files{"app": "\x7fELF\x01\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x03\x00" +
		strings.Repeat("\x00", 40)}
	app = Application{Arch: arch.X86_64, Root: old.root(t),
		About:  contract.Description{Cmd: []string{"/app"}},
		Config: "CONFIG_IA32_EMULATION=y\n"}
	expect(t, app.Check(), "")
}

func TestPID1(t *testing.T) {
	for _, c := range []struct {
		name string
		tree files
		want string
	}{
		{"static", files{"init": static}, ""},
		{"a script, as in kiwi's images", with(sh, files{"init": "#!/bin/sh\n"}), ""},
		{"dynamic with its libraries", files{"init": "-> lib/systemd", "lib/systemd": needs("libc.so.6"),
			glibc[1:]: library, "lib/libc.so.6": library}, ""},
		{"dynamic alone", files{"init": needs("libc.so.6")}, "needs the loader"},
		{"none", files{"bin/init": static}, `the ramdisks have no "/init"`},
		{"not executable", files{"init": "0644 0:0 " + static}, "mode 0644"},
		{"another machine", files{"init": binary64{machine: elf.EM_AARCH64}.String()}, "EM_AARCH64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := CheckPID1(c.tree.root(t), arch.X86_64, "/init", "")
			if c.want != "" && len(found) == 1 && found[0].Code != InitUnusable {
				t.Errorf("code %s", found[0].Code)
			}
			expect(t, found, c.want)
		})
	}
}
