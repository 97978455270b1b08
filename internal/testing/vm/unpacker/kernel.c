/* kernel.c is init/initramfs.c up to where it asks for the machine's memory. */
#include <linux/decompress/generic.h>
#include "unpacker.c" /* made by build.sh */

char *neb_unpack(char *buf, unsigned long size) { return unpack_to_rootfs(buf, size); }
