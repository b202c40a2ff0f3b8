/* A program of one's own that samples, as `demist sample` does:
 *
 *     cc embed.c -o embed $(pkg-config --cflags --libs demist)
 *     ./embed run.ini [section.key=value]...
 *
 * It reports every step, stops when a line cannot be written, and tells mean and range of each
 * image that it got. */
#include <demist/demist.h>

#include <stdio.h>

/* Called after every step; false stops the run. */
static bool on_progress(void *user, const demist_progress *p)
{
    FILE *to = user;
    return fprintf(to, "batch %lld of %lld, step %lld of %lld\n", (long long)p->batch + 1,
                   (long long)p->n_batches, (long long)p->step, (long long)p->n_steps) > 0;
}

static void on_log(void *user, demist_log_level level, const char *text)
{
    fprintf(stderr, "embed: %s\n", text);
}

static void describe(const demist_result *result)
{
    long long elements = 1;
    for (int i = 0; i < result->rank; i++)
        elements *= result->shape[i];
    for (long long n = 0; n < result->n_images; n++) {
        const float *x = result->data + n * elements;
        float low = x[0], high = x[0];
        double sum = 0;
        for (long long i = 0; i < elements; i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
            sum += x[i];
        }
        printf("image %lld: mean %.9g, from %.9g to %.9g\n", n, sum / (double)elements, low, high);
    }
    for (long long i = 0; i < result->n_files; i++)
        printf("file %s\n", result->files[i]);
}

static demist_status sample(demist_session *session, const char *config, char *const *sets,
                            demist_result **result)
{
    demist_sample_options options = DEMIST_INIT(demist_sample_options);
    options.progress = on_progress;
    options.user = stderr;
    options.keep_data = true;
    options.write_outputs = true;

    demist_status status = demist_session_load(session, config);
    for (; status == DEMIST_OK && *sets; sets++)
        status = demist_session_set(session, *sets);
    if (status == DEMIST_OK)
        status = demist_session_sample(session, &options, result);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: embed CONFIG [SECTION.KEY=VALUE]...\n");
        return 2;
    }
    demist_session *session = demist_session_create();
    if (!session)
        return 1;
    demist_session_on_log(session, DEMIST_LOG_NOTICE, on_log, NULL);

    demist_result *result = NULL;
    demist_status status = sample(session, argv[1], argv + 2, &result);
    if (status == DEMIST_OK)
        describe(result);
    else
        fprintf(stderr, "embed: %s\n", demist_session_error(session));

    demist_result_free(result);
    demist_session_destroy(session);
    return status == DEMIST_OK ? 0 : 1;
}
