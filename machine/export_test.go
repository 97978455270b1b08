package machine

import "context"

// ProbeArchs are the architectures that there is a probe for KVM for.
func ProbeArchs() []string {
	var archs []string
	for arch := range probes {
		archs = append(archs, arch)
	}
	return archs
}

// RunProbe runs a probe under emulation; with idle, one whose code does nothing.
func RunProbe(ctx context.Context, emulator, arch, dir string, idle bool) (bool, error) {
	program, err := findQEMU(emulator, arch)
	if err != nil {
		return false, err
	}
	p := probes[arch]
	if idle {
		p.code = make([]byte, 64<<10)
	}
	return p.run(ctx, program, dir, "tcg"), nil
}
