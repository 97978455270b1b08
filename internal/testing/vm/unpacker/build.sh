#!/bin/sh
# build.sh SOURCE OUT: compiles the kernel's own unpacker and decompressors, from the kernel tree SOURCE, as
# the program OUT/unpack. host.h takes the place of the kernel's headers; those of the decompressors'
# interfaces are the kernel's own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=$1 out=$2

include=$out/include
mkdir -p "$include/linux" "$include/asm"
for h in async bitops compiler crc32 delay dirent fcntl file fs init init_syscalls initrd kernel kexec \
	kstrtox math64 memblock mm module namei printk security slab string swab syscalls umh unaligned utime vmalloc; do
	echo '#include "host.h"' >"$include/linux/$h.h"
done
: >"$include/asm/page.h"
: >"$include/do_mounts.h"
cp -r "$source/include/linux/decompress" "$include/linux/"
for h in xz xxhash zlib zconf zutil lz4 zstd zstd_lib zstd_errors; do
	cp "$source/include/linux/$h.h" "$include/linux/"
done

# What follows unpack_to_rootfs finds the archive in memory.
sed '/^static int __initdata do_retain_initrd;/,$d' "$source/init/initramfs.c" >"$include/unpacker.c"

# For tests that quote lines.
mkdir -p "$out/source/lib"
cp -r "$source/init" "$source/usr" "$out/source/"
cp -r "$source"/lib/decompress*.c "$source/lib/lz4" "$source/lib/xz" "$out/source/lib/"

lib=$source/lib
exec gcc -std=gnu11 -O1 -w -static -D_GNU_SOURCE -D__KERNEL__ -fno-strict-aliasing \
	-I"$here" -I"$include" -include host.h \
	-o "$out/unpack" "$here/main.c" "$here/kernel.c" \
	"$lib/decompress.c" "$lib/decompress_inflate.c" "$lib/decompress_unxz.c" "$lib/decompress_unzstd.c" \
	"$lib/decompress_unlz4.c" "$lib/lz4/lz4_decompress.c" \
	"$lib/zlib_inflate/inftrees.c" "$lib/zlib_inflate/inffast.c" "$lib/zlib_inflate/inflate.c" \
	"$lib/xz/xz_dec_stream.c" "$lib/xz/xz_dec_lzma2.c" "$lib/xxhash.c" \
	"$lib/zstd/common/debug.c" "$lib/zstd/common/entropy_common.c" "$lib/zstd/common/error_private.c" \
	"$lib/zstd/common/fse_decompress.c" "$lib/zstd/common/zstd_common.c" \
	"$lib/zstd/decompress/huf_decompress.c" "$lib/zstd/decompress/zstd_ddict.c" \
	"$lib/zstd/decompress/zstd_decompress.c" "$lib/zstd/decompress/zstd_decompress_block.c" \
	"$lib/zstd/zstd_decompress_module.c"
