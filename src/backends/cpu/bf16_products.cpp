// Highway 1.0.3 has no bf16 product, so this file is written in AVX-512 intrinsics; backend.cpp
// asks has_bf16_products() before it calls anything here.
#include "backends/cpu/bf16_products.h"

#include <type_traits>

#include "base/error.h"

#if defined(__x86_64__)
#include "backends/cpu/bf16_tiles-inl.h"

namespace megabyte::cpu {

bool has_bf16_products() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace megabyte::cpu

HWY_PUSH_ATTRIBUTES(MEGABYTE_BF16_TARGET)
namespace megabyte::cpu {
namespace {

constexpr int64_t kRowBlock = 192;  // rows that pass all panels while they are in the cache

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
    pack_rows(weights, N, K, N / 2, begin, end, panels + begin * kPanel * (N / 2));
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

}  // namespace megabyte::cpu
#endif
