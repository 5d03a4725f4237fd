// Tiles of products of bf16, for the files that are compiled for AVX512_BF16 (x86-64 only).
//
// All products are tiles of up to 6 x 64 sums in registers. A tile takes its left operand as pairs
// of neighbouring terms, broadcast one by one, and its right operand from a packed panel of 64
// columns, in which each 32-bit element holds the same pair of one column.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own intrinsics (PR 105593)
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "base/dtype.h"
#include "hwy/base.h"  // HWY_PUSH_ATTRIBUTES

#define MEGABYTE_BF16_TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"

HWY_PUSH_ATTRIBUTES(MEGABYTE_BF16_TARGET)
namespace megabyte::cpu {
namespace {

constexpr int64_t kPanel = 64;    // columns of a packed right operand that lie together
constexpr int64_t kTileRows = 6;  // 24 sums, 4 columns and a broadcast fill the registers
constexpr int kVectors = kPanel / 16;
#define ALWAYS __attribute__((always_inline))
#define INLINE inline ALWAYS
using Pair = uint32_t;  // two bf16 terms, the first in the low half

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

inline __mmask16 first16(int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, 16)) - 1);
}
inline __m512i load32(const bf16* p, int64_t count) {
  if (count >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << std::max<int64_t>(count, 0)) - 1),
                                  p);
}

// How much of a vector an access touches; masked accesses of 16-bit elements are slow.
struct Whole {};
inline __m512 widen(__m256i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
inline __m512 load(const float* p, Whole) { return _mm512_loadu_ps(p); }
inline __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
inline __m512 load(const bf16* p, Whole) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 load(const bf16* p, __mmask16 mask) {
  return widen(_mm256_maskz_loadu_epi16(mask, p));
}
inline void store(__m512 v, float* p, Whole) { _mm512_storeu_ps(p, v); }
inline void store(__m512 v, float* p, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, v); }
inline void store(__m512 v, bf16* p, Whole) {
  const __m256bh words = _mm512_cvtneps_pbh(v);
  std::memcpy(static_cast<void*>(p), &words, sizeof(words));
}
inline void store(__m512 v, bf16* p, __mmask16 mask) {
  const __m256bh words = _mm512_cvtneps_pbh(v);
  __m256i bits;
  std::memcpy(&bits, &words, sizeof(bits));
  _mm256_mask_storeu_epi16(p, mask, bits);
}

// body(v, lanes) for the vectors of a panel of which the first `cols` columns exist. All loops over
// sums are unrolled: an index known only at run time would move them from registers to memory.
template <class Body>
INLINE void for_vectors(int64_t cols, const Body& body) {
  if (cols >= kPanel) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) body(v, Whole{});
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      if (16 * v < cols) body(v, first16(cols - 16 * v));
  }
}

// A left operand: the pair p of row r is at data + r * row + p * pair, in bytes.
struct Left {
  const char* data;
  int64_t row, pair;
};

template <int kRows>
struct Sums {
  static constexpr int rows = kRows;
  __m512 at[kRows][kVectors];
};

template <int kRows>
INLINE void add_products(const Left& a, const Pair* panel, int64_t pairs, Sums<kRows>& sums) {
  const char* left = a.data;
  for (int64_t p = 0; p < pairs; ++p, left += a.pair, panel += kPanel) {
    __m512bh columns[kVectors];
    for (int v = 0; v < kVectors; ++v) std::memcpy(&columns[v], panel + 16 * v, 64);
    for (int r = 0; r < kRows; ++r) {
      int32_t term;
      std::memcpy(&term, left + r * a.row, 4);
      const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(term));
      for (int v = 0; v < kVectors; ++v)
        sums.at[r][v] = _mm512_dpbf16_ps(sums.at[r][v], x, columns[v]);
    }
  }
}

// One tile: sums start at 0 or from start(row, sums) and end in finish(row, sums).
template <int kRows, class Start, class Finish>
void tile(const Left& a, const Pair* panel, int64_t pairs, int64_t row, const Start& start,
          const Finish& finish) {
  Sums<kRows> sums;
  start(row, sums);
  add_products<kRows>({a.data + row * a.row, a.row, a.pair}, panel, pairs, sums);
  finish(row, sums);
}

template <class Start, class Finish>
void tiles(const Left& a, int64_t rows, const Pair* panel, int64_t pairs, const Start& start,
           const Finish& finish) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows)
    tile<kTileRows>(a, panel, pairs, row, start, finish);
  switch (rows - row) {
    case 5:
      return tile<5>(a, panel, pairs, row, start, finish);
    case 4:
      return tile<4>(a, panel, pairs, row, start, finish);
    case 3:
      return tile<3>(a, panel, pairs, row, start, finish);
    case 2:
      return tile<2>(a, panel, pairs, row, start, finish);
    case 1:
      return tile<1>(a, panel, pairs, row, start, finish);
  }
}

constexpr auto kFromZero = [](int64_t, auto& sums) ALWAYS {
#pragma GCC unroll 8
  for (int r = 0; r < sums.rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums.at[r][v] = _mm512_setzero_ps();
};

// Columns first .. first + 31 of two rows as pairs: 16 columns to low, the next 16 to high.
struct Interleaved {
  __m512i low, high;
};
inline Interleaved interleave(const bf16* upper, const bf16* lower, int64_t first, int64_t cols) {
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __m512i a = load32(upper + first, cols - first);
  const __m512i b = lower != nullptr ? load32(lower + first, cols - first) : _mm512_setzero_si512();
  return {_mm512_permutex2var_epi16(a, low, b), _mm512_permutex2var_epi16(a, high, b)};
}

// Packs rows of x (rows, cols) as a right operand: pairs of neighbouring rows. Panels
// first .. last - 1, each of `pairs` pairs; past the last row there are zeros.
inline void pack_rows(const bf16* x, int64_t rows, int64_t cols, int64_t pairs, int64_t first,
                      int64_t last, Pair* out) {
  for (int64_t p = 0; p < pairs; ++p) {
    const bf16* upper = x + 2 * p * cols;
    const bf16* lower = 2 * p + 1 < rows ? upper + cols : nullptr;
    for (int64_t c = first * kPanel; c < last * kPanel; c += 32) {
      const Interleaved both = interleave(upper, lower, c, cols);
      Pair* to = out + (c / kPanel - first) * pairs * kPanel + p * kPanel + c % kPanel;
      _mm512_storeu_si512(to, both.low);
      _mm512_storeu_si512(to + 16, both.high);
    }
  }
}

}  // namespace
}  // namespace megabyte::cpu
HWY_POP_ATTRIBUTES
