/* The conformance function as a reactor in C. */
#include "lambent.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void handle(void) {
    static char buffer[8192];
    lambent_request r;
    uint32_t n, total = 0;
    if (!lambent_read_request(&r)) return;
    if (lambent_path_is(&r, "/hello")) {
        lambent_print("hello\n");
    } else if (lambent_path_is(&r, "/echo")) {
        const char *type = lambent_header(&r, "content-type"), *tag = lambent_header(&r, "X-TAG");
        int len = snprintf(buffer, sizeof buffer, "Content-Type%c%s%cX-Request%c%s %s %s%cX-Tag%c%s%c", 0, type, 0, 0, r.method, "/echo", lambent_query(&r), 0, 0, tag ? tag : "", 0);
        lambent_respond(200, buffer, len);
        while ((n = lambent_read(buffer, sizeof buffer)) > 0) lambent_write(buffer, n);
    } else if (lambent_path_is(&r, "/count")) {
        while ((n = lambent_read(buffer, sizeof buffer)) > 0) total += n;
        snprintf(buffer, sizeof buffer, "%u\n", total);
        lambent_respond_with(200, "text/plain; charset=utf-8");
        lambent_print(buffer);
    } else if (lambent_path_is(&r, "/big")) {
        memset(buffer, 'x', 1023);
        buffer[1023] = '\n';
        for (int i = 0; i < atoi(lambent_query(&r)); i++) lambent_write(buffer, 1024);
    } else if (lambent_path_is(&r, "/teapot")) {
        static const char fields[] = "Set-Cookie\0a=1\0Set-Cookie\0b=2";
        lambent_respond(418, fields, sizeof fields);
        lambent_print("short and stout");
    } else if (lambent_path_is(&r, "/env")) {
        int32_t len = lambent_env("COLOUR", 6, buffer, sizeof buffer);
        if (lambent_env("NONE", 4, buffer, sizeof buffer) == -1) lambent_write(buffer, len);
    } else if (lambent_path_is(&r, "/log")) {
        lambent_log("one line", 8);
        lambent_print("logged");
    } else if (lambent_path_is(&r, "/sleep")) {
        int64_t before = lambent_time();
        usleep(20000);
        lambent_print(lambent_time() - before >= 20000000 ? "true" : "false");
    } else if (lambent_path_is(&r, "/exit")) {
        fputs("about to go\n", stderr);
        exit(3);
    } else if (lambent_path_is(&r, "/panic")) {
        fputs("on purpose\n", stderr);
        abort();
    } else if (lambent_path_is(&r, "/partly")) {
        lambent_print("half of it");
        lambent_log("on purpose", 10);
        abort();
    } else if (lambent_path_is(&r, "/bad")) {
        lambent_respond(200, "A B\0c", 6);
    } else if (lambent_path_is(&r, "/pointer")) {
        lambent_write((void *)0xfffffff0u, 100);
    } else if (lambent_path_is(&r, "/twice")) {
        lambent_respond_with(200, "a/b");
        lambent_respond_with(200, "a/b");
    }
}
