/* Leaves as many orphans to PID 1 as its argument says: each is dead before its parent, which dies at once. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 1;
	for (int i = 0; i < n; i++) {
		pid_t child = vfork();
		if (child < 0) {
			perror("vfork");
			return 1;
		}
		if (child == 0) {
			vfork();
			_exit(0); /* the grandchild first, then the child */
		}
		while (waitpid(child, NULL, 0) < 0)
			;
	}
	printf("orphans: %d\n", n);
	fflush(stdout);
	if (argc > 2)
		execv(argv[2], argv + 2);
	return 0;
}
