#include "unpickle.h"

#include <stdlib.h>
#include <string.h>

/* Far above any checkpoint's pickle, which describes tensors in a few hundred bytes each. */
#define MAX_PICKLE ((size_t)64 << 20)
#define MAX_MEMORY ((size_t)512 << 20)

enum global_kind {
    ORDERED_DICT,
    SET,
    SIZE,
    ENCODE,
    REBUILD_TENSOR,
    REBUILD_TENSOR_V3,
    REBUILD_PARAMETER,
    STORAGE,
    DTYPE,
};

struct dm_pickle_global {
    const char *module, *name;
    enum global_kind kind;
    struct dm_element element; /* of STORAGE and DTYPE */
};

#define ELEMENT(dtype, bytes, text)                                                                \
    {                                                                                              \
        DEMIST_##dtype, bytes, text                                                                \
    }
#define OTHER(bytes, text)                                                                         \
    {                                                                                              \
        DM_DTYPE_OTHER, bytes, text                                                                \
    }

static const struct dm_pickle_global globals[] = {
    {"collections", "OrderedDict", ORDERED_DICT, {0}},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR, {0}},
    {"torch._utils", "_rebuild_tensor", REBUILD_TENSOR, {0}},
    {"torch._utils", "_rebuild_tensor_v3", REBUILD_TENSOR_V3, {0}},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, {0}},
    {"torch", "Size", SIZE, {0}},
    {"builtins", "set", SET, {0}},
    {"builtins", "frozenset", SET, {0}},
    {"__builtin__", "set", SET, {0}},
    {"__builtin__", "frozenset", SET, {0}},
    {"_codecs", "encode", ENCODE, {0}}, /* how protocol 2 writes bytes */
    {"torch", "FloatStorage", STORAGE, ELEMENT(F32, 4, "f32")},
    {"torch", "DoubleStorage", STORAGE, ELEMENT(F64, 8, "f64")},
    {"torch", "HalfStorage", STORAGE, ELEMENT(F16, 2, "f16")},
    {"torch", "BFloat16Storage", STORAGE, ELEMENT(BF16, 2, "bf16")},
    {"torch", "CharStorage", STORAGE, ELEMENT(I8, 1, "i8")},
    {"torch", "ShortStorage", STORAGE, ELEMENT(I16, 2, "i16")},
    {"torch", "IntStorage", STORAGE, ELEMENT(I32, 4, "i32")},
    {"torch", "LongStorage", STORAGE, ELEMENT(I64, 8, "i64")},
    {"torch", "ByteStorage", STORAGE, ELEMENT(U8, 1, "u8")},
    {"torch", "BoolStorage", STORAGE, ELEMENT(BOOL, 1, "bool")},
    {"torch", "ComplexFloatStorage", STORAGE, OTHER(8, "complex64")},
    {"torch", "ComplexDoubleStorage", STORAGE, OTHER(16, "complex128")},
    {"torch", "QInt8Storage", STORAGE, OTHER(1, "qint8")},
    {"torch", "QUInt8Storage", STORAGE, OTHER(1, "quint8")},
    {"torch", "QInt32Storage", STORAGE, OTHER(4, "qint32")},
    {"torch.storage", "UntypedStorage", STORAGE, ELEMENT(U8, 1, "u8")},
    {"torch", "UntypedStorage", STORAGE, ELEMENT(U8, 1, "u8")},
    {"torch", "float32", DTYPE, ELEMENT(F32, 4, "f32")},
    {"torch", "float64", DTYPE, ELEMENT(F64, 8, "f64")},
    {"torch", "float16", DTYPE, ELEMENT(F16, 2, "f16")},
    {"torch", "bfloat16", DTYPE, ELEMENT(BF16, 2, "bf16")},
    {"torch", "int8", DTYPE, ELEMENT(I8, 1, "i8")},
    {"torch", "int16", DTYPE, ELEMENT(I16, 2, "i16")},
    {"torch", "int32", DTYPE, ELEMENT(I32, 4, "i32")},
    {"torch", "int64", DTYPE, ELEMENT(I64, 8, "i64")},
    {"torch", "uint8", DTYPE, ELEMENT(U8, 1, "u8")},
    {"torch", "uint16", DTYPE, ELEMENT(U16, 2, "u16")},
    {"torch", "uint32", DTYPE, ELEMENT(U32, 4, "u32")},
    {"torch", "uint64", DTYPE, ELEMENT(U64, 8, "u64")},
    {"torch", "bool", DTYPE, ELEMENT(BOOL, 1, "bool")},
    {"torch", "float8_e4m3fn", DTYPE, OTHER(1, "float8_e4m3fn")},
    {"torch", "float8_e5m2", DTYPE, OTHER(1, "float8_e5m2")},
    {"torch", "float8_e4m3fnuz", DTYPE, OTHER(1, "float8_e4m3fnuz")},
    {"torch", "float8_e5m2fnuz", DTYPE, OTHER(1, "float8_e5m2fnuz")},
    {"torch", "float8_e8m0fnu", DTYPE, OTHER(1, "float8_e8m0fnu")},
};

/* Opcodes as in Python's pickletools. */
enum {
    MARK = '(',
    STOP = '.',
    POP = '0',
    POP_MARK = '1',
    DUP = '2',
    BINFLOAT = 'G',
    BININT = 'J',
    BININT1 = 'K',
    BININT2 = 'M',
    NONE = 'N',
    BINPERSID = 'Q',
    REDUCE = 'R',
    BINSTRING = 'T',
    SHORT_BINSTRING = 'U',
    BINUNICODE = 'X',
    BINBYTES = 'B',
    SHORT_BINBYTES = 'C',
    EMPTY_LIST = ']',
    APPEND = 'a',
    BUILD = 'b',
    GLOBAL = 'c',
    DICT = 'd',
    APPENDS = 'e',
    BINGET = 'h',
    LONG_BINGET = 'j',
    LIST = 'l',
    BINPUT = 'q',
    LONG_BINPUT = 'r',
    SETITEM = 's',
    TUPLE = 't',
    EMPTY_TUPLE = ')',
    SETITEMS = 'u',
    EMPTY_DICT = '}',
    PROTO = 0x80,
    NEWOBJ = 0x81,
    TUPLE1 = 0x85,
    TUPLE2 = 0x86,
    TUPLE3 = 0x87,
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    LONG1 = 0x8a,
    LONG4 = 0x8b,
    SHORT_BINUNICODE = 0x8c,
    BINUNICODE8 = 0x8d,
    BINBYTES8 = 0x8e,
    EMPTY_SET = 0x8f,
    ADDITEMS = 0x90,
    FROZENSET = 0x91,
    STACK_GLOBAL = 0x93,
    MEMOIZE = 0x94,
    FRAME = 0x95,
    BYTEARRAY8 = 0x96,
};

typedef struct dm_pickle_value value;

/* One pickle while it runs. */
struct machine {
    struct dm_unpickler *shared;
    const uint8_t *bytes;
    size_t size, at;
    value **stack;
    size_t depth, stack_capacity;
    size_t *marks; /* depths of the stack */
    size_t n_marks, marks_capacity;
    value **memo; /* NULL where nothing was put */
    size_t n_memo;
    size_t memo_next; /* what MEMOIZE uses */
    value *result;
    struct dm_error *err;
};

static demist_status broken(struct machine *m, const char *what)
{
    return dm_fail(m->err, DEMIST_FORMAT, "broken pickle: %s before byte %zu", what, m->at);
}

static void *allocate(struct machine *m, size_t count, size_t size)
{
    size_t bytes = 0;
    if (dm_mul_size(count, size, &bytes) && bytes <= MAX_MEMORY - m->shared->allocated) {
        m->shared->allocated += bytes;
        void *memory = dm_arena_alloc(&m->shared->arena, bytes);
        if (!memory)
            dm_fail_memory(m->err, "the values of a pickle");
        return memory;
    }
    dm_fail(m->err, DEMIST_FORMAT, "the pickle needs more than %zu bytes of memory", MAX_MEMORY);
    return NULL;
}

/* An array of at least `needed` elements, at least one: `array` itself, or a larger copy whose new
 * part is zero. NULL with the error set. */
static void *reserve(struct machine *m, void *array, size_t *capacity, size_t needed,
                     size_t element)
{
    if (needed <= *capacity)
        return array;
    size_t grown = needed > 2 * *capacity ? needed : 2 * *capacity;
    void *moved = allocate(m, grown, element);
    if (!moved)
        return NULL;
    if (array)
        memcpy(moved, array, *capacity * element);
    *capacity = grown;
    return moved;
}

static demist_status out_of_memory(struct machine *m)
{
    return m->err ? m->err->status : DEMIST_NO_MEMORY;
}

/* ---- input ---- */

static demist_status take(struct machine *m, size_t n, const uint8_t **bytes)
{
    if (n > m->size - m->at)
        return dm_fail(m->err, DEMIST_FORMAT, "broken pickle: it ends at byte %zu, in the middle",
                       m->size);
    *bytes = m->bytes + m->at;
    m->at += n;
    return DEMIST_OK;
}

/* A little-endian unsigned number of 1, 2, 4 or 8 bytes. */
static demist_status take_uint(struct machine *m, size_t bytes, uint64_t *out)
{
    const uint8_t *from = NULL;
    DM_TRY(take(m, bytes, &from));
    *out = 0;
    memcpy(out, from, bytes);
    return DEMIST_OK;
}

/* Up to the end of a line, which is left out. */
static demist_status take_line(struct machine *m, const char **text, size_t *length)
{
    const uint8_t *from = m->bytes + m->at;
    const uint8_t *end = memchr(from, '\n', m->size - m->at);
    if (!end)
        return broken(m, "a line without end");
    *text = (const char *)from;
    *length = (size_t)(end - from);
    m->at += *length + 1;
    return DEMIST_OK;
}

/* ---- stack ---- */

static demist_status push(struct machine *m, value *v)
{
    if (!v)
        return out_of_memory(m);
    value **stack = reserve(m, m->stack, &m->stack_capacity, m->depth + 1, sizeof *stack);
    if (!stack)
        return out_of_memory(m);
    m->stack = stack;
    stack[m->depth++] = v;
    return DEMIST_OK;
}

static value *new_value(struct machine *m, enum dm_pickle_kind kind)
{
    value *v = allocate(m, 1, sizeof *v);
    if (v)
        v->kind = kind;
    return v;
}

static demist_status push_kind(struct machine *m, enum dm_pickle_kind kind)
{
    return push(m, new_value(m, kind));
}

static demist_status push_bool(struct machine *m, bool truth)
{
    value *v = new_value(m, DM_PICKLE_BOOL);
    if (v)
        v->truth = truth;
    return push(m, v);
}

static demist_status push_int(struct machine *m, int64_t integer)
{
    value *v = new_value(m, DM_PICKLE_INT);
    if (v)
        v->integer = integer;
    return push(m, v);
}

static demist_status push_text(struct machine *m, enum dm_pickle_kind kind, size_t length_bytes)
{
    uint64_t length = 0;
    const uint8_t *bytes = NULL;
    DM_TRY(take_uint(m, length_bytes, &length));
    DM_TRY(take(m, length, &bytes));
    value *v = new_value(m, kind);
    if (v) {
        v->text.bytes = (const char *)bytes;
        v->text.length = length;
    }
    return push(m, v);
}

/* The lowest depth that the current instruction may pop to. */
static size_t floor_of(const struct machine *m)
{
    return m->n_marks ? m->marks[m->n_marks - 1] : 0;
}

static demist_status pop(struct machine *m, value **v)
{
    if (m->depth <= floor_of(m))
        return broken(m, "an empty stack");
    *v = m->stack[--m->depth];
    return DEMIST_OK;
}

static demist_status top(struct machine *m, value **v)
{
    if (m->depth <= floor_of(m))
        return broken(m, "an empty stack");
    *v = m->stack[m->depth - 1];
    return DEMIST_OK;
}

/* Everything above the last mark; it stays readable until the next push. */
static demist_status pop_mark(struct machine *m, value ***items, size_t *count)
{
    if (!m->n_marks)
        return broken(m, "no mark");
    size_t mark = m->marks[--m->n_marks];
    *items = m->stack + mark;
    *count = m->depth - mark;
    m->depth = mark;
    return DEMIST_OK;
}

static demist_status put_mark(struct machine *m)
{
    size_t *marks = reserve(m, m->marks, &m->marks_capacity, m->n_marks + 1, sizeof *marks);
    if (!marks)
        return out_of_memory(m);
    m->marks = marks;
    marks[m->n_marks++] = m->depth;
    return DEMIST_OK;
}

/* ---- containers ---- */

static demist_status extend(struct machine *m, value *container, value **items, size_t count)
{
    if (count == 0)
        return DEMIST_OK;
    size_t total = container->list.count + count;
    value **all = reserve(m, container->list.items, &container->list.capacity, total, sizeof *all);
    if (!all)
        return out_of_memory(m);
    memcpy(all + container->list.count, items, count * sizeof *items);
    container->list.items = all;
    container->list.count = total;
    return DEMIST_OK;
}

static demist_status push_container(struct machine *m, enum dm_pickle_kind kind, value **items,
                                    size_t count)
{
    value *v = new_value(m, kind);
    if (!v)
        return out_of_memory(m);
    if (kind == DM_PICKLE_DICT && count % 2)
        return broken(m, "a dictionary of an odd number of items");
    DM_TRY(extend(m, v, items, count));
    return push(m, v);
}

static demist_status push_marked(struct machine *m, enum dm_pickle_kind kind)
{
    value **items = NULL;
    size_t count = 0;
    DM_TRY(pop_mark(m, &items, &count));
    return push_container(m, kind, items, count);
}

static demist_status push_tuple(struct machine *m, size_t count)
{
    if (m->depth - floor_of(m) < count)
        return broken(m, "an empty stack");
    m->depth -= count;
    return push_container(m, DM_PICKLE_TUPLE, m->stack + m->depth, count);
}

/* Adds popped items to the list or dictionary below them. */
static demist_status add_items(struct machine *m, enum dm_pickle_kind kind, value **items,
                               size_t count)
{
    value *container = NULL;
    DM_TRY(top(m, &container));
    if (container->kind != kind || (kind == DM_PICKLE_DICT && count % 2))
        return broken(m, kind == DM_PICKLE_DICT ? "items for what is no dictionary"
                                                : "items for what is no list");
    return extend(m, container, items, count);
}

static demist_status add_marked(struct machine *m, enum dm_pickle_kind kind)
{
    value **items = NULL;
    size_t count = 0;
    DM_TRY(pop_mark(m, &items, &count));
    return add_items(m, kind, items, count);
}

static demist_status add_top(struct machine *m, enum dm_pickle_kind kind, size_t count)
{
    if (m->depth - floor_of(m) < count)
        return broken(m, "an empty stack");
    m->depth -= count;
    return add_items(m, kind, m->stack + m->depth, count);
}

/* ---- memo ---- */

/* Picklers number from 0 or 1 upwards, so an index beyond the bytes read is no pickler's. */
static demist_status put(struct machine *m, uint64_t index)
{
    value *v = NULL;
    DM_TRY(top(m, &v));
    if (index >= m->at)
        return broken(m, "an impossible memo index");
    value **memo = reserve(m, m->memo, &m->n_memo, index + 1, sizeof *memo);
    if (!memo)
        return out_of_memory(m);
    m->memo = memo;
    memo[index] = v;
    if (index >= m->memo_next)
        m->memo_next = index + 1;
    return DEMIST_OK;
}

static demist_status get(struct machine *m, size_t index_bytes)
{
    uint64_t index = 0;
    DM_TRY(take_uint(m, index_bytes, &index));
    if (index >= m->n_memo || !m->memo[index])
        return broken(m, "a memo that was never put");
    return push(m, m->memo[index]);
}

/* ---- names, and what they build ---- */

static bool same(const char *text, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static demist_status refuse(struct machine *m, const char *module, size_t module_length,
                            const char *name, size_t name_length)
{
    return dm_fail(m->err, DEMIST_UNSUPPORTED,
                   "holds a pickled Python object (`%s.%s`), not a state dict; loading it would "
                   "run its code, which demist never does. Save it again with "
                   "torch.save(model.state_dict(), PATH)",
                   dm_printable(module, module_length).text, dm_printable(name, name_length).text);
}

static demist_status push_global(struct machine *m, const char *module, size_t module_length,
                                 const char *name, size_t name_length)
{
    /* Older files name the storages of a GPU. */
    bool cuda = same(module, module_length, "torch.cuda");
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
        const struct dm_pickle_global *g = &globals[i];
        if (!same(name, name_length, g->name) ||
            !(same(module, module_length, g->module) ||
              (cuda && g->kind == STORAGE && strcmp(g->module, "torch") == 0)))
            continue;
        value *v = new_value(m, DM_PICKLE_GLOBAL);
        if (v)
            v->global = g;
        return push(m, v);
    }
    return refuse(m, module, module_length, name, name_length);
}

static demist_status op_global(struct machine *m)
{
    const char *module = NULL, *name = NULL;
    size_t module_length = 0, name_length = 0;
    DM_TRY(take_line(m, &module, &module_length));
    DM_TRY(take_line(m, &name, &name_length));
    return push_global(m, module, module_length, name, name_length);
}

static demist_status op_stack_global(struct machine *m)
{
    value *module = NULL, *name = NULL;
    DM_TRY(pop(m, &name));
    DM_TRY(pop(m, &module));
    if (module->kind != DM_PICKLE_TEXT || name->kind != DM_PICKLE_TEXT)
        return broken(m, "a global whose name is no text");
    return push_global(m, module->text.bytes, module->text.length, name->text.bytes,
                       name->text.length);
}

static value *item(const value *tuple, size_t i)
{
    return tuple->list.items[i];
}

static bool is_list(const value *v)
{
    return v->kind == DM_PICKLE_TUPLE || v->kind == DM_PICKLE_LIST;
}

/* A part of a storage, as older files wrote it: (key of the part, offset, numel) or None. */
static demist_status read_view(struct machine *m, const value *view, struct dm_pickle_storage *s)
{
    if (view->kind == DM_PICKLE_NONE)
        return DEMIST_OK;
    if (view->kind != DM_PICKLE_TUPLE || view->list.count != 3 ||
        item(view, 1)->kind != DM_PICKLE_INT || item(view, 2)->kind != DM_PICKLE_INT)
        return broken(m, "a malformed part of a storage");
    s->view_offset = item(view, 1)->integer;
    s->view_numel = item(view, 2)->integer;
    if (s->view_offset < 0 || s->view_numel < 0 || s->view_offset > s->numel ||
        s->view_numel > s->numel - s->view_offset)
        return broken(m, "a part outside its storage");
    return DEMIST_OK;
}

static demist_status op_persistent_id(struct machine *m)
{
    value *id = NULL;
    DM_TRY(pop(m, &id));
    if (id->kind != DM_PICKLE_TUPLE || id->list.count < 5 || id->list.count > 6)
        return broken(m, "a malformed storage");
    const value *tag = item(id, 0), *type = item(id, 1), *key = item(id, 2), *numel = item(id, 4);
    if (tag->kind != DM_PICKLE_TEXT || !same(tag->text.bytes, tag->text.length, "storage") ||
        type->kind != DM_PICKLE_GLOBAL || type->global->kind != STORAGE ||
        key->kind != DM_PICKLE_TEXT || numel->kind != DM_PICKLE_INT || numel->integer < 0 ||
        numel->integer > INT64_MAX / 16)
        return broken(m, "a malformed storage");
    value *v = new_value(m, DM_PICKLE_STORAGE);
    struct dm_pickle_storage *s = allocate(m, 1, sizeof *s);
    if (!v || !s)
        return out_of_memory(m);
    *s = (struct dm_pickle_storage){
        .element = type->global->element,
        .key = key->text.bytes,
        .key_length = key->text.length,
        .numel = numel->integer,
        .view_offset = -1,
        .view_numel = -1,
        .next = m->shared->storages,
    };
    if (id->list.count == 6)
        DM_TRY(read_view(m, item(id, 5), s));
    m->shared->storages = s;
    v->storage = s;
    return push(m, v);
}

/* A tuple of at most DM_MAX_RANK whole numbers, none negative. */
static demist_status read_dims(struct machine *m, const value *list, int64_t *dims, int *rank)
{
    if (!is_list(list))
        return broken(m, "a malformed tensor");
    if (list->list.count > DM_MAX_RANK)
        return dm_fail(m->err, DEMIST_UNSUPPORTED, "a tensor of %zu dimensions; %d are supported",
                       list->list.count, DM_MAX_RANK);
    *rank = (int)list->list.count;
    for (int i = 0; i < *rank; i++) {
        const value *dim = item(list, (size_t)i);
        if (dim->kind != DM_PICKLE_INT || dim->integer < 0)
            return broken(m, "a tensor whose sizes or strides are no whole numbers");
        dims[i] = dim->integer;
    }
    return DEMIST_OK;
}

/* (storage, offset, size, stride, requires_grad, hooks[, metadata]); v3 has the dtype at 6. */
static demist_status rebuild_tensor(struct machine *m, const value *args, bool v3)
{
    if (args->list.count < (v3 ? 7 : 4) || item(args, 0)->kind != DM_PICKLE_STORAGE ||
        item(args, 1)->kind != DM_PICKLE_INT || item(args, 1)->integer < 0)
        return broken(m, "a malformed tensor");
    value *v = new_value(m, DM_PICKLE_TENSOR);
    struct dm_pickle_tensor *t = allocate(m, 1, sizeof *t);
    if (!v || !t)
        return out_of_memory(m);
    t->storage = item(args, 0)->storage;
    t->offset = item(args, 1)->integer;
    t->element = t->storage->element;
    int strides;
    DM_TRY(read_dims(m, item(args, 2), t->shape, &t->rank));
    DM_TRY(read_dims(m, item(args, 3), t->stride, &strides));
    if (strides != t->rank)
        return broken(m, "a tensor with other strides than sizes");
    if (v3) {
        const value *dtype = item(args, 6);
        if (dtype->kind != DM_PICKLE_GLOBAL || dtype->global->kind != DTYPE)
            return broken(m, "a malformed tensor");
        t->element = dtype->global->element;
    }
    v->tensor = t;
    return push(m, v);
}

/* OrderedDict() or OrderedDict([[key, value], …]). */
static demist_status build_dict(struct machine *m, const value *args)
{
    DM_TRY(push_kind(m, DM_PICKLE_DICT));
    if (args->list.count == 0)
        return DEMIST_OK;
    const value *pairs = item(args, 0);
    if (args->list.count > 1 || !is_list(pairs))
        return broken(m, "a malformed OrderedDict");
    for (size_t i = 0; i < pairs->list.count; i++) {
        const value *pair = item(pairs, i);
        if (!is_list(pair) || pair->list.count != 2)
            return broken(m, "a malformed OrderedDict");
        DM_TRY(add_items(m, DM_PICKLE_DICT, pair->list.items, 2));
    }
    return DEMIST_OK;
}

/* set(list), torch.Size(tuple): a new container of the same items. */
static demist_status build_list(struct machine *m, const value *args, enum dm_pickle_kind kind)
{
    if (args->list.count == 0)
        return push_kind(m, kind);
    const value *items = item(args, 0);
    if (args->list.count > 1 || !is_list(items))
        return broken(m, "a malformed container");
    return push_container(m, kind, items->list.items, items->list.count);
}

/* _codecs.encode(text, 'latin1') */
static demist_status build_bytes(struct machine *m, const value *args)
{
    if (args->list.count < 1 || item(args, 0)->kind != DM_PICKLE_TEXT)
        return broken(m, "malformed bytes");
    value *v = new_value(m, DM_PICKLE_BYTES);
    if (v)
        v->text = item(args, 0)->text;
    return push(m, v);
}

/* REDUCE and NEWOBJ: callable and arguments become a value. */
static demist_status op_call(struct machine *m)
{
    value *args = NULL, *callable = NULL;
    DM_TRY(pop(m, &args));
    DM_TRY(pop(m, &callable));
    if (callable->kind != DM_PICKLE_GLOBAL || args->kind != DM_PICKLE_TUPLE)
        return broken(m, "a call of what cannot be called");
    switch (callable->global->kind) {
    case ORDERED_DICT:
        return build_dict(m, args);
    case SET:
        return build_list(m, args, DM_PICKLE_LIST);
    case SIZE:
        return build_list(m, args, DM_PICKLE_TUPLE);
    case ENCODE:
        return build_bytes(m, args);
    case REBUILD_TENSOR:
        return rebuild_tensor(m, args, false);
    case REBUILD_TENSOR_V3:
        return rebuild_tensor(m, args, true);
    case REBUILD_PARAMETER:
        if (args->list.count < 1 || item(args, 0)->kind != DM_PICKLE_TENSOR)
            return broken(m, "a malformed parameter");
        return push(m, item(args, 0));
    case STORAGE:
    case DTYPE:
        break;
    }
    return broken(m, "a call of what cannot be called");
}

/* The state of an OrderedDict (`_metadata`, the versions of modules) carries no tensors. */
static demist_status op_build(struct machine *m)
{
    value *state = NULL, *object = NULL;
    DM_TRY(pop(m, &state));
    DM_TRY(top(m, &object));
    return object->kind == DM_PICKLE_DICT ? DEMIST_OK : broken(m, "a state for what has none");
}

/* ---- numbers ---- */

/* Two's complement, little-endian, of any length. */
static demist_status op_long(struct machine *m, size_t length_bytes)
{
    uint64_t length = 0;
    const uint8_t *bytes = NULL;
    DM_TRY(take_uint(m, length_bytes, &length));
    DM_TRY(take(m, length, &bytes));
    if (length > 8) {
        value *v = new_value(m, DM_PICKLE_BIG_INT);
        if (v) {
            v->text.bytes = (const char *)bytes;
            v->text.length = length;
        }
        return push(m, v);
    }
    uint64_t bits = length && bytes[length - 1] & 0x80 ? UINT64_MAX : 0;
    memcpy(&bits, bytes, length);
    return push_int(m, (int64_t)bits);
}

static demist_status op_uint(struct machine *m, size_t bytes)
{
    uint64_t integer = 0;
    DM_TRY(take_uint(m, bytes, &integer));
    return push_int(m, (int64_t)integer);
}

static demist_status op_int32(struct machine *m)
{
    uint64_t bits = 0;
    DM_TRY(take_uint(m, 4, &bits));
    return push_int(m, (int32_t)(uint32_t)bits);
}

/* The only big-endian number of the format. */
static demist_status op_float(struct machine *m)
{
    uint64_t bits = 0;
    DM_TRY(take_uint(m, 8, &bits));
    bits = __builtin_bswap64(bits);
    value *v = new_value(m, DM_PICKLE_FLOAT);
    if (v)
        memcpy(&v->real, &bits, sizeof bits);
    return push(m, v);
}

/* ---- the machine ---- */

static demist_status unknown(struct machine *m, int op)
{
    return dm_fail(m->err, DEMIST_UNSUPPORTED,
                   "unexpected pickle instruction 0x%02x at byte %zu; torch.save with its default "
                   "protocol does not write it",
                   (unsigned)op, m->at - 1);
}

static demist_status step_rest(struct machine *m, int op);

static demist_status step(struct machine *m, int op)
{
    uint64_t number = 0;
    value *v = NULL;
    switch (op) {
    case PROTO:
        DM_TRY(take_uint(m, 1, &number));
        return number <= 5 ? DEMIST_OK : broken(m, "an unknown protocol");
    case FRAME: /* a hint for readers of streams */
        return take_uint(m, 8, &number);
    case STOP:
        return pop(m, &m->result);
    case MARK:
        return put_mark(m);
    case POP: /* of a mark, too */
        if (m->n_marks && m->depth == floor_of(m)) {
            m->n_marks--;
            return DEMIST_OK;
        }
        return pop(m, &v);
    case POP_MARK: {
        value **items = NULL;
        size_t count = 0;
        return pop_mark(m, &items, &count);
    }
    case DUP:
        DM_TRY(top(m, &v));
        return push(m, v);
    case BINPUT:
        DM_TRY(take_uint(m, 1, &number));
        return put(m, number);
    case LONG_BINPUT:
        DM_TRY(take_uint(m, 4, &number));
        return put(m, number);
    case MEMOIZE:
        return put(m, m->memo_next);
    case BINGET:
        return get(m, 1);
    case LONG_BINGET:
        return get(m, 4);
    case GLOBAL:
        return op_global(m);
    case STACK_GLOBAL:
        return op_stack_global(m);
    case BINPERSID:
        return op_persistent_id(m);
    case REDUCE:
    case NEWOBJ:
        return op_call(m);
    case BUILD:
        return op_build(m);
    default:
        return step_rest(m, op);
    }
}

/* Plain values. */
static demist_status step_rest(struct machine *m, int op)
{
    switch (op) {
    case NONE:
        return push_kind(m, DM_PICKLE_NONE);
    case NEWTRUE:
    case NEWFALSE:
        return push_bool(m, op == NEWTRUE);
    case BININT:
        return op_int32(m);
    case BININT1:
        return op_uint(m, 1);
    case BININT2:
        return op_uint(m, 2);
    case LONG1:
        return op_long(m, 1);
    case LONG4:
        return op_long(m, 4);
    case BINFLOAT:
        return op_float(m);
    case SHORT_BINSTRING:
    case SHORT_BINUNICODE:
        return push_text(m, DM_PICKLE_TEXT, 1);
    case BINSTRING:
    case BINUNICODE:
        return push_text(m, DM_PICKLE_TEXT, 4);
    case BINUNICODE8:
        return push_text(m, DM_PICKLE_TEXT, 8);
    case SHORT_BINBYTES:
        return push_text(m, DM_PICKLE_BYTES, 1);
    case BINBYTES:
        return push_text(m, DM_PICKLE_BYTES, 4);
    case BINBYTES8:
    case BYTEARRAY8:
        return push_text(m, DM_PICKLE_BYTES, 8);
    case EMPTY_TUPLE:
        return push_kind(m, DM_PICKLE_TUPLE);
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
        return push_tuple(m, (size_t)op - TUPLE1 + 1);
    case TUPLE:
        return push_marked(m, DM_PICKLE_TUPLE);
    case EMPTY_LIST:
    case EMPTY_SET:
        return push_kind(m, DM_PICKLE_LIST);
    case LIST:
    case FROZENSET:
        return push_marked(m, DM_PICKLE_LIST);
    case APPEND:
        return add_top(m, DM_PICKLE_LIST, 1);
    case APPENDS:
    case ADDITEMS:
        return add_marked(m, DM_PICKLE_LIST);
    case EMPTY_DICT:
        return push_kind(m, DM_PICKLE_DICT);
    case DICT:
        return push_marked(m, DM_PICKLE_DICT);
    case SETITEM:
        return add_top(m, DM_PICKLE_DICT, 2);
    case SETITEMS:
        return add_marked(m, DM_PICKLE_DICT);
    default:
        return unknown(m, op);
    }
}

demist_status dm_unpickle(struct dm_unpickler *unpickler, const void *bytes, size_t size,
                          size_t *used, struct dm_pickle_value **root, struct dm_error *err)
{
    struct machine m = {.shared = unpickler, .bytes = bytes, .err = err};
    m.size = size < MAX_PICKLE ? size : MAX_PICKLE;
    m.stack = reserve(&m, NULL, &m.stack_capacity, 64, sizeof *m.stack);
    if (!m.stack)
        return out_of_memory(&m);
    while (!m.result) {
        const uint8_t *op = NULL;
        DM_TRY(take(&m, 1, &op));
        DM_TRY(step(&m, *op));
        unpickler->ops++;
    }
    if (used)
        *used = m.at;
    *root = m.result;
    return DEMIST_OK;
}

void dm_unpickler_finish(struct dm_unpickler *unpickler)
{
    dm_arena_finish(&unpickler->arena);
    *unpickler = (struct dm_unpickler){0};
}
