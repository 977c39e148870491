/* Tells the length and the CRC-32 of what it is sent, as gzip, PNG and zip compute it. */

#include <inttypes.h>
#include <stdio.h>

#include "lambent.h"

static uint32_t table[256];

/* Runs once, when the function is deployed: every request begins with the table as it is then. */
__attribute__((constructor)) static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ crc >> 1 : crc >> 1;
        table[i] = crc;
    }
}

void handle(void) {
    static unsigned char buf[16 << 10];
    uint64_t bytes = 0;
    uint32_t crc = ~0u;
    /* The body is read as it comes: one of any length fits. */
    for (uint32_t n; (n = lambent_read(buf, sizeof buf)) > 0; bytes += n)
        for (uint32_t i = 0; i < n; i++) crc = table[(crc ^ buf[i]) & 0xff] ^ crc >> 8;

    char answer[80];
    int len = snprintf(answer, sizeof answer, "{\"bytes\":%" PRIu64 ",\"crc32\":\"%08" PRIx32 "\"}\n", bytes, ~crc);
    lambent_respond_with(200, "application/json");
    lambent_write(answer, (uint32_t)len);
}
