#include "textflag.h"

// The entry point, when linked with -E nebstart. The Go runtime ends at once when descriptors 0 to 2 are closed and there is no
// /dev/null, and the kernel leaves them closed when it has no console. So /dev is mounted before the runtime starts:
// if getpid() == 1: mount("dev", "/dev", "devtmpfs", MS_NOSUID|MS_NOEXEC, NULL), whatever comes of it; main says what.
TEXT nebstart(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL $39, AX // getpid
	SYSCALL
	CMPL AX, $1
	JNE  start
	LEAQ ·entrySource(SB), DI
	LEAQ ·entryTarget(SB), SI
	LEAQ ·entryType(SB), DX
	MOVL $0xa, R10
	XORL R8, R8
	MOVL $165, AX // mount
	SYSCALL
start:
	JMP _rt0_amd64_linux(SB)

DATA ·entrySource+0(SB)/4, $"dev\x00"
GLOBL ·entrySource(SB), RODATA|NOPTR, $4
DATA ·entryTarget+0(SB)/8, $"/dev\x00\x00\x00\x00"
GLOBL ·entryTarget(SB), RODATA|NOPTR, $8
DATA ·entryType+0(SB)/8, $"devtmpfs"
DATA ·entryType+8(SB)/8, $"\x00\x00\x00\x00\x00\x00\x00\x00"
GLOBL ·entryType(SB), RODATA|NOPTR, $16
