package preflight

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/internal/arch"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

const elfMagic = "\x7fELF"

// Bounds of what is read of a program, which may be hostile.
const (
	maxHeaders   = 64 << 10  // bytes of program headers (load_elf_phdrs of fs/binfmt_elf.c)
	maxDynamic   = 256 << 10 // bytes of the dynamic section, and of its strings that are read at once
	maxString    = 4096      // bytes of a name
	maxSearch    = 64 << 10  // bytes of a search path
	maxLibraries = 10_000    // that are read
	maxNeeded    = 100_000   // names of libraries in all of them
	maxTries     = 1_000_000 // files that are looked for; long names count more
	maxMissing   = 10        // libraries that are named
)

// program is what the kernel and the dynamic loader read of an ELF file.
type program struct {
	kind, machine     uint16
	wide              bool // 64 bits
	loader            string
	needed            []string
	rpath, runpath    string
	end               int64 // of what its segments take from the file, in bytes
	noDefaultLocation bool
}

// parse reads the program headers and the dynamic section of an ELF file, as fs/binfmt_elf.c and the dynamic
// loaders do: by the program headers alone. Of a 32-bit file it reads the machine only. What is out of bounds
// is an error.
func (c *checker) parse(e *image.Entry) (*program, error) {
	le := binary.LittleEndian
	head := c.read(e, 0, 64)
	if len(head) < 20 || string(head[:4]) != elfMagic {
		return nil, fmt.Errorf("the ELF file is truncated: %d bytes", e.Size)
	}
	p := &program{kind: le.Uint16(head[16:]), machine: le.Uint16(head[18:])}
	if head[5] != 1 {
		p.machine = binary.BigEndian.Uint16(head[18:])
	}
	if head[4] != 2 || head[5] != 1 {
		return p, nil
	}
	p.wide = true
	if len(head) < 64 {
		return nil, fmt.Errorf("the ELF file is truncated: %d bytes", e.Size)
	}
	size, count := int64(le.Uint16(head[54:])), int64(le.Uint16(head[56:]))
	if size != 56 || count == 0 || size*count > maxHeaders {
		return nil, fmt.Errorf("its ELF header has %d program headers of %d bytes: the kernel rejects it",
			count, size)
	}
	headers := c.read(e, int64(le.Uint64(head[32:])), size*count)
	if int64(len(headers)) < size*count {
		return nil, fmt.Errorf("the ELF file is truncated before its program headers")
	}
	type segment struct{ at, address, size int64 }
	var loads []segment
	var dynamic []byte
	for ; len(headers) > 0; headers = headers[size:] {
		s := segment{int64(le.Uint64(headers[8:])), int64(le.Uint64(headers[16:])),
			int64(le.Uint64(headers[32:]))}
		if s.at < 0 || s.size < 0 || s.at+s.size < s.at {
			return nil, fmt.Errorf("its program headers are out of range")
		}
		switch elf.ProgType(le.Uint32(headers)) {
		case elf.PT_LOAD:
			loads = append(loads, s)
			p.end = max(p.end, s.at+s.size)
		case elf.PT_INTERP:
			if s.size > maxString {
				return nil, fmt.Errorf("the name of its loader has %d bytes: the kernel rejects it", s.size)
			}
			p.loader = cString(c.read(e, s.at, s.size))
			if p.loader == "" {
				return nil, fmt.Errorf("it names an empty loader")
			}
		case elf.PT_DYNAMIC:
			dynamic = c.read(e, s.at, min(s.size, maxDynamic))
		}
	}
	// The dynamic section names strings by their place in a table, and the table by its address.
	var table int64
	var names []int64
	var rpath, runpath int64 = -1, -1
	for ; len(dynamic) >= 16; dynamic = dynamic[16:] {
		value := int64(le.Uint64(dynamic[8:]))
		switch elf.DynTag(le.Uint64(dynamic)) {
		case elf.DT_NULL:
			dynamic = dynamic[:16]
		case elf.DT_STRTAB:
			table = value
		case elf.DT_NEEDED:
			names = append(names, value)
		case elf.DT_RPATH:
			rpath = value
		case elf.DT_RUNPATH:
			runpath = value
		case elf.DT_FLAGS_1:
			p.noDefaultLocation = elf.DynFlag1(value)&elf.DF_1_NODEFLIB != 0
		}
	}
	at := int64(-1)
	for _, s := range loads {
		if table >= s.address && table-s.address < s.size {
			at = s.at + table - s.address
		}
	}
	// One read for all names: they are close to each other.
	var block []byte
	if at >= 0 && (len(names) > 0 || rpath >= 0 || runpath >= 0) {
		block = c.read(e, at, maxDynamic)
	}
	text := func(offset int64) string {
		if offset < 0 || at < 0 {
			return ""
		}
		if offset < int64(len(block)) {
			if s := cString(block[offset:]); int64(len(s)) < int64(len(block))-offset {
				return s
			}
		}
		return cString(c.read(e, at+offset, maxString))
	}
	for _, n := range names {
		if name := text(n); name != "" {
			p.needed = append(p.needed, name)
		}
	}
	p.rpath, p.runpath = text(rpath), text(runpath)
	return p, nil
}

// cString returns the bytes before the first NUL.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// elf checks a program, its loader and its libraries.
func (c *checker) elf(at, real string, e *image.Entry) []Finding {
	p, err := c.parse(e)
	if err != nil {
		return only(CommandFormat, "%.200q: %v", at, err)
	}
	want, _ := arch.Lookup(c.arch)
	if elf.Machine(p.machine) != want.ELF || !p.wide {
		if c.compatible(p) {
			return nil
		}
		return only(CommandArch, "%.200q is for %v, the enclave is for %v", at,
			elf.Machine(p.machine), want.ELF)
	}
	switch kind := elf.Type(p.kind); {
	case kind != elf.ET_EXEC && kind != elf.ET_DYN:
		return only(CommandFormat, "%.200q is an ELF file of type %v, not a program", at, kind)
	case p.end > e.Size:
		return only(CommandFormat, "%.200q is cut: its segments end at byte %d, it has %d bytes", at, p.end,
			e.Size)
	case p.loader == "":
		return nil
	}
	full := c.absolute(p.loader)
	le, realLoader, ok := c.stat(full)
	switch {
	case !ok:
		return only(LoaderMissing, "%.200q needs the loader %.200q, which is not in the tree", at, p.loader)
	case le.IsDir() || !c.may(le, 1):
		return only(LoaderMissing, "%.200q needs the loader %.200q, which user %s may not execute", at,
			p.loader, c.who())
	}
	if lp, err := c.parse(le); err != nil || lp.machine != p.machine || !lp.wide {
		return only(LoaderMissing, "%.200q needs the loader %.200q, which is no loader for %v", at, p.loader,
			want.ELF)
	}
	return c.libraries(at, real, p, realLoader)
}

func (c *checker) who() string {
	if c.account == nil {
		return "0"
	}
	return fmt.Sprint(c.account.UID)
}

// compatible reports whether the kernel runs 32-bit programs of its architecture, as its configuration shows.
func (c *checker) compatible(p *program) bool {
	switch {
	case c.arch == arch.X86_64 && elf.Machine(p.machine) == elf.EM_386:
		return enabled(c.config, "CONFIG_IA32_EMULATION")
	case c.arch == arch.AArch64 && elf.Machine(p.machine) == elf.EM_ARM:
		return enabled(c.config, "CONFIG_COMPAT")
	}
	return false
}

// loading is the search of a dynamic loader for libraries.
type loading struct {
	*checker
	musl     bool
	machine  uint16
	before   []string            // LD_LIBRARY_PATH
	defaults []string            // directories of the loader and its configuration
	cache    map[string][]string // directories by the names of libraries, of /etc/ld.so.cache
	tries    int
}

// object is a program or library with the search paths that it inherits.
type object struct {
	*program
	at, real string   // path by which it was found, and where links lead
	rpaths   []string // search paths of those that loaded it: DT_RPATH by glibc's rule; for musl all
}

// libraries looks for every library that a program needs, and those that they need, as the loader would
// (ld.so(8); ldso/dynlink.c of musl). Loaders with other names are not known, and nothing is looked for.
func (c *checker) libraries(at, real string, p *program, loader string) []Finding {
	l := loading{checker: c, machine: p.machine}
	base := path.Base(p.loader)
	switch {
	case strings.HasPrefix(base, "ld-musl-"):
		l.musl = true
		name := strings.TrimSuffix(strings.TrimPrefix(base, "ld-"), ".so.1")
		l.defaults = strings.FieldsFunc(c.text("/etc/ld-"+name+".path"),
			func(r rune) bool { return r == ':' || r == '\n' })
		if len(l.defaults) == 0 {
			l.defaults = []string{"/lib", "/usr/local/lib", "/usr/lib"}
		}
	case strings.HasPrefix(base, "ld-linux"):
		tuple := c.arch + "-linux-gnu"
		files := 0
		l.defaults = append(c.ldConf("/etc/ld.so.conf", &files), path.Dir(p.loader), path.Dir(loader),
			"/lib/"+tuple,
			"/usr/lib/"+tuple, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
		l.readCache()
	default:
		return nil
	}
	if list, ok := contract.LookUpEnv(c.env, "LD_LIBRARY_PATH"); ok {
		l.before = strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ';' })
	}
	queue := []object{{program: p, at: at, real: real}}
	seen := map[string]bool{base: true}
	names := 0
	var found []Finding
	for ; len(queue) > 0; queue = queue[1:] {
		o := queue[0]
		dirs := l.search(&o)
		for _, name := range o.needed {
			if names++; names > maxNeeded || len(seen) > maxLibraries || l.tries > maxTries {
				return append(found, Find(Unchecked, "%.200q: some of its libraries were not looked for: "+
					"there are too many, or too many directories", at))
			}
			if seen[name] {
				continue
			}
			seen[name] = true
			lib, ok := l.find(name, dirs)
			switch {
			case ok:
				lib.rpaths = o.rpaths
				queue = append(queue, *lib)
			case len(found) < maxMissing:
				by := ""
				if o.at != at {
					by = fmt.Sprintf(", through %.200q,", o.at)
				}
				found = append(found, Find(LibraryMissing,
					"%.200q%s needs %.200q, which the loader %.200q does not find",
					at, by, name, p.loader))
			}
		}
	}
	return found
}

// readCache reads the paths in /etc/ld.so.cache, each of which ends in a NUL.
func (l *loading) readCache() {
	l.cache = map[string][]string{}
	const most = 16 << 20
	if e, _, ok := l.stat("/etc/ld.so.cache"); ok && e.IsRegular() {
		for s := range bytes.SplitSeq(l.read(e, 0, most), []byte{0}) {
			if i := bytes.LastIndexByte(s, '/'); len(s) < maxString && i > 0 && s[0] == '/' {
				name := string(s[i+1:])
				l.cache[name] = append(l.cache[name], string(s[:i]))
			}
		}
	}
}

// search returns the directories in which an object's libraries are looked for, and adds the object's own to
// those that its libraries inherit. In glibc RUNPATH is for the object's own libraries only, and replaces
// RPATH.
func (l *loading) search(o *object) (dirs []string) {
	own := o.rpath
	if l.musl && o.runpath != "" {
		own = o.runpath
	}
	if own != "" && (l.musl || o.runpath == "") && len(o.rpaths) < maxLinks {
		o.rpaths = append(l.expand(own, o), o.rpaths...)
	}
	if l.musl || o.runpath == "" {
		dirs = append(dirs, o.rpaths...)
	}
	dirs = append(dirs, l.before...)
	if !l.musl {
		dirs = append(dirs, l.expand(o.runpath, o)...)
	}
	if l.musl || !o.noDefaultLocation {
		dirs = append(dirs, l.defaults...)
	}
	return dirs
}

// find looks for a library in directories.
func (l *loading) find(name string, dirs []string) (*object, bool) {
	if strings.Contains(name, "/") {
		return l.open(l.absolute(name))
	}
	if l.musl && isMuslItself(name) {
		return &object{program: &program{}}, true
	}
	for _, dir := range slices.Concat(dirs, l.cache[name]) {
		subs := []string{"", "/glibc-hwcaps/x86-64-v2", "/glibc-hwcaps/x86-64-v3", "/glibc-hwcaps/x86-64-v4"}
		if l.musl {
			subs = subs[:1]
		}
		for _, sub := range subs {
			if lib, ok := l.open(l.absolute(dir) + sub + "/" + name); ok {
				return lib, true
			}
		}
	}
	return nil, false
}

// open reads a library, and rejects what the loader passes over: other machines.
func (l *loading) open(name string) (*object, bool) {
	if l.tries += 1 + len(name)/100; l.tries > maxTries {
		return nil, false
	}
	e, real, ok := l.stat(name)
	if !ok || !e.IsRegular() {
		return nil, false
	}
	p, err := l.parse(e)
	if err != nil || p.machine != l.machine || !p.wide {
		return nil, false
	}
	return &object{program: p, at: name, real: real}, true
}

// expand splits a search path and replaces the loader's variables in it. Where a link led to the object, its
// $ORIGIN may be the directory of either.
func (l *loading) expand(list string, o *object) (dirs []string) {
	if list == "" {
		return nil
	}
	for _, origin := range []string{path.Dir(l.absolute(o.at)), path.Dir(l.absolute(o.real))} {
		for _, lib := range []string{"lib", "lib64", "lib/" + l.arch + "-linux-gnu"} {
			text := strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$LIB", lib, "${LIB}", lib,
				"$PLATFORM", l.arch, "${PLATFORM}", l.arch).Replace(list)
			for dir := range strings.SplitSeq(text[:min(len(text), maxSearch)], ":") {
				if !slices.Contains(dirs, dir) && len(dirs) < maxDirectories {
					dirs = append(dirs, dir)
				}
			}
		}
	}
	return dirs
}

// isMuslItself reports whether musl's loader is the library, under whatever name (load_library of
// ldso/dynlink.c).
func isMuslItself(name string) bool {
	rest, ok := strings.CutPrefix(name, "lib")
	if !ok {
		return false
	}
	for _, part := range []string{"c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."} {
		if strings.HasPrefix(rest, part) {
			return true
		}
	}
	return false
}

// Bounds of ld.so.conf: the files that it may include, and of the directories of any search path.
const (
	maxIncludes    = 200
	maxDirectories = 100
)

// ldConf returns the directories of ld.so.conf, which names them a line each, or includes files.
func (c *checker) ldConf(name string, files *int) (dirs []string) {
	if *files++; *files > maxIncludes {
		return nil
	}
	for line := range strings.Lines(c.text(name)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n\r:,", r) })
		switch {
		case len(words) == 0:
		case words[0] == "include":
			for _, pattern := range words[1:] {
				if !strings.HasPrefix(pattern, "/") {
					pattern = path.Dir(name) + "/" + pattern
				}
				dir, last := path.Split(pattern)
				for _, file := range c.root.Names(dir, maxIncludes) {
					if ok, _ := path.Match(last, file); ok {
						dirs = append(dirs, c.ldConf(dir+file, files)...)
					}
				}
			}
		case strings.HasPrefix(words[0], "/"):
			dirs = append(dirs, words...)
		}
		if len(dirs) > maxDirectories {
			return dirs[:maxDirectories]
		}
	}
	return dirs
}
