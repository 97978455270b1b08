package kernel

import (
	"strings"
	"testing"
)

func TestRefuseAndWarn(t *testing.T) {
	for _, test := range []struct {
		name, text    string
		refuse, warns string // a part of what is said; empty for silence
	}{
		{name: "harmless", text: "CONFIG_IP_SCTP=y\n"},
		{name: "VHOST_VSOCK", text: "\nCONFIG_VHOST_VSOCK=y\n",
			refuse: "mine:2: CONFIG_VHOST_VSOCK=y: connections to CID 3"},
		{name: "VHOST_VSOCK as a module", text: "CONFIG_VHOST_VSOCK=m\n", refuse: "CID 3",
			warns: "only module"},
		{name: "VHOST_VSOCK off", text: "# CONFIG_VHOST_VSOCK is not set\n"},
		{name: "NSM built in", text: "CONFIG_NSM=y\n", refuse: "nsm.ko"},
		{name: "NSM off", text: "CONFIG_NSM=n\n", refuse: "nsm.ko"},
		{name: "NSM as it is", text: "CONFIG_NSM=m\n"},
		{name: "a signing key", text: "CONFIG_MODULE_SIG_ALL=y\n", refuse: "each build would differ"},
		{name: "the name of a signing key", text: "CONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"\n",
			refuse: "each build would differ"},
		{name: "no signing key", text: "CONFIG_MODULE_SIG_KEY=\"\"\n"},
		{name: "kexec", text: "CONFIG_KEXEC=y\n", warns: "mine:1: CONFIG_KEXEC=y: root in the enclave " +
			"could start another kernel under the same PCRs"},
		{name: "kexec off", text: "CONFIG_KEXEC=n\n"},
		{name: "kexec_file", text: "CONFIG_KEXEC_FILE=y\n", warns: "same PCRs"},
		{name: "hibernation", text: "CONFIG_HIBERNATION=y\n", warns: "same PCRs"},
		{name: "/dev/mem", text: "CONFIG_DEVMEM=y\n", warns: "/dev/mem"},
		{name: "kcore", text: "CONFIG_PROC_KCORE=y\n", warns: "/proc/kcore"},
		{name: "SysRq over the console", text: "CONFIG_MAGIC_SYSRQ_SERIAL=y\n", warns: "console"},
		{name: "a module that goes nowhere", text: "CONFIG_WIREGUARD=m\n",
			warns: "mine:1: CONFIG_WIREGUARD=m: nsm.ko is the only module"},
		{name: "wrong syntax", text: "CONFIG_A\n", refuse: "mine:1:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := []Fragment{{Name: "mine", Text: test.text}}
			var refused string
			if err := Refuse(user); err != nil {
				refused = err.Error()
			}
			compare(t, "Refuse", refused, test.refuse)
			compare(t, "Warn", strings.Join(Warn(user), "\n"), test.warns)
		})
	}
}

func compare(t *testing.T, what, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s says %q, want %q", what, got, want)
	}
}
