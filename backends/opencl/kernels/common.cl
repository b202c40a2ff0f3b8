/* What every kernel uses: vectors, elements of memory, and arguments that are a buffer and a place in
 * it.
 *
 * VECTOR, WIDE or TILED, FP64 and FAST_FMA come from the host. */

#define INLINE static inline
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#if VECTOR == 1
#define VT float
#define VI int
#define LOADV(p) (*(p))
#define STOREV(v, p) (*(p) = (v))
#else
#define VT JOIN(float, VECTOR)
#define VI JOIN(int, VECTOR)
#define LOADV(p) JOIN(vload, VECTOR)(0, p)
#define STOREV(v, p) JOIN(vstore, VECTOR)(v, 0, p)
#endif

/* Elements in memory are f32 or f16, in registers always float: GET(TYPE, p), GETV(TYPE, p),
 * PUT(TYPE, v, p), PUTV(TYPE, v, p). These functions are OpenCL's own, so that no device needs
 * cl_khr_fp16; they convert exactly, and round to the nearest, halfway to even. */
#define ELEMENT_f32 float
#define GET_f32(p) (*(p))
#define PUT_f32(v, p) (*(p) = (v))
#define GETV_f32(p) LOADV(p)
#define PUTV_f32(v, p) STOREV(v, p)
#define IS_HALF_f32 0

#define ELEMENT_f16 half
#define GET_f16(p) vload_half(0, p)
#define PUT_f16(v, p) vstore_half_rte(v, 0, p)
#if VECTOR == 1
#define GETV_f16(p) GET_f16(p)
#define PUTV_f16(v, p) PUT_f16(v, p)
#else
#define GETV_f16(p) JOIN(vload_half, VECTOR)(0, p)
#define PUTV_f16(v, p) JOIN(JOIN(vstore_half, VECTOR), _rte)(v, 0, p)
#endif
#define IS_HALF_f16 1

#define OF_TYPE_(name, type) name##_##type
#define OF_TYPE(name, type) OF_TYPE_(name, type)
#define ELEMENT(type) OF_TYPE(ELEMENT, type)
#define GET(type, p) OF_TYPE(GET, type)(p)
#define PUT(type, v, p) OF_TYPE(PUT, type)(v, p)
#define GETV(type, p) OF_TYPE(GETV, type)(p)
#define PUTV(type, v, p) OF_TYPE(PUTV, type)(v, p)
#define IS_HALF(type) OF_TYPE(IS_HALF, type)

#if defined FP_FAST_FMAF || defined FAST_FMA
#define FMA(a, b, c) fma(a, b, c)
#else
#define FMA(a, b, c) mad(a, b, c)
#endif

#define IN_OF(type, name) __global const ELEMENT(type) *restrict name, long name##_at
#define OUT_OF(type, name) __global ELEMENT(type) *restrict name, long name##_at
#define IN(name) IN_OF(f32, name)
#define OUT(name) OUT_OF(f32, name)

/* Bits of a float as an integer, and back, for scalars and vectors. */
#define BITS_s(x) as_int(x)
#define FLOAT_s(x) as_float(x)
#define TO_INT_s(x) convert_int_sat_rte(x)
#define FROM_INT_s(x) convert_float(x)
#if VECTOR == 1
#define BITS_v BITS_s
#define FLOAT_v FLOAT_s
#define TO_INT_v TO_INT_s
#define FROM_INT_v FROM_INT_s
#else
#define BITS_v(x) JOIN(as_int, VECTOR)(x)
#define FLOAT_v(x) JOIN(as_float, VECTOR)(x)
#define TO_INT_v(x) JOIN(JOIN(convert_int, VECTOR), _sat_rte)(x)
#define FROM_INT_v(x) JOIN(convert_float, VECTOR)(x)
#endif
