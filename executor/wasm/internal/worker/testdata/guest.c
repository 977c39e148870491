// A reactor that does what the tests ask for by the target of the request. It has no library.
typedef unsigned int u32;
typedef unsigned char u8;
#define host(name) __attribute__((import_module("lambent_v1"), import_name(#name)))
host(request) u32 request(void *buf, u32 cap);
host(read) u32 read(void *buf, u32 cap);
host(respond) void respond(u32 status, const void *buf, u32 len);
host(write) void write(const void *buf, u32 len);
host(log) void logLine(const void *buf, u32 len);
host(env) u32 env(const void *name, u32 len, void *buf, u32 cap);

static u8 head[4096], body[65536];
static volatile u32 sink;

static int is(const u8 *s, const char *t) {
	while (*t && *s == (u8)*t) s++, t++;
	return !*t && !*s;
}
static void answer(void) { respond(201, "X-Guest\0c\0", 10); }

__attribute__((export_name("handle"))) void handle(void) {
	request(head, sizeof head);
	const u8 *what = head;
	while (*what++) // the method
		;
	u32 n;
	if (is(what, "/hello")) {
		answer();
		write("hello", 5);
	} else if (is(what, "/echo")) { // as it comes
		answer();
		while ((n = read(body, sizeof body))) write(body, n);
	} else if (is(what, "/endless")) {
		logLine("begun", 5);
		for (;;) write(body, sizeof body);
	} else if (is(what, "/talk")) { // says a word and then computes
		logLine("begun", 5);
		write("word", 4);
		for (;;) sink++;
	} else if (is(what, "/long")) {
		respond(200, "Content-Length\0" "5000000\0", 23);
		for (u32 i = 0; i < 50; i++) write(body, 50000);
	} else if (is(what, "/loop")) {
		logLine("begun", 5);
		for (;;) sink++;
	} else if (is(what, "/trap")) {
		__builtin_trap();
	} else if (is(what, "/bomb")) {
		while (__builtin_wasm_memory_grow(0, 16) != -1)
			;
		__builtin_trap();
	} else if (is(what, "/log")) {
		logLine("one", 3);
		logLine("two", 3);
		answer();
	} else if (is(what, "/chatter")) {
		for (u32 i = 0; i < 1000; i++) logLine(body, 2000);
		answer();
	} else if (is(what, "/env")) {
		answer();
		n = env("SECRET", 6, body, sizeof body);
		write(body, n);
	}
}
