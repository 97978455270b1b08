package kernel

import (
	"errors"
	"fmt"
)

// A Want is the required value of one option of a hardened kernel.
type Want struct {
	Option string // with its CONFIG_ prefix
	Value  string // n if it must not be set
	Why    string
}

// Reasons that several options share.
const (
	whyOther   = "root could run another kernel, or other kernel code, under the same PCRs"
	whyMemory  = "root could read or change the kernel's memory"
	whyConsole = "anyone who writes to the console could control the kernel"
	whyText    = "code is not writable, data is not executable"
	whyLayout  = "an attacker does not know addresses"
	whyStale   = "allocated memory holds no data of its last owner"
	whyStack   = "a stack overflow is detected before the function returns"
	whyHeap    = "heap corruption is detected, and hard to exploit"
	whyBounds  = "an access out of bounds stops the kernel"
	whyCPU     = "speculative execution does not leak secrets"
	whySurface = "code that no enclave needs cannot be attacked"
	whyProcess = "processes cannot modify or trace each other beyond need"
)

// everywhere applies to every architecture.
var everywhere = []Want{
	{"CONFIG_KEXEC", "n", whyOther},
	{"CONFIG_KEXEC_FILE", "n", whyOther},
	{"CONFIG_HIBERNATION", "n", whyOther},
	{"CONFIG_MODULE_FORCE_LOAD", "n", whyOther},
	{"CONFIG_LIVEPATCH", "n", whyOther},
	{"CONFIG_STATIC_USERMODEHELPER", "y", "an attacker cannot make the kernel start a program"},
	{"CONFIG_STATIC_USERMODEHELPER_PATH", `""`, "an attacker cannot make the kernel start a program"},
	{"CONFIG_DEVMEM", "n", whyMemory},
	{"CONFIG_DEVPORT", "n", whyMemory},
	{"CONFIG_PROC_KCORE", "n", whyMemory},
	{"CONFIG_DEBUG_FS", "n", whyMemory},
	{"CONFIG_KPROBES", "n", whyMemory},
	{"CONFIG_FTRACE", "n", whyMemory},
	{"CONFIG_CRASH_DUMP", "n", whyMemory},
	{"CONFIG_SECURITY_LOCKDOWN_LSM", "y", whyMemory},
	{"CONFIG_MAGIC_SYSRQ", "n", whyConsole},
	{"CONFIG_MAGIC_SYSRQ_SERIAL", "n", whyConsole},
	{"CONFIG_VT", "n", whyConsole},
	{"CONFIG_LEGACY_TIOCSTI", "n", whyConsole},
	{"CONFIG_STRICT_KERNEL_RWX", "y", whyText},
	{"CONFIG_STRICT_MODULE_RWX", "y", whyText},
	{"CONFIG_DEBUG_WX", "y", whyText},
	{"CONFIG_RANDOMIZE_BASE", "y", whyLayout},
	{"CONFIG_KALLSYMS", "n", whyLayout},
	{"CONFIG_SECURITY_DMESG_RESTRICT", "y", whyLayout},
	{"CONFIG_COMPAT_BRK", "n", whyLayout},
	{"CONFIG_SLAB_FREELIST_RANDOM", "y", whyLayout},
	{"CONFIG_SHUFFLE_PAGE_ALLOCATOR", "y", whyLayout},
	{"CONFIG_RANDOM_KMALLOC_CACHES", "y", whyLayout},
	{"CONFIG_RANDOMIZE_KSTACK_OFFSET_DEFAULT", "y", whyLayout},
	{"CONFIG_INIT_STACK_ALL_ZERO", "y", whyStale},
	{"CONFIG_INIT_ON_ALLOC_DEFAULT_ON", "y", whyStale},
	{"CONFIG_ZERO_CALL_USED_REGS", "y", whyStale},
	{"CONFIG_VMAP_STACK", "y", whyStack},
	{"CONFIG_STACKPROTECTOR_STRONG", "y", whyStack},
	{"CONFIG_SCHED_STACK_END_CHECK", "y", whyStack},
	{"CONFIG_SLAB_FREELIST_HARDENED", "y", whyHeap},
	{"CONFIG_SLAB_BUCKETS", "y", whyHeap},
	{"CONFIG_SLAB_MERGE_DEFAULT", "n", whyHeap},
	{"CONFIG_LIST_HARDENED", "y", whyHeap},
	{"CONFIG_BUG_ON_DATA_CORRUPTION", "y", whyHeap},
	{"CONFIG_BUG", "y", whyHeap},
	{"CONFIG_PANIC_ON_OOPS", "y", whyHeap},
	{"CONFIG_PAGE_TABLE_CHECK_ENFORCED", "y", whyHeap},
	{"CONFIG_FORTIFY_SOURCE", "y", whyBounds},
	{"CONFIG_HARDENED_USERCOPY", "y", whyBounds},
	{"CONFIG_UBSAN_BOUNDS", "y", whyBounds},
	{"CONFIG_UBSAN_TRAP", "y", whyBounds},
	{"CONFIG_CPU_MITIGATIONS", "y", whyCPU},
	{"CONFIG_SECCOMP_FILTER", "y", whyProcess},
	{"CONFIG_SECURITY_YAMA", "y", whyProcess},
	{"CONFIG_SECURITY_LANDLOCK", "y", whyProcess},
	{"CONFIG_SECURITY_PERF_EVENTS_RESTRICT", "y", whyProcess},
	{"CONFIG_LSM", `"lockdown,landlock,yama"`, whyProcess},
	{"CONFIG_PROC_MEM_NO_FORCE", "y", whyProcess},
	{"CONFIG_DEFAULT_MMAP_MIN_ADDR", "65536", whyProcess},
	{"CONFIG_BPF_UNPRIV_DEFAULT_OFF", "y", whySurface},
	{"CONFIG_BPF_JIT_ALWAYS_ON", "y", whySurface},
	{"CONFIG_TRIM_UNUSED_KSYMS", "y", whySurface},
	{"CONFIG_LDISC_AUTOLOAD", "n", whySurface},
	{"CONFIG_LEGACY_PTYS", "n", whySurface},
	{"CONFIG_BINFMT_MISC", "n", whySurface},
	{"CONFIG_USERFAULTFD", "n", whySurface},
	{"CONFIG_COMPAT", "n", whySurface},
	{"CONFIG_KSM", "n", whySurface},
	{"CONFIG_STAGING", "n", whySurface},
	{"CONFIG_BLK_DEV_FD", "n", whySurface},
	{"CONFIG_VHOST_VSOCK", "n", "connections to CID 3 go to the parent"},
}

// only applies to one architecture.
var only = map[string][]Want{
	"x86_64": {
		{"CONFIG_RANDOMIZE_MEMORY", "y", whyLayout},
		{"CONFIG_ARCH_MMAP_RND_BITS", "32", whyLayout},
		{"CONFIG_MITIGATION_PAGE_TABLE_ISOLATION", "y", whyCPU},
		{"CONFIG_MITIGATION_RETPOLINE", "y", whyCPU},
		{"CONFIG_MITIGATION_RETHUNK", "y", whyCPU},
		{"CONFIG_MITIGATION_UNRET_ENTRY", "y", whyCPU},
		{"CONFIG_MITIGATION_IBPB_ENTRY", "y", whyCPU},
		{"CONFIG_MITIGATION_IBRS_ENTRY", "y", whyCPU},
		{"CONFIG_MITIGATION_SRSO", "y", whyCPU},
		{"CONFIG_MITIGATION_SLS", "y", whyCPU},
		{"CONFIG_MITIGATION_GDS", "y", whyCPU},
		{"CONFIG_MITIGATION_RFDS", "y", whyCPU},
		{"CONFIG_MITIGATION_SPECTRE_BHI", "y", whyCPU},
		{"CONFIG_MITIGATION_MDS", "y", whyCPU},
		{"CONFIG_MITIGATION_TAA", "y", whyCPU},
		{"CONFIG_MITIGATION_MMIO_STALE_DATA", "y", whyCPU},
		{"CONFIG_MITIGATION_L1TF", "y", whyCPU},
		{"CONFIG_MITIGATION_RETBLEED", "y", whyCPU},
		{"CONFIG_MITIGATION_SPECTRE_V1", "y", whyCPU},
		{"CONFIG_MITIGATION_SPECTRE_V2", "y", whyCPU},
		{"CONFIG_MITIGATION_SRBDS", "y", whyCPU},
		{"CONFIG_MITIGATION_SSB", "y", whyCPU},
		{"CONFIG_MITIGATION_ITS", "y", whyCPU},
		{"CONFIG_MITIGATION_TSA", "y", whyCPU},
		{"CONFIG_X86_INTEL_TSX_MODE_OFF", "y", whyCPU},
		{"CONFIG_X86_UMIP", "y", whyLayout},
		{"CONFIG_X86_KERNEL_IBT", "y", whyText},
		{"CONFIG_X86_MSR", "n", whyMemory},
		{"CONFIG_X86_IOPL_IOPERM", "n", whyMemory},
		{"CONFIG_ACPI_TABLE_UPGRADE", "n", whyOther},
		{"CONFIG_IA32_EMULATION", "n", whySurface},
		{"CONFIG_X86_X32_ABI", "n", whySurface},
		{"CONFIG_MODIFY_LDT_SYSCALL", "n", whySurface},
		{"CONFIG_X86_VSYSCALL_EMULATION", "n", whyLayout},
	},
	"aarch64": {
		{"CONFIG_ARCH_MMAP_RND_BITS", "33", whyLayout},
		{"CONFIG_UNMAP_KERNEL_AT_EL0", "y", whyCPU},
		{"CONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY", "y", whyCPU},
		{"CONFIG_RODATA_FULL_DEFAULT_ENABLED", "y", whyText},
		{"CONFIG_ARM64_PTR_AUTH_KERNEL", "y", whyStack},
		{"CONFIG_SHADOW_CALL_STACK", "y", whyStack},
		{"CONFIG_ARM64_PAN", "y", whyText},
		{"CONFIG_ARM64_E0PD", "y", whyLayout},
	},
}

// Hardening returns the requirements for every kernel that neb builds for arch from its own fragments only.
func Hardening(arch string) []Want {
	mustKnow(arch)
	return append(everywhere[:len(everywhere):len(everywhere)], only[arch]...)
}

// CheckHardening compares final, the text of a .config that Kconfig made, with [Hardening], in the names of
// its series. The error joins every option with another value, a line each, with the reason.
func CheckHardening(arch string, final []byte) error {
	have, err := parseFinal(final)
	if err != nil {
		return err
	}
	var wrong []error
	var wants []Want
	for _, want := range Hardening(arch) {
		lines, yes := changed(SeriesOf(final), want.Option)
		if !yes {
			wants = append(wants, want)
		}
		for _, line := range lines {
			o, err := parseLine(line)
			if err != nil {
				return err
			}
			wants = append(wants, Want{o.Name, o.Value, want.Why})
		}
	}
	for _, want := range wants {
		got, known := have[want.Option]
		if !known {
			got = "n"
		}
		if got != want.Value {
			wrong = append(wrong, fmt.Errorf("%s is %s, expected %s: %s", want.Option, got, want.Value,
				want.Why))
		}
	}
	return errors.Join(wrong...)
}
