package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/internal/compression"
	"github.com/nitro-enclaves-bootstrap/neb/internal/stream"
	"github.com/nitro-enclaves-bootstrap/neb/kernel"
)

// Kernel is a ready kernel of Debian or a vendor, unpacked: paths of files.
type Kernel struct {
	Image   string // as the package has it: a bzImage, or an Image that may be wrapped for EFI (zboot)
	Config  string
	NSM     string   // the driver of the Nitro Secure Module; "" if it is built in
	Modules []string // the others that an enclave needs, plain, in the order of loading
}

// What some enclaves use of a kernel.
const (
	Network = "network" // a device for network packets
	Erofs   = "erofs"   // a compressed root
)

// needed lists drivers by module and kernel option. Every enclave needs those with an empty use.
var needed = []struct{ module, option, why, use string }{
	{"nsm", "NSM", "the driver of the Nitro Secure Module", ""},
	{"vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS", "the connection to the parent", ""},
	{"virtio_mmio", "VIRTIO_MMIO", "the enclave's devices", ""},
	{"tun", "TUN", "its network", Network},
	{"loop", "BLK_DEV_LOOP", "its compressed root", Erofs},
	{"erofs", "EROFS_FS", "its compressed root", Erofs},
	{"overlay", "OVERLAY_FS", "its compressed root", Erofs},
}

const (
	mostPackage = 4 << 30   // bytes of the files in a package
	mostModule  = 128 << 20 // bytes of a module, uncompressed
	mostConfig  = 4 << 20   // bytes of a configuration
)

// UnpackKernel finds kernel, configuration and the modules of an enclave for arch with some uses in Debian
// or RPM packages, which may be the parts of one kernel, and writes them to the empty directory dir.
func UnpackKernel(
	ctx context.Context, dir, arch string, uses []string, packages ...string,
) (*Kernel, error) {
	u := kernelUnpacker{dir: dir, packed: map[string]string{}}
	for _, name := range packages {
		if err := u.unpack(ctx, name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	k, err := u.find(arch, uses)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(packages, ", "), err)
	}
	return k, nil
}

type kernelUnpacker struct {
	dir    string
	kernel Kernel
	packed map[string]string // by name of the module, the file as the package has it
}

// nextFile returns the next regular file of a package, and [io.EOF] after the last.
type nextFile func() (name string, content io.Reader, err error)

func debFiles(r *bufio.Reader) (nextFile, error) {
	data, err := Data(r)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(io.LimitReader(data, mostPackage))
	return func() (string, io.Reader, error) {
		for {
			h, err := archive.Next()
			if err != nil {
				return "", nil, err
			}
			if h.Typeflag == tar.TypeReg {
				return h.Name, archive, nil
			}
		}
	}, nil
}

// unpack writes the kernel, its configuration, and all modules of a package, as they are.
func (u *kernelUnpacker) unpack(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, files := bufio.NewReaderSize(stream.Reader(ctx, f), 1<<16), debFiles
	if magic, _ := r.Peek(len(rpmMagic)); string(magic) == rpmMagic {
		files = rpmFiles
	}
	next, err := files(r)
	if err != nil {
		return err
	}
	for {
		name, content, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		in, file := path.Split(path.Clean("/" + name))
		// All parts are in /usr/lib/modules/VERSION in Debian's kernels since 6.19, and in Fedora's, whose
		// packages call that /lib.
		ofVersion, _ := path.Match("/usr/lib/modules/*/", "/usr"+strings.TrimPrefix(in, "/usr"))
		to := ""
		switch module := moduleFile.FindStringSubmatch(file); {
		case file == "vmlinuz" && ofVersion || in == "/boot/" && strings.HasPrefix(file, "vmlinuz-"):
			to = "vmlinuz"
			u.kernel.Image = filepath.Join(u.dir, to)
		case file == "config" && ofVersion || in == "/boot/" && strings.HasPrefix(file, "config-"):
			to = "config"
			u.kernel.Config = filepath.Join(u.dir, to)
		case module != nil && strings.Contains(in, "/lib/modules/"):
			to = "packed-" + moduleName(module[1])
			u.packed[moduleName(module[1])] = filepath.Join(u.dir, to)
		}
		if to == "" {
			continue
		}
		out, err := os.OpenFile(filepath.Join(u.dir, to), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s: the packages have two of these: expected one kernel", name)
		}
		if err == nil {
			_, err = io.Copy(out, content)
			err = errors.Join(err, out.Close())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

var moduleFile = regexp.MustCompile(`^([\w-]+)\.ko(?:\.xz|\.zst|\.gz)?$`)

// moduleName returns the kernel's name of a module from that of its file.
func moduleName(file string) string { return strings.ReplaceAll(file, "-", "_") }

var configFor = regexp.MustCompile(`(?m)^# Linux/(\S+) \S+ Kernel Configuration$`)

// find checks what was unpacked, and returns it with the needed modules.
func (u *kernelUnpacker) find(arch string, uses []string) (*Kernel, error) {
	const hint = "give all packages that the kernel consists of"
	switch {
	case u.kernel.Image == "":
		return nil, errors.New("no kernel (vmlinuz): " + hint)
	case u.kernel.Config == "":
		return nil, errors.New("no configuration (config): " + hint)
	}
	config, err := stream.ReadFile(u.kernel.Config, mostConfig)
	if err != nil {
		return nil, err
	}
	is := func(option, value string) bool {
		return bytes.Contains(config, []byte("\nCONFIG_"+option+"="+value+"\n"))
	}
	m := configFor.FindSubmatch(config)
	if m == nil {
		return nil, errors.New("the kernel's configuration does not name its architecture")
	}
	archs := map[string]string{"x86": "x86_64", "x86_64": "x86_64", "arm64": "aarch64"}
	if archs[string(m[1])] != arch {
		return nil, fmt.Errorf("the kernel is for %s, the enclave is for %s", m[1], arch)
	}
	if arch == "x86_64" && !is("VIRTIO_MMIO_CMDLINE_DEVICES", "y") {
		return nil, errors.New("the kernel finds no device of an enclave: " +
			"it was configured without VIRTIO_MMIO_CMDLINE_DEVICES")
	}
	loaded := map[string]bool{}
	for _, n := range needed {
		switch {
		case is(n.option, "y"), n.use != "" && !slices.Contains(uses, n.use):
		case !is(n.option, "m"):
			return nil, fmt.Errorf("the kernel lacks %s (%s): it was configured without %s", n.module, n.why,
				n.option)
		default:
			if err := u.load(n.module, loaded); err != nil {
				return nil, err
			}
		}
	}
	switch i := slices.Index(u.kernel.Modules, filepath.Join(u.dir, "nsm.ko")); {
	case i == 0:
		u.kernel.NSM, u.kernel.Modules = u.kernel.Modules[0], u.kernel.Modules[1:]
	case i > 0:
		return nil, errors.New("nsm.ko needs another module: this is not supported, init loads nsm.ko first")
	}
	for _, file := range u.packed {
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	return &u.kernel, nil
}

// load appends a module after those that it depends on, each once. Loaded is false for those whose
// dependencies are being appended.
func (u *kernelUnpacker) load(name string, loaded map[string]bool) error {
	if loaded[name] {
		return nil
	}
	loaded[name] = false
	packed := u.packed[name]
	if packed == "" {
		return fmt.Errorf("the packages lack the module %s: give all that the kernel consists of", name)
	}
	module, err := readModule(packed)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	needs, err := dependencies(module)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, need := range needs {
		if done, begun := loaded[need]; begun && !done {
			return fmt.Errorf("the modules %s and %s need each other: the kernel can load neither", name,
				need)
		}
		if err := u.load(need, loaded); err != nil {
			return err
		}
	}
	loaded[name] = true
	to := filepath.Join(u.dir, name+".ko")
	u.kernel.Modules = append(u.kernel.Modules, to)
	return os.WriteFile(to, module, 0o644)
}

// readModule reads a module and decompresses it: few kernels can do that themselves.
func readModule(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return compression.ReadAll(f, mostModule)
}

// dependencies returns the modules that a module needs.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	list, err := kernel.ModuleInfo(f, "depends")
	return strings.FieldsFunc(moduleName(list), func(r rune) bool { return r == ',' }), err
}
