// The exact backend's kernels: one body of code over vector.h (kernels-inl.h), compiled once for
// each instruction set, and a table of functions for each. docs/exact.md has the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace megabyte::exact {

// Whole vectors of sixteen.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

enum class Act { none, relu, gelu };

// A matrix (N, K) of int8 as a kernel wants it (Kernels::pack), with a scale for each row.
struct PackedMatrix {
  const std::byte* data;
  const float* scales;  // (padded(N))
  int64_t N, K;
};

// y (rows, N) = act(x (rows, K) . w^T + bias (N, or none))
struct LinearCall {
  const float* x;
  PackedMatrix w;
  const float* bias;
  Act act;
  float* y;
};

// sum = x + delta (or x, where there is no delta), y = norm(sum) * weight + bias; all (rows, dim).
struct NormCall {
  const float *x, *delta;
  const float *weight, *bias;
  float eps;
  float *sum, *y;
  int64_t dim;
};

// A position's queries (heads, dim), each over `visible` keys and values of its head, which are
// rows `stride` floats apart, those of the next head `head_stride` further; the first in row `slot`
// of `capacity`, after the last of which comes row 0.
struct AttendCall {
  const float *q, *k, *v;
  int64_t heads, dim, stride, head_stride, slot, capacity, visible;
  float scale;  // 1 / sqrt(dim)
  bool linear;
  float* out;  // (heads, dim)
};

struct Kernels {
  const char* name;
  // Outputs that a product computes together: the second range of linear() is in these.
  int64_t block;
  size_t (*packed_bytes)(int64_t N, int64_t K);
  void (*pack)(const int8_t* q, int64_t N, int64_t K, std::byte* packed);
  size_t (*linear_scratch)(int64_t rows, int64_t K);
  // Rows [row, row_end) and blocks of outputs [block, block_end).
  void (*linear)(const LinearCall&, int64_t row, int64_t row_end, int64_t block, int64_t block_end,
                 std::byte* scratch);
  void (*norm)(const NormCall&, int64_t row, int64_t row_end);
  // scratch: heads * (padded(dim) + padded(visible)) floats
  void (*attend)(const AttendCall&, float* scratch);
  // state (dim + 1, dim) as Backend::linear_attention_decode; scratch: 2 * padded(dim) floats
  void (*attend_running)(const float* q, const float* k, const float* v, int64_t dim, float* state,
                         float* out, float* scratch);
  // The pairs (low[i], high[i]), i < half, turned by angles of these cosines and sines.
  void (*rotate)(float* low, float* high, const float* cosines, const float* sines, int64_t half);
  void (*exponentials)(const float* x, int64_t count, float* y);
  void (*frequencies)(const float* logits, int64_t vocab, uint32_t* out);
};

extern const Kernels plain_kernels;
extern const Kernels avx2_kernels, avx512_kernels;  // only where they are compiled (x86-64)

// Those that this processor runs, the fastest first; the plain ones are the last.
const std::vector<const Kernels*>& available_kernels();

}  // namespace megabyte::exact
