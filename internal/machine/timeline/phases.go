package timeline

import (
	"slices"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/machine"
)

// A span is one phase of a run, from and to in time since power-on.
type span struct {
	name     string // fixed word, see docs/json.md
	label    string // words for people
	from, to time.Duration
	part     bool // a sub-phase of the preceding phase
	after    bool // after the start: it may last for days
}

// A landmark is a line of the kernel that begins a sub-phase. The sub-phase lasts until the next landmark
// found, or until the end of its phase.
type landmark struct{ text, name, label string }

// Landmarks of each phase, in the order in which the kernel prints them. The kernel prints some of them
// because of what init does. The ramdisks are unpacked in parallel with other work, between the two of
// unpacking.
var (
	kernelLandmarks = []landmark{
		{"Linux version", "kernel-early", "early setup"},
		{"Calibrating delay loop", "kernel-processor", "processor"},
		{"Freeing SMP alternatives", "kernel-timers", "timers"},
		{"smpboot: CPU0", "kernel-smp", "other processors"},
		{"Memory: ", "kernel-memory", "memory"},
		{"NET: Registered PF_NETLINK", "kernel-core", "core services"},
		{"Unpacking initramfs", "kernel-filesystems", "file systems"},
		{"NET: Registered PF_ALG", "kernel-drivers", "drivers"},
		{"NET: Registered PF_VSOCK", "kernel-late", "late services, wait for the ramdisks"},
		{"Freeing unused kernel image", "kernel-free", "free memory of the start"},
	}
	initLandmarks = []landmark{
		{"Run /init", "init-start", "start of init"},
		{"nsm: ", "init-nsm", "NSM driver, call to the parent"},
	}
	rootLandmarks = []landmark{
		{"loop0: detected capacity change", "root-mount", "mount of the erofs root"},
		{"erofs: (device loop0): mounted", "root-setup", "mounts, network, user, start"},
	}
	unpacking = []landmark{{text: "Unpacking initramfs"}, {text: "Freeing initrd memory"}}

	landmarks = slices.Concat(kernelLandmarks, initLandmarks, rootLandmarks, unpacking)
)

// spans cuts the run into phases, as far as the milestones and the console show them.
func (t *Timeline) spans() []span {
	var all []span
	kernel, hasKernel := t.marks[Kernel]
	init, hasInit := t.marks[Init]
	beat, hasBeat := t.marks[string(machine.Heartbeat)]
	output, hasOutput := t.marks[Application]
	off, hasOff := t.marks[string(machine.Ended)]

	add := func(ok bool, name, label string, from, to time.Duration, parts ...landmark) {
		if ok && to >= from {
			all = append(append(all, span{name: name, label: label, from: from, to: to}),
				t.parts(from, to, parts)...)
		}
	}
	add(hasKernel, "firmware", "QEMU, firmware, kernel before its console", 0, kernel)
	add(hasKernel && hasInit, "kernel", "kernel", kernel, init, kernelLandmarks...)
	from, begun := t.seen[unpacking[0].text]
	if to, done := t.seen[unpacking[1].text]; begun && done && hasInit && to <= init {
		label := "unpacking of the ramdisks, in parallel"
		all = append(all, span{name: "kernel-unpack", label: label, from: from, to: to, part: true})
	}
	add(hasInit && hasBeat, "init", "init, until the heartbeat", init, beat, initLandmarks...)
	add(!hasInit && hasBeat, "boot", "start, until the heartbeat", 0, beat)
	add(hasBeat && hasOutput, "application-start", "init, until the application's first output",
		beat, output, rootLandmarks...)
	started := len(all)
	add(hasOutput && hasOff, "application", "application", output, off)
	add(hasBeat && !hasOutput && hasOff, "silent", "after the heartbeat, no output", beat, off)
	for i := range all[started:] {
		all[started+i].after = true
	}
	return all
}

// parts cuts a phase by the times at which lines of the kernel arrived, since the kernel's own clock falls
// behind on a busy machine without KVM. Lines from before the console existed arrive together.
func (t *Timeline) parts(start, end time.Duration, landmarks []landmark) []span {
	var parts []span
	for _, mark := range landmarks {
		at, ok := t.seen[mark.text]
		if !ok || at > end {
			continue
		}
		at = max(start, at)
		if n := len(parts); n > 0 {
			if at < parts[n-1].from {
				continue // another kernel may print them in another order
			}
			parts[n-1].to = at
		}
		parts = append(parts, span{name: mark.name, label: mark.label, from: at, to: end, part: true})
	}
	return parts
}
