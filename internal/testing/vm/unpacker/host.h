/* host.h stands in for the kernel's headers, for init/initramfs.c and lib/decompress_*.c as a program. */
#ifndef NEB_HOST_H
#define NEB_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <linux/types.h>

/* neb's configuration of the kernel, as far as these files use it. XZ_DEC_BCJ and its filters are off. */
#define CONFIG_64BIT 1
#define CONFIG_DECOMPRESS_GZIP 1
#define CONFIG_DECOMPRESS_XZ 1
#define CONFIG_DECOMPRESS_LZ4 1
#define CONFIG_DECOMPRESS_ZSTD 1
#define CONFIG_INITRAMFS_PRESERVE_MTIME 1
#define IS_ENABLED(option) 0

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned short umode_t;
typedef int64_t time64_t;
typedef unsigned long phys_addr_t;
typedef uint64_t async_cookie_t;

#ifndef __LITTLE_ENDIAN
#define __LITTLE_ENDIAN 1234
#endif
#define __init
#define __initdata
#define __initconst
#define __weak __attribute__((weak))
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define likely(x) (x)
#define unlikely(x) (x)
#define fallthrough __attribute__((fallthrough))
#define EXPORT_SYMBOL(x)
#define EXPORT_SYMBOL_GPL(x)
#define MODULE_LICENSE(x)
#define MODULE_DESCRIPTION(x)
#define MODULE_VERSION(x)
#define MODULE_AUTHOR(x)
#define __setup(name, function)
#define rootfs_initcall(function)
#define BIN_ATTR(name, mode, read, write, size)
#define ASYNC_DOMAIN_EXCLUSIVE(name)
#define KERN_INFO ""
#define KERN_EMERG ""
#define printk(...) ((void)0)
#define pr_debug(...) ((void)0)
#define pr_err(...) ((void)0)
#define pr_warn_once(...) ((void)0)
#define pr_cont(...) ((void)0)
#define WARN_ON(x) (x)
#define BUILD_BUG_ON(x) _Static_assert(!(x), #x)
#define panic(...) abort()
#define show_mem() ((void)0)

#define max(a, b) ((a) > (b) ? (a) : (b))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define min_t(type, a, b) min((type)(a), (type)(b))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE 4096UL
#define BIT(n) (1UL << (n))
#define simple_strtoul neb_strtoul
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define div_u64(a, b) ((u64)(a) / (u32)(b))

#define GFP_KERNEL 0
#define kmalloc(size, flags) malloc(size)
#define kzalloc(size, flags) calloc(1, size)
#define kfree(p) free((void *)(p))
#define vmalloc(size) ((size) > 1UL << 30 ? NULL : malloc(size))
#define vfree(p) free((void *)(p))

#define get_unaligned(p) ({ __typeof__(*(p)) neb_v; memcpy(&neb_v, (p), sizeof(neb_v)); neb_v; })
#define put_unaligned(v, p) ({ __typeof__(*(p)) neb_v = (v); memcpy((p), &neb_v, sizeof(neb_v)); })
#define get_unaligned_le16(p) get_unaligned((const u16 *)(p))
#define get_unaligned_le32(p) get_unaligned((const u32 *)(p))
#define get_unaligned_le64(p) get_unaligned((const u64 *)(p))
#define put_unaligned_le16(v, p) put_unaligned((u16)(v), (u16 *)(p))
#define put_unaligned_le32(v, p) put_unaligned((u32)(v), (u32 *)(p))
#define put_unaligned_le64(v, p) put_unaligned((u64)(v), (u64 *)(p))
#define get_unaligned_be32(p) __builtin_bswap32(get_unaligned_le32(p))
#define get_unaligned_be64(p) __builtin_bswap64(get_unaligned_le64(p))
#define put_unaligned_be32(v, p) put_unaligned_le32(__builtin_bswap32(v), p)
#define put_unaligned_be64(v, p) put_unaligned_le64(__builtin_bswap64(v), p)
#define le16_to_cpu(x) (x)
#define le32_to_cpu(x) (x)
#define le32_to_cpup(p) (*(p))
#define cpu_to_le16(x) (x)
#define swab32 __builtin_bswap32
#define swab64 __builtin_bswap64

struct list_head { struct list_head *next, *prev; };
#define LIST_HEAD(name) struct list_head name = {&(name), &(name)}
#define INIT_LIST_HEAD(l) ((l)->next = (l)->prev = (l))
static inline void list_add(struct list_head *entry, struct list_head *head)
{
	entry->next = head->next;
	entry->prev = head;
	head->next->prev = entry;
	head->next = entry;
}
static inline void list_del(struct list_head *entry)
{
	entry->next->prev = entry->prev;
	entry->prev->next = entry->next;
}
#define list_for_each_entry_safe(p, n, head, member) \
	for (p = container_of((head)->next, __typeof__(*p), member), \
	     n = container_of(p->member.next, __typeof__(*p), member); \
	     &p->member != (head); p = n, n = container_of(n->member.next, __typeof__(*n), member))

/* The system calls that the unpacker makes, as main.c makes them in a directory of its own. */
#define S_IFMT 0170000
#define S_ISLNK(m) (((m) & S_IFMT) == 0120000)
#define S_ISREG(m) (((m) & S_IFMT) == 0100000)
#define S_ISDIR(m) (((m) & S_IFMT) == 0040000)
#define S_ISCHR(m) (((m) & S_IFMT) == 0020000)
#define S_ISBLK(m) (((m) & S_IFMT) == 0060000)
#define S_ISFIFO(m) (((m) & S_IFMT) == 0010000)
#define S_ISSOCK(m) (((m) & S_IFMT) == 0140000)
#ifndef O_LARGEFILE
#define O_LARGEFILE 0
#endif
#ifndef AT_SYMLINK_NOFOLLOW
#define AT_SYMLINK_NOFOLLOW 0x100
#endif
#define MKDEV(major, minor) ((u32)(((u32)(major)) << 20 | (u32)(minor)))
static inline u32 new_encode_dev(u32 dev)
{
	unsigned major = dev >> 20, minor = dev & 0xfffff;
	return (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
}

struct kstat { umode_t mode; };
struct timespec64 { time64_t tv_sec; long tv_nsec; };
struct path { int fd; };
struct file { struct path f_path; };
#define IS_ERR(p) ((unsigned long)(p) >= (unsigned long)-4095)

unsigned long neb_strtoul(const char *s, char **end, unsigned base);
u32 crc32_le(u32 crc, const u8 *p, size_t size);
ssize_t strscpy(char *to, const char *from, size_t size);
int init_stat(const char *name, struct kstat *st, int flags);
int init_rmdir(const char *name);
int init_unlink(const char *name);
int init_link(const char *old, const char *name);
int init_symlink(const char *target, const char *name);
int init_mkdir(const char *name, umode_t mode);
int init_mknod(const char *name, umode_t mode, unsigned dev);
int init_chown(const char *name, uid_t uid, gid_t gid, int flags);
int init_chmod(const char *name, umode_t mode);
int init_utimes(const char *name, struct timespec64 *times);
struct file *filp_open(const char *name, int flags, umode_t mode);
ssize_t kernel_write(struct file *f, const void *p, size_t count, loff_t *pos);
int vfs_fchown(struct file *f, uid_t uid, gid_t gid);
int vfs_fchmod(struct file *f, umode_t mode);
int vfs_truncate(const struct path *path, loff_t size);
int vfs_utimes(const struct path *path, struct timespec64 *times);
void fput(struct file *f);

#endif
