package kernel

import (
	"errors"
	"fmt"
)

// A rule is something that a user's fragment may ask for and that neb has a word to say about.
type rule struct {
	option string
	value  func(string) bool // the values it is about
	why    string
}

func on(v string) bool        { return v != "n" }
func notModule(v string) bool { return v != "m" }

// refused are requests after which the result would not be an enclave's kernel any more, or not the same
// bytes.
var refused = []rule{
	{"CONFIG_VHOST_VSOCK", on, "connections to CID 3, the parent, would go to the host transport inside the enclave"},
	{"CONFIG_NSM", notModule, "nsm.ko is a part of the result and nitro-cli wants it: CONFIG_NSM stays m"},
	{"CONFIG_MODULE_SIG_KEY", func(v string) bool { return v != `""` }, "the build would make a signing key, or take one in, and each build would differ"},
	{"CONFIG_MODULE_SIG_ALL", on, "the build would make a signing key of its own, and each build would differ"},
}

// warned are requests that are met, and that a user should have thought about.
var warned = []rule{
	{"CONFIG_KEXEC", on, "root in the enclave could start another kernel under the same PCRs"},
	{"CONFIG_KEXEC_FILE", on, "root in the enclave could start another kernel under the same PCRs"},
	{"CONFIG_HIBERNATION", on, "root in the enclave could replace the running kernel's memory under the same PCRs"},
	{"CONFIG_MODULE_FORCE_LOAD", on, "modules made for another kernel could be loaded"},
	{"CONFIG_DEVMEM", on, "/dev/mem gives root the kernel's memory"},
	{"CONFIG_PROC_KCORE", on, "/proc/kcore shows root the kernel's memory"},
	{"CONFIG_MAGIC_SYSRQ_SERIAL", on, "whoever writes to the console could command the kernel"},
}

// Refuse returns an error for what users' fragments may not ask for, with its reason, by file:line. Syntax
// errors are reported too.
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

// Warn returns one line for each thing in users' fragments that is allowed and dangerous, or of no use.
// Fragments that [Parse] refuses give nothing here: [Refuse] reports them.
func Warn(user []Fragment) []string {
	options, err := Requested(user)
	if err != nil {
		return nil
	}
	lines := judge(warned, options)
	for _, o := range options {
		if o.Value == "m" && o.Name != "CONFIG_NSM" {
			lines = append(lines, fmt.Sprintf("%s: %s=m: nsm.ko is the only module that neb takes from the build: ask for =y",
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
