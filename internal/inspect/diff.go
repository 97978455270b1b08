package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Difference is one way in which two files differ.
type Difference struct {
	Section string   // "header", "kernel", "ramdisk 1" …
	Path    string   // in a ramdisk: the file; "" for the section as a whole
	What    string   // how they differ
	PCRs    []string // the registers that differ for it; none for what is not measured
}

func (d Difference) String() string {
	where := d.Section
	if d.Path != "" {
		where += ": " + visible(d.Path)
	}
	measured := "not measured"
	if len(d.PCRs) > 0 {
		measured = strings.Join(d.PCRs, ", ")
	}
	return fmt.Sprintf("%s: %s (%s)", where, d.What, measured)
}

// covering are the registers that cover the nth section of a type.
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

// Diff finds out where two files differ: in which sections and, inside of ramdisks, in which files. It calls
// report for each difference, in the order of the sections of a. The tools look into erofs roots, and may be
// nil.
func Diff(ctx context.Context, a, b *eif.File, tools Tools, report func(Difference)) error {
	pa, err := a.Measure(ctx)
	if pa == nil {
		return fmt.Errorf("the first file: %w", err)
	}
	pb, err := b.Measure(ctx)
	if pb == nil {
		return fmt.Errorf("the second file: %w", err)
	}
	for _, field := range []struct {
		name string
		a, b any
	}{
		{"version", a.Version, b.Version},
		{"flags (architecture)", a.Flags, b.Flags},
		{"default memory", a.Memory, b.Memory},
		{"default CPUs", a.CPUs, b.CPUs},
	} {
		if field.a != field.b {
			report(Difference{Section: "header", What: fmt.Sprintf("%s is %v and %v", field.name, field.a, field.b)})
		}
	}
	// Files that differ in nothing else have the same sum, and one of them the wrong one.
	if a.CRC != b.CRC && (a.CRC != pa.CRC || b.CRC != pb.CRC) {
		report(Difference{Section: "header", What: fmt.Sprintf("the checksum is %08x and %08x, and should be %08x and %08x", a.CRC, b.CRC, pa.CRC, pb.CRC)})
	}
	if oa, ob := order(a), order(b); oa != ob {
		report(Difference{Section: "header", What: fmt.Sprintf("the sections are in the order %s and %s", oa, ob)})
	}
	for _, t := range []eif.SectionType{eif.Kernel, eif.Cmdline, eif.Ramdisk, eif.Meta, eif.Signature} {
		as, bs := indexes(a, t), indexes(b, t)
		for n := range max(len(as), len(bs)) {
			d := Difference{Section: t.String(), PCRs: covering(t, n)}
			if t == eif.Ramdisk {
				d.Section = fmt.Sprintf("ramdisk %d", n)
			}
			switch {
			case n >= len(bs):
				d.What = "only the first file has it"
			case n >= len(as):
				d.What = "only the second file has it"
			case pa.Sections[as[n]].SHA384 == pb.Sections[bs[n]].SHA384:
				continue
			default:
				if err := diffSection(ctx, tools, a, b, a.Sections[as[n]], b.Sections[bs[n]], d, report); err != nil {
					return err
				}
				continue
			}
			report(d)
		}
	}
	return nil
}

func order(f *eif.File) string {
	var names []string
	for _, s := range f.Sections {
		names = append(names, s.Type.String())
	}
	return strings.Join(names, " ")
}

// indexes are the places of a type's sections in the file.
func indexes(f *eif.File, t eif.SectionType) []int {
	var at []int
	for i, s := range f.Sections {
		if s.Type == t {
			at = append(at, i)
		}
	}
	return at
}

// diffSection looks into two sections whose contents differ.
func diffSection(ctx context.Context, tools Tools, a, b *eif.File, sa, sb eif.Section, d Difference, report func(Difference)) error {
	switch {
	case sa.Type == eif.Ramdisk:
		return diffRamdisks(ctx, tools, a, b, sa, sb, d, report)
	case sa.Type == eif.Cmdline && sa.Size < 1<<16 && sb.Size < 1<<16:
		ca, errA := a.Cmdline()
		cb, errB := b.Cmdline()
		if errA == nil && errB == nil {
			d.What = fmt.Sprintf("it is %q and %q", ca, cb)
			report(d)
			return nil
		}
	case sa.Type == eif.Meta:
		ma, errA := a.Metadata()
		mb, errB := b.Metadata()
		if errA == nil && errB == nil {
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
					d.Path, d.What = field.name, "it is "+differing(field.a, field.b)
					report(d)
				}
			}
			if found {
				return nil
			}
			// What the fields do not show: other keys, their order, spaces.
			ta, errA := io.ReadAll(a.Content(sa))
			tb, errB := io.ReadAll(b.Content(sb))
			if err := errors.Join(errA, errB); err != nil {
				return err
			}
			d.What = "the same fields in another form: " + differing(string(ta), string(tb))
			report(d)
			return nil
		}
	}
	at, err := firstDifference(a.Content(sa), b.Content(sb))
	if err != nil {
		return err
	}
	d.What = fmt.Sprintf("%d and %d bytes, which differ from byte %d on", sa.Size, sb.Size, at)
	report(d)
	return nil
}

// differing is two texts that differ, or the parts of long ones where they begin to.
func differing(a, b string) string {
	const most, before = 100, 20 // bytes that are shown, and of those the ones that both have
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

// firstDifference is the number of bytes that two streams have in common at their start.
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
		if na != nb || errA != nil || errB != nil {
			for _, err := range []error{errA, errB} {
				if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
					return at, err
				}
			}
			return at, nil
		}
	}
}

// entry is what diffRamdisks remembers of an entry of the first file.
type entry struct {
	header initramfs.Header // without the name
	sum    [sha256.Size]byte
	seen   bool
}

func readEntry(h *initramfs.Header, body io.Reader) (entry, error) {
	e := entry{header: *h}
	sum := sha256.New()
	_, err := io.Copy(sum, body)
	sum.Sum(e.sum[:0])
	e.header.Name = ""
	return e, err
}

// diffRamdisks compares two archives entry by entry.
func diffRamdisks(ctx context.Context, tools Tools, a, b *eif.File, sa, sb eif.Section, d Difference, report func(Difference)) error {
	whole := d
	entries := map[string]*entry{}
	var names []string
	err := walkRamdisk(a, sa, func(h *initramfs.Header, body *initramfs.Reader) error {
		e, err := readEntry(h, body)
		if _, again := entries[h.Name]; !again {
			names = append(names, h.Name)
		}
		entries[h.Name] = &e
		return errOr(err, context.Cause(ctx))
	})
	if err != nil {
		return diffUnreadable(a, b, sa, sb, whole, fmt.Errorf("the first file's: %w", err), report)
	}
	found, place, moved, roots := 0, 0, false, false
	say := func(name, format string, args ...any) {
		found++
		d.Path, d.What = name, fmt.Sprintf(format, args...)
		report(d)
	}
	err = walkRamdisk(b, sb, func(h *initramfs.Header, body *initramfs.Reader) error {
		e, err := readEntry(h, body)
		if err != nil {
			return err
		}
		old, ok := entries[h.Name]
		if !ok {
			say(h.Name, "only the second file has it")
			return context.Cause(ctx)
		}
		for place < len(names) && names[place] != h.Name && !moved {
			if n := entries[names[place]]; n.seen {
				break
			}
			// A name that is missing from the second file is no move; one that comes later is.
			place++
		}
		if place < len(names) && names[place] == h.Name {
			place++
		} else {
			moved = true
		}
		old.seen = true
		if what := compareEntries(old, &e); what != "" {
			say(h.Name, "%s", what)
			roots = roots || isPart(h.Name)
		}
		return context.Cause(ctx)
	})
	if err != nil {
		return diffUnreadable(a, b, sa, sb, whole, fmt.Errorf("the second file's: %w", err), report)
	}
	for _, name := range names {
		if !entries[name].seen {
			say(name, "only the first file has it")
		}
	}
	if roots {
		return diffErofs(ctx, tools, a, b, sa, sb, whole, report)
	}
	if found == 0 {
		at, err := firstDifference(a.Content(sa), b.Content(sb))
		if err != nil {
			return err
		}
		whole.What = fmt.Sprintf("the same files in another form, from byte %d on: their order, inode numbers, padding or compression", at)
		if moved {
			whole.What = "the same files in another order"
		}
		report(whole)
	}
	return nil
}

func diffUnreadable(a, b *eif.File, sa, sb eif.Section, d Difference, reason error, report func(Difference)) error {
	at, err := firstDifference(a.Content(sa), b.Content(sb))
	if err != nil {
		return err
	}
	d.What = fmt.Sprintf("%d and %d bytes, which differ from byte %d on; its files cannot be compared: %v", sa.Size, sb.Size, at, reason)
	report(d)
	return nil
}

// compareEntries says how two entries of the same name differ, or nothing. Inode numbers are only names for
// links.
func compareEntries(a, b *entry) string {
	var what []string
	say := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	x, y := a.header, b.header
	if x.Mode != y.Mode {
		say("mode %s and %s", modeText(x.Mode), modeText(y.Mode))
	}
	if x.UID != y.UID || x.GID != y.GID {
		say("owner %d:%d and %d:%d", x.UID, x.GID, y.UID, y.GID)
	}
	if x.ModTime != y.ModTime {
		say("time %d and %d", x.ModTime, y.ModTime)
	}
	if x.Major != y.Major || x.Minor != y.Minor {
		say("device %d:%d and %d:%d", x.Major, x.Minor, y.Major, y.Minor)
	}
	if x.Links != y.Links {
		say("%d and %d hard links", x.Links, y.Links)
	}
	switch {
	case x.Size != y.Size:
		say("size %d and %d", x.Size, y.Size)
	case !bytes.Equal(a.sum[:], b.sum[:]):
		say("content")
	}
	return strings.Join(what, ", ")
}

func errOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
