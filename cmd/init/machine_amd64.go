package main

import "golang.org/x/sys/unix"

const elfMachine = 62 // EM_X86_64

const auditArch = unix.AUDIT_ARCH_X86_64
