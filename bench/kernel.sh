#!/usr/bin/env bash
# Measures the x86-64 kernel that kernel/ describes: docs/benchmarks.md has the results.
#
#   bench/kernel.sh ROOT SOURCE [REFERENCE [CHECKER]]
#
# ROOT       a Debian 13 with the packages of neb.lock's toolchain, to chroot into (so: as root)
# SOURCE     linux-source-6.12, unpacked
# REFERENCE  a configuration to compare with, for example that of aws-nitro-enclaves-sdk-bootstrap
# CHECKER    kernel-hardening-checker, the program
#
# It prints, as it goes: options, image size, instructions from reset to PID 1, seconds of compiling (wall and
# processor) and failed checks of each configuration; the cost of each compression; and the cost of some work
# with options that can be turned on at start. JOBS is how many compilers run (2), QEMU which emulator (the one in PATH).
set -eu
root=$1 source=$2 reference=${3:-} checker=${4:-}
repository=$(cd "$(dirname "$0")/.." && pwd)
work=$root/bench
say() { printf '%-44s %s\n' "$1" "$2"; }
bench() { (cd "$repository" && go run ./bench/kernel "$@"); }

# in_root runs make in the tree of a configuration, as the sandbox of neb build does.
in_root() {
	tree=$1
	shift
	env -i PATH=/usr/bin:/usr/sbin LC_ALL=C KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=neb \
		KBUILD_BUILD_HOST=neb KBUILD_BUILD_VERSION=1 \
		chroot "$root" make -s -C "/bench/$tree" ARCH=x86_64 CROSS_COMPILE=x86_64-linux-gnu- "$@"
}

# compile builds a configured tree from nothing and says what came out.
compile() {
	tree=$1
	{ time -p in_root "$tree" "-j${JOBS:-2}" bzImage modules > "$work/$tree.log" 2>&1; } 2> "$work/$tree.time" ||
		{ tail "$work/$tree.log"; exit 1; }
	image=$work/$tree/arch/x86/boot/bzImage
	say "$tree: options =y" "$(grep -c '=y$' "$work/$tree/.config")"
	say "$tree: bzImage, bytes" "$(stat -c %s "$image")"
	say "$tree: seconds (real, user, system)" "$(awk '{ printf "%s ", $2 }' "$work/$tree.time")"
	say "$tree: instructions to PID 1" "$(bench start "$image" | tr '\n' ' ')"
	if [ -n "$checker" ]; then
		say "$tree: hardening checks" "$("$checker" -c "$work/$tree/.config" | tail -n 1)"
	fi
}

say "machine" "$(uname -m), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg), $(date -u +%F)"
rm -rf "$work"
mkdir -p "$work"

cp -a "$source" "$work/ours"
for patch in "$repository"/kernel/patches/*.patch; do patch -s -p1 -d "$work/ours" < "$patch"; done
bench config x86_64 > "$work/ours/all.config"
in_root ours KCONFIG_ALLCONFIG=all.config allnoconfig > /dev/null
compile ours

if [ -n "$reference" ]; then
	cp -a "$source" "$work/reference"
	{ cat "$reference"; echo CONFIG_NSM=m; } > "$work/reference/.config"
	in_root reference olddefconfig > /dev/null 2>&1
	compile reference
fi

image=$work/ours/arch/x86/boot/bzImage
echo
say "work" "$(bench work "$image" | tr '\n' ';')"
for word in init_on_alloc=0 init_on_free=1 slab_nomerge page_table_check=on randomize_kstack_offset=off; do
	say "$word: instructions to PID 1" "$(bench start "$image" $word)"
	say "$word: work" "$(bench work "$image" $word | tr '\n' ';')"
done

echo
chosen=$(sed -n 's/^CONFIG_KERNEL_\([A-Z0-9]*\)=y$/\1/p' "$work/ours/.config")
for compression in LZ4 ZSTD GZIP XZ; do
	"$work/ours/scripts/config" --file "$work/ours/.config" -d "KERNEL_$chosen" -e "KERNEL_$compression"
	chosen=$compression
	in_root ours olddefconfig > /dev/null
	in_root ours bzImage > "$work/ours.log" 2>&1 || { tail "$work/ours.log"; exit 1; }
	say "$compression: bzImage, bytes" "$(stat -c %s "$image")"
	say "$compression: instructions to PID 1" "$(bench start "$image")"
done
