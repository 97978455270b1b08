#include <stdio.h>

int main(void)
{
	/* All that could differ from one build to the next. */
	puts(__FILE__ " " __DATE__ " " __TIME__ " " __VERSION__ " " STAMP);
	return 0;
}
