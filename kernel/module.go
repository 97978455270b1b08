package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
)

const maxModinfo = 1 << 20 // bytes of a section .modinfo

// ModuleInfo returns the first value of a key in a module's section .modinfo (__MODULE_INFO of
// include/linux/moduleparam.h). It fails if there is none: modpost writes vermagic and depends into all
// modules.
func ModuleInfo(module *elf.File, key string) (string, error) {
	section := module.Section(".modinfo")
	if section == nil {
		return "", errors.New("not a kernel module: no section .modinfo")
	}
	info, err := io.ReadAll(io.LimitReader(section.Open(), maxModinfo))
	if err != nil {
		return "", fmt.Errorf("section .modinfo: %w", err)
	}
	for record := range bytes.SplitSeq(info, []byte{0}) {
		if value, ok := bytes.CutPrefix(record, []byte(key+"=")); ok {
			return string(value), nil
		}
	}
	return "", fmt.Errorf("not a kernel module: no %s in section .modinfo", key)
}
