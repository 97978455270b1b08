# Compiles the kernel that kernel-configure.sh left in /build/linux.
#
# $TARGET, $IMAGE  make's target for the image, and where that is then
# /out/image, /out/nsm.ko, /out/config
cd linux
make "$TARGET" modules
cp "$IMAGE" /out/image
# A module is linked with symbols and sections for debuggers that no enclave has.
"${CROSS_COMPILE}strip" --strip-debug -o /out/nsm.ko drivers/misc/nsm.ko
chmod 0644 /out/image /out/nsm.ko /out/config
