/* The conformance function as a WASI command in C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *var(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

int main(void) {
    const char *path = var("PATH_INFO"), *query = var("QUERY_STRING");
    static char buffer[8192];
    size_t n, total = 0;
    if (!strcmp(path, "/hello")) {
        puts("hello");
    } else if (!strcmp(path, "/echo")) {
        printf("Content-Type: %s\nX-Request: %s %s %s\nX-Tag: %s\n\n", var("CONTENT_TYPE"), var("REQUEST_METHOD"), path, query, var("HTTP_X_TAG"));
        while ((n = read(0, buffer, sizeof buffer)) > 0) {
            fwrite(buffer, 1, n, stdout);
            fflush(stdout);
        }
    } else if (!strcmp(path, "/count")) {
        while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0) total += n;
        printf("%zu\n", total);
    } else if (!strcmp(path, "/big")) {
        memset(buffer, 'x', 1023);
        buffer[1023] = '\n';
        for (int i = 0; i < atoi(query); i++) fwrite(buffer, 1, 1024, stdout);
    } else if (!strcmp(path, "/teapot")) {
        fputs("Status: 418 I'm a teapot\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nshort and stout", stdout);
    } else if (!strcmp(path, "/env")) {
        fputs(var("COLOUR"), stdout);
        fputs(var("NONE"), stdout);
    } else if (!strcmp(path, "/log")) {
        fputs("one ", stderr);
        fputs("line\n", stderr);
        fputs("logged", stdout);
    } else if (!strcmp(path, "/sleep")) {
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        usleep(20000);
        clock_gettime(CLOCK_MONOTONIC, &after);
        puts((after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec >= 20000000 ? "true" : "false");
    } else if (!strcmp(path, "/exit")) {
        fputs("about to go\n", stderr);
        exit(3);
    } else if (!strcmp(path, "/panic")) {
        fputs("on purpose\n", stderr);
        abort();
    } else if (!strcmp(path, "/partly")) {
        puts("half of it");
        fflush(stdout);
        fputs("on purpose\n", stderr);
        abort();
    } else if (!strcmp(path, "/bad")) {
        puts("Content-Type: a/b\nA B: c\n");
    } else if (!strcmp(path, "/files")) {
        FILE *f = fopen("/etc/passwd", "r");
        puts(f ? "opened" : "none");
    }
    return 0;
}
