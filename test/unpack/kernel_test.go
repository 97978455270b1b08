package unpack_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
	"github.com/nitro-enclaves-bootstrap/neb/internal/inspect"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/enclaves"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/require"
	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm"
)

// reading is what a reader makes of ramdisks: a line for each name, or why it refuses them.
type reading struct {
	tree    map[string]string
	refused string
}

// TestReadAsTheKernelDoes gives ramdisks of a fixed seed to the kernel's own code and to neb. What neb
// accepts, the kernel must unpack without an error, and into the same tree. NEB_ARCHIVES is how many,
// NEB_SEED the seed.
func TestReadAsTheKernelDoes(t *testing.T) {
	require.Root(t)
	program := vm.Unpacker(t)
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	count, seed := number("NEB_ARCHIVES", archives), number("NEB_SEED", 1)
	counts := map[string]int{}
	failures := 0
	const batch = 500
	for from := 0; from < count; from += batch {
		var stream bytes.Buffer
		var makers []*maker
		var all [][][]byte
		for i := from; i < min(from+batch, count); i++ {
			m := &maker{Rand: rand.New(rand.NewPCG(uint64(seed), uint64(i))), t: t}
			disks := m.ramdisks()
			joined := bytes.Join(disks, nil)
			binary.Write(&stream, binary.LittleEndian, uint32(len(joined)))
			stream.Write(joined)
			makers, all = append(makers, m), append(all, disks)
		}
		kernel := kernelReads(t, program, &stream)
		if len(kernel) != len(all) {
			t.Fatalf("the kernel's code read %d of %d ramdisks", len(kernel), len(all))
		}
		for i, disks := range all {
			neb := nebReads(t, disks)
			what := "both accept"
			switch {
			case neb.refused != "" && kernel[i].refused != "":
				what = "both refuse"
			case neb.refused != "":
				what = "neb alone refuses"
			case kernel[i].refused != "" || !maps.EqualFunc(neb.tree, kernel[i].tree, equal):
				what = "DIFFERENT"
			}
			counts[what]++
			if len(makers[i].what) == 0 {
				counts["ordinary"]++
			}
			if what == "DIFFERENT" || len(makers[i].what) == 0 && what != "both accept" {
				if failures++; failures <= 20 {
					t.Errorf("%d (%s): %s\nneb: %s\n%s", from+i, strings.Join(makers[i].what, "; "), what,
						neb.refused,
						compare(neb, kernel[i]))
				}
			}
		}
	}
	t.Logf("seed %d, %d ramdisks: %v", seed, count, counts)
	if failures > 20 {
		t.Errorf("%d ramdisks in all", failures)
	}
	for _, what := range []string{"both accept", "both refuse", "neb alone refuses", "ordinary"} {
		if counts[what] < count/50 {
			t.Errorf("%s: %d of %d, which shows little", what, counts[what], count)
		}
	}
}

// equal compares the lines of a name. The time of a directory that the kernel has made is not known.
func equal(neb, kernel string) bool {
	if strings.Contains(neb, " * ") {
		f := strings.Fields(kernel)
		if len(f) > 3 {
			f[3] = "*"
		}
		kernel = strings.Join(f, " ")
	}
	return neb == kernel
}

// compare lists the names that two readers see otherwise.
func compare(neb, kernel reading) string {
	var b strings.Builder
	if neb.refused != "" || kernel.refused != "" {
		return "kernel: " + kernel.refused
	}
	names := maps.Clone(kernel.tree)
	maps.Copy(names, neb.tree)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if n, k := neb.tree[name], kernel.tree[name]; !equal(n, k) {
			fmt.Fprintf(&b, "%q:\n\tneb    %s\n\tkernel %s\n", name, n, k)
		}
	}
	return b.String()
}

// kernelReads runs the kernel's unpacker.
func kernelReads(t *testing.T, program string, archives io.Reader) []reading {
	t.Helper()
	cmd := exec.Command(program, t.TempDir())
	cmd.Stdin, cmd.Stderr = archives, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	var all []reading
	tree, inodes := map[string]string{}, map[string][]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	text := func(s string) string {
		b, err := hex.DecodeString(strings.TrimPrefix(s, "x"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "end "); ok {
			for _, names := range inodes {
				slices.Sort(names)
				for _, name := range names[1:] {
					tree[name] += " = " + strconv.Quote(names[0])
				}
			}
			all = append(all, reading{tree, rest})
			tree, inodes = map[string]string{}, map[string][]string{}
			continue
		}
		f := strings.Fields(lines.Text())
		if len(f) != 11 {
			t.Fatalf("the kernel's unpacker printed %q", lines.Text())
		}
		name := text(f[0])
		tree[name] = strings.Join(f[1:9], " ") + " " + strconv.Quote(text(f[9]))
		if f[10] != "0" {
			inodes[f[10]] = append(inodes[f[10]], name)
		}
	}
	return all
}

// nebReads reads ramdisks in an EIF, as neb eif verify does.
func nebReads(t *testing.T, disks [][]byte) reading {
	t.Helper()
	all := []enclaves.Section{
		{Type: eif.Kernel, Content: []byte("kernel")}, {Type: eif.Cmdline, Content: []byte("x=y")},
		{Type: eif.Meta, Content: []byte("{}")},
	}
	for _, d := range disks {
		all = append(all, enclaves.Section{Type: eif.Ramdisk, Content: d})
	}
	file, size := enclaves.Write(t, all)
	defer func() {
		file.Close()
		os.Remove(file.Name())
	}()
	report, err := inspect.Inspect(t.Context(), file, size, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		if p.Code == inspect.Ramdisk {
			return reading{refused: p.Text}
		}
	}
	type entry struct {
		mode, uid, gid, time, major, minor uint32
		size                               int
		hash, target                       string
		made                               bool // by the kernel
	}
	console := &entry{mode: initramfs.TypeChar | 0o600, major: 5, minor: 1, hash: "-"}
	files := map[string]*entry{
		"dev":         {mode: initramfs.TypeDir | 0o755, hash: "-", made: true},
		"root":        {mode: initramfs.TypeDir | 0o700, hash: "-", made: true},
		"dev/console": console,
	}
	err = inspect.WalkRamdisks(report.File, func(_ int, h *initramfs.Header, body *initramfs.Reader) error {
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			return nil
		}
		content, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		f := &entry{mode: h.Mode, uid: h.UID, gid: h.GID, time: h.ModTime, hash: "-"}
		kind := h.Mode & initramfs.TypeMask
		if h.LinkTo != "" {
			f = files[h.LinkTo]
		}
		files[name] = f
		switch kind {
		case initramfs.TypeSymlink:
			f.mode, f.target = kind|0o777, string(content) // those of a link do not exist
		case initramfs.TypeChar, initramfs.TypeBlock:
			f.major, f.minor = h.Major, h.Minor
		case initramfs.TypeFile:
			if len(content) > 0 || h.LinkTo == "" {
				sum := fnv.New64a()
				sum.Write(content)
				f.size, f.hash = len(content), fmt.Sprintf("%016x", sum.Sum64())
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("reading again: %v", err)
	}
	tree, first := map[string]string{}, map[*entry]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		time := fmt.Sprint(f.time)
		if f.made {
			time = "*"
		}
		tree[name] = fmt.Sprintf("%o %d %d %s %d %d %d %s %q", f.mode, f.uid, f.gid, time, f.major, f.minor,
			f.size,
			f.hash, f.target)
		if other := first[f]; other != "" {
			tree[name] += fmt.Sprintf(" = %q", other)
		} else {
			first[f] = name
		}
	}
	return reading{tree: tree}
}
