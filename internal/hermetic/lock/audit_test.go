package lock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// result is an entry as reproduce.debian.net serves it.
const result = `{"name":%q,"version":%q,"status":%q,"distro":"debian","suite":"trixie","architecture":%q,
"artifact_url":"https://mirror.example.org/pool/main/x.deb","build_id":12,"built_at":"2026-10-01T12:00:00",
"has_diffoscope":false,"has_attestation":true}`

func TestAudit(t *testing.T) {
	l, err := ParseFile("../../../neb.lock")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c, d := l.Packages[0], l.Packages[1], l.Packages[2], l.Packages[3]
	entry := func(f File, status string) string {
		return fmt.Sprintf(result, f.Name, f.Version, status, f.Arch)
	}
	older, other := b.File, c.File
	older.Version, other.Arch = "0.1", "riscv64"
	list, err := l.Audit(
		file(t, "["+strings.Join([]string{entry(a.File, "GOOD"), entry(older, "GOOD"), entry(other, "GOOD"),
			entry(d.File, "BAD"), `{"name":"no-such-package","status":"UNKWN"}`}, ",\n")+"]"),
		file(t, "["+entry(l.Kernel, "UNKWN")+","+entry(d.File, "GOOD")+"]\n"), file(t, "[]"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]RebuildState{}
	for _, r := range list {
		if r.Name == "golang.org/toolchain" {
			t.Error("the Go toolchain is not a Debian package")
		}
		if key := r.Name + r.Version + r.Arch; found[key] == "" {
			found[key] = r.State
		} else {
			t.Errorf("%s is there twice", key)
		}
	}
	for name, want := range map[*File]RebuildState{&a.File: Reproduced, &b.File: Unknown, &c.File: Unknown,
		&d.File: Differs, &l.Kernel: Unknown} {
		if state := found[name.Name+name.Version+name.Arch]; state != want {
			t.Errorf("%s %s: state %q, expected %q", name.Name, name.Arch, state, want)
		}
	}
	if len(list) < len(l.Packages) {
		t.Errorf("%d packages, expected at least %d", len(list), len(l.Packages))
	}
}

func TestAuditRejects(t *testing.T) {
	l := new(Lock)
	for name, text := range map[string]string{
		"no list":                `{"name":"a"}`,
		"nothing":                "",
		"another status":         `[{"name":"a","status":"good"}]`,
		"truncated":              `[{"name":"a","status":"GOOD"}`,
		"no objects":             `["a"]`,
		"a result of 2 MiB":      `[{"status":"GOOD","name":"` + strings.Repeat("a", 2*maxResult) + `"}]`,
		"2 MiB before the list":  strings.Repeat(" ", 2*maxResult) + "[]",
		"2 MiB between results":  `[{"status":"GOOD"},` + strings.Repeat(" ", 2*maxResult) + `{"status":"GOOD"}]`,
		"2 MiB after the result": `[{"status":"GOOD"}` + strings.Repeat(" ", 2*maxResult) + "]",
	} {
		path := file(t, text)
		if _, err := l.Audit(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, expected one with the file's name", name, err)
		}
	}
	long := "[" + strings.Repeat(`{"name":"a","status":"GOOD"},`, maxResult/10) + `{"name":"b","status":"BAD"}]`
	if _, err := l.Audit(file(t, long)); err != nil {
		t.Errorf("a list of %d bytes: %v", len(long), err)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
