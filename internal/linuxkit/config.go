package linuxkit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is the content of a YAML file.
type Config struct {
	Init   []string `yaml:"init"`   // images whose trees make up the root, or the directory Prefix
	Prefix string   `yaml:"prefix"` // ends in a slash, or is empty
	Files  []File   `yaml:"files"`  // put over the images' trees, in this order
}

// File is a file, directory or symbolic link of the tree. Exactly one of Directory, Symlink, Contents and
// Source is set.
type File struct {
	Path      string  `yaml:"path"`
	Directory bool    `yaml:"directory"`
	Symlink   string  `yaml:"symlink"`
	Contents  *string `yaml:"contents"`
	Source    string  `yaml:"source"`   // a file of this machine; ~/ is the home directory
	Optional  bool    `yaml:"optional"` // omit the file if Source does not exist
	Mode      string  `yaml:"mode"`     // octal; "" means 0600, or 0700 for a directory
	UID       ID      `yaml:"uid"`
	GID       ID      `yaml:"gid"`
}

// ID is the number of a user or group. YAML may call 0 root.
type ID uint32

// UnmarshalYAML reads a number, or the name root.
func (id *ID) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "root" {
		*id = 0
		return nil
	}
	var number uint32
	// The kernel takes the largest number for "no owner".
	if err := n.Decode(&number); err != nil || number == math.MaxUint32 {
		return fmt.Errorf("line %d: invalid owner %q: expected a number from 0 to %d, or root",
			n.Line, n.Value, uint32(math.MaxUint32-1))
	}
	*id = ID(number)
	return nil
}

// MaxConfig is the largest size of a YAML file in bytes. It may hold whole files, in contents.
const MaxConfig = 16 << 20

// elsewhere names the tools for everything that this package does not do.
const elsewhere = "use neb eif build for a whole enclave image, or LinuxKit (github.com/linuxkit/linuxkit) " +
	"for others"

// rejected are keys of LinuxKit that this package does not support, with the reason.
var rejected = map[string]string{
	"kernel":     "the kernel of an enclave is a file beside the ramdisks, not an image",
	"onboot":     "it needs containerd in the enclave",
	"onshutdown": "it needs containerd in the enclave",
	"services":   "it needs containerd in the enclave",
	"volumes":    "it needs containerd in the enclave",
	"metadata":   "it writes the configuration into the tree, where no enclave reads it",
	"trust":      "Docker Content Trust was discontinued; name images by digest",
}

// Parse reads a YAML file, which errors call name. An unknown key, a duplicate key and a value of the wrong
// type are errors that name the line.
func Parse(name string, data []byte) (*Config, error) {
	c, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func parse(data []byte) (*Config, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("file is larger than %d bytes", MaxConfig)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	c := &Config{}
	switch err := d.Decode(c); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("file is empty")
	case err != nil:
		return nil, explain(err)
	}
	switch err := d.Decode(new(yaml.Node)); {
	case err == nil:
		return nil, errors.New("found a second document (after ---), expected one")
	case !errors.Is(err, io.EOF):
		return nil, explain(err)
	}
	for i := range c.Files {
		if err := c.Files[i].check(); err != nil {
			return nil, fmt.Errorf("files[%d]: %w", i, err)
		}
	}
	for i, ref := range c.Init {
		if ref == "" {
			return nil, fmt.Errorf("init[%d]: image name is empty", i)
		}
		if strings.HasPrefix(ref, "@pkg:") {
			return nil, fmt.Errorf("init[%d]: %s: @pkg templates are not supported; %s", i, ref, elsewhere)
		}
	}
	return c, checkPrefix(c.Prefix)
}

// unknownKey matches an error of package yaml about a key that the type lacks.
var unknownKey = regexp.MustCompile(`^(line \d+): field (.*) not found in type .*$`)

// explain puts errors of package yaml on one line, and says why a key of LinuxKit is not supported.
func explain(err error) error {
	wrong, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return err
	}
	for i, text := range wrong.Errors {
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			wrong.Errors[i] = fmt.Sprintf("%s: unknown key %q", m[1], m[2])
			if why := rejected[m[2]]; why != "" {
				wrong.Errors[i] = fmt.Sprintf("%s: key %q is not supported: %s; %s",
					m[1], m[2], why, elsewhere)
			}
		}
	}
	return errors.New(strings.Join(wrong.Errors, "; "))
}

func checkPrefix(prefix string) error {
	switch {
	case prefix == "":
	case !strings.HasSuffix(prefix, "/"):
		return fmt.Errorf("invalid prefix %q: expected a slash at the end", prefix)
	case strings.HasPrefix(prefix, "/"):
		return fmt.Errorf("invalid prefix %q: expected no slash at the start", prefix)
	}
	return nil
}

func (f *File) check() error {
	if strings.Trim(f.Path, "/") == "" {
		return errors.New("path is required")
	}
	kinds := 0
	for _, is := range []bool{f.Directory, f.Symlink != "", f.Contents != nil, f.Source != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return fmt.Errorf(
			"file %s: found %d of directory, symlink, contents and source, expected exactly one",
			f.Path, kinds)
	}
	_, err := f.mode()
	return err
}

func (f *File) mode() (uint32, error) {
	switch {
	case f.Mode != "":
		mode, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil || mode > 0o7777 {
			return 0, fmt.Errorf("file %s: invalid mode %q: expected an octal number up to 7777",
				f.Path, f.Mode)
		}
		return uint32(mode), nil
	case f.Directory:
		return 0o700, nil
	}
	return 0o600, nil
}

// Append merges the configuration of another file into c, as LinuxKit does: it joins lists and replaces
// single values.
func (c *Config) Append(o *Config) {
	if o.Prefix != "" {
		c.Prefix = o.Prefix
	}
	c.Init = append(c.Init, o.Init...)
	c.Files = append(c.Files, o.Files...)
}
