# Builds QEMU with the machine nitro-enclave for x86_64, and for aarch64 enclaves' kernels the machine virt.
#
# /src/qemu_*.tar.xz  the source
# /out/bin, /out/share
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
mkdir -p /out/bin /out/share
cp qemu-system-x86_64 qemu-system-aarch64 /out/bin/
strip /out/bin/*
cp /usr/share/qemu/qboot.rom /out/share/
