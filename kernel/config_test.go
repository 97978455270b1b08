package kernel

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []Option
		err        string // a part of it; empty for none
	}{
		{name: "empty", text: ""},
		{name: "comments and empty lines", text: "# a word\n\n#CONFIG_OLD=y\n\t\n"},
		{
			name: "every kind of value",
			text: "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_64BIT=-12\nCONFIG_D=0x1F\nCONFIG_E=\"a " +
				"\\\"b\\\"\"\n# CONFIG_F is not set\n",
			want: []Option{
				{"CONFIG_A", "y", "f", 1}, {"CONFIG_B", "m", "f", 2}, {"CONFIG_C", "n", "f", 3},
				{"CONFIG_64BIT", "-12", "f", 4},
				{"CONFIG_D", "0x1F", "f", 5}, {"CONFIG_E", `"a \"b\""`, "f", 6}, {"CONFIG_F", "n", "f", 7},
			},
		},
		{name: "no newline at the end", text: "CONFIG_A=y", want: []Option{{"CONFIG_A", "y", "f", 1}}},
		{name: "spaces around =", text: "\nCONFIG_A = y\n", err: `f:2: "CONFIG_A = y": expected CONFIG_NAME=value`},
		{name: "indented", text: " CONFIG_A=y\n", err: "f:1:"},
		{name: "no prefix", text: "KEXEC=y\n", err: "f:1:"},
		{name: "no value", text: "CONFIG_A=\n", err: `f:1: CONFIG_A: invalid value ""`},
		{name: "word without quotes", text: "CONFIG_A=yes\n", err: `f:1: CONFIG_A: invalid value "yes"`},
		{name: "open quote", text: "CONFIG_A=\"x\n", err: "f:1: CONFIG_A"},
		{name: "comment after the value", text: "CONFIG_A=y # why\n", err: `f:1: CONFIG_A: invalid value "y # why"`},
		{name: "CR LF", text: "CONFIG_A=y\r\n", err: "f:1: line ends in CR LF"},
		{name: "not set, almost", text: "#CONFIG_A is not set\n", err: "f:1:"},
		{name: "not set, with a space after", text: "# CONFIG_A is not set \n", err: "f:1:"},
		{name: "not set, without prefix", text: "# KEXEC is not set\n", err: "f:1:"},
		{name: "twice", text: "CONFIG_A=y\n\n# CONFIG_A is not set\n",
			err: "f:3: CONFIG_A is already on line 1"},
		{name: "all errors at once", text: "x\nCONFIG_A=y\ny\n", err: "f:3:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(Fragment{Name: "f", Text: test.text})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	const final = `#
# Automatically generated file; DO NOT EDIT.
# Linux/x86_64 6.12.117 Kernel Configuration
#
CONFIG_64BIT=y
CONFIG_NR_CPUS=8
CONFIG_LSM="yama"
CONFIG_NSM=m
# CONFIG_KEXEC is not set
`
	for _, test := range []struct {
		name      string
		fragments []Fragment
		final     string
		err       []string // a part of each line of it
	}{
		{name: "survived", fragments: []Fragment{{"ours",
			"CONFIG_64BIT=y\nCONFIG_LSM=\"yama\"\nCONFIG_NSM=m\n"}}},
		{name: "off and not set", fragments: []Fragment{{"ours", "# CONFIG_KEXEC is not " +
			"set\nCONFIG_HIBERNATION=n\n"}}},
		{
			name: "the last word counts", fragments: []Fragment{{"ours", "CONFIG_NR_CPUS=128\n"},
				{"theirs", "CONFIG_NR_CPUS=8\n"}},
		},
		{
			name:      "an option that does not exist",
			fragments: []Fragment{{"theirs.config", "# mine\nCONFIG_WARP_DRIVE=y\n"}},
			err: []string{"theirs.config:2: CONFIG_WARP_DRIVE=y is not in the final configuration: " +
				"this kernel has no such option"},
		},
		{
			name: "dropped", fragments: []Fragment{{"f", "CONFIG_KEXEC=y\n"}},
			err: []string{"f:1: CONFIG_KEXEC=y became CONFIG_KEXEC=n"},
		},
		{
			name: "overridden", fragments: []Fragment{
				{"f", "CONFIG_NR_CPUS=128\nCONFIG_64BIT=n\nCONFIG_NSM=y\n"}},
			err: []string{"f:1: CONFIG_NR_CPUS=128 became CONFIG_NR_CPUS=8",
				"f:2: CONFIG_64BIT=n became CONFIG_64BIT=y", "f:3: CONFIG_NSM=y became CONFIG_NSM=m"},
		},
		{name: "wrong syntax", fragments: []Fragment{{"f", "CONFIG_64BIT: y\n"}}, err: []string{"f:1:"}},
		{name: "empty final configuration", final: "#\n", err: []string{"final configuration: empty"}},
		{name: "damaged final configuration", final: "CONFIG_A=y\nCONFIG_",
			err: []string{"final configuration: line 2:"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := final
			if test.final != "" {
				text = test.final
			}
			err := Check(test.fragments, []byte(text))
			if test.err == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("no error, want %q", test.err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.err) {
				t.Fatalf("%d errors, want %d:\n%v", len(lines), len(test.err), err)
			}
			for i, want := range test.err {
				if !strings.Contains(lines[i], want) {
					t.Errorf("error %d is %q, want one with %q", i, lines[i], want)
				}
			}
		})
	}
}

// What Parse accepts must mean the same to Kconfig: name, value, nothing else on the line; and saying it
// again must give the same.
func FuzzParse(f *testing.F) {
	for _, arch := range Archs {
		for _, fragment := range Fragments(arch) {
			f.Add(fragment.Text)
		}
	}
	f.Add("CONFIG_A=\"a\\\\\"\n# CONFIG_B is not set\nCONFIG_C=-1\nCONFIG_D=0xff")
	f.Add("#CONFIG_A is not set\r\nCONFIG_A=y\nCONFIG_A=n")
	f.Fuzz(func(t *testing.T, text string) {
		options, err := Parse(Fragment{Name: "f", Text: text})
		if err != nil {
			return
		}
		lines := strings.Split(text, "\n")
		var again strings.Builder
		for _, o := range options {
			line := lines[o.Line-1]
			if line != o.Name+"="+o.Value && line != "# "+o.Name+" is not set" {
				t.Fatalf("line %d is %q, read as %v", o.Line, line, o)
			}
			again.WriteString(o.Name + "=" + o.Value + "\n")
		}
		if len(options) == 0 {
			return
		}
		if err := Check([]Fragment{{Name: "f", Text: text}}, []byte(again.String())); err != nil {
			t.Fatalf("a configuration of exactly these options does not satisfy them: %v", err)
		}
	})
}

func TestCheckNames(t *testing.T) {
	tree := fstest.MapFS{
		"Kconfig": {Data: []byte("source \"drivers/Kconfig.two\"\n")},
		"drivers/Kconfig.2": {
			Data: []byte("config WARP\n\tbool\n\nmenuconfig SHIELDS\n\tbool \"Shields\"\n")},
		"Documentation.txt": {Data: []byte("config WORDS\n")},
	}
	final := []byte("CONFIG_A=y\n# CONFIG_B is not set\n")
	for text, want := range map[string]string{
		"CONFIG_A=y\n# CONFIG_B is not set\n":          "",
		"# CONFIG_WARP is not set\nCONFIG_SHIELDS=n\n": "",
		"CONFIG_A=y\n# CONFIG_WRAP is not set\n": "mine:2: CONFIG_WRAP=n: this kernel has no " +
			"such option",
		"# CONFIG_WORDS is not set\nCONFIG_IO_URNG=n\n": "mine:1: CONFIG_WORDS=n: this kernel has no " +
			"such option\nmine:2: CONFIG_IO_URNG=n: this kernel has no such option",
		"CONFIG_MISSING=y\n": "", // Check says it
		"# CONFIG_WARP is not set\n# CONFIG_C is not set\n": "mine:2: CONFIG_C=n: this kernel has no such " +
			"option",
	} {
		got := ""
		if err := CheckNames([]Fragment{{Name: "mine", Text: text}}, tree, final); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
