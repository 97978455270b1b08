package linuxkit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is what a YAML file says.
type Config struct {
	Kernel Kernel
	Init   []string // images whose trees make up the root, or what is below Prefix
	Prefix string   // ends in a slash, or is empty
	Files  []File   // put over the images' trees, in this order
}

// Kernel says which image brings a kernel, and which of its files are what.
type Kernel struct {
	Image   string
	Cmdline string
	Binary  string  // the kernel's name in the image; "" is kernel
	Tar     *string // a tar archive in the image that goes into the tree; nil is kernel.tar, "none" or "" is none
	UCode   *string // a cpio archive in the image that goes before the ramdisk; nil is none
}

// File is a file, directory or symbolic link of the tree. One of Directory, Symlink, Contents and Source says which.
type File struct {
	Path      string
	Directory bool
	Symlink   string
	Contents  *string
	Source    string // a file of this machine; ~/ is the home directory
	Optional  bool   // a Source that cannot be read is left out
	Mode      string // octal; "" is 0600, of directories 0700
	UID, GID  uint32
}

// maxConfig is the size of a YAML file; contents: may hold whole files.
const maxConfig = 16 << 20

// refused are keys of LinuxKit that this package does not have, with the reason.
var refused = map[string]string{
	"onboot":     "it runs containers at boot, which needs containerd in the guest",
	"onshutdown": "it runs containers at shutdown, which needs containerd in the guest",
	"services":   "it runs containers, which needs containerd in the guest",
	"volumes":    "it serves containers, which need containerd in the guest",
	"metadata":   "it writes the configuration into the tree, which the enclave does not need",
	"trust":      "Docker Content Trust is gone; name images by digest",
}

const packsEnclaves = "this linuxkit packs enclaves and nothing else"

// Parse reads a YAML file. A key that is not known, one that stands twice, and a value of another type than the key has are
// errors that name the line. name is what they call the file.
func Parse(name string, data []byte) (*Config, error) {
	c, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func parse(data []byte) (*Config, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("more than %d bytes", maxConfig)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, err
	}
	switch err := d.Decode(new(yaml.Node)); {
	case err == nil:
		return nil, errors.New("it holds a second document (after ---); one is read")
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	c := &Config{}
	err := fields(doc.Content[0], map[string]setter{
		"kernel": func(n *yaml.Node) error {
			return fields(n, map[string]setter{
				"image":   setString(&c.Kernel.Image),
				"cmdline": setString(&c.Kernel.Cmdline),
				"binary":  setString(&c.Kernel.Binary),
				"tar":     setPointer(&c.Kernel.Tar),
				"ucode":   setPointer(&c.Kernel.UCode),
			})
		},
		"init":   each(func(n *yaml.Node) error { return appendString(&c.Init, n) }),
		"prefix": setString(&c.Prefix),
		"files":  each(c.file),
	})
	if err != nil {
		return nil, err
	}
	return c, checkPrefix(c.Prefix)
}

func checkPrefix(prefix string) error {
	switch {
	case prefix == "":
	case !strings.HasSuffix(prefix, "/"):
		return fmt.Errorf("prefix %q: expected a slash at the end", prefix)
	case strings.HasPrefix(prefix, "/"):
		return fmt.Errorf("prefix %q: expected no slash at the start", prefix)
	}
	return nil
}

func (c *Config) file(n *yaml.Node) error {
	var f File
	err := fields(n, map[string]setter{
		"path":      setString(&f.Path),
		"directory": setBool(&f.Directory),
		"symlink":   setString(&f.Symlink),
		"contents":  setPointer(&f.Contents),
		"source":    setString(&f.Source),
		"optional":  setBool(&f.Optional),
		"mode":      setString(&f.Mode),
		"uid":       setID(&f.UID),
		"gid":       setID(&f.GID),
	})
	if err == nil {
		err = f.check()
		if err != nil {
			err = at(n, "%w", err)
		}
	}
	c.Files = append(c.Files, f)
	return err
}

func (f *File) check() error {
	if strings.Trim(f.Path, "/") == "" {
		return errors.New("a file without a path")
	}
	kinds := 0
	for _, is := range []bool{f.Directory, f.Symlink != "", f.Contents != nil, f.Source != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return fmt.Errorf("file %s: expected one of directory, symlink, contents and source, found %d of them", f.Path, kinds)
	}
	_, err := f.mode()
	return err
}

func (f *File) mode() (uint32, error) {
	switch {
	case f.Mode != "":
		mode, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil || mode > 0o7777 {
			return 0, fmt.Errorf("file %s: the mode %q is not an octal number up to 7777", f.Path, f.Mode)
		}
		return uint32(mode), nil
	case f.Directory:
		return 0o700, nil
	}
	return 0o600, nil
}

// Append merges another file's configuration into c as LinuxKit does: lists are joined, single values replaced.
func (c *Config) Append(o *Config) {
	for _, v := range []struct{ to, from *string }{
		{&c.Kernel.Image, &o.Kernel.Image}, {&c.Kernel.Cmdline, &o.Kernel.Cmdline}, {&c.Kernel.Binary, &o.Kernel.Binary}, {&c.Prefix, &o.Prefix},
	} {
		if *v.from != "" {
			*v.to = *v.from
		}
	}
	if o.Kernel.Tar != nil {
		c.Kernel.Tar = o.Kernel.Tar
	}
	if o.Kernel.UCode != nil {
		c.Kernel.UCode = o.Kernel.UCode
	}
	c.Init = append(c.Init, o.Init...)
	c.Files = append(c.Files, o.Files...)
}

// setter takes the value of one key.
type setter func(*yaml.Node) error

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

// fields takes a mapping apart.
func fields(n *yaml.Node, known map[string]setter) error {
	n, err := target(n)
	if err != nil {
		return err
	}
	if n.Kind != yaml.MappingNode {
		return at(n, "expected keys with values, found %s", kind(n))
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		set := known[key.Value]
		switch {
		case refused[key.Value] != "":
			return at(key, "%s: %s; %s", key.Value, refused[key.Value], packsEnclaves)
		case set == nil:
			return at(key, "unknown key %q", key.Value)
		case seen[key.Value]:
			return at(key, "%s stands twice", key.Value)
		}
		seen[key.Value] = true
		if err := set(value); err != nil {
			if strings.HasPrefix(err.Error(), "line ") {
				return err
			}
			return at(value, "%s: %w", key.Value, err)
		}
	}
	return nil
}

// target goes from an alias to what it stands for.
func target(n *yaml.Node) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		return nil, at(n, "aliases (*%s) are not read", n.Value)
	}
	return n, nil
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return fmt.Sprintf("%q (%s)", n.Value, strings.TrimPrefix(n.ShortTag(), "!!"))
}

func each(set setter) setter {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return fmt.Errorf("expected a list, found %s", kind(n))
		}
		for _, item := range n.Content {
			if err := set(item); err != nil {
				if strings.HasPrefix(err.Error(), "line ") {
					return err
				}
				return at(item, "%w", err)
			}
		}
		return nil
	}
}

func text(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		hint := ""
		if n.Kind == yaml.ScalarNode {
			hint = fmt.Sprintf(": put it in quotes, %q", n.Value)
		}
		return "", fmt.Errorf("expected a string, found %s%s", kind(n), hint)
	}
	if strings.HasPrefix(n.Value, "@pkg:") {
		return "", fmt.Errorf("%s: templates need the sources of LinuxKit's packages; %s", n.Value, packsEnclaves)
	}
	return n.Value, nil
}

func setString(to *string) setter {
	return func(n *yaml.Node) (err error) { *to, err = text(n); return err }
}

func setPointer(to **string) setter {
	return func(n *yaml.Node) error {
		s, err := text(n)
		*to = &s
		return err
	}
}

func appendString(to *[]string, n *yaml.Node) error {
	s, err := text(n)
	if err == nil && s == "" {
		err = errors.New("an empty name")
	}
	*to = append(*to, s)
	return err
}

func setBool(to *bool) setter {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			return fmt.Errorf("expected true or false, found %s", kind(n))
		}
		return n.Decode(to)
	}
}

// setID takes a number, or the one name that LinuxKit knows without services.
func setID(to *uint32) setter {
	return func(n *yaml.Node) error {
		switch {
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && (n.Value == "root" || n.Value == ""):
			*to = 0
			return nil
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int":
			var id uint64
			if n.Decode(&id) == nil && id < math.MaxUint32 {
				*to = uint32(id)
				return nil
			}
		}
		return fmt.Errorf("expected a number from 0 to %d or root, found %s", uint32(math.MaxUint32-1), kind(n))
	}
}
