// Answers "ok", and a POST with its body. /loop and /bomb take all the processor time and memory that they can get.
#include <stdlib.h>
#include <string.h>

#include "lambent.h"

volatile uint32_t variant = 0; // of the module: see wasm_module.go
static int served;

static void bomb(void) {
	for (volatile char *block; (block = malloc(1 << 20)) != NULL;)
		for (int i = 0; i < 1 << 20; i += 4096)
			block[i] = 1;
	__builtin_trap();
}

void handle(void) {
	static char body[4096];
	lambent_request r;
	if (served++) {
		lambent_respond(418, NULL, 0); // this instance is not pristine
		return;
	}
	variant = 0x1badcafe;
	lambent_read_request(&r);
	if (strcmp(r.target, "/loop") == 0)
		for (;;)
			variant++;
	if (strcmp(r.target, "/bomb") == 0)
		bomb();
	lambent_respond_with(200, "text/plain");
	if (strcmp(r.method, "POST") != 0) {
		lambent_print("ok\n");
		return;
	}
	for (uint32_t n; (n = lambent_read(body, sizeof body)) > 0;)
		lambent_write(body, n);
}
