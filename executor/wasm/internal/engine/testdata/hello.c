// The smallest reactor that answers. SALT makes modules that differ.
#define host(name) __attribute__((import_module("lambent_v1"), import_name(#name)))
host(write) void write(const void *buf, unsigned len);

static volatile unsigned salt = 0;

__attribute__((export_name("handle"))) void handle(void) {
	salt += 0x7654321;
	write("hello\n", 6);
}
