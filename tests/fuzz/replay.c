/* Runs a fuzz target on the files of the directories given: the corpus as a plain test, for every
 * compiler and sanitizer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        perror(path);
        return -1;
    }
    long size = ftell(file);
    rewind(file);
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1); /* exact: reading past it is caught */
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size)
        abort();
    fclose(file);
    printf("%s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return 1;
}

static int run_directory(const char *name)
{
    int n = 0;
    DIR *dir = opendir(name);
    if (!dir) {
        perror(name);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", name, entry->d_name);
        if (run_file(path) < 0) {
            closedir(dir);
            return -1;
        }
        n++;
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (run_directory(argv[i]) <= 0) { /* an empty corpus would test nothing */
            fprintf(stderr, "%s: no files to run\n", argv[i]);
            return 1;
        }
    return argc > 1 ? 0 : 1;
}
