#include "textflag.h"

// func handlers() (forward, absorb, fault, back uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-32
	MOVQ $·forward(SB), AX
	MOVQ AX, forward+0(FP)
	MOVQ $·absorb(SB), AX
	MOVQ AX, absorb+8(FP)
	MOVQ $·fault(SB), AX
	MOVQ AX, fault+16(FP)
	MOVQ $·back(SB), AX
	MOVQ AX, back+24(FP)
	RET

// forward is a signal handler: if ·group != 0 { kill(-·group, signal) }
TEXT ·forward(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL ·group(SB), AX
	NEGL AX
	JEQ  done
	MOVL DI, SI
	MOVL AX, DI
	MOVL $62, AX // kill
	SYSCALL
done:
	RET

// absorb is a signal handler that does nothing.
TEXT ·absorb(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	RET

// fault is a signal handler: what another process sent (si_code <= 0) is nothing, what the processor raised goes to Go's handler.
TEXT ·fault(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	CMPL 8(SI), $0
	JLE  done
	MOVQ ·goHandler(SB), AX
	JMP  AX
done:
	RET

// back ends a signal handler: rt_sigreturn()
TEXT ·back(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL $15, AX
	SYSCALL
	INT $3
