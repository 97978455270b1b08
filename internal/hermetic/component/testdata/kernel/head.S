/* Documentation/arch/arm64/booting.rst: code, text_offset, image_size, flags, reserved, magic, reserved. */
	nop
	b	.
	.quad	0
	.quad	64
	.quad	0
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.word	0
