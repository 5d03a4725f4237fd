// What both directions of attention share, once per instruction set: rows of one head turned into
// float blocks that stay in the first cache, and a small product over them. Scores are held as
// [key][query]: queries lie in the lanes, so that maxima and sums over keys cross no lanes.
#if defined(MEGABYTE_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGABYTE_CPU_ATTENTION_INL_H_
#undef MEGABYTE_CPU_ATTENTION_INL_H_
#else
#define MEGABYTE_CPU_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/kernels.h"
#include "backends/cpu/simd-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace megabyte::cpu::HWY_NAMESPACE {

constexpr int64_t kQueryBlock = 32;
constexpr int64_t kKeyBlock = 64;
static_assert(kQueryBlock % kLanes == 0);

HWY_INLINE int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// The keys that a sequence sees: neighbouring rows of qkv, its own after those of its cross window.
struct Window {
  int64_t first_row;    // of qkv
  int64_t keys;         // seen by the last query
  int64_t first_query;  // key index of the first query; query i sees keys 0..first_query + i
};
HWY_INLINE Window window_of(const AttentionShape& shape, int64_t sequence) {
  const int64_t before = std::min(shape.cross, sequence % shape.row_sequences * shape.length);
  const int64_t keys = before + shape.length;
  return {sequence * shape.length - before, keys, keys - shape.queries};
}
HWY_INLINE int64_t most_keys(const AttentionShape& shape) {
  return std::min(shape.cross, (shape.row_sequences - 1) * shape.length) + shape.length;
}

HWY_INLINE float softmax_scale(const AttentionShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
}

// elu(x) + 1, the feature map of linear attention, and its derivative.
HWY_INLINE V feature(V x) {
  return hn::IfThenElse(hn::Gt(x, zero()), hn::Add(x, set(1.0f)), exp(hn::Min(x, zero())));
}
HWY_INLINE V feature_derivative(V x) {
  return hn::IfThenElse(hn::Gt(x, zero()), set(1.0f), exp(hn::Min(x, zero())));
}

// Asks for rows of one head ahead of their use: their steps are too wide for the processor to
// foresee, and short sequences have nothing to do while they wait. (Long ones find their rate.)
template <class T>
HWY_INLINE void prefetch_rows(const T* in, int64_t stride, int64_t rows, int64_t dim) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t r = 0; r < std::min<int64_t>(rows, 32); ++r)
    for (int64_t i = 0; i < dim; i += kLine) hwy::Prefetch(in + r * stride + i);
}
// The queries, keys and values of one head of one sequence.
template <class T>
HWY_INLINE void prefetch_head(const AttentionShape& shape, const T* qkv, int64_t sequence,
                              int64_t head) {
  const int64_t row = 3 * shape.dim();
  const T* q = qkv + sequence * shape.length * row + head * shape.head_dim;
  for (int64_t part = 0; part < 3; ++part)
    prefetch_rows(q + part * shape.dim(), row, shape.length, shape.head_dim);
}

// out[r][i] = f(in[r * stride + i]), rows padded with zeros to `width` floats.
template <class T, class Function>
HWY_INLINE void load_rows(const T* in, int64_t stride, int64_t rows, int64_t dim, float* out,
                          int64_t width, Function f) {
  for (int64_t r = 0; r < rows; ++r)
    for_lanes(dim, [&](int64_t i, auto lanes) HWY_ATTR {
      store(keep(f(load(in + r * stride + i, lanes)), lanes), out + r * width + i);
    });
}

// The same rows as columns, out[dim][kQueryBlock]; columns past the last row keep what they had.
// Four rows at a time, because a scatter is slow.
HWY_INLINE void transpose_rows(const float* in, int64_t width, int64_t rows, int64_t dim,
                               float* out) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    for (int64_t i = 0; i < dim; i += kLanes) {
      const float* at = in + r * width + i;
      float columns[4 * kLanes];
      hn::StoreInterleaved4(load(at), load(at + width), load(at + 2 * width), load(at + 3 * width),
                            F(), columns);
      const int64_t valid = std::min(kLanes, dim - i);
      for (int64_t c = 0; c < valid; ++c)
        std::memcpy(out + (i + c) * kQueryBlock + r, columns + 4 * c, 4 * sizeof(float));
    }
  for (; r < rows; ++r)
    for (int64_t i = 0; i < dim; ++i) out[i * kQueryBlock + r] = in[r * width + i];
}

// The lanes, from lane `first` of a block of queries, whose query comes before `query`.
HWY_INLINE auto lanes_before(int64_t query, int64_t first) {
  return hn::FirstN(F(), static_cast<size_t>(std::clamp<int64_t>(query - first, 0, kLanes)));
}

// A left operand whose element (m, k) is at data[m * row + k * col].
struct Left {
  const float* data;
  int64_t row, col;
};

template <int kRows, int kVectors>
HWY_INLINE void multiply_tile(const Left& a, const float* HWY_RESTRICT b, int64_t b_stride,
                              int64_t depth, float* HWY_RESTRICT c, int64_t c_stride,
                              bool accumulate) {
  V sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = accumulate ? load(c + r * c_stride + v * kLanes) : zero();
  const float* at = a.data;
  for (int64_t k = 0; k < depth; ++k, at += a.col, b += b_stride) {
    V row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const V x = set(at[r * a.row]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(x, row[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) store(sums[r][v], c + r * c_stride + v * kLanes);
}

template <int kVectors>
HWY_INLINE void multiply_panel(Left a, int64_t rows, const float* b, int64_t b_stride,
                               int64_t depth, float* c, int64_t c_stride, bool accumulate) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4, a.data += 4 * a.row, c += 4 * c_stride)
    multiply_tile<4, kVectors>(a, b, b_stride, depth, c, c_stride, accumulate);
  if (rows - r >= 2) {
    multiply_tile<2, kVectors>(a, b, b_stride, depth, c, c_stride, accumulate);
    r += 2, a.data += 2 * a.row, c += 2 * c_stride;
  }
  if (r < rows) multiply_tile<1, kVectors>(a, b, b_stride, depth, c, c_stride, accumulate);
}

// c (rows, cols) = (accumulate ? c : 0) + a (rows, depth) . b (depth, cols); cols in whole vectors.
inline void multiply(const Left& a, int64_t rows, const float* b, int64_t b_stride, int64_t depth,
                     float* c, int64_t c_stride, int64_t cols, bool accumulate) {
  int64_t j = 0;
  for (; j + 4 * kLanes <= cols; j += 4 * kLanes)
    multiply_panel<4>(a, rows, b + j, b_stride, depth, c + j, c_stride, accumulate);
  if (cols - j >= 2 * kLanes) {
    multiply_panel<2>(a, rows, b + j, b_stride, depth, c + j, c_stride, accumulate);
    j += 2 * kLanes;
  }
  if (j < cols) multiply_panel<1>(a, rows, b + j, b_stride, depth, c + j, c_stride, accumulate);
}

}  // namespace megabyte::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
