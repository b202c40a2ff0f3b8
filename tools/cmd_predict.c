/* demist predict: one evaluation of the network, from a file of tensors to another. */
#include "command.h"

#include "predict.h"
#include "session.h"

struct predict {
    struct common common;
    const char *in, *out;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct predict *predict = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &predict->common;
        return 0;
    case 'i':
        predict->in = arg;
        return 0;
    case 'o':
        predict->out = arg;
        return 0;
    case ARGP_KEY_END:
        if (predict->common.config && (!predict->in || !predict->out))
            argp_error(state, "%s is missing", predict->in ? "--out FILE" : "--in FILE");
        return described_argument(&predict->common, key, arg, state);
    case ARGP_KEY_ARG:
        return described_argument(&predict->common, key, arg, state);
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
    {"in", 'i', "FILE", 0,
     "tensors (safetensors, .pt, .npz): x [N,...]; a time [N]: integer t or t_index (an index of "
     "the schedule) or float t or t_network (handed over unchanged); y or c where the network "
     "takes labels or a context",
     0},
    {"out", 'o', "FILE", 0,
     "the safetensors file to write, replaced: out [N,...], the network's raw output", 0},
    {0},
};
static const struct argp_child children[] = {{&described_argp}, {&common_argp}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .children = children,
    .args_doc = "CONFIG",
    .doc = "Evaluate the network that the INI file CONFIG describes, once for each row of the "
           "input, without guidance or clipping.\v"
           "Example:\n"
           "  demist predict crawl.ini --in in.safetensors --out out.safetensors",
};

static demist_status evaluate(void *state, struct dm_error *err)
{
    const struct predict *predict = state;
    const struct dm_environment *env;
    const struct dm_ini *ini = dm_session_ini(predict->common.session);
    struct dm_setup setup;
    unsigned needs = DM_NEED_NETWORK | DM_NEED_BACKEND;
    if (dm_ini_find(ini, "schedule", "use")) /* for indices, which not every input has */
        needs |= DM_NEED_SCHEDULE;
    DM_TRY(dm_session_environment(predict->common.session, &env, err));
    DM_TRY(dm_setup_open(&setup, env, ini, needs, err));
    demist_status status = dm_predict(&setup, predict->in, predict->out, err);
    dm_setup_close(&setup);
    return status;
}

int cmd_predict(int argc, char **argv)
{
    struct predict predict = {0};
    return run_command(&argp, argc, argv, &predict, evaluate);
}
