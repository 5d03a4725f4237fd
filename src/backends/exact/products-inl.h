// Products of int8 with sums in int32, which are exact in any order, for kernels-inl.h. Activations
// and weights lie in [-127, 127], and K is at most kMostTerms (quantised_rows.h), so that no sum
// leaves int32.
#pragma once

#include "backends/exact/vector.h"

namespace megabyte::exact {
namespace {

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

#if defined(__AVX512VNNI__)

// vpdpbusd multiplies unsigned by signed bytes: activations are stored as q + 128, and sums start
// at -128 times the sum of the weights. A packed block holds those starts and then, for every four
// terms, the four weights of each of its outputs.
using Q = uint8_t;
constexpr float kOffset = 128;
constexpr int64_t kBlock = 32, kTerms = 4, kTileRows = 8;

MEGABYTE_INLINE void store_quantised(I t, Q* q) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(t));
}

size_t packed_bytes(int64_t N, int64_t K) {
  return static_cast<size_t>(round_up(N, kBlock) / kBlock *
                             (kBlock * 4 + kBlock * round_up(K, kLanes)));
}

void pack(const int8_t* q, int64_t N, int64_t K, std::byte* packed) {
  const int64_t depth = round_up(K, kLanes), bytes = kBlock * 4 + kBlock * depth;
  __builtin_memset(packed, 0, packed_bytes(N, K));
  for (int64_t n = 0; n < N; ++n) {
    std::byte* block = packed + n / kBlock * bytes;
    const int64_t column = n % kBlock;
    int32_t total = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int8_t w = q[n * K + k];
      total += w;
      block[kBlock * 4 + k / kTerms * kBlock * kTerms + column * kTerms + k % kTerms] =
          static_cast<std::byte>(w);
    }
    const int32_t start = -128 * total;
    __builtin_memcpy(block + column * 4, &start, 4);
  }
}

// sums (kRows, kBlock) of `kRows` rows of quantised activations.
template <int kRows>
MEGABYTE_INLINE void tile(const Q* a, int64_t stride, const std::byte* block, int64_t depth,
                          I (*sums)[2]) {
  const auto* starts = reinterpret_cast<const int32_t*>(block);
  I acc[kRows][2];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < 2; ++c) acc[r][c] = _mm512_loadu_si512(starts + 16 * c);
  const std::byte* w = block + kBlock * 4;
  for (int64_t k = 0; k < depth; k += kTerms, w += kBlock * kTerms) {
    const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      __builtin_memcpy(&four, a + r * stride + k, 4);
      const __m512i x = _mm512_set1_epi32(four);
      acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], x, w0);
      acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], x, w1);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < 2; ++c) sums[r][c] = acc[r][c];
}

#elif defined(__AVX2__)

// Of bytes AVX2 has only products that saturate, so both sides are kept in 16 bits: vpmaddwd.
using Q = int16_t;
constexpr float kOffset = 0;
constexpr int64_t kBlock = 16, kTerms = 2, kTileRows = 4;

MEGABYTE_INLINE void store_quantised(I t, Q* q) {
  // The low byte of each, with its sign.
  const __m256i a = _mm256_srai_epi32(_mm256_slli_epi32(t.a, 24), 24);
  const __m256i b = _mm256_srai_epi32(_mm256_slli_epi32(t.b, 24), 24);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                      _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
}

size_t packed_bytes(int64_t N, int64_t K) {
  return static_cast<size_t>(round_up(N, kBlock) * round_up(K, kLanes)) * 2;
}

void pack(const int8_t* q, int64_t N, int64_t K, std::byte* packed) {
  const int64_t depth = round_up(K, kLanes);
  __builtin_memset(packed, 0, packed_bytes(N, K));
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < K; ++k) {
      const int16_t w = q[n * K + k];
      const int64_t at = n / kBlock * kBlock * depth + k / kTerms * kBlock * kTerms +
                         n % kBlock * kTerms + k % kTerms;
      __builtin_memcpy(packed + at * 2, &w, 2);
    }
}

template <int kRows>
MEGABYTE_INLINE void tile(const Q* a, int64_t stride, const std::byte* block, int64_t depth,
                          I (*sums)[1]) {
  I acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = iset(0);
  const auto* w = reinterpret_cast<const __m256i*>(block);
  for (int64_t k = 0; k < depth; k += kTerms, w += 2) {
    const __m256i w0 = _mm256_loadu_si256(w), w1 = _mm256_loadu_si256(w + 1);
    for (int r = 0; r < kRows; ++r) {
      int32_t two;
      __builtin_memcpy(&two, a + r * stride + k, 4);
      const __m256i x = _mm256_set1_epi32(two);
      acc[r].a = _mm256_add_epi32(acc[r].a, _mm256_madd_epi16(x, w0));
      acc[r].b = _mm256_add_epi32(acc[r].b, _mm256_madd_epi16(x, w1));
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r][0] = acc[r];
}

#else

using Q = int8_t;
constexpr float kOffset = 0;
constexpr int64_t kBlock = 16, kTileRows = 1;

MEGABYTE_INLINE void store_quantised(I t, Q* q) {
  for (int64_t i = 0; i < kLanes; ++i) q[i] = static_cast<Q>(t[i] & 0xff);
}

size_t packed_bytes(int64_t N, int64_t K) {
  return static_cast<size_t>(round_up(N, kBlock) * round_up(K, kLanes));
}

void pack(const int8_t* q, int64_t N, int64_t K, std::byte* packed) {
  const int64_t depth = round_up(K, kLanes);
  __builtin_memset(packed, 0, packed_bytes(N, K));
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < K; ++k)
      packed[n / kBlock * kBlock * depth + k * kBlock + n % kBlock] =
          static_cast<std::byte>(q[n * K + k]);
}

template <int kRows>
MEGABYTE_INLINE void tile(const Q* a, int64_t, const std::byte* block, int64_t depth,
                          I (*sums)[1]) {
  static_assert(kRows == 1);
  I acc = iset(0);
  const auto* w = reinterpret_cast<const int8_t*>(block);
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t n = 0; n < kBlock; ++n)
      acc[n] += static_cast<int32_t>(a[k]) * static_cast<int32_t>(w[k * kBlock + n]);
  sums[0][0] = acc;
}

#endif

}  // namespace
}  // namespace megabyte::exact
