package kernel

import (
	"errors"
	"fmt"
)

// A rule rejects values of an option in users' fragments, or warns of them.
type rule struct {
	option string
	value  func(string) bool // the values that it applies to
	why    string
}

func on(v string) bool        { return v != "n" }
func notModule(v string) bool { return v != "m" }

// refused are options with which the result would not work in an enclave, or would not be the same bytes.
var refused = []rule{
	{"CONFIG_VHOST_VSOCK", on,
		"connections to CID 3, the parent, would go to the host transport inside the enclave"},
	{"CONFIG_NSM", notModule, "nitro-cli needs nsm.ko in the result: CONFIG_NSM must be m"},
	{"CONFIG_MODULE_SIG_KEY", func(v string) bool { return v != `""` },
		"the build would make or embed a signing key, and each build would differ"},
	{"CONFIG_MODULE_SIG_ALL", on, "the build would make a signing key, and each build would differ"},
}

// warned are options that neb accepts with a warning.
var warned = []rule{
	{"CONFIG_KEXEC", on, "root in the enclave could start another kernel under the same PCRs"},
	{"CONFIG_KEXEC_FILE", on, "root in the enclave could start another kernel under the same PCRs"},
	{"CONFIG_HIBERNATION", on,
		"root in the enclave could replace the running kernel's memory under the same PCRs"},
	{"CONFIG_MODULE_FORCE_LOAD", on, "modules made for another kernel could be loaded"},
	{"CONFIG_DEVMEM", on, "/dev/mem gives root the kernel's memory"},
	{"CONFIG_PROC_KCORE", on, "/proc/kcore shows root the kernel's memory"},
	{"CONFIG_MAGIC_SYSRQ_SERIAL", on, "anyone who writes to the console could control the kernel"},
}

// Refuse fails for each option that users' fragments may not set, with the reason, by file:line, and for
// syntax errors.
func Refuse(user []Fragment) error {
	options, err := Requested(user)
	if err != nil {
		return err
	}
	var wrong []error
	for _, line := range judge(refused, options) {
		wrong = append(wrong, errors.New(line))
	}
	return errors.Join(wrong...)
}

// Warn returns one line for each option in users' fragments that is dangerous or has no effect. It returns
// nothing for fragments that [Parse] rejects.
func Warn(user []Fragment) []string {
	options, err := Requested(user)
	if err != nil {
		return nil
	}
	lines := judge(warned, options)
	for _, o := range options {
		if o.Value == "m" && o.Name != "CONFIG_NSM" {
			lines = append(lines, fmt.Sprintf("%s: %s=m: nsm.ko is the only module that neb keeps: set it "+
				"to y",
				o.Where(), o.Name))
		}
	}
	return lines
}

func judge(rules []rule, options []Option) []string {
	var lines []string
	for _, o := range options {
		for _, r := range rules {
			if o.Name == r.option && r.value(o.Value) {
				lines = append(lines, fmt.Sprintf("%s: %s=%s: %s", o.Where(), o.Name, o.Value, r.why))
			}
		}
	}
	return lines
}
