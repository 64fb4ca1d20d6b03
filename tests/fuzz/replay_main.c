/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Replays fuzz corpora without libFuzzer, so that every compiler and every test run checks them.
 * Each argument is a file or a directory (walked one level deep). A file's bytes go into a heap block of
 * exactly their size: AddressSanitizer then sees the first byte read past the end. An empty corpus is a
 * failure, for it would test nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed;

static int replay_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    uint8_t *data = malloc(size ? size : 1);
    uint8_t *exact = size ? data : NULL;
    int rc = !data || fread(data, 1, size, f) != size;
    fclose(f);
    if (!rc) {
        LLVMFuzzerTestOneInput(exact, size);
        replayed++;
    } else {
        fprintf(stderr, "%s: cannot read\n", path);
    }
    free(data);
    return rc;
}

static int replay(const char *path, int depth)
{
    struct stat st;
    if (stat(path, &st)) {
        perror(path);
        return 1;
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path, (size_t)st.st_size);
    if (depth > 1)
        return 0;
    DIR *d = opendir(path);
    if (!d) {
        perror(path);
        return 1;
    }
    int rc = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char child[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        rc |= replay(child, depth + 1);
    }
    closedir(d);
    return rc;
}

int main(int argc, char **argv)
{
    int rc = 0;
    for (int i = 1; i < argc; i++)
        rc |= replay(argv[i], 0);
    printf("%u inputs replayed\n", replayed);
    return rc || replayed == 0;
}
