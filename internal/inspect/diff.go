package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/printable"
)

// Difference is one way in which two files differ.
type Difference struct {
	Section string   // "header", "kernel", "ramdisk 1" …
	Path    string   // the file in a ramdisk, or the field of the metadata; "" for the section as a whole
	What    string   // how they differ
	PCRs    []string // the registers that differ because of it; none for what is not measured
}

func (d Difference) String() string {
	where := d.Section
	if d.Path != "" {
		where += ": " + printable.Name(d.Path)
	}
	measured := "not measured"
	if len(d.PCRs) > 0 {
		measured = strings.Join(d.PCRs, ", ")
	}
	return fmt.Sprintf("%s: %s (%s)", where, d.What, measured)
}

// covering returns the registers that cover the nth section of a type.
func covering(t eif.SectionType, n int) []string {
	switch {
	case t == eif.Kernel || t == eif.Cmdline || t == eif.Ramdisk && n == 0:
		return []string{"PCR0", "PCR1"}
	case t == eif.Ramdisk:
		return []string{"PCR0", "PCR2"}
	case t == eif.Signature:
		return []string{"PCR8"}
	}
	return nil
}

// comparison is the work of [Diff].
type comparison struct {
	ctx    context.Context // of the one call of Diff
	tools  Tools
	a, b   *walker
	ea, eb *walker // for erofs roots
	report func(Difference)
}

// Diff finds out where two files differ: in which sections and, inside of ramdisks, in which files. It calls
// report for each difference, in the order of the sections of a. The tools read erofs roots, and may be nil.
func Diff(ctx context.Context, a, b *eif.File, tools Tools, report func(Difference)) error {
	pa, err := a.Measure(ctx)
	if pa == nil {
		return fmt.Errorf("the first file: %w", err)
	}
	pb, err := b.Measure(ctx)
	if pb == nil {
		return fmt.Errorf("the second file: %w", err)
	}
	header := func(format string, args ...any) {
		report(Difference{Section: "header", What: fmt.Sprintf(format, args...)})
	}
	for _, field := range []struct {
		name string
		a, b any
	}{
		{"version", a.Version, b.Version},
		{"flags", flags(a), flags(b)},
		{"default memory", a.Memory, b.Memory},
		{"default CPUs", a.CPUs, b.CPUs},
		{"section order", order(a), order(b)},
		{"layout", fmt.Sprint(a.Layout), fmt.Sprint(b.Layout)},
	} {
		if field.a != field.b {
			header("%s %v and %v", field.name, field.a, field.b)
		}
	}
	// Different checksums say nothing new about two files whose checksums are right.
	if a.CRC != b.CRC && (a.CRC != pa.CRC || b.CRC != pb.CRC) {
		header("checksum %08x and %08x, expected %08x and %08x", a.CRC, b.CRC, pa.CRC, pb.CRC)
	}
	c := &comparison{ctx, tools, newWalker(a), newWalker(b), newWalker(a), newWalker(b), report}
	for _, t := range []eif.SectionType{eif.Kernel, eif.Cmdline, eif.Ramdisk, eif.Meta, eif.Signature} {
		as, bs := indexes(a, t), indexes(b, t)
		for n := range max(len(as), len(bs)) {
			d := Difference{Section: t.String(), PCRs: covering(t, n)}
			if t == eif.Ramdisk {
				d.Section = fmt.Sprintf("ramdisk %d", n)
			}
			switch {
			case n >= len(bs):
				d.What = onlyFirst
				report(d)
			case n >= len(as):
				d.What = onlySecond
				report(d)
			case pa.Sections[as[n]].SHA384 != pb.Sections[bs[n]].SHA384:
				if err := c.sections(a.Sections[as[n]], b.Sections[bs[n]], d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func flags(f *eif.File) string {
	return fmt.Sprintf("%#x (%s)", f.Flags, cmp.Or(f.FlagNames(), f.Arch()))
}

func order(f *eif.File) string {
	var names []string
	for _, s := range f.Sections {
		names = append(names, s.Type.String())
	}
	return strings.Join(names, " ")
}

// indexes returns the places of a type's sections in the file.
func indexes(f *eif.File, t eif.SectionType) []int {
	var at []int
	for i, s := range f.Sections {
		if s.Type == t {
			at = append(at, i)
		}
	}
	return at
}

// sections compares two sections whose contents differ.
func (c *comparison) sections(sa, sb eif.Section, d Difference) error {
	switch {
	case sa.Type == eif.Ramdisk:
		return c.ramdisks(sa, sb, d)
	case sa.Type == eif.Cmdline && sa.Size < 1<<16 && sb.Size < 1<<16:
		ca, errA := c.a.Cmdline()
		cb, errB := c.b.Cmdline()
		if errA == nil && errB == nil {
			d.What = fmt.Sprintf("%q and %q", ca, cb)
			c.report(d)
			return nil
		}
	case sa.Type == eif.Meta:
		ma, errA := c.a.Metadata()
		mb, errB := c.b.Metadata()
		if errA == nil && errB == nil {
			return c.metadata(sa, sb, ma, mb, d)
		}
	}
	return c.bytes(sa, sb, d, "")
}

// bytes reports the first byte that differs.
func (c *comparison) bytes(sa, sb eif.Section, d Difference, more string) error {
	at, err := firstDifference(c.a.Content(sa), c.b.Content(sb))
	if err != nil {
		return err
	}
	d.What = fmt.Sprintf("%d and %d bytes, the first difference at byte %d%s", sa.Size, sb.Size, at, more)
	c.report(d)
	return nil
}

func (c *comparison) metadata(sa, sb eif.Section, ma, mb *eif.Metadata, d Difference) error {
	found := false
	for _, field := range []struct{ name, a, b string }{
		{"ImageName", ma.ImageName, mb.ImageName},
		{"ImageVersion", ma.ImageVersion, mb.ImageVersion},
		{"BuildTime", ma.BuildMetadata.BuildTime, mb.BuildMetadata.BuildTime},
		{"BuildTool", ma.BuildMetadata.BuildTool, mb.BuildMetadata.BuildTool},
		{"BuildToolVersion", ma.BuildMetadata.BuildToolVersion, mb.BuildMetadata.BuildToolVersion},
		{"OperatingSystem", ma.BuildMetadata.OperatingSystem, mb.BuildMetadata.OperatingSystem},
		{"KernelVersion", ma.BuildMetadata.KernelVersion, mb.BuildMetadata.KernelVersion},
		{"DockerInfo", string(ma.DockerInfo), string(mb.DockerInfo)},
		{"CustomMetadata", string(ma.CustomMetadata), string(mb.CustomMetadata)},
	} {
		if field.a != field.b {
			found = true
			d.Path, d.What = field.name, excerpts(field.a, field.b)
			c.report(d)
		}
	}
	if found {
		return nil
	}
	// Other keys, their order, spaces.
	ta, errA := io.ReadAll(c.a.Content(sa))
	tb, errB := io.ReadAll(c.b.Content(sb))
	d.What = "the same fields, encoded differently: " + excerpts(string(ta), string(tb))
	c.report(d)
	return errors.Join(errA, errB)
}

// excerpts returns two texts that differ, or the parts of long ones around the first difference.
func excerpts(a, b string) string {
	const most, before = 100, 20 // bytes of an excerpt, and of it before the difference
	if len(a) <= most && len(b) <= most {
		return fmt.Sprintf("%q and %q", a, b)
	}
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	from := max(0, at-before)
	part := func(s string) string {
		text := fmt.Sprintf("%q", s[from:min(len(s), from+most)])
		if from > 0 {
			text = "…" + text
		}
		if from+most < len(s) {
			text += "…"
		}
		return text
	}
	return fmt.Sprintf("%s and %s (from byte %d on)", part(a), part(b), at)
}

// firstDifference returns the number of bytes that two streams have in common at their start.
func firstDifference(a, b io.Reader) (int64, error) {
	ba, bb := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		na, errA := io.ReadFull(a, ba)
		nb, errB := io.ReadFull(b, bb)
		for i := range min(na, nb) {
			if ba[i] != bb[i] {
				return at + int64(i), nil
			}
		}
		at += int64(min(na, nb))
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return at, err
			}
		}
		if na != nb || errA != nil || errB != nil {
			return at, nil
		}
	}
}

// ramdisks compares two archives entry by entry, and the erofs roots in them.
func (c *comparison) ramdisks(sa, sb eif.Section, d Difference) error {
	whole, found, roots := d, false, false
	moved, err := diffTrees(archive(c.ctx, c.a, sa), archive(c.ctx, c.b, sb), func(path, what string) {
		found = true
		roots = roots || isPart(path) && what != onlyFirst && what != onlySecond
		d.Path, d.What = path, what
		c.report(d)
	})
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	switch {
	case err != nil:
		return c.bytes(sa, sb, whole, fmt.Sprintf("; the files in it cannot be compared: %v", err))
	case roots:
		return c.erofs(sa, sb, whole)
	case found:
		return nil
	case moved:
		whole.What = "the same files in a different order"
		c.report(whole)
		return nil
	}
	const encoding = "; the same files, encoded differently (inode numbers, padding or compression)"
	return c.bytes(sa, sb, whole, encoding)
}

// erofs compares the erofs roots of two ramdisks file by file.
func (c *comparison) erofs(sa, sb eif.Section, d Difference) error {
	d.Section += ", erofs root"
	say := func(path, what string) {
		d.Path, d.What = path, what
		c.report(d)
	}
	tools := c.tools
	if tools != nil {
		tools = &oneAtATime{Tools: tools} // diffTrees reads both trees at a time
	}
	_, err := diffTrees(erofsFiles(c.ctx, tools, c.ea, sa), erofsFiles(c.ctx, tools, c.eb, sb), say)
	if err != nil {
		say("", fmt.Sprintf("the files in it cannot be compared: %v", err))
	}
	return context.Cause(c.ctx)
}
