package main

import "golang.org/x/sys/unix"

const elfMachine = 183 // EM_AARCH64

const auditArch = unix.AUDIT_ARCH_AARCH64
