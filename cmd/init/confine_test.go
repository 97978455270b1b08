//go:build linux && amd64

package main

import (
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/eif"
	"github.com/nitro-enclaves-bootstrap/neb/internal/contract"
)

// TestConfined lets an application try what it must not do, as root, as an ordinary user, and with all that
// an image can ask for, which shows that each attempt works where it is allowed.
func TestConfined(t *testing.T) {
	const docker, none, every = "00000000a80425fb", "0000000000000000", "000001ffffffffff"
	// "-" leaves out an attempt.
	tries := [][4]string{
		// act, as root, as user 1000, as root with everything
		{"status=CapBnd", docker, docker, every},
		{"status=CapPrm", docker, none, every},
		{"status=CapEff", docker, none, every},
		{"status=CapInh", none, none, none},
		{"status=CapAmb", none, none, none},
		{"status=NoNewPrivs", "0", "1", "0"},
		{"try=ptrace init", "EPERM", "EPERM", "-"},
		{"try=seize init", "EPERM", "EPERM", "-"},
		{"try=init's memory", "EACCES", "EACCES", "ok"},
		{"try=init's files", "EACCES", "EACCES", "ok"},
		{"try=init's root", "EACCES", "EACCES", "ENOENT"},
		{"try=stop init", "ok", "EPERM", "ok"},
		{"try=kexec", "ENOSYS", "ENOSYS", "ENOSYS"},
		{"try=load a module", "EPERM", "EPERM", "EINVAL"},
		{"try=reboot", "EPERM", "EPERM", "-"},
		{"try=mount", "EPERM", "EPERM", "ok"},
		{"try=remount sysfs", "EPERM", "EPERM", "ok"},
		{"try=user namespace", "ENOSPC", "ENOSPC", "ok"},
		{"try=io_uring", "EPERM", "EPERM", "ok"},
		{"try=bpf", "EPERM", "EPERM", "EFAULT"},
		{"try=perf", "EACCES", "EACCES", "ENOENT"},
		{"try=set the clock", "EPERM", "EPERM", "EINVAL"},
		{"try=host name", "EPERM", "EPERM", "ok"},
		{"try=kernel's log", "EPERM", "EPERM", "ok"},
		{"try=priority", "EACCES", "EACCES", "ok"},
		{"try=sysctl", "EROFS", "EROFS", "ok"},
		{"try=sysfs", "EROFS", "EROFS", "ok"},
		{"try=cgroup", "EROFS", "EROFS", "ok"},
		{"addlo", "EPERM", "EPERM", "EEXIST"},
		{"try=raw socket", "ok", "EPERM", "ok"},
		{"try=ping socket", "ok", "ok", "ok"},
		{"try=port 80", "ok", "ok", "ok"},
		{"try=chroot", "ok", "EPERM", "ok"},
		{"stat=/dev/mem", "ENOENT", "ENOENT", "ENOENT"},
		{"try=memory device", "ENXIO", "EACCES", "ENXIO"},
		{"try=port device", "ENXIO", "EACCES", "ENXIO"},
		{"try=null device", "ok", "EACCES", "ok"},
		{"try=program in tmp", "ok", "ok", "ok"},
		{"try=program in run", "ok", "EACCES", "ok"},
		{"extend=0", "ReadOnlyIndex", "ReadOnlyIndex", "ReadOnlyIndex"},
		{"extend=16", "true", "true", "true"},
		{"read=/proc/sys/fs/protected_fifos", `"2"`, `"2"`, `"0"`},
		{"read=/proc/sys/fs/protected_regular", `"2"`, `"2"`, `"2"`},
		{"read=/proc/sys/fs/protected_hardlinks", `"1"`, `"1"`, `"1"`},
		{"read=/proc/sys/fs/protected_symlinks", `"1"`, `"1"`, `"1"`},
		{"read=/proc/sys/kernel/kptr_restrict", `"2"`, `"2"`, `"2"`},
		{"read=/proc/sys/kernel/dmesg_restrict", `"1"`, `"1"`, `"1"`},
		{"read=/proc/sys/kernel/unprivileged_bpf_disabled", `"2"`, `"2"`, `"2"`},
		{"read=/proc/sys/user/max_user_namespaces", `"0"`, `"0"`, ""},
		{"mount=/run", "tmpfs tmpfs rw,nosuid,nodev,relatime,mode=755", "", ""},
		{"mount=/tmp", "tmpfs tmpfs rw,nosuid,nodev,relatime", "", ""},
		{"env", `["LD_PRELOAD=/none.so" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "HOME=/" "HOSTNAME=enclave"]`, "", ""},
		{"try=stop console", "ok", "ok", "ok"}, // init starts it again for its last line
	}
	probe := entry{name: "probe", mode: 0o4755, body: probeProgram(t, eif.X86_64)}
	table := map[string]scene{}
	for i, as := range []struct {
		name string
		d    contract.Description
		late string
	}{
		{"root", contract.Description{}, ""},
		{"user 1000, no new privileges", contract.Description{User: "1000", NoNewPrivileges: true}, ""},
		{"root, everything", contract.Description{CapAdd: []string{"ALL"},
			Allow: []string{"userns", "io_uring"}}, "sysctl.fs.protected_fifos=0"},
	} {
		var s script
		for _, try := range tries {
			if try[1+i] != "-" {
				s = append(s, try[0], try[1+i])
			}
		}
		d := as.d
		d.Cmd, d.Complete = append([]string{"/probe"}, s.words()...), true
		d.Env = []string{"LD_PRELOAD=/none.so"}
		table[as.name] = scene{second: described(t, d, probe), late: as.late,
			want: s.want(`^neb: exit status=0$`)}
	}
	slowly(t, table, "root, everything")
	all(t, table)
}
