/* What every kernel uses: vectors, and arguments that are a buffer and a place in it.
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

#if defined FP_FAST_FMAF || defined FAST_FMA
#define FMA(a, b, c) fma(a, b, c)
#else
#define FMA(a, b, c) mad(a, b, c)
#endif

#define IN(name) __global const float *restrict name, long name##_at
#define OUT(name) __global float *restrict name, long name##_at

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
