#include "textflag.h"

// The entry point, when linked with -E nebstart. See entry_amd64.s.
TEXT nebstart(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD $172, R8 // getpid
	SVC
	CMP  $1, R0
	BNE  start
	MOVD $·entrySource(SB), R0
	MOVD $·entryTarget(SB), R1
	MOVD $·entryType(SB), R2
	MOVD $0xa, R3
	MOVD ZR, R4
	MOVD $40, R8 // mount
	SVC
start:
	JMP _rt0_arm64_linux(SB)

DATA ·entrySource+0(SB)/4, $"dev\x00"
GLOBL ·entrySource(SB), RODATA|NOPTR, $4
DATA ·entryTarget+0(SB)/8, $"/dev\x00\x00\x00\x00"
GLOBL ·entryTarget(SB), RODATA|NOPTR, $8
DATA ·entryType+0(SB)/8, $"devtmpfs"
DATA ·entryType+8(SB)/8, $"\x00\x00\x00\x00\x00\x00\x00\x00"
GLOBL ·entryType(SB), RODATA|NOPTR, $16
