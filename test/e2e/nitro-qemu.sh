#!/usr/bin/env bash
# Compiles a QEMU with the machine nitro-enclave, which Debian's packages lack, from the source package of
# Debian 13, in DIR, which it creates. TestNitroEnclave does it, unless NEB_NITRO_QEMU names the result. The
# status is 77 if the machine lacks something.
#
#	test/e2e/nitro-qemu.sh DIR && export NEB_NITRO_QEMU=DIR/qemu-system-x86_64
set -euo pipefail

lacks() {
	echo "$*" >&2
	exit 77
}

mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial" "$1/src" "$1/build"
cd "$1"
for command in apt-get python3 gcc ninja pkg-config; do
	command -v "$command" >/dev/null || lacks "the command $command"
done
libraries="glib-2.0 zlib libcbor gnutls pixman-1"
pkg-config --print-errors --exists $libraries || lacks "the libraries $libraries"
[ -e /usr/include/libfdt.h ] || lacks "libfdt (Debian: libfdt-dev)"
[ -e /usr/share/qemu/qboot.rom ] || lacks "qboot.rom (Debian: qemu-system-data)"

# The archive of this machine's own packages has the source as well, in the suite of another release.
archive=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
	awk '$1 == "Debian" {print $2; exit}')
[ -n "$archive" ] || lacks "package sources of apt"
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$key] $archive trixie main" >apt/sources.list
apt=(apt-get -q -o "Dir::Etc::SourceList=$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
	-o "Dir::State::Lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache" -o "APT::Sandbox::User=$(id -un)")
"${apt[@]}" -o APT::Update::Error-Mode=any update || lacks "an archive with the sources of Debian 13"
"${apt[@]}" source --download-only --only-source qemu
tar -x -f qemu_*.orig.tar.xz -C src --strip-components=1 --no-same-owner

# Debian 12's meson is too old.
python3 -m venv python && python/bin/pip install -q meson==1.5.0 pycotap==1.3.1 || lacks "meson 1.5 from PyPI"
# With bzip2, the build wants firmware that Debian's source does not have.
sed -i 's/^if unpack_edk2_blobs/if false/' src/pc-bios/meson.build
echo CONFIG_NITRO_ENCLAVE=y >src/configs/devices/x86_64-softmmu/nitro.mak
cd build
../src/configure --python="$PWD/../python/bin/python" --firmwarepath=/usr/share/qemu \
	--target-list=x86_64-softmmu --without-default-devices --with-devices-x86_64=nitro \
	--without-default-features --enable-tcg --enable-kvm --enable-fdt=system --enable-gnutls --enable-libcbor \
	--enable-vhost-user --enable-pixman --disable-docs --disable-tools --disable-user --disable-install-blobs \
	-Doptimization=1 --disable-debug-info
ninja -j "$(nproc)" qemu-system-x86_64
mv qemu-system-x86_64 .. # beside its build it does not look into the firmware path
