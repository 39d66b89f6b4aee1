// Vectors of floats and 32-bit words: the only place that knows vector registers.
//
// Three back ends behind one interface: AVX2 (8 lanes), AVX-512 (16 lanes, with or without its bf16 instructions), and
// the compiler's vector extensions, which build 4 lanes anywhere (`baseline`) and 16 lanes where AVX-512 is absent
// (`vec16`), so that the wide kernels and those on pairs of bf16 are tested on every machine. All vectors are GCC/Clang
// vector types, so + - * / & | ^ < > work on them as written.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/lane.h"
#include "../core/problem.h"

#define MMK_CODE_baseline 1
#define MMK_CODE_avx2 2
#define MMK_CODE_avx512 3
#define MMK_CODE_vec16 4
#define MMK_CODE_avx512bf16 5
#define MMK_PASTE_(a, b) a##b
#define MMK_PASTE(a, b) MMK_PASTE_(a, b)
#define MMK_CODE MMK_PASTE(MMK_CODE_, MMK_ISA)
#define MMK_AVX2 (MMK_CODE == MMK_CODE_avx2)
#define MMK_AVX512_BF16 (MMK_CODE == MMK_CODE_avx512bf16)
#define MMK_AVX512 (MMK_CODE == MMK_CODE_avx512 || MMK_AVX512_BF16)

#if MMK_AVX2 || MMK_AVX512
#include <immintrin.h>
#endif

MMK_NAMESPACE_BEGIN

#if MMK_AVX512
constexpr int kLanes = 16;
constexpr int kTileRows = 8, kTileVectors = 2;  // accumulators of the micro-kernel: 16 of 32 registers
#elif MMK_AVX2
constexpr int kLanes = 8;
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 of 16 registers
#elif MMK_CODE == MMK_CODE_vec16
constexpr int kLanes = 16;
constexpr int kTileRows = 4, kTileVectors = 1;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

/// Whether bf16 operands are multiplied as they are, two products at a time, or widened to fp32 (memory.h).
constexpr bool kBfloat16Pairs = MMK_AVX512_BF16 || MMK_CODE == MMK_CODE_vec16;

constexpr int kFewTileRows = 2;  // rows beside which 2 * kTileVectors columns fit in registers too

typedef float Float __attribute__((vector_size(kLanes * 4)));
typedef int32_t Int __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Word __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Half __attribute__((vector_size(kLanes * 2)));
typedef uint8_t Byte __attribute__((vector_size(kLanes)));
typedef Float FloatUnaligned __attribute__((aligned(4), may_alias));
typedef Int IntUnaligned __attribute__((aligned(4), may_alias));
typedef Half HalfUnaligned __attribute__((aligned(2), may_alias));
typedef Byte ByteUnaligned __attribute__((aligned(1), may_alias));

// ---- load, store, broadcast ----

inline Float load(const float* p) { return *reinterpret_cast<const FloatUnaligned*>(p); }
inline Int load(const int32_t* p) { return *reinterpret_cast<const IntUnaligned*>(p); }
inline Int load_bytes(const uint8_t* p) {
  return __builtin_convertvector(*reinterpret_cast<const ByteUnaligned*>(p), Int);
}
inline void store(float* p, Float v) { *reinterpret_cast<FloatUnaligned*>(p) = v; }
inline void store(int32_t* p, Int v) { *reinterpret_cast<IntUnaligned*>(p) = v; }

inline Float splat(float x) {
#if MMK_AVX512
  return (Float)_mm512_set1_ps(x);
#elif MMK_AVX2
  return (Float)_mm256_set1_ps(x);
#else
  Float v;
  for (int i = 0; i < kLanes; ++i) v[i] = x;
  return v;
#endif
}
inline Int splat(int32_t x) {
  Int v;
  for (int i = 0; i < kLanes; ++i) v[i] = x;
  return v;
}
inline Word splat(uint32_t x) { return (Word)splat(static_cast<int32_t>(x)); }
/// 0, 1, 2, ...
inline Int lane_indices() {
  Int v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// ---- arithmetic ----

inline Float multiply_add(Float a, Float b, Float c) {
#if MMK_AVX512
  return (Float)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif MMK_AVX2
  return (Float)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__) || defined(__aarch64__)
  Float v;
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return v;
#else
  return a * b + c;
#endif
}
inline Float select(Int condition, Float yes, Float no) {
  return (Float)(((Int)yes & condition) | ((Int)no & ~condition));
}
inline Int select(Int condition, Int yes, Int no) { return (yes & condition) | (no & ~condition); }
inline Float maximum(Float a, Float b) {
#if MMK_AVX512
  return (Float)_mm512_max_ps((__m512)a, (__m512)b);
#elif MMK_AVX2
  return (Float)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return select(a > b, a, b);
#endif
}
/// Sum of x[0..count), count a multiple of 4: one chain for each index modulo 4, then two pairs.
inline float sum_in_four_chains(const float* x, int64_t count) {
  typedef float Quad __attribute__((vector_size(16)));
  typedef Quad QuadUnaligned __attribute__((aligned(4), may_alias));
  Quad sum = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int64_t i = 0; i < count; i += 4) sum = sum + *reinterpret_cast<const QuadUnaligned*>(x + i);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
inline bool any(Int condition) {
#if MMK_AVX512
  return _mm512_test_epi32_mask((__m512i)condition, (__m512i)condition) != 0;
#elif MMK_AVX2
  return !_mm256_testz_si256((__m256i)condition, (__m256i)condition);
#else
  int32_t result = 0;
  for (int i = 0; i < kLanes; ++i) result |= condition[i];
  return result != 0;
#endif
}
inline Int not_finite(Float x) { return ((Int)x & 0x7f800000) == 0x7f800000; }

/// A Word as two vectors of 64-bit lanes whose low halves are its even and its odd lanes, the high halves anything: a
/// 32 x 32 -> 64 bit product is then one instruction, and its high half one shift.
struct SplitWord {
  typedef uint64_t Lanes __attribute__((vector_size(kLanes * 4)));
  Lanes even, odd;
};
inline SplitWord split(Word w) { return {(SplitWord::Lanes)w, (SplitWord::Lanes)w >> 32}; }
inline Word join(SplitWord w) { return (Word)((w.even & 0xffffffff) | (w.odd << 32)); }
inline SplitWord operator^(SplitWord a, SplitWord b) { return {a.even ^ b.even, a.odd ^ b.odd}; }
inline SplitWord operator^(SplitWord a, uint32_t b) { return {a.even ^ b, a.odd ^ b}; }
inline SplitWord::Lanes multiply_low(SplitWord::Lanes a, uint32_t b) {
#if MMK_AVX512
  return (SplitWord::Lanes)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif MMK_AVX2
  return (SplitWord::Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#else
  return (a & 0xffffffff) * b;
#endif
}
inline void multiply_wide(SplitWord a, uint32_t b, SplitWord& high, SplitWord& low) {
  low = {multiply_low(a.even, b), multiply_low(a.odd, b)};
  high = {low.even >> 32, low.odd >> 32};
}

// ---- exponential and tanh ----

/// e^x for the weights of a softmax, whose arguments are differences to a row's maximum or lse: x <= 88, usually
/// negative. Within 1.3 ulp above -16, within 5 ulp above -87.3; exactly 1 at 0, exactly 0 below -88 (so -inf gives 0),
/// NaN kept.
inline Float softmax_weight(Float x) {
  x = maximum(splat(-88.0f), x);  // in this order a NaN stays
  // 1.5 * 2^23 + 127: adding it rounds to an integer, and leaves that integer's exponent field in the low bits
  const Float magic = splat(12583039.0f);
  const Float shifted = multiply_add(x, splat(1.44269504f), magic);
  const Float n = shifted - magic;
#if defined(__FMA__) || defined(__aarch64__)
  const Float r = multiply_add(n, splat(-0.69314718f), x);
#else  // a product that is rounded must be exact: ln 2 in two parts
  const Float r = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
#endif
  Float p = splat(1.3814537e-3f);
  p = multiply_add(p, r, splat(8.3687464e-3f));
  p = multiply_add(p, r, splat(4.1668393e-2f));
  p = multiply_add(p, r, splat(1.6666521e-1f));
  p = multiply_add(p, r, splat(4.9999994e-1f));
  p = multiply_add(p, r, splat(1.0f));
  p = multiply_add(p, r, splat(1.0f));
  return p * (Float)((Int)shifted << 23);  // a product, not an integer add: NaN stays NaN
}

/// e^x within 1.3 ulp over the whole range; exactly 1 at 0, exactly 0 below -87.3, NaN kept. x above 88 saturates.
MMK_ALWAYS_INLINE Float exponential(Float x) {
  const Int vanishes = x < splat(-87.3f);
  x = select(x > splat(88.0f), splat(88.0f), select(vanishes, splat(-87.3f), x));
  const Float magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  const Float shifted = multiply_add(x, splat(1.44269504f), magic);
  const Float n = shifted - magic;
  // Cody-Waite: n * ln 2 in two parts, the first exact in few bits
  Float r = multiply_add(n, splat(-0.693359375f), x);
  r = multiply_add(n, splat(2.12194440e-4f), r);
  Float p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r + splat(1.0f));
  const Float power = (Float)(((Int)shifted - 0x4B400000 + 127) << 23);
  return select(vanishes, splat(0.0f), p * power);  // a product, not an integer add: NaN stays NaN
}

MMK_ALWAYS_INLINE Float hyperbolic_tangent(Float x) {
  const Float magnitude = (Float)((Int)x & 0x7fffffff);
  // near 0 the quotient below cancels: odd polynomial (Cephes tanhf)
  const Float s = x * x;
  Float p = splat(-5.70498872745e-3f);
  p = multiply_add(p, s, splat(2.06390887954e-2f));
  p = multiply_add(p, s, splat(-5.37397155531e-2f));
  p = multiply_add(p, s, splat(1.33314422036e-1f));
  p = multiply_add(p, s, splat(-3.33332819422e-1f));
  const Float small = multiply_add(p * s, x, x);
  const Float e = exponential(magnitude + magnitude);
  const Float large = splat(1.0f) - splat(2.0f) / (e + splat(1.0f));
  const Float signed_large = (Float)((Int)large | ((Int)x & static_cast<int32_t>(0x80000000)));
  return select(magnitude < splat(0.625f), small, signed_large);
}

template <>
struct LaneOps<Float> {
  static MMK_ALWAYS_INLINE Float splat(float x) { return MMK_ISA::splat(x); }
  static MMK_ALWAYS_INLINE Float maximum(Float a, Float b) { return MMK_ISA::maximum(a, b); }
  static MMK_ALWAYS_INLINE Float exponential(Float x) { return MMK_ISA::exponential(x); }
  static MMK_ALWAYS_INLINE Float multiply_add(Float a, Float b, Float c) { return MMK_ISA::multiply_add(a, b, c); }
  static MMK_ALWAYS_INLINE Float hyperbolic_tangent(Float x) { return MMK_ISA::hyperbolic_tangent(x); }
  static MMK_ALWAYS_INLINE Float where_less(Float a, Float b, Float yes, Float no) { return select(a < b, yes, no); }
  static MMK_ALWAYS_INLINE Float zero_where_minus_infinity(Float x) {
    return select((Int)(x == MMK_ISA::splat(-INFINITY)), MMK_ISA::splat(0.0f), x);
  }
};

// ---- half precision ----

MMK_ALWAYS_INLINE Float widen_bfloat16(Half h) { return (Float)(__builtin_convertvector(h, Word) << 16); }

/// x to the nearest bf16, in the low half of every lane.
MMK_ALWAYS_INLINE Word round_bfloat16(Float x) {
  const Word bits = (Word)x;
  const Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Word quiet = (bits >> 16) | 0x40;
  return (Word)select(x != x, (Int)quiet, (Int)rounded);
}
MMK_ALWAYS_INLINE Half narrow_bfloat16(Float x) { return __builtin_convertvector(round_bfloat16(x), Half); }

MMK_ALWAYS_INLINE Float widen_float16(Half h) {
#if MMK_AVX512
  return (Float)_mm512_cvtph_ps((__m256i)h);
#elif MMK_AVX2
  return (Float)_mm256_cvtph_ps((__m128i)h);
#else
  const Word bits = __builtin_convertvector(h, Word);
  const Word sign = (bits & 0x8000) << 16, magnitude = (bits & 0x7fff) << 13;
  // a subnormal becomes normal by adding and subtracting 2^-14 (no denormal operand: those may be flushed to zero)
  const Word normal = magnitude + (112u << 23), special = magnitude | 0x7f800000u;
  const Float subnormal = (Float)(magnitude + (113u << 23)) - splat(6.103515625e-05f);
  Int result = select((Int)(magnitude < (1u << 23)), (Int)subnormal, (Int)normal);
  result = select((Int)(magnitude >= (31u << 23)), (Int)special, result);
  return (Float)(result | (Int)sign);
#endif
}

MMK_ALWAYS_INLINE Half narrow_float16(Float x) {
#if MMK_AVX512
  return (Half)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif MMK_AVX2
  return (Half)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  const Word bits = (Word)x, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  const Word normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Word subnormal = (Word)((Float)magnitude + splat(0.5f)) - 0x3f000000u;  // rounds to multiples of 2^-24
  Int result = select((Int)(magnitude < (113u << 23)), (Int)subnormal, (Int)normal);
  result = select((Int)(magnitude >= (143u << 23)), splat(0x7c00), result);
  result = select((Int)(magnitude > (255u << 23)), splat(0x7e00), result);
  return __builtin_convertvector((Word)result | sign, Half);
#endif
}

// ---- pairs of bf16: two in every lane, in its high and its low half ----

/// c + high products + low products, rounded to fp32 after each.
inline Float multiply_add_pairs(Float a, Float b, Float c) {
#if MMK_AVX512_BF16
  return (Float)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
  const auto high = [](Float x) { return (Float)((Word)x & 0xffff0000u); };
  const auto low = [](Float x) { return (Float)((Word)x << 16); };
  return multiply_add(low(a), low(b), multiply_add(high(a), high(b), c));
#endif
}
/// Both to the nearest bf16.
inline Float pair(Float high, Float low) {
#if MMK_AVX512_BF16
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Float)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
#else
  return (Float)(round_bfloat16(high) << 16 | round_bfloat16(low));
#endif
}
inline Float pair(Half high, Half low) {
  return (Float)(__builtin_convertvector(high, Word) << 16 | __builtin_convertvector(low, Word));
}
/// The same of twice kLanes numbers of two rows, as two vectors.
inline void pair_neighbouring_columns(const uint16_t* high, const uint16_t* low, Float paired[2]) {
#if MMK_AVX512_BF16
  const __m512i above = _mm512_loadu_si512(high), below = _mm512_loadu_si512(low);
  const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  paired[0] = (Float)_mm512_permutex2var_epi16(below, order, above);
  paired[1] = (Float)_mm512_permutex2var_epi16(below, _mm512_add_epi16(order, _mm512_set1_epi16(16)), above);
#else
  const auto at = [](const uint16_t* row, int i) { return *reinterpret_cast<const HalfUnaligned*>(row + i * kLanes); };
  for (int i = 0; i < 2; ++i) paired[i] = pair(at(high, i), at(low, i));
#endif
}
inline Int not_finite_pair(Float x) { return not_finite((Float)((Word)x << 16)) | not_finite(x); }

// ---- moves across lanes ----

#if defined(__clang__)
#define MMK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MMK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Int){__VA_ARGS__})
#endif
/// Lane i becomes lane i ^ step, for every power of two below kLanes.
template <int step>
inline Float exchange(Float x) {
#if MMK_AVX512 || MMK_CODE == MMK_CODE_vec16
  return MMK_SHUFFLE(x, x, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step, 4 ^ step, 5 ^ step, 6 ^ step, 7 ^ step, 8 ^ step,
                     9 ^ step, 10 ^ step, 11 ^ step, 12 ^ step, 13 ^ step, 14 ^ step, 15 ^ step);
#elif MMK_AVX2
  return MMK_SHUFFLE(x, x, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step, 4 ^ step, 5 ^ step, 6 ^ step, 7 ^ step);
#else
  return MMK_SHUFFLE(x, x, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step);
#endif
}
template <int step = kLanes / 2>
inline float horizontal_maximum(Float x) {
  x = maximum(exchange<step>(x), x);
  if constexpr (step > 1) return horizontal_maximum<step / 2>(x);
  return x[0];
}

#if MMK_AVX512 || MMK_CODE == MMK_CODE_vec16
inline Float interleave_low(Float a, Float b) {
  return MMK_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Float interleave_high(Float a, Float b) {
  return MMK_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif MMK_AVX2
inline Float interleave_low(Float a, Float b) { return MMK_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Float interleave_high(Float a, Float b) { return MMK_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#else
inline Float interleave_low(Float a, Float b) { return MMK_SHUFFLE(a, b, 0, 4, 1, 5); }
inline Float interleave_high(Float a, Float b) { return MMK_SHUFFLE(a, b, 2, 6, 3, 7); }
#endif

// Within every four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3.
#if MMK_AVX512 || MMK_CODE == MMK_CODE_vec16
#define MMK_SHUFFLE_FOURS(i, j, k, l) \
  MMK_SHUFFLE(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4, i + 8, j + 8, k + 8, l + 8, i + 12, j + 12, k + 12, l + 12)
#elif MMK_AVX2
#define MMK_SHUFFLE_FOURS(i, j, k, l) MMK_SHUFFLE(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4)
#else
#define MMK_SHUFFLE_FOURS(i, j, k, l) MMK_SHUFFLE(a, b, i, j, k, l)
#endif
inline Float unpack_low(Float a, Float b) { return MMK_SHUFFLE_FOURS(0, kLanes, 1, kLanes + 1); }
inline Float unpack_high(Float a, Float b) { return MMK_SHUFFLE_FOURS(2, kLanes + 2, 3, kLanes + 3); }
inline Float join_low(Float a, Float b) { return MMK_SHUFFLE_FOURS(0, 1, kLanes, kLanes + 1); }
inline Float join_high(Float a, Float b) { return MMK_SHUFFLE_FOURS(2, 3, kLanes + 2, kLanes + 3); }
#undef MMK_SHUFFLE_FOURS

/// The neighbours x[2i], x[2i + 1] of the numbers of two vectors, to the nearest bf16: the first is the high one.
inline Float pair_neighbours(Float first, Float second) {
#if MMK_AVX512_BF16
  return (Float)_mm512_rol_epi32((__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first), 16);
#else
  Float high, low;
  for (int i = 0; i < kLanes; ++i) {
    high[i] = 2 * i < kLanes ? first[2 * i] : second[2 * i - kLanes];
    low[i] = 2 * i < kLanes ? first[2 * i + 1] : second[2 * i + 1 - kLanes];
  }
  return pair(high, low);
#endif
}

/// Rows of kLanes x kLanes elements become columns, by log2(kLanes) perfect shuffles.
MMK_ALWAYS_INLINE void transpose_registers(Float column[kLanes]) {
  Float next[kLanes];
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(column[i], column[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(column[i], column[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) column[i] = next[i];
  }
}

inline void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  Float column[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) column[i] = load(from + i * from_stride);
  transpose_registers(column);
  for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, column[i]);
}

/// Four neighbours of every fourth of kLanes rows `stride` bytes apart: of 32 bits as they are, or 16-bit floats widened.
template <DType dtype>
MMK_ALWAYS_INLINE Float load_quads(const char* rows, int64_t stride) {
  if constexpr (dtype != DType::kFloat32) {
    uint64_t quad[kLanes / 4];
#pragma GCC unroll 4
    for (int i = 0; i < kLanes / 4; ++i) memcpy(&quad[i], rows + 4 * i * stride, sizeof quad[i]);
    Half half;
#if MMK_AVX512
    half = (Half)_mm256_set_epi64x(static_cast<int64_t>(quad[3]), static_cast<int64_t>(quad[2]),
                                   static_cast<int64_t>(quad[1]), static_cast<int64_t>(quad[0]));
#elif MMK_AVX2
    half = (Half)_mm_set_epi64x(static_cast<int64_t>(quad[1]), static_cast<int64_t>(quad[0]));
#else
    memcpy(&half, quad, sizeof half);
#endif
    return dtype == DType::kBFloat16 ? widen_bfloat16(half) : widen_float16(half);
  } else {
    const auto quad = [&](int row) { return reinterpret_cast<const float*>(rows + row * stride); };
#if MMK_AVX512
    __m512 all = _mm512_castps128_ps512(_mm_loadu_ps(quad(0)));
    all = _mm512_mask_broadcast_f32x4(all, 0x00f0, _mm_loadu_ps(quad(4)));
    all = _mm512_mask_broadcast_f32x4(all, 0x0f00, _mm_loadu_ps(quad(8)));
    return (Float)_mm512_mask_broadcast_f32x4(all, 0xf000, _mm_loadu_ps(quad(12)));
#elif MMK_AVX2
    return (Float)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(quad(0))), _mm_loadu_ps(quad(4)), 1);
#else
    Float all;
    for (int i = 0; i < kLanes; i += 4) memcpy(reinterpret_cast<char*>(&all) + 4 * i, quad(i), 16);
    return all;
#endif
  }
}

/// Four neighbours of each of kLanes rows, as columns: a lane is a row.
template <DType dtype>
MMK_ALWAYS_INLINE void load_four_columns(const char* rows, int64_t stride, Float column[4]) {
  Float row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) row[i] = load_quads<dtype>(rows + i * stride, stride);
  const Float low_01 = unpack_low(row[0], row[1]), high_01 = unpack_high(row[0], row[1]);
  const Float low_23 = unpack_low(row[2], row[3]), high_23 = unpack_high(row[2], row[3]);
  column[0] = join_low(low_01, low_23);
  column[1] = join_high(low_01, low_23);
  column[2] = join_low(high_01, high_23);
  column[3] = join_high(high_01, high_23);
}

MMK_NAMESPACE_END
