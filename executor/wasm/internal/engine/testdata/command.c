// A command that keeps and leaves what it can: it echoes its input, with more memory each time that it is asked to.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int runs;
static char kept[1 << 16];

int main(void) {
	static char line[4096];
	size_t n = fread(line, 1, sizeof line, stdin);
	memcpy(kept + sizeof kept / 2, line, n);
	char *more = malloc(n < 100 ? 100 : 3 << 20);
	memset(more, 'x', 100);
	memcpy(more, line, n < 100 ? n : 100);
	fprintf(stderr, "run %d\n", runs);
	printf("Content-Type: text/plain\n\nrun %d: %s", ++runs, line);
	free(more);
	return runs - 1;
}
