// Highway 1.0.3 has no bf16 product, so this file is written in AVX-512 intrinsics; backend.cpp
// asks has_bf16_products() before it calls anything here.
//
// All three products are tiles of up to 6 x 64 sums in registers. A tile takes its left operand as
// pairs of neighbouring terms, broadcast one by one, and its right operand from a packed panel of
// 64 columns, in which each 32-bit element holds the same pair of one column.
#include "backends/cpu/bf16_products.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/error.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own intrinsics (PR 105593)
#endif
#include <immintrin.h>

#include "hwy/base.h"  // HWY_PUSH_ATTRIBUTES

namespace megabyte::cpu {

bool has_bf16_products() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace megabyte::cpu

HWY_PUSH_ATTRIBUTES("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace megabyte::cpu {
namespace {

constexpr int64_t kPanel = 64;      // columns of a packed right operand that lie together
constexpr int64_t kTileRows = 6;    // 24 sums, 4 columns and a broadcast fill the registers
constexpr int64_t kRowBlock = 192;  // rows that pass all panels while they are in the cache
constexpr int64_t kPairBlock = 64;  // pairs of rows packed at a time for a weight's gradient
constexpr int kVectors = kPanel / 16;
#define ALWAYS __attribute__((always_inline))
#define INLINE inline ALWAYS
using Pair = uint32_t;  // two bf16 terms, the first in the low half

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

__mmask16 first16(int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, 16)) - 1);
}
__m512i load32(const bf16* p, int64_t count) {
  if (count >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << std::max<int64_t>(count, 0)) - 1),
                                  p);
}

// How much of a vector an access touches; masked accesses of 16-bit elements are slow.
struct Whole {};
__m512 widen(__m256i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
__m512 load(const float* p, Whole) { return _mm512_loadu_ps(p); }
__m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
__m512 load(const bf16* p, Whole) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
__m512 load(const bf16* p, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, p)); }
void store(__m512 v, float* p, Whole) { _mm512_storeu_ps(p, v); }
void store(__m512 v, float* p, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, v); }
void store(__m512 v, bf16* p, Whole) {
  const __m256bh words = _mm512_cvtneps_pbh(v);
  std::memcpy(static_cast<void*>(p), &words, sizeof(words));
}
void store(__m512 v, bf16* p, __mmask16 mask) {
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

// 1 / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): good to 2^-13, more than bf16 can show.
__m512 gelu_gate(__m512 x) {
  const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.1029432397f),
                                       _mm512_set1_ps(-2.3022081985f));  // of -2u / (x ln 2)
  const __m512 t = _mm512_mul_ps(x, slope);
  const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(t, whole);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.00961813f), _mm512_set1_ps(0.05550411f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022651f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69314718f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_scalef_ps(p, whole)));
}

template <Activation kActivation>
__m512 activate(__m512 x) {
  if constexpr (kActivation == Activation::gelu) return _mm512_mul_ps(x, gelu_gate(x));
  if constexpr (kActivation == Activation::relu) return _mm512_max_ps(x, _mm512_setzero_ps());
  return x;
}

template <Activation kActivation>
__m512 activation_gradient(__m512 g, __m512 saved) {
  if constexpr (kActivation == Activation::gelu) {
    const __m512 s = gelu_gate(saved);
    const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(saved, saved), _mm512_set1_ps(0.2140644488f),
                                         _mm512_set1_ps(1.5957691216f));
    const __m512 change = _mm512_mul_ps(_mm512_mul_ps(saved, slope), s);
    return _mm512_mul_ps(g, _mm512_fmadd_ps(change, _mm512_sub_ps(_mm512_set1_ps(1.0f), s), s));
  }
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(saved, _mm512_setzero_ps(), _CMP_GT_OQ), g);
}

// Calls body with the activation as a constant.
template <class Body>
void with_activation(Activation activation, const Body& body) {
  using A = Activation;
  if (activation == A::gelu) return body(std::integral_constant<A, A::gelu>{});
  if (activation == A::relu) return body(std::integral_constant<A, A::relu>{});
  body(std::integral_constant<A, A::none>{});
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

// Packs w (n, k) as the right operand of x . w^T: pairs along the rows of w. One panel.
void pack_transposed(const bf16* w, int64_t n, int64_t k, int64_t first, Pair* out) {
  const int64_t pairs = k / 2;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i rows = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(pairs)));
  for (int v = 0; v < kVectors; ++v) {
    const __mmask16 mask = first16(n - first - 16 * v);
    const bf16* block = w + (first + 16 * v) * k;
    for (int64_t p = 0; p < pairs; ++p)
      _mm512_storeu_si512(
          out + p * kPanel + 16 * v,
          _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, rows, block + 2 * p, 4));
  }
}

// Columns first .. first + 31 of two rows as pairs: 16 columns to low, the next 16 to high.
struct Interleaved {
  __m512i low, high;
};
Interleaved interleave(const bf16* upper, const bf16* lower, int64_t first, int64_t cols) {
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
// first..last - 1, each of `pairs` pairs; past the last row there are zeros.
void pack_rows(const bf16* x, int64_t rows, int64_t cols, int64_t pairs, int64_t first,
               int64_t last, Pair* out) {
  for (int64_t p = 0; p < pairs; ++p) {
    const bf16* upper = x + 2 * p * cols;
    const bf16* lower = 2 * p + 1 < rows ? upper + cols : nullptr;
    for (int64_t c = first * kPanel; c < last * kPanel; c += 32) {
      const Interleaved both = interleave(upper, lower, c, cols);
      Pair* to = out + c / kPanel * pairs * kPanel + p * kPanel + c % kPanel;
      _mm512_storeu_si512(to, both.low);
      _mm512_storeu_si512(to + 16, both.high);
    }
  }
}

// y (rows, cols) from x and packed panels: finish(row, col, sums) for every tile.
template <class Finish>
void multiply_rows(Threads& threads, const Tensor& x, const Pair* panels, int64_t cols,
                   const Finish& finish) {
  const int64_t rows = x.shape[0], pairs = x.shape[1] / 2;
  const char* left = reinterpret_cast<const char*>(x.as<bf16>());
  const int64_t strips = (rows + kTileRows - 1) / kTileRows;
  threads.parallel(strips, 1, [&](int64_t begin, int64_t end, int) {
    const int64_t last = std::min(rows, end * kTileRows);
    for (int64_t block = begin * kTileRows; block < last; block += kRowBlock) {
      const Left a{left + block * 4 * pairs, 4 * pairs, 4};
      for (int64_t col = 0; col < cols; col += kPanel)
        tiles(a, std::min(kRowBlock, last - block), panels + col * pairs, pairs, kFromZero,
              [&](int64_t row, auto& sums) ALWAYS { finish(block + row, col, sums); });
    }
  });
}

}  // namespace

void bf16_linear_forward(Threads& threads, const Tensor& x, const Tensor& w, const Tensor& bias,
                         Activation activation, const Tensor& pre, const Tensor& y) {
  const int64_t K = x.shape[1], N = w.shape[0], columns = (N + kPanel - 1) / kPanel;
  const bf16* weights = w.as<bf16>();
  Pair* panels = threads.shared<Pair>(columns * kPanel * (K / 2));
  threads.parallel(columns, 1 + 32768 / (kPanel * K), [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; ++c)
      pack_transposed(weights, N, K, c * kPanel, panels + c * kPanel * (K / 2));
  });
  const float* shift = bias ? bias.as<float>() : nullptr;
  bf16* saved = pre ? pre.as<bf16>() : nullptr;
  with_activation(activation, [&](auto kind) {
    const auto run = [&](auto* out) {
      multiply_rows(threads, x, panels, N, [&](int64_t row, int64_t col, auto& sums) ALWAYS {
        for_vectors(N - col, [&](int v, auto lanes) ALWAYS {
          const int64_t c = col + 16 * v;
          const __m512 b = shift != nullptr ? load(shift + c, lanes) : _mm512_setzero_ps();
#pragma GCC unroll 8
          for (int r = 0; r < sums.rows; ++r) {
            const int64_t at = (row + r) * N + c;
            const __m512 value = _mm512_add_ps(sums.at[r][v], b);
            if (saved != nullptr) store(value, saved + at, lanes);
            store(activate<decltype(kind)::value>(value), out + at, lanes);
          }
        });
      });
    };
    if (y.dtype == DType::f32)
      run(y.as<float>());
    else
      run(y.as<bf16>());
  });
}

void bf16_linear_backward_input(Threads& threads, const Tensor& dy, const Tensor& w,
                                Activation activation, const Tensor& saved, const Tensor& dx) {
  const int64_t N = w.shape[0], K = w.shape[1], columns = (K + kPanel - 1) / kPanel;
  const bf16* weights = w.as<bf16>();
  Pair* panels = threads.shared<Pair>(columns * kPanel * (N / 2));
  threads.parallel(columns, 1 + 65536 / (kPanel * N), [&](int64_t begin, int64_t end, int) {
    pack_rows(weights, N, K, N / 2, begin, end, panels);
  });
  const bf16* kept = activation != Activation::none ? saved.as<bf16>() : nullptr;
  with_activation(activation, [&](auto kind) {
    const auto run = [&](auto* out) {
      multiply_rows(threads, dy, panels, K, [&](int64_t row, int64_t col, auto& sums) ALWAYS {
        for_vectors(K - col, [&](int v, auto lanes) ALWAYS {
#pragma GCC unroll 8
          for (int r = 0; r < sums.rows; ++r) {
            const int64_t at = (row + r) * K + col + 16 * v;
            __m512 g = sums.at[r][v];
            if constexpr (decltype(kind)::value != Activation::none)
              g = activation_gradient<decltype(kind)::value>(g, load(kept + at, lanes));
            store(g, out + at, lanes);
          }
        });
      });
    };
    if (dx.dtype == DType::f32)
      run(dx.as<float>());
    else
      run(dx.as<bf16>());
  });
}

namespace {

// Packs 16 columns from `first` of rows of dy as rows of a left operand, [pair][16], and adds their
// sums over rows to `sums`, when given.
void pack_columns(const bf16* dy, int64_t rows, int64_t cols, int64_t pairs, int64_t first,
                  Pair* low_out, Pair* high_out, float* sums) {
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));
  __m512 low_sum = _mm512_setzero_ps(), high_sum = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    const bf16* upper = dy + 2 * p * cols;
    const Interleaved both =
        interleave(upper, 2 * p + 1 < rows ? upper + cols : nullptr, first, cols);
    _mm512_storeu_si512(low_out + 16 * p, both.low);
    _mm512_storeu_si512(high_out + 16 * p, both.high);
    low_sum = _mm512_dpbf16_ps(low_sum, reinterpret_cast<__m512bh>(both.low), ones);
    high_sum = _mm512_dpbf16_ps(high_sum, reinterpret_cast<__m512bh>(both.high), ones);
  }
  if (sums == nullptr) return;
  const __mmask16 low = first16(cols - first), high = first16(cols - first - 16);
  float* next = sums + first + 16;
  store(_mm512_add_ps(load(sums + first, low), low_sum), sums + first, low);
  store(_mm512_add_ps(load(next, high), high_sum), next, high);
}

}  // namespace

// Rows are packed block by block; every thread owns some rows of dw (columns of dy) and adds to
// them block after block, so that no sum is shared.
void bf16_linear_backward_weight(Threads& threads, const Tensor& dy, const Tensor& x,
                                 const Tensor& dw, const Tensor& dbias) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
  const int64_t columns = (K + kPanel - 1) / kPanel;
  const int64_t groups = (N + 31) / 32;  // rows of dw packed together
  const int64_t block = std::clamp<int64_t>(65536 / (columns * kPanel), 32, kPairBlock);
  const bf16* g = dy.as<bf16>();
  const bf16* in = x.as<bf16>();
  float* out = dw.as<float>();
  float* sums = dbias ? dbias.as<float>() : nullptr;
  threads.parallel(groups, 1, [&](int64_t begin, int64_t end, int t) {
    Pair* left = threads.scratch<Pair>(t, (32 * (end - begin) + columns * kPanel) * block);
    Pair* panels = left + 32 * (end - begin) * block;
    for (int64_t row = 0; row < M; row += 2 * block) {
      const int64_t rows = std::min(2 * block, M - row), pairs = (rows + 1) / 2;
      pack_rows(in + row * K, rows, K, pairs, 0, columns, panels);
      for (int64_t i = begin; i < end; ++i) {
        Pair* low = left + 32 * (i - begin) * block;
        pack_columns(g + row * N, rows, N, pairs, 32 * i, low, low + 16 * block, sums);
      }
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t n = 32 * begin; n < std::min(N, 32 * end); n += 16) {
          const Left a{reinterpret_cast<const char*>(left + (n - 32 * begin) * block), 4, 64};
          const auto each = [&](int64_t r, auto& tile_sums, const auto& body) ALWAYS {
            for_vectors(K - c * kPanel, [&](int v, auto lanes) ALWAYS {
#pragma GCC unroll 8
              for (int i = 0; i < tile_sums.rows; ++i)
                body(out + (n + r + i) * K + c * kPanel + 16 * v, lanes, tile_sums.at[i][v]);
            });
          };
          tiles(
              a, std::min<int64_t>(16, N - n), panels + c * kPanel * pairs, pairs,
              [&](int64_t r, auto& tile_sums) ALWAYS {
                kFromZero(r, tile_sums);
                each(r, tile_sums,
                     [](const float* at, auto lanes, __m512& sum) { sum = load(at, lanes); });
              },
              [&](int64_t r, auto& tile_sums) ALWAYS {
                each(r, tile_sums,
                     [](float* at, auto lanes, __m512& sum) { store(sum, at, lanes); });
              });
        }
    }
  });
}

}  // namespace megabyte::cpu
HWY_POP_ATTRIBUTES

#else

namespace megabyte::cpu {

bool has_bf16_products() { return false; }
void bf16_linear_forward(Threads&, const Tensor&, const Tensor&, const Tensor&, Activation,
                         const Tensor&, const Tensor&) {
  check(false, "bf16 products need AVX512_BF16");
}
void bf16_linear_backward_input(Threads&, const Tensor&, const Tensor&, Activation, const Tensor&,
                                const Tensor&) {
  check(false, "bf16 products need AVX512_BF16");
}
void bf16_linear_backward_weight(Threads&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&) {
  check(false, "bf16 products need AVX512_BF16");
}

}  // namespace megabyte::cpu
#endif
