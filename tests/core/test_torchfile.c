#include "tensorfiles.h"

#include "unpickle.h"

/* ---- pickles written by hand, in protocol 2 ---- */

#define P "\x80\x02"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n"
/* A storage of n (one byte) floats under the key "0". */
#define STORAGE(n)                                                                                 \
    "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                             \
    "0X\3\0\0\0cpuK" n "tQ"
#define ORDERED "ccollections\nOrderedDict\n)R"
/* {"w": tensor(storage of four floats, offset, size, stride)} */
#define ONE(offset, size, stride)                                                                  \
    P "}X\1\0\0\0w" TENSOR "(" STORAGE("\4") offset size stride "\x89" ORDERED "tRs."

#define BYTES(text) (text), sizeof(text) - 1

static const float four[] = {1, 2, 3, 4};

/* A zip of that pickle and of the storage "0" with four floats. */
static struct dm_text zip_of(const void *pickle, size_t size)
{
    const struct member members[] = {
        {.name = "a/data.pkl", .data = pickle, .size = size},
        {.name = "a/byteorder", .data = "little", .size = 6},
        {.name = "a/data/0", .data = four, .size = sizeof four},
    };
    return make_zip(members, 3);
}

static void assert_pickle_refused(const void *pickle, size_t size, demist_status status,
                                  const char *fragment)
{
    struct dm_text file = zip_of(pickle, size);
    assert_refused(&file, status, fragment);
}

/* ---- what is read ---- */

static void check_kinds(const char *name)
{
    struct dm_checkpoint *ckpt = open_file(source_data(name));
    struct dm_checkpoint *expected = open_file(source_data("checkpoints/kinds.safetensors"));
    assert_same_tensors(ckpt, expected);
    static const char *const pairs[][2] = {
        {"epoch", "12"},
        {"big", "-1099511627776"},
        {"lr", "0.1"},
        {"name", "run \xc3\xa9"},
        {"flag", "true"},
        {"size.1", "3"},
        {"optimizer.param_groups.0.betas.1", "0.999"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        assert_string_equal(dm_checkpoint_metadata(ckpt, pairs[i][0]), pairs[i][1]);
    assert_null(dm_checkpoint_metadata(ckpt, "none"));
    assert_null(dm_checkpoint_metadata(ckpt, "history.0"));
    dm_checkpoint_close(expected);
    dm_checkpoint_close(ckpt);
}

static void test_reads_what_torch_save_writes(void **state)
{
    check_kinds("checkpoints/kinds.pt");
}

static void test_reads_pickle_protocol_4(void **state)
{
    check_kinds("checkpoints/kinds-protocol4.pt");
}

static void test_reads_the_old_stream(void **state)
{
    check_kinds("checkpoints/kinds-legacy.pt");
}

static void test_reads_zip64_with_data_descriptors(void **state)
{
    check_kinds("checkpoints/kinds-zip64.pt");
}

static void test_reads_a_bare_tensor(void **state)
{
    struct dm_checkpoint *ckpt = open_file(source_data("checkpoints/bare.pt"));
    assert_shape(tensor(ckpt, "tensor"), 2, (int64_t[]){2, 3});
    assert_memory_equal(tensor(ckpt, "tensor")->data, ((float[]){0, 2, 4, 1, 3, 5}), 24);
    dm_checkpoint_close(ckpt);
}

static void test_shared_storages_are_read_once(void **state)
{
    struct dm_checkpoint *ckpt = open_file(source_data("checkpoints/small.pt"));
    const float *w = tensor(ckpt, "w")->data, *v = tensor(ckpt, "v")->data;
    assert_ptr_equal(w + 1, v);
    dm_checkpoint_close(ckpt);
}

static void test_real_checkpoints_equal_their_twins(void **state)
{
    static const char *const twins[][2] = {
        {"context-unet-sprites/checkpoint.pth", "context-unet-sprites/checkpoint.safetensors"},
        {"straight-path/checkpoint.pt", "straight-path/checkpoint.safetensors"},
        {"two-moons-mlp/checkpoint.pt", "two-moons-mlp/checkpoint.safetensors"},
        {"improved-diffusion/hybrid-32/checkpoint.pt",
         "improved-diffusion/hybrid-32/checkpoint.safetensors"},
        {"crawl-unet/checkpoint.pt", "crawl-unet/checkpoint.safetensors"},
    };
    for (size_t i = 0; i < sizeof twins / sizeof twins[0]; i++) {
        struct dm_checkpoint *a = open_file(test_data(twins[i][0]));
        struct dm_checkpoint *b = open_file(test_data(twins[i][1]));
        assert_same_tensors(a, b);
        dm_checkpoint_close(a);
        dm_checkpoint_close(b);
    }
}

static void test_reads_a_real_data_set(void **state)
{
    struct dm_checkpoint *ckpt = open_file(test_data("two-moons-mlp/dataset.pt"));
    assert_int_equal(dm_checkpoint_count(ckpt), 1);
    assert_shape(tensor(ckpt, "tensor"), 2, (int64_t[]){50000, 2});
    dm_checkpoint_close(ckpt);
}

static void test_reads_hand_written_pickles(void **state)
{
    static const char plain[] = ONE("K\1", "K\2\x85", "K\2\x85");
    struct dm_text file = zip_of(BYTES(plain));
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_memory_equal(tensor(ckpt, "w")->data, ((float[]){2, 4}), 8);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
    /* DUP, POP, POP_MARK, LONG1, an OrderedDict of pairs, a dictionary under a number. */
    static const char odd[] = P "ccollections\nOrderedDict\n"
                                "]K\7X\1\0\0\0x\x86"
                                "a\x85R0"
                                "}("
                                "\x8a\1\xff" TENSOR "(" STORAGE("\4") "K\0K\4\x85K\1\x85t2K\0"
                                                                      "0(K\1K\2"
                                                                      "1"
                                                                      "0Ru.";
    file = zip_of(BYTES(odd));
    ckpt = open_bytes(&file);
    assert_memory_equal(tensor(ckpt, "-1")->data, four, sizeof four);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
}

/* ---- what is refused: Python objects ---- */

static void test_refuses_a_pickled_module_and_says_what_to_do(void **state)
{
    struct dm_error err = DM_ERROR_INIT;
    struct dm_checkpoint *ckpt;
    const char *path = test_data("two-moons-mlp/whole-module.pt");
    assert_int_equal(dm_checkpoint_open(path, &ckpt, &err), DEMIST_UNSUPPORTED);
    assert_contains(err.text, "two-moons-mlp/whole-module.pt: holds a pickled Python object "
                              "(`__main__.DDPM`), not a state dict");
    assert_contains(err.text, "demist never does");
    assert_contains(err.text, "torch.save(model.state_dict(), PATH)");
    dm_error_clear(&err);
}

static void test_never_calls_anything(void **state)
{
    static const char marker[] = "/tmp/demist-was-here";
    remove(marker);
    static const char reduce[] = P "cos\nsystem\nX\x1a\0\0\0touch /tmp/demist-was-here\x85R.";
    static const char posix[] = P "cposix\nsystem\nX\x1a\0\0\0touch /tmp/demist-was-here\x85R.";
    static const char stack[] = "\x80\4\x8c\2os\x8c\6system\x93\x8c\1x\x85R.";
    static const char eval[] = P "cbuiltins\neval\nX\1\0\0\0"
                                 "1\x85R.";
    static const char import[] = P "cbuiltins\n__import__\nX\2\0\0\0os\x85R.";
    static const char object[] = P "c__main__\nMLP\n)\x81}b.";
    static const char hidden[] = P "}X\1\0\0\0w" ORDERED "X\1\0\0\0vcsubprocess\nPopen\nN\x85Rsu.";
    static const char storage[] = P "ctorch\nload\nX\1\0\0\0x\x85R.";
    static const char close[] = P "ctorch\nFloatStorageX\n)R.";
    assert_pickle_refused(BYTES(reduce), DEMIST_UNSUPPORTED, "`os.system`");
    assert_pickle_refused(BYTES(posix), DEMIST_UNSUPPORTED, "`posix.system`");
    assert_pickle_refused(BYTES(stack), DEMIST_UNSUPPORTED, "`os.system`");
    assert_pickle_refused(BYTES(eval), DEMIST_UNSUPPORTED, "`builtins.eval`");
    assert_pickle_refused(BYTES(import), DEMIST_UNSUPPORTED, "`builtins.__import__`");
    assert_pickle_refused(BYTES(object), DEMIST_UNSUPPORTED, "`__main__.MLP`");
    assert_pickle_refused(BYTES(hidden), DEMIST_UNSUPPORTED, "`subprocess.Popen`");
    assert_pickle_refused(BYTES(storage), DEMIST_UNSUPPORTED, "`torch.load`");
    assert_pickle_refused(BYTES(close), DEMIST_UNSUPPORTED, "`torch.FloatStorageX`");
    /* The old stream, and a plain pickle. */
    struct dm_text file = DM_TEXT_INIT;
    put_bytes(&file, BYTES(reduce));
    assert_refused(&file, DEMIST_UNSUPPORTED, "`os.system`");
    put_bytes(&file, BYTES(P "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." P "M\xe9\3."));
    put_bytes(&file, BYTES(P "}."));
    put_bytes(&file, BYTES(reduce));
    assert_refused(&file, DEMIST_UNSUPPORTED, "`os.system`");
    assert_null(fopen(marker, "r"));
}

static void test_names_cannot_reach_the_terminal_raw(void **state)
{
    static const char escape[] = P "c__main__\n\x1b[2J\n.";
    assert_pickle_refused(BYTES(escape), DEMIST_UNSUPPORTED, "`__main__.?[2J`");
    static const char key[] = P "}X\2\0\0\0a\x07" TENSOR "(" STORAGE("\4") "K\0K\4\x85K\1\x85tRs.";
    assert_pickle_refused(BYTES(key), DEMIST_FORMAT, "\"a?\"");
}

/* ---- what is refused: tensors ---- */

static void test_refuses_tensors_outside_their_storage(void **state)
{
    static const struct {
        const char *pickle;
        size_t size;
        const char *text;
    } cases[] = {
        {BYTES(ONE("K\1", "K\4\x85", "K\1\x85")),
         "tensor \"w\": reaches outside its storage of 16"},
        {BYTES(ONE("K\0", "K\5\x85", "K\1\x85")), "tensor \"w\": reaches outside"},
        {BYTES(ONE("K\0", "K\2K\2\x86", "K\3K\1\x86")), "tensor \"w\": reaches outside"},
        {BYTES(ONE("J\xff\xff\xff\x7f", "K\1\x85", "K\1\x85")), "tensor \"w\": reaches outside"},
        {BYTES(ONE("\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x7f", "K\2\x85", "K\1\x85")), "outside"},
        {BYTES(ONE("K\0", "K\2\x85", "\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x7f\x85")), "outside"},
        {BYTES(ONE("K\0", "K\3\x85", "\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x7f\x85")), "outside"},
        {BYTES(ONE("J\xff\xff\xff\xff", "K\1\x85", "K\1\x85")), "malformed tensor"},
        {BYTES(ONE("K\0", "J\xff\xff\xff\xff\x85", "K\1\x85")), "no whole numbers"},
        {BYTES(ONE("K\0", "K\1\x85", "J\xff\xff\xff\xff\x85")), "no whole numbers"},
        {BYTES(ONE("K\0", "K\2\x85", "K\1K\1\x86")), "other strides than sizes"},
        {BYTES(ONE("K\0", "X\1\0\0\0a\x85", "K\1\x85")), "no whole numbers"},
        {BYTES(ONE("N", "K\2\x85", "K\1\x85")), "malformed tensor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_pickle_refused(cases[i].pickle, cases[i].size, DEMIST_FORMAT, cases[i].text);
}

static void test_refuses_billions_of_dimensions_and_elements(void **state)
{
    /* Repeating one element: legal strides, an impossible size. */
    static const char huge[] = ONE("K\0", "\x8a\5\0\0\0\0\1\x85", "K\0\x85");
    assert_pickle_refused(BYTES(huge), DEMIST_FORMAT, "tensor \"w\": repeats its storage");
    static const char overflow[] = ONE("K\0", "\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x86", "K\0K\0\x86");
    assert_pickle_refused(BYTES(overflow), DEMIST_FORMAT, "too large");
    static const char rank9[] =
        ONE("K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t");
    assert_pickle_refused(BYTES(rank9), DEMIST_UNSUPPORTED, "9 dimensions");
}

static void test_refuses_broken_storages(void **state)
{
    static const char large[] = P TENSOR "(" STORAGE("\5") "K\0K\4\x85K\1\x85tR.";
    assert_pickle_refused(BYTES(large), DEMIST_FORMAT,
                          "a/data/0: has 16 bytes, but 20 are declared");
    static const char missing[] = P TENSOR "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                                           "1X\3\0\0\0cpuK\4tQK\0K\4\x85K\1\x85tR.";
    assert_pickle_refused(BYTES(missing), DEMIST_FORMAT, "a/data/1: the storage is missing");
    static const char escape[] =
        P TENSOR "((X\7\0\0\0storagectorch\nFloatStorage\nX\x0b\0\0\0../data.pklX\3\0\0\0cpuK\4tQ"
                 "K\0K\4\x85K\1\x85tR.";
    assert_pickle_refused(BYTES(escape), DEMIST_FORMAT, "the storage is missing");
    static const char negative[] = P "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                                     "0X\3\0\0\0"
                                     "cpuJ\xff\xff\xff\xfftQ.";
    assert_pickle_refused(BYTES(negative), DEMIST_FORMAT, "malformed storage");
    static const char no_type[] = P "(X\7\0\0\0storageNX\1\0\0\0"
                                    "0X\3\0\0\0cpuK\4tQ.";
    assert_pickle_refused(BYTES(no_type), DEMIST_FORMAT, "malformed storage");
}

static void test_refuses_two_tensors_of_one_name(void **state)
{
    /* {"a.b": t, "a": {"b": t}} */
    static const char twice[] =
        P "}(X\3\0\0\0a.b" TENSOR "(" STORAGE("\4") "K\0K\4\x85K\1\x85tRq\1"
                                                    "X\1\0\0\0a}X\1\0\0\0bh\1su.";
    assert_pickle_refused(BYTES(twice), DEMIST_FORMAT, "two tensors have the name \"a.b\"");
}

static void test_refuses_what_is_no_collection_of_tensors(void **state)
{
    assert_pickle_refused(BYTES(P "K\5."), DEMIST_UNSUPPORTED, "neither a tensor nor a dictionary");
    assert_pickle_refused(BYTES(P "ctorch\nFloatStorage\n."), DEMIST_UNSUPPORTED, "neither");
}

/* ---- what is refused: pickles as such ---- */

static void test_refuses_broken_pickles(void **state)
{
    static const struct {
        const char *pickle;
        size_t size;
        const char *text;
    } cases[] = {
        {BYTES(""), "it ends at byte 0"},
        {BYTES(P), "it ends at byte 2"},
        {BYTES(P "."), "an empty stack"},
        {BYTES(P "0."), "an empty stack"},
        {BYTES(P "(0."), "an empty stack"},
        {BYTES(P "2."), "an empty stack"},
        {BYTES(P "t."), "no mark"},
        {BYTES(P "1."), "no mark"},
        {BYTES(P "K\1\x86."), "an empty stack"},
        {BYTES(P "}(K\1\x85s."), "an empty stack"},
        {BYTES(P "K\1(K\2a."), "an empty stack"},
        {BYTES(P "}K\1a."), "no list"},
        {BYTES(P "]K\1K\2s."), "no dictionary"},
        {BYTES(P "}(K\1u."), "no dictionary"},
        {BYTES(P "(K\1d."), "odd number"},
        {BYTES(P "h\0."), "never put"},
        {BYTES(P "j\xff\xff\xff\xff."), "never put"},
        {BYTES(P "Nr\xff\xff\xff\xff."), "impossible memo"},
        {BYTES(P "q\0."), "an empty stack"},
        {BYTES(P "X\xff\xff\xff\xff."), "in the middle"},
        {BYTES("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), "in the middle"},
        {BYTES(P "\x8b\xff\xff\xff\xff."), "in the middle"},
        {BYTES(P "ctorch"), "a line without end"},
        {BYTES(P "ctorch\nSize"), "a line without end"},
        {BYTES(P "K\1K\2R."), "cannot be called"},
        {BYTES(P "ctorch\nfloat32\n)R."), "cannot be called"},
        {BYTES(P "ctorch\nSize\nK\1R."), "cannot be called"},
        {BYTES(P "ctorch\nSize\nK\1\x85R."), "malformed container"},
        {BYTES(P "ccollections\nOrderedDict\nK\1\x85R."), "malformed OrderedDict"},
        {BYTES(P "ctorch._utils\n_rebuild_parameter\n)R."), "malformed parameter"},
        {BYTES(P "c_codecs\nencode\n)R."), "malformed bytes"},
        {BYTES(P "]Nb."), "state for what has none"},
        {BYTES(P "NQ."), "malformed storage"},
        {BYTES("\x80\4NN\x93."), "no text"},
        {BYTES("\x80\6."), "unknown protocol"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_pickle_refused(cases[i].pickle, cases[i].size, DEMIST_FORMAT, cases[i].text);
    assert_pickle_refused(BYTES("I1\n."), DEMIST_UNSUPPORTED, "instruction 0x49 at byte 0");
    assert_pickle_refused(BYTES(P "i__main__\nMLP\n."), DEMIST_UNSUPPORTED, "0x69");
}

static void test_bounds_cycles_and_depth(void **state)
{
    static const char cycle[] = P "]q\1h\1a.";
    assert_pickle_refused(BYTES(cycle), DEMIST_FORMAT, "nested deeper than 64");
    struct dm_text deep = DM_TEXT_INIT;
    for (int i = 0; i < 2000000; i++)
        dm_text_append_bytes(&deep, "]", 1);
    for (int i = 0; i < 1999999; i++)
        dm_text_append_bytes(&deep, "a", 1);
    dm_text_append_bytes(&deep, ".", 1);
    assert_pickle_refused(deep.data, deep.size, DEMIST_FORMAT, "nested deeper than 64");
    dm_text_finish(&deep);
}

/* Sixty lists, each with the one before it twice: 2^60 paths. */
static void test_bounds_sharing(void **state)
{
    struct dm_text laughs = DM_TEXT_INIT;
    put_bytes(&laughs, BYTES(P "]K\1a"));
    for (int i = 0; i < 60; i++)
        put_bytes(&laughs, BYTES("q\1]q\2(h\1h\1e"));
    put_bytes(&laughs, BYTES("."));
    assert_pickle_refused(laughs.data, laughs.size, DEMIST_FORMAT, "share each other");
    dm_text_finish(&laughs);
}

static void test_bounds_memory(void **state)
{
    enum { N = 12 << 20 };
    struct dm_text many = DM_TEXT_INIT;
    put_bytes(&many, BYTES(P "("));
    for (int i = 0; i < N; i++)
        dm_text_append_bytes(&many, "}", 1);
    put_bytes(&many, BYTES("l."));
    assert_pickle_refused(many.data, many.size, DEMIST_FORMAT, "bytes of memory");
    dm_text_finish(&many);
}

static void test_refuses_overlong_names(void **state)
{
    struct dm_text pickle = DM_TEXT_INIT;
    put_bytes(&pickle, BYTES(P "}X"));
    put_uint(&pickle, 5000, 4);
    for (int i = 0; i < 5000; i++)
        dm_text_append(&pickle, "k");
    put_bytes(&pickle, BYTES("K\1s."));
    assert_pickle_refused(pickle.data, pickle.size, DEMIST_FORMAT, "no usable name");
    dm_text_finish(&pickle);
}

/* ---- what is refused: zips ---- */

static void test_refuses_hostile_zips(void **state)
{
    static const char pickle[] = ONE("K\0", "K\4\x85", "K\1\x85");
    uint32_t crc;
    struct dm_text packed = deflate_bytes(1 << 20, 0, &crc);
    const struct member pkl = {.name = "a/data.pkl", .data = pickle, .size = sizeof pickle - 1};
    const struct member good = {.name = "a/data/0", .data = four, .size = sizeof four};
    struct member other = {.name = "a/data/0", .data = packed.data, .size = packed.size};
    other.unpacked = 1 << 20;
    other.crc = crc;
    struct dm_text file = make_zip((struct member[]){pkl, other}, 2);
    assert_refused(&file, DEMIST_UNSUPPORTED, "a/data/0: the zip member is compressed");
    other = good;
    other.encrypted = true;
    file = make_zip((struct member[]){pkl, other}, 2);
    assert_refused(&file, DEMIST_UNSUPPORTED, "encrypted");
    other = good;
    other.lie = true; /* says that it goes on behind the end of the file's data */
    file = make_zip((struct member[]){pkl, other}, 2);
    assert_refused(&file, DEMIST_FORMAT, "a/data/0: has 32 bytes, but 16 are declared");
    file = make_zip((struct member[]){pkl, {.name = "a/byteorder", .data = "big", .size = 3}, good},
                    3);
    assert_refused(&file, DEMIST_UNSUPPORTED, "big-endian");
    file =
        make_zip((struct member[]){pkl, {.name = "a/byteorder", .data = "?", .size = 1}, good}, 3);
    assert_refused(&file, DEMIST_FORMAT, "byte order");
    file = make_zip((struct member[]){{.name = "data.pkl", .data = pickle, .size = 9}, good}, 2);
    assert_refused(&file, DEMIST_FORMAT, "neither PyTorch's (no data.pkl) nor .npz");
    dm_text_finish(&packed);
}

/* Members that lie over each other: each is as large as the file, their sum is not. */
static void test_refuses_overlapping_members(void **state)
{
    enum { SIZE = 4096, N = 6 };
    struct dm_text pickle = DM_TEXT_INIT;
    put_bytes(&pickle, BYTES(P "("));
    for (int i = 0; i < N; i++) {
        put_bytes(&pickle, BYTES(TENSOR "((X\7\0\0\0storagectorch\nByteStorage\nX\1\0\0\0"));
        put_uint(&pickle, (uint64_t)('0' + i), 1);
        put_bytes(&pickle, BYTES("X\3\0\0\0cpuM\0\x10tQK\0M\0\x10\x85K\1\x85tR"));
    }
    put_bytes(&pickle, BYTES("l."));
    static uint8_t data[SIZE];
    struct member members[N + 1];
    static const char *const names[N] = {"a/data/0", "a/data/1", "a/data/2",
                                         "a/data/3", "a/data/4", "a/data/5"};
    for (int i = 0; i < N; i++)
        members[i] = (struct member){.name = names[i], .data = data, .size = SIZE, .same_place = i};
    members[N] = (struct member){.name = "a/data.pkl", .data = pickle.data, .size = pickle.size};
    struct dm_text file = make_zip(members, N + 1);
    assert_refused(&file, DEMIST_FORMAT, "zip bomb");
    for (int i = 0; i < N; i++)
        members[i].same_place = false;
    file = make_zip(members, N + 1);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_int_equal(dm_checkpoint_count(ckpt), N);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
    dm_text_finish(&pickle);
}

/* ---- damage ---- */

static void test_refuses_every_truncation(void **state)
{
    static const char *const names[] = {"checkpoints/small.pt", "checkpoints/small-legacy.pt"};
    for (int i = 0; i < 2; i++) {
        struct dm_text file = read_all(source_data(names[i]));
        assert_true(file.size > 400);
        for (size_t size = 0; size < file.size; size++)
            refuse_part(&file, size, "");
        dm_text_finish(&file);
    }
}

/* Any byte may be wrong: an error or other tensors, but nothing that a sanitizer sees. */
static void test_survives_every_wrong_byte(void **state)
{
    static const char *const names[] = {"checkpoints/small.pt", "checkpoints/small-legacy.pt"};
    for (int i = 0; i < 2; i++) {
        struct dm_text file = read_all(source_data(names[i]));
        int refused = 0;
        for (size_t at = 0; at < file.size; at++)
            for (int bit = 0; bit < 8; bit++) {
                file.data[at] = (char)(file.data[at] ^ 1 << bit);
                struct dm_checkpoint *ckpt;
                refused += dm_checkpoint_open_memory("m", file.data, file.size, &ckpt, NULL) != 0;
                dm_checkpoint_close(ckpt);
                file.data[at] = (char)(file.data[at] ^ 1 << bit);
            }
        assert_true(refused > 500);
        dm_text_finish(&file);
    }
}

static void test_refuses_broken_old_streams(void **state)
{
    struct dm_text file = read_all(source_data("checkpoints/small-legacy.pt"));
    dm_text_append(&file, "x");
    assert_refused(&file, DEMIST_FORMAT, "1 bytes after the last storage");
    put_bytes(&file, BYTES(P "K\1."));
    assert_refused(&file, DEMIST_FORMAT, "not one that torch.save wrote");
#define MAGIC P "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    put_bytes(&file, BYTES(MAGIC P "K\1."));
    assert_refused(&file, DEMIST_UNSUPPORTED, "unknown version");
    put_bytes(&file, BYTES(MAGIC P "M\xe9\3." P "}X\x0d\0\0\0little_endian\x89s."));
    assert_refused(&file, DEMIST_UNSUPPORTED, "big-endian");
#define HEAD MAGIC P "M\xe9\3." P "}."
    put_bytes(&file, BYTES(HEAD P TENSOR "(" STORAGE("\4") "K\0K\4\x85K\1\x85tR." P "]."));
    assert_refused(&file, DEMIST_FORMAT, "the storage \"0\" is missing");
    put_bytes(&file, BYTES(HEAD P "}." P "]X\1\0\0\0"
                                  "0a."));
    assert_refused(&file, DEMIST_FORMAT, "a storage that no tensor mentions");
    put_bytes(&file, BYTES(HEAD P TENSOR "(" STORAGE("\4") "K\0K\4\x85K\1\x85tR." P "]X\1\0\0\0"
                                                           "0a."));
    put_uint(&file, 3, 8);
    put_bytes(&file, four, sizeof four);
    assert_refused(&file, DEMIST_FORMAT, "another size");
}

/* A part of a storage, as very old files have it: ('storage', type, root, location, numel, view).
 */
static void test_reads_parts_of_storages_in_old_streams(void **state)
{
    struct dm_text file = DM_TEXT_INIT;
    put_bytes(&file, BYTES(HEAD P TENSOR
                           "((X\7\0\0\0storagectorch.cuda\nFloatStorage\nX\1\0\0\0"
                           "0X\3\0\0\0cpuK\4(X\1\0\0\0vK\1K\2ttQK\0K\2\x85K\1\x85tR." P "]X\1\0\0\0"
                           "0a."));
    put_uint(&file, 4, 8);
    put_bytes(&file, four, sizeof four);
    struct dm_checkpoint *ckpt = open_bytes(&file);
    assert_memory_equal(tensor(ckpt, "tensor")->data, four + 1, 8);
    dm_checkpoint_close(ckpt);
    dm_text_finish(&file);
    put_bytes(&file,
              BYTES(HEAD P TENSOR "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                                  "0X\3\0\0\0cpuK\4(X\1\0\0\0vK\3K\2ttQK\0K\2\x85K\1\x85tR."));
    assert_refused(&file, DEMIST_FORMAT, "a part outside its storage");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_torch_save_writes),
        cmocka_unit_test(test_reads_pickle_protocol_4),
        cmocka_unit_test(test_reads_the_old_stream),
        cmocka_unit_test(test_reads_zip64_with_data_descriptors),
        cmocka_unit_test(test_reads_a_bare_tensor),
        cmocka_unit_test(test_shared_storages_are_read_once),
        cmocka_unit_test(test_real_checkpoints_equal_their_twins),
        cmocka_unit_test(test_reads_a_real_data_set),
        cmocka_unit_test(test_reads_hand_written_pickles),
        cmocka_unit_test(test_refuses_a_pickled_module_and_says_what_to_do),
        cmocka_unit_test(test_never_calls_anything),
        cmocka_unit_test(test_names_cannot_reach_the_terminal_raw),
        cmocka_unit_test(test_refuses_tensors_outside_their_storage),
        cmocka_unit_test(test_refuses_billions_of_dimensions_and_elements),
        cmocka_unit_test(test_refuses_broken_storages),
        cmocka_unit_test(test_refuses_two_tensors_of_one_name),
        cmocka_unit_test(test_refuses_what_is_no_collection_of_tensors),
        cmocka_unit_test(test_refuses_broken_pickles),
        cmocka_unit_test(test_bounds_cycles_and_depth),
        cmocka_unit_test(test_bounds_sharing),
        cmocka_unit_test(test_bounds_memory),
        cmocka_unit_test(test_refuses_overlong_names),
        cmocka_unit_test(test_refuses_hostile_zips),
        cmocka_unit_test(test_refuses_overlapping_members),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_survives_every_wrong_byte),
        cmocka_unit_test(test_refuses_broken_old_streams),
        cmocka_unit_test(test_reads_parts_of_storages_in_old_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
