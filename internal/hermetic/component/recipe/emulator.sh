# Builds QEMU with the machine nitro-enclave for x86_64, and for aarch64 enclaves' kernels the machine virt.
#
# /src/qemu_*.tar.xz  the source
# /out/bin            what is started: a script for each architecture
# /out/libexec        the programs
# /out/lib            the C library, its loader and the other libraries that the programs were linked with
# /out/share          firmware
#
# A static QEMU would be simpler to carry around, but GnuTLS, which the nitro-enclave machine needs for certificates, depends on
# p11-kit, and there is no static p11-kit. So the libraries travel with the programs, and their own loader starts them: nothing of the
# machine's distribution is used but /bin/sh.
mkdir qemu
tar -x -f /src/qemu_*.tar.xz -C qemu --strip-components=1 --no-same-owner --no-same-permissions
mkdir qemu/build
cd qemu/build
../configure \
	--prefix=/out \
	--target-list=x86_64-softmmu,aarch64-softmmu \
	--without-default-features \
	--enable-tcg --enable-kvm --enable-fdt=system --enable-gnutls --enable-libcbor --enable-vhost-user --enable-pixman \
	--disable-docs --disable-tools --disable-user --disable-install-blobs
ninja -j "$JOBS" qemu-system-x86_64 qemu-system-aarch64

mkdir -p /out/bin /out/libexec /out/lib /out/share
for program in qemu-system-x86_64 qemu-system-aarch64; do
	strip -o "/out/libexec/$program" "$program"
	cat >"/out/bin/$program" <<'END'
#!/bin/sh
# Starts QEMU with the loader and libraries that it was built with, whatever this machine has.
dir=$(dirname "$0")/..
exec "$dir/lib/ld.so" --library-path "$dir/lib" "$dir/libexec/${0##*/}" -L "$dir/share" "$@"
END
	chmod 755 "/out/bin/$program"
done

loader=$(readelf -l qemu-system-x86_64 | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
cp -L "$loader" /out/lib/ld.so
for program in /out/libexec/*; do
	"$loader" --list "$program"
done | awk '$2 == "=>" { print $3 }' | grep -v "^$loader\$" | sort -u >libraries
while read -r library; do
	cp -L "$library" /out/lib/
done <libraries
cp /usr/share/qemu/qboot.rom /usr/share/qemu/linuxboot_dma.bin /out/share/
