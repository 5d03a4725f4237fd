// Sixteen floats, in the way of one instruction set: of AVX-512, of AVX2, or of whatever the
// compiler knows. Every function here rounds each element once, to nearest even, so that the
// kernels, which are written over these functions alone, give the same bits whatever lies below.
//
// Included by each file that compiles kernels.h for an instruction set. All is in a namespace
// without a name, and nothing of the standard library is used: no function compiled here for a
// newer processor can take the place of its namesake elsewhere in the program.
#pragma once

#if defined(__AVX512F__) || defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own intrinsics (PR 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#include <stddef.h>
#include <stdint.h>

namespace megabyte::exact {
namespace {

constexpr int64_t kLanes = 16;
// Sums to form side by side, so that additions need not wait for one another.
#if defined(__AVX512F__)
constexpr int kSideBySide = 8;
#else
constexpr int kSideBySide = 4;
#endif
#define MEGABYTE_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)

using V = __m512;   // 16 floats
using I = __m512i;  // 16 int32

MEGABYTE_INLINE V set(float x) { return _mm512_set1_ps(x); }
MEGABYTE_INLINE __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
MEGABYTE_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
MEGABYTE_INLINE V load(const float* p, int64_t count) {  // the other lanes are 0
  return _mm512_maskz_loadu_ps(first(count), p);
}
MEGABYTE_INLINE void store(V v, float* p) { _mm512_storeu_ps(p, v); }
MEGABYTE_INLINE void store(V v, float* p, int64_t count) {
  _mm512_mask_storeu_ps(p, first(count), v);
}
MEGABYTE_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
MEGABYTE_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
MEGABYTE_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
MEGABYTE_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
MEGABYTE_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
MEGABYTE_INLINE V nfma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
// a > b ? x : y; an unordered comparison is false.
MEGABYTE_INLINE V if_greater(V a, V b, V x, V y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
// a > b ? a : b and a < b ? a : b: the second one also where either is a NaN.
MEGABYTE_INLINE V larger(V a, V b) { return _mm512_max_ps(a, b); }
MEGABYTE_INLINE V smaller(V a, V b) { return _mm512_min_ps(a, b); }
MEGABYTE_INLINE I bits(V v) { return _mm512_castps_si512(v); }
MEGABYTE_INLINE V floats(I i) { return _mm512_castsi512_ps(i); }
MEGABYTE_INLINE I iset(int32_t x) { return _mm512_set1_epi32(x); }
MEGABYTE_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
MEGABYTE_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
MEGABYTE_INLINE I imax(I a, I b) { return _mm512_max_epi32(a, b); }
MEGABYTE_INLINE I shift_left_23(I a) { return _mm512_slli_epi32(a, 23); }
MEGABYTE_INLINE V to_float(I a) { return _mm512_cvtepi32_ps(a); }
MEGABYTE_INLINE I truncate(V a) { return _mm512_cvttps_epi32(a); }
MEGABYTE_INLINE void istore(I v, int32_t* p, int64_t count) {
  _mm512_mask_storeu_epi32(p, first(count), v);
}
// lane i + lane i + 8, then + 4, + 2, + 1
MEGABYTE_INLINE float sum(V v) {
  const __m256 eight = _mm256_add_ps(
      _mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
MEGABYTE_INLINE int32_t imax(I v) { return _mm512_reduce_max_epi32(v); }
// The largest; no lane is a NaN.
MEGABYTE_INLINE float maximum(V v) { return _mm512_reduce_max_ps(v); }
// The first `count` lanes of v, the others of `rest`.
MEGABYTE_INLINE V first_of(V v, int64_t count, V rest) {
  return _mm512_mask_mov_ps(rest, first(count), v);
}
// sum() of each of sixteen vectors.
MEGABYTE_INLINE V sums(const V (&v)[kLanes]) {
  V eights[8], fours[4], twos[2];
  // Vector m of the sixteen is v[m / 4 + 4 * (m % 4)], so that the last step leaves them in order.
  for (int m = 0; m < 8; ++m) {
    const V a = v[m / 2 + 8 * (m % 2)], b = v[m / 2 + 8 * (m % 2) + 4];
    eights[m] = add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  for (int m = 0; m < 4; ++m) {
    const V a = eights[2 * m], b = eights[2 * m + 1];
    fours[m] = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  for (int m = 0; m < 2; ++m) {
    const __m512d a = _mm512_castps_pd(fours[2 * m]), b = _mm512_castps_pd(fours[2 * m + 1]);
    twos[m] =
        add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  return add(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xdd));
}

#elif defined(__AVX2__)

struct V {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};

MEGABYTE_INLINE V set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
MEGABYTE_INLINE V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
MEGABYTE_INLINE void store(V v, float* p) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
MEGABYTE_INLINE I first(int64_t count) {
  const __m256i n = _mm256_set1_epi32(static_cast<int>(count));
  return {_mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
MEGABYTE_INLINE V load(const float* p, int64_t count) {
  const I mask = first(count);
  return {_mm256_maskload_ps(p, mask.a), _mm256_maskload_ps(p + 8, mask.b)};
}
MEGABYTE_INLINE void store(V v, float* p, int64_t count) {
  const I mask = first(count);
  _mm256_maskstore_ps(p, mask.a, v.a);
  _mm256_maskstore_ps(p + 8, mask.b, v.b);
}
MEGABYTE_INLINE V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
MEGABYTE_INLINE V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
MEGABYTE_INLINE V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
MEGABYTE_INLINE V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
MEGABYTE_INLINE V fma(V x, V y, V z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
MEGABYTE_INLINE V nfma(V x, V y, V z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
MEGABYTE_INLINE V if_greater(V p, V q, V x, V y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_GT_OQ))};
}
MEGABYTE_INLINE V larger(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
MEGABYTE_INLINE V smaller(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
MEGABYTE_INLINE I bits(V v) { return {_mm256_castps_si256(v.a), _mm256_castps_si256(v.b)}; }
MEGABYTE_INLINE V floats(I i) { return {_mm256_castsi256_ps(i.a), _mm256_castsi256_ps(i.b)}; }
MEGABYTE_INLINE I iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
MEGABYTE_INLINE I iadd(I x, I y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
MEGABYTE_INLINE I iand(I x, I y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
MEGABYTE_INLINE I imax(I x, I y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
MEGABYTE_INLINE I shift_left_23(I x) {
  return {_mm256_slli_epi32(x.a, 23), _mm256_slli_epi32(x.b, 23)};
}
MEGABYTE_INLINE V to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
MEGABYTE_INLINE I truncate(V x) { return {_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)}; }
MEGABYTE_INLINE void istore(I v, int32_t* p, int64_t count) {
  const I mask = first(count);
  _mm256_maskstore_epi32(p, mask.a, v.a);
  _mm256_maskstore_epi32(p + 8, mask.b, v.b);
}
MEGABYTE_INLINE float sum(V v) {
  const __m256 eight = _mm256_add_ps(v.a, v.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
MEGABYTE_INLINE int32_t imax(I v) {
  const __m256i eight = _mm256_max_epi32(v.a, v.b);
  const __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
MEGABYTE_INLINE float maximum(V v) {
  const __m256 eight = _mm256_max_ps(v.a, v.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
MEGABYTE_INLINE V first_of(V v, int64_t count, V rest) {
  const I mask = first(count);
  return {_mm256_blendv_ps(rest.a, v.a, _mm256_castsi256_ps(mask.a)),
          _mm256_blendv_ps(rest.b, v.b, _mm256_castsi256_ps(mask.b))};
}

#else

// Vectors that the compiler makes of whatever the processor has. Where that has no fused
// multiply-add, each is a call of the C library's, which is exact and slow.
// (-Wno-psabi: how they would be passed does not matter, as all that takes one is inlined.)
using V = float __attribute__((vector_size(64)));
using I = int32_t __attribute__((vector_size(64)));

MEGABYTE_INLINE V set(float x) { return V{} + x; }
MEGABYTE_INLINE V load(const float* p) {
  V v;
  for (int64_t i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
}
MEGABYTE_INLINE V load(const float* p, int64_t count) {
  V v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
MEGABYTE_INLINE void store(V v, float* p) {
  for (int64_t i = 0; i < kLanes; ++i) p[i] = v[i];
}
MEGABYTE_INLINE void store(V v, float* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}
MEGABYTE_INLINE V add(V a, V b) { return a + b; }
MEGABYTE_INLINE V sub(V a, V b) { return a - b; }
MEGABYTE_INLINE V mul(V a, V b) { return a * b; }
MEGABYTE_INLINE V div(V a, V b) { return a / b; }
MEGABYTE_INLINE V fma(V a, V b, V c) {
  V v;
  for (int64_t i = 0; i < kLanes; ++i) v[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return v;
}
MEGABYTE_INLINE V nfma(V a, V b, V c) { return fma(-a, b, c); }
MEGABYTE_INLINE V if_greater(V a, V b, V x, V y) { return a > b ? x : y; }
MEGABYTE_INLINE V larger(V a, V b) { return a > b ? a : b; }
MEGABYTE_INLINE V smaller(V a, V b) { return a < b ? a : b; }
MEGABYTE_INLINE I bits(V v) { return reinterpret_cast<I>(v); }
MEGABYTE_INLINE V floats(I i) { return reinterpret_cast<V>(i); }
MEGABYTE_INLINE I iset(int32_t x) { return I{} + x; }
MEGABYTE_INLINE I iadd(I a, I b) {  // modulo 2^32
  using U = uint32_t __attribute__((vector_size(64)));
  return reinterpret_cast<I>(reinterpret_cast<U>(a) + reinterpret_cast<U>(b));
}
MEGABYTE_INLINE I iand(I a, I b) { return a & b; }
MEGABYTE_INLINE I imax(I a, I b) { return a > b ? a : b; }
MEGABYTE_INLINE I shift_left_23(I a) { return a << 23; }
MEGABYTE_INLINE V to_float(I a) { return __builtin_convertvector(a, V); }
MEGABYTE_INLINE I truncate(V a) { return __builtin_convertvector(a, I); }
MEGABYTE_INLINE void istore(I v, int32_t* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}
MEGABYTE_INLINE float sum(V v) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
MEGABYTE_INLINE int32_t imax(I v) {
  int32_t top = v[0];
  for (int64_t i = 1; i < kLanes; ++i) top = v[i] > top ? v[i] : top;
  return top;
}
MEGABYTE_INLINE float maximum(V v) {
  float top = v[0];
  for (int64_t i = 1; i < kLanes; ++i) top = v[i] > top ? v[i] : top;
  return top;
}
MEGABYTE_INLINE V first_of(V v, int64_t count, V rest) {
  for (int64_t i = count; i < kLanes; ++i) v[i] = rest[i];
  return v;
}

#endif

#if !defined(__AVX512F__)
MEGABYTE_INLINE V sums(const V (&v)[kLanes]) {
  float each[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) each[i] = sum(v[i]);
  return load(each);
}
#endif

}  // namespace
}  // namespace megabyte::exact
