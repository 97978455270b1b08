#include "textflag.h"

// See signal_amd64.s.

// func handlers() (forward, absorb, fault, back uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-32
	MOVD $·forward(SB), R0
	MOVD R0, forward+0(FP)
	MOVD $·absorb(SB), R0
	MOVD R0, absorb+8(FP)
	MOVD $·fault(SB), R0
	MOVD R0, fault+16(FP)
	MOVD $·back(SB), R0
	MOVD R0, back+24(FP)
	RET

TEXT ·forward(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVW ·group(SB), R2
	CBZ  R2, done
	MOVW R0, R1
	NEG  R2, R0
	MOVD $129, R8 // kill
	SVC
done:
	RET

TEXT ·absorb(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	RET

TEXT ·fault(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVW 8(R1), R2
	CMPW $0, R2
	BLE  done
	MOVD ·goHandler(SB), R3
	JMP  (R3)
done:
	RET

TEXT ·back(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD $139, R8 // rt_sigreturn
	SVC
	BRK
