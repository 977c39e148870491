// Writes 1 GiB, to see what becomes of it.
#include <stdio.h>
#include <string.h>

int main(void) {
	static char block[1 << 16];
	memset(block, 'x', sizeof block);
	puts("Content-Type: text/plain\n");
	for (int i = 0; i < 1 << 14; i++)
		if (fwrite(block, sizeof block, 1, stdout) != 1)
			return 1;
	return 0;
}
