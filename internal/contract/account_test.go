package contract

import (
	"reflect"
	"strings"
	"testing"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment
short:x
app:x:1000:1001:App:/home/app:/bin/false
nohome:x:1002:1002::
bad:x:none:1:::
again:x:1000:7::/again:
123:x:5:6::/n:
top:x:4294967294:1::/:
  blank:x:8:9::/b:/bin/sh 	
`

const groups = `root:x:0:
wheel:x:10:root,app
staff:x:50:other,app
app:x:1001:
apps:x:60:apps
123:x:61:
broken:x
#grp:x:70:app
`

func TestFindAccount(t *testing.T) {
	for spec, c := range map[string]struct {
		want Account
		err  string
	}{
		"":          {want: Account{Home: "/root", Groups: []uint32{10}}},
		"root":      {want: Account{Home: "/root", Groups: []uint32{10}}},
		"0:0":       {want: Account{Home: "/root"}},
		"app":       {want: Account{UID: 1000, GID: 1001, Groups: []uint32{10, 50}, Home: "/home/app"}},
		"1000":      {want: Account{UID: 1000, GID: 1001, Groups: []uint32{10, 50}, Home: "/home/app"}},
		"app:staff": {want: Account{UID: 1000, GID: 50, Home: "/home/app"}},
		"app:77":    {want: Account{UID: 1000, GID: 77, Home: "/home/app"}},
		"4711":      {want: Account{UID: 4711, Home: "/"}},
		"4711:123":  {want: Account{UID: 4711, GID: 123, Home: "/"}},
		"nohome":    {want: Account{UID: 1002, GID: 1002, Home: "/"}},
		// a number is no name, though a user has it as his
		"123":   {want: Account{UID: 123, Home: "/"}},
		"5":     {want: Account{UID: 5, GID: 6, Home: "/n"}},
		"+5":    {want: Account{UID: 5, GID: 6, Home: "/n"}},
		"app:":  {want: Account{UID: 1000, GID: 1001, Groups: []uint32{10, 50}, Home: "/home/app"}},
		":1000": {want: Account{GID: 1000, Home: "/root"}},
		":":     {want: Account{Home: "/root", Groups: []uint32{10}}},
		"blank": {want: Account{UID: 8, GID: 9, Home: "/b"}},
		// what the image says, the kernel takes
		"top":         {want: Account{UID: 4294967294, GID: 1, Home: "/"}},
		"4294967294":  {err: `invalid number "4294967294" of a user or group: expected 0 to 2147483647`},
		"-1":          {err: `invalid number "-1"`},
		"app:-1":      {err: `invalid number "-1"`},
		"app:#grp":    {err: "no such group in the image's /etc/group"},
		"nobody":      {err: "no such user in the image's /etc/passwd"},
		"bad":         {err: "no such user in"},
		"short":       {err: "no such user in"},
		"# a comment": {err: "no such user in"},
		"app:none":    {err: "no such group in the image's /etc/group"},
		"app:broken":  {err: "no such group"},
	} {
		got, err := FindAccount(spec, passwd, groups)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: got error %v, want %q", spec, err, c.err)
		}
		if err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %+v, want %+v", spec, got, c.want)
		}
	}
	got, err := FindAccount("65532:65532", "", "")
	if want := (Account{UID: 65532, GID: 65532, Home: "/"}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("without files: got %+v, %v", got, err)
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		structured bool
		env        []string
		command    string
		want       string
	}{
		{false, []string{"PATH=/opt/bin:/bin"}, "app",
			"/sbin/app /usr/sbin/app /bin/app /usr/bin/app /opt/bin/app /bin/app"},
		{false, []string{"A=b"}, "app", "/sbin/app /usr/sbin/app /bin/app /usr/bin/app"},
		{false, nil, "./app", "./app"},
		{true, []string{"PATH=/opt/bin/:/bin"}, "app", "/opt/bin/app /bin/app"},
		{true, []string{"PATH=/a", "PATH=/b:"}, "app", "/b/app ./app"},
		{true, []string{"PATH=/a"}, "bin/app", "bin/app"},
	} {
		if got := strings.Join(Candidates(c.command, c.env, !c.structured), " "); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

func FuzzFindAccount(f *testing.F) {
	f.Add("app:staff", passwd, groups)
	f.Add("1000", "a:b:1000:1", ":::")
	f.Add("", "\n\n", "\n")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		a, err := FindAccount(spec, passwd, group)
		if err == nil && (a.UID < 0 || a.UID > MaxKernelID || a.GID < 0 || a.GID > MaxKernelID ||
			a.Home == "") {
			t.Errorf("%+v", a)
		}
	})
}

func TestLines(t *testing.T) {
	for file, want := range map[string][]string{
		"":               nil,
		"/app":           {"/app"},
		"/app\n":         {"/app"},
		"/app\n-v":       {"/app", "-v"},
		"/app\n\n-v\n":   {"/app", "", "-v"},
		"\n":             {""},
		"A=b\x00c\nD=\n": {"A=b", "D="},
	} {
		if got := Lines(file); !reflect.DeepEqual(got, want) {
			t.Errorf("Lines(%q) = %q, want %q", file, got, want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("/app\n\n-v\x00\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range Lines(s) {
			if strings.ContainsAny(l, "\n\x00") {
				t.Errorf("%q", l)
			}
		}
	})
}
