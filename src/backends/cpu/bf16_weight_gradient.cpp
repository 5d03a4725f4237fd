// The gradient of weights: dw (N, K) += dy (M, N)^T . x (M, K), whose terms lie M apart. Both are
// packed block by block of rows, and tiles of dw are added to block after block. Every thread owns
// a part of dw, rows or columns, whichever are more: no sum is shared.
#include "backends/cpu/bf16_products.h"
#include "base/error.h"

#if defined(__x86_64__)
#include "backends/cpu/bf16_tiles-inl.h"

HWY_PUSH_ATTRIBUTES(MEGABYTE_BF16_TARGET)
namespace megabyte::cpu {
namespace {

constexpr int64_t kPairBlock = 64;  // pairs of rows packed at a time: 16 KiB of each panel

// Packs rows of dy, columns first .. first + count - 1, as a left operand, [pair][stride], and adds
// their sums over rows to `sums`, when given (padded to 32).
void pack_left(const bf16* dy, int64_t rows, int64_t cols, int64_t pairs, int64_t first,
               int64_t count, Pair* out, int64_t stride, float* sums) {
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));
  for (int64_t p = 0; p < pairs; ++p) {
    const bf16* upper = dy + 2 * p * cols;
    const bf16* lower = 2 * p + 1 < rows ? upper + cols : nullptr;
    for (int64_t c = 0; c < count; c += 32) {
      const Interleaved both = interleave(upper, lower, first + c, first + count);
      Pair* to = out + p * stride + c;
      _mm512_storeu_si512(to, both.low);
      _mm512_storeu_si512(to + 16, both.high);
      if (sums == nullptr) continue;
      const __m512bh low = reinterpret_cast<__m512bh>(both.low);
      const __m512bh high = reinterpret_cast<__m512bh>(both.high);
      store(_mm512_dpbf16_ps(load(sums + c, Whole{}), low, ones), sums + c, Whole{});
      store(_mm512_dpbf16_ps(load(sums + c + 16, Whole{}), high, ones), sums + c + 16, Whole{});
    }
  }
}

// Rows first .. first + count - 1 of dw and columns of panels begin .. end - 1, packed.
void add_tiles(const Pair* left, int64_t stride, int64_t first, int64_t count, const Pair* panels,
               int64_t begin, int64_t end, int64_t pairs, float* dw, int64_t K) {
  for (int64_t c = begin; c < end; ++c) {
    const auto each = [&](int64_t row, auto& sums, const auto& body) ALWAYS {
      for_vectors(K - c * kPanel, [&](int v, auto lanes) ALWAYS {
#pragma GCC unroll 8
        for (int r = 0; r < sums.rows; ++r)
          body(dw + (first + row + r) * K + c * kPanel + 16 * v, lanes, sums.at[r][v]);
      });
    };
    tiles(
        {reinterpret_cast<const char*>(left), 4, 4 * stride}, count,
        panels + (c - begin) * kPanel * pairs, pairs,
        [&](int64_t row, auto& sums) ALWAYS {
          kFromZero(row, sums);
          each(row, sums, [](const float* at, auto lanes, __m512& sum) { sum = load(at, lanes); });
        },
        [&](int64_t row, auto& sums) ALWAYS {
          each(row, sums, [](float* at, auto lanes, __m512& sum) { store(sum, at, lanes); });
        });
  }
}

}  // namespace

void bf16_linear_backward_weight(Threads& threads, const Tensor& dy, const Tensor& x,
                                 const Tensor& dw, const Tensor& dbias) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
  const int64_t groups = (N + 31) / 32, columns = (K + kPanel - 1) / kPanel;
  const bool by_rows = N >= K;
  const bf16* g = dy.as<bf16>();
  const bf16* in = x.as<bf16>();
  float* out = dw.as<float>();
  threads.parallel(by_rows ? groups : columns, 1, [&](int64_t begin, int64_t end, int t) {
    const int64_t first = by_rows ? 32 * begin : 0;
    const int64_t count = (by_rows ? std::min(N, 32 * end) : N) - first;
    const int64_t first_panel = by_rows ? 0 : begin, last_panel = by_rows ? columns : end;
    const int64_t whole = (count + 31) / 32 * 32;
    const int64_t stride = whole + 16;  // an odd number of cache lines: pairs spread over all sets
    const bool biased = dbias && (by_rows || begin == 0);
    Pair* left = threads.scratch<Pair>(
        t, (stride + (last_panel - first_panel) * kPanel) * kPairBlock + whole);
    Pair* panels = left + stride * kPairBlock;
    float* sums =
        reinterpret_cast<float*>(panels + (last_panel - first_panel) * kPanel * kPairBlock);
    std::fill(sums, sums + whole, 0.0f);
    for (int64_t row = 0; row < M; row += 2 * kPairBlock) {
      const int64_t rows = std::min(2 * kPairBlock, M - row), pairs = (rows + 1) / 2;
      pack_rows(in + row * K, rows, K, pairs, first_panel, last_panel, panels);
      pack_left(g + row * N, rows, N, pairs, first, count, left, stride, biased ? sums : nullptr);
      add_tiles(left, stride, first, count, panels, first_panel, last_panel, pairs, out, K);
    }
    if (biased) {
      float* bias = dbias.as<float>() + first;
      for (int64_t i = 0; i < count; ++i) bias[i] += sums[i];
    }
  });
}

}  // namespace megabyte::cpu
HWY_POP_ATTRIBUTES

#else

namespace megabyte::cpu {

void bf16_linear_backward_weight(Threads&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&) {
  check(false, "bf16 products need AVX512_BF16");
}

}  // namespace megabyte::cpu
#endif
