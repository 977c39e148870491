// A reactor that does what the tests ask for by the target of the request. It has no library.
typedef unsigned int u32;
typedef unsigned char u8;
#define host(name) __attribute__((import_module("lambent_v1"), import_name(#name)))
host(request) u32 request(void *buf, u32 cap);
host(read) u32 read(void *buf, u32 cap);
host(write) void write(const void *buf, u32 len);

static u32 number = 42; // in the image
static u8 head[4096], body[4096];
static volatile u32 sink;

static u8 *memory(u32 at) { return (u8 *)at; }
static u32 size(void) { return __builtin_wasm_memory_size(0) << 16; }
static int is(const u8 *s, const char *t) {
	while (*t && *s == (u8)*t) s++, t++;
	return !*t;
}
static void print(u32 n) {
	u8 text[10], *p = text + 10;
	do *--p = '0' + n % 10; while (n /= 10);
	write(p, text + 10 - p);
}
static u32 recurse(u32 n) {
	sink = n;
	return recurse(n + 1) * sink + n;
}

__attribute__((export_name("handle"))) void handle(void) {
	request(head, sizeof head);
	const u8 *what = head;
	while (*what++) // the method
		;
	u32 n = read(body, sizeof body);
	if (is(what, "/echo")) {
		write(body, n);
	} else if (is(what, "/count")) { // a variable that was initialised
		print(number++);
	} else if (is(what, "/loop")) {
		for (;;) sink++;
	} else if (is(what, "/drip")) { // says something, and works on
		write(body, n);
		for (;;) sink++;
	} else if (is(what, "/fill")) { // loops with few checks, each of them long
		for (;;) __builtin_memset(memory(1 << 16), sink++, size() - (1 << 16));
	} else if (is(what, "/work")) { // and ends
		for (u32 i = 0; i < 100000000; i++) sink += i;
		print(sink);
	} else if (is(what, "/trap")) {
		__builtin_trap();
	} else if (is(what, "/outside")) {
		*(volatile u32 *)0xfffffff0 = 1;
	} else if (is(what, "/deep")) {
		print(recurse(0));
	} else if (is(what, "/bomb")) { // takes all memory there is, and fails for want of more
		while (__builtin_wasm_memory_grow(0, 16) != -1) memory(size() - 1)[0] = 1;
		__builtin_trap();
	} else if (is(what, "/hide")) { // leaves the body, once in each page of old and of new memory
		u32 old = size();
		__builtin_wasm_memory_grow(0, 3);
		for (u32 at = old >= 1 << 17 ? 1 << 17 : old; at < size(); at += 4096)
			__builtin_memcpy(memory(at) + 1000, body, n);
		print(size() >> 16);
	} else if (is(what, "/find")) { // counts the body in all memory, but for the body itself
		__builtin_wasm_memory_grow(0, 5);
		u32 found = 0, end = size() - n;
		for (u8 *p = 0; p < memory(end); p++) {
			u32 i = 0;
			while (i < n && p[i] == body[i]) i++;
			found += i == n && n > 0 && p != body;
		}
		print(found);
	} else if (is(what, "/wait")) { // until the body ends
		while (read(body, sizeof body))
			;
		print(1);
	} else {
		write("hello\n", 6);
	}
}
