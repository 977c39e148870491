/* lambent.h: answer HTTP requests as a WebAssembly module of Lambent, in C or C++. It needs no C library.
 *
 *     #include "lambent.h"
 *
 *     void handle(void) {
 *         lambent_request r;
 *         if (!lambent_read_request(&r)) return;
 *         lambent_respond_with(200, "text/plain");
 *         lambent_print("hello from ");
 *         lambent_print(r.target);
 *     }
 *
 * Build it as a reactor: clang --target=wasm32-wasi -mexec-model=reactor -Os -o main.wasm main.c
 *
 * handle is called once for each request, in a fresh copy of the module as it was when it had been initialised: nothing
 * that one request leaves in memory is there for the next, so nothing has to be freed. There are no errors to look at: a
 * call with a wrong pointer, a bad answer or a client that has left ends the request.
 */
#ifndef LAMBENT_H
#define LAMBENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LAMBENT_IMPORT(name) __attribute__((import_module("lambent_v1"), import_name(name)))

/* The host's functions. Texts have a length and need no NUL byte at their end. */
LAMBENT_IMPORT("request") uint32_t lambent_request_head(void *buf, uint32_t cap); /* see lambent_read_request */
LAMBENT_IMPORT("read") uint32_t lambent_read(void *buf, uint32_t cap);            /* the body as it comes; 0 is its end */
LAMBENT_IMPORT("respond") void lambent_respond(int32_t status, const char *fields, uint32_t len); /* name\0value\0... */
LAMBENT_IMPORT("write") void lambent_write(const void *buf, uint32_t len);        /* a part of the answer's body */
LAMBENT_IMPORT("log") void lambent_log(const char *text, uint32_t len);           /* a line of the log */
LAMBENT_IMPORT("env") int32_t lambent_env(const char *name, uint32_t name_len, char *buf, uint32_t cap); /* its length, -1: not set */
LAMBENT_IMPORT("random") void lambent_random(void *buf, uint32_t len);            /* fit for cryptography */
LAMBENT_IMPORT("time") int64_t lambent_time(void);                                /* nanoseconds since 1970, UTC */

/* What a module must define. */
__attribute__((export_name("handle"))) void handle(void);

#ifndef LAMBENT_MAX_HEAD
#define LAMBENT_MAX_HEAD 65536 /* bytes of the longest head of a request that is taken */
#endif

/* A request's head. All texts end in a NUL byte. */
typedef struct {
    const char *method, *target, *host, *proto;
    int64_t length;           /* of the body, -1 when it is unknown */
    const char *fields, *end; /* name\0value\0... */
} lambent_request;

static inline size_t lambent_length(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}

/* lambent_print writes a text that ends in a NUL byte. */
static inline void lambent_print(const char *text) { lambent_write(text, (uint32_t)lambent_length(text)); }

static inline int lambent_same_name(const char *a, const char *b) {
    for (;; a++, b++) {
        char x = *a >= 'A' && *a <= 'Z' ? *a + 32 : *a, y = *b >= 'A' && *b <= 'Z' ? *b + 32 : *b;
        if (x != y) return 0;
        if (!x) return 1;
    }
}

/* lambent_next_field goes through the fields: begin with *at = r->fields. It gives 0 at their end. */
static inline int lambent_next_field(const lambent_request *r, const char **at, const char **name, const char **value) {
    if (*at >= r->end) return 0;
    *name = *at;
    *value = *name + lambent_length(*name) + 1;
    *at = *value + lambent_length(*value) + 1;
    return 1;
}

/* lambent_header gives the first field of that name, in whatever case, or NULL. */
static inline const char *lambent_header(const lambent_request *r, const char *name) {
    const char *at = r->fields, *n, *v;
    while (lambent_next_field(r, &at, &n, &v))
        if (lambent_same_name(n, name)) return v;
    return NULL;
}

/* lambent_query gives what follows the first ? of the target, "" where there is none. */
static inline const char *lambent_query(const lambent_request *r) {
    const char *at = r->target;
    while (*at && *at != '?') at++;
    return *at ? at + 1 : at;
}

/* lambent_path_is tells whether that is the target without its query. */
static inline int lambent_path_is(const lambent_request *r, const char *path) {
    const char *at = r->target;
    while (*at && *at == *path) at++, path++;
    return !*path && (!*at || *at == '?');
}

/* lambent_read_request reads the head, into a buffer of its own: call it once. A head that is too long is answered 431,
 * and 0 given. */
static inline int lambent_read_request(lambent_request *r) {
    static char head[LAMBENT_MAX_HEAD];
    uint32_t size = lambent_request_head(head, sizeof head);
    if (size > sizeof head) {
        lambent_respond(431, NULL, 0);
        return 0;
    }
    const char *at = head, **part[] = {&r->method, &r->target, &r->host, &r->proto};
    for (int i = 0; i < 4; i++) {
        *part[i] = at;
        at += lambent_length(at) + 1;
    }
    r->length = *at ? 0 : -1;
    for (; *at; at++) r->length = r->length * 10 + (*at - '0');
    r->fields = at + 1;
    r->end = head + size;
    return 1;
}

/* lambent_respond_with gives the head of an answer with a Content-Type. */
static inline void lambent_respond_with(int32_t status, const char *content_type) {
    static const char name[] = "Content-Type";
    char fields[256];
    size_t n = 0, len = lambent_length(content_type);
    for (size_t i = 0; i < sizeof name; i++) fields[n++] = name[i];
    if (len > sizeof fields - n - 1) len = sizeof fields - n - 1;
    for (size_t i = 0; i < len; i++) fields[n++] = content_type[i];
    fields[n++] = 0;
    lambent_respond(status, fields, (uint32_t)n);
}

#ifdef __cplusplus
}
#endif
#endif
