/* main.c: "unpack DIR <ARCHIVES" unpacks each archive with the kernel's code, and prints the tree that
 * results.
 *
 * ARCHIVES is a sequence of archives, each after its size in four bytes, little-endian. Every archive is
 * unpacked by a child process of its own, which makes a directory below DIR its root, with the names in it
 * that usr/default_cpio_list gives every kernel. For each name, a line:
 *
 *	NAME MODE UID GID TIME MAJOR MINOR SIZE HASH TARGET INODE
 *
 * NAME and TARGET in hexadecimal, HASH the FNV-1a of a file's content. The last line of an archive is "end",
 * and the kernel's error, or "crashed" and a signal. */
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <inttypes.h>

char *neb_unpack(char *buf, unsigned long size);

/* neb_strtoul is simple_strtoul (lib/vsprintf.c) for base 16: it takes a prefix 0x, and ends at the first
 * character that is no digit. */
unsigned long neb_strtoul(const char *s, char **end, unsigned base)
{
	unsigned long v = 0;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
		s += 2;
	for (;; s++) {
		int c = *s | 0x20, digit = 16;

		if (*s >= '0' && *s <= '9')
			digit = *s - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;

		if (digit > 15)
			return v;
		v = v << 4 | digit;
	}
}

ssize_t strscpy(char *to, const char *from, size_t size)
{
	return snprintf(to, size, "%s", from);
}

u32 crc32_le(u32 crc, const u8 *p, size_t size)
{
	while (size--) {
		int i;

		crc ^= *p++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return crc;
}

int init_stat(const char *name, struct kstat *st, int flags)
{
	struct stat s;

	if (fstatat(AT_FDCWD, name, &s, flags))
		return -errno;
	st->mode = s.st_mode;
	return 0;
}

int init_rmdir(const char *name) { return rmdir(name); }
int init_unlink(const char *name) { return unlink(name); }
int init_link(const char *old, const char *name) { return link(old, name); }
int init_symlink(const char *target, const char *name) { return symlink(target, name); }
int init_mkdir(const char *name, umode_t mode) { return mkdir(name, mode & 07777); }
int init_chmod(const char *name, umode_t mode) { return chmod(name, mode & 07777); }

int init_mknod(const char *name, umode_t mode, unsigned dev)
{
	unsigned major = (dev & 0xfff00) >> 8, minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);

	return mknod(name, mode, S_ISCHR(mode) || S_ISBLK(mode) ? makedev(major, minor) : 0);
}

int init_chown(const char *name, uid_t uid, gid_t gid, int flags)
{
	return fchownat(AT_FDCWD, name, uid, gid, flags);
}

int init_utimes(const char *name, struct timespec64 *times)
{
	return utimensat(AT_FDCWD, name, (struct timespec *)times, AT_SYMLINK_NOFOLLOW);
}

struct file *filp_open(const char *name, int flags, umode_t mode)
{
	struct file *f;
	struct stat s;
	int fd;

	/* A hard link to a name that has become a fifo or a device: the kernel would wait for a reader, or write to
	 * the device. The host's must not be written to. */
	if (!stat(name, &s) && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode))
		exit(5);
	/* Without O_CREAT for a file that exists: fs.protected_regular of the host does not apply. */
	fd = open(name, flags & ~O_CREAT);

	if (fd < 0 && errno == ENOENT)
		fd = open(name, flags, mode & 07777);
	if (fd < 0)
		return (struct file *)-1L;
	f = malloc(sizeof *f);
	f->f_path.fd = fd;
	return f;
}

ssize_t kernel_write(struct file *f, const void *p, size_t count, loff_t *pos)
{
	ssize_t n = pwrite(f->f_path.fd, p, count, *pos);

	if (n > 0)
		*pos += n;
	return n < 0 ? -errno : n;
}

int vfs_fchown(struct file *f, uid_t uid, gid_t gid) { return fchown(f->f_path.fd, uid, gid); }
int vfs_fchmod(struct file *f, umode_t mode) { return fchmod(f->f_path.fd, mode & 07777); }
int vfs_truncate(const struct path *path, loff_t size) { return ftruncate(path->fd, size); }
int vfs_utimes(const struct path *path, struct timespec64 *times)
{
	return futimens(path->fd, (struct timespec *)times);
}

void fput(struct file *f)
{
	close(f->f_path.fd);
	free(f);
}

static void hex(const char *s)
{
	putchar('x');
	for (; *s; s++)
		printf("%02x", (unsigned char)*s);
}

/* content prints the FNV-1a of a file, unless it is larger than any in the test: one whose header lies. */
static void content(const char *name, off_t size)
{
	uint64_t h = 14695981039346656037ULL;
	unsigned char buf[1 << 16];
	ssize_t n, i;
	int fd;

	if (size > 64 << 20 || (fd = open(name, O_RDONLY)) < 0) {
		printf(" -");
		return;
	}
	while ((n = read(fd, buf, sizeof buf)) > 0)
		for (i = 0; i < n; i++)
			h = (h ^ buf[i]) * 1099511628211ULL;
	close(fd);
	printf(" %016" PRIx64, h);
}

/* walk prints the working directory, which path names from the root, and removes what is in it. */
static void walk(const char *path, unsigned depth)
{
	struct dirent *e;
	DIR *d = opendir(".");

	if (!d || depth > 5000)
		exit(3);
	while ((e = readdir(d))) {
		char full[65536], target[4096] = "";
		struct stat s;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || lstat(e->d_name, &s))
			continue;
		snprintf(full, sizeof full, "%s%s", path, e->d_name);
		hex(full);
		printf(" %o %u %u %lld %u %u %lld", s.st_mode, s.st_uid, s.st_gid, (long long)s.st_mtime,
		       major(s.st_rdev), minor(s.st_rdev), S_ISREG(s.st_mode) ? (long long)s.st_size : 0);
		if (S_ISREG(s.st_mode))
			content(e->d_name, s.st_size);
		else
			printf(" -");
		if (S_ISLNK(s.st_mode))
			readlink(e->d_name, target, sizeof target - 1);
		putchar(' ');
		hex(target);
		printf(" %lu\n", S_ISDIR(s.st_mode) ? 0 : (unsigned long)s.st_ino);
		if (S_ISDIR(s.st_mode)) {
			int here = open(".", O_RDONLY | O_DIRECTORY);

			strcat(full, "/");
			if (chdir(e->d_name))
				exit(4);
			walk(full, depth + 1);
			fchdir(here);
			close(here);
		}
	}
	rewinddir(d);
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			unlinkat(AT_FDCWD, e->d_name, e->d_type == DT_DIR ? AT_REMOVEDIR : 0);
	closedir(d);
}

static void unpack(const char *dir, char *buf, uint32_t size)
{
	static const struct timespec zero[2];
	struct rlimit cpu = {30, 30};
	char *error;

	if (chdir(dir) || chroot(".") || chown("/", 0, 0) || chmod("/", 0755))
		exit(2);
	setrlimit(RLIMIT_CPU, &cpu);
	umask(0);
	if (mkdir("dev", 0755) || mknod("dev/console", 020600, makedev(5, 1)) || mkdir("root", 0700))
		exit(2);
	utimensat(AT_FDCWD, "dev/console", zero, 0);
	utimensat(AT_FDCWD, "dev", zero, 0);
	utimensat(AT_FDCWD, "root", zero, 0);
	umask(022);
	error = neb_unpack(buf, size);
	chdir("/");
	walk("", 0);
	printf("end %s\n", error ? error : "");
	fflush(stdout);
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned number = 0;
	uint32_t size;

	if (argc != 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: unpack DIR <ARCHIVES\n");
		return 2;
	}
	while (fread(&size, sizeof size, 1, stdin) == 1) {
		/* The kernel's buffer ends at a page, and is followed by other memory. */
		char *buf = calloc(1, (size_t)size + (1 << 16));
		char dir[32]; /* a new one: a crash leaves files */
		int status;
		pid_t child;

		sprintf(dir, "%u", number++);
		if (!buf || fread(buf, 1, size, stdin) != size || mkdir(dir, 0755))
			return 2;
		fflush(stdout);
		child = fork();
		if (child == 0)
			unpack(dir, buf, size);
		free(buf);
		if (child < 0 || waitpid(child, &status, 0) != child)
			return 2;
		rmdir(dir);
		if (status)
			printf("end crashed %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status));
	}
	return 0;
}
