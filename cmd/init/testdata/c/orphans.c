/* Leaves as many orphans to PID 1 as its argument says, a thousand at a time: they are dead already when their parent dies. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 1;
	for (int left = n; left > 0; left -= 1000) {
		pid_t child = fork();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (child == 0) {
			for (int i = 0; i < 1000 && i < left; i++)
				if (vfork() == 0)
					_exit(0);
			_exit(0);
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
