// The kernels of this folder. Arguments are as in ops/ops.h and checked by backend.cpp; everything
// is enqueued on the context's stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backends/cuda/context.h"
#include "backends/exact/kernels.h"
#include "ops/byte_coding.h"
#include "ops/ops.h"
#include "ops/range_coder.h"

namespace megabyte::exact_cuda {

// Matrices of int8 for the tensor cores: blocks of 8 rows by 64 columns, 512 bytes each, those of
// the same rows one after the other; rows and columns that the matrix does not have are zeros in
// weights.
inline constexpr int kBlockRows = 8, kBlockColumns = 64, kBlockBytes = 512;
template <class Index>
__host__ __device__ constexpr Index blocks_across(Index columns) {
  return (columns + kBlockColumns - 1) / kBlockColumns;
}
// Where element (row, column) lies.
template <class Index>
__host__ __device__ constexpr Index place_of(Index row, Index column, Index across) {
  return (row / kBlockRows * across + column / kBlockColumns) * kBlockBytes +
         row % kBlockRows * kBlockColumns + column % kBlockColumns;
}

// A matrix of weights (N, K), with a scale for each row; both padded to kOutputs rows.
inline constexpr int kOutputs = 32;
template <class Index>
__host__ __device__ constexpr Index padded_outputs(Index n) {
  return (n + kOutputs - 1) / kOutputs * kOutputs;
}
struct DeviceMatrix {
  const int8_t* q;
  const float* scales;
  int64_t N, K;
};

template <class Index>
__host__ __device__ constexpr Index padded(Index n) {  // to whole sixteens
  return (n + 15) / 16 * 16;
}

// Rows of activations in 8 bits, each with its scale: memory for whole tiles of kTileRows.
inline constexpr int64_t kTileRows = 64;
struct Int8Rows {
  int8_t* q;
  float* scales;
};
inline constexpr size_t int8_rows_bytes(int64_t rows, int64_t columns) {
  const int64_t padded = (rows + kTileRows - 1) / kTileRows * kTileRows;
  return static_cast<size_t>(padded) *
         (static_cast<size_t>(blocks_across(columns) * kBlockColumns) + sizeof(float));
}
Int8Rows int8_rows(void* memory, int64_t rows, int64_t columns);

struct Norm {
  const float *x, *delta;  // delta, and with it sum, may be nullptr
  float* sum;
  const float *weight, *bias;
  float eps;
};

// rows.cu
void quantise(cuda::Context& context, const float* x, int64_t rows, int64_t columns,
              const Int8Rows& out);
void norm(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim, float* y);
void norm_and_quantise(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim,
                       const Int8Rows& out);

// products.cu
void multiply(cuda::Context& context, const Int8Rows& x, int64_t rows, const DeviceMatrix& w,
              const float* bias, exact::Act act, float* y);

// attention.cu; turns (positions, head_dim / 2) from the position of row 0 on.
void rotate(cuda::Context& context, float* qkv, int64_t rows, int64_t heads, int64_t head_dim,
            int64_t length, const float2* turns);
float scale_of(int64_t head_dim);  // 1 / sqrt(head_dim), rounded twice
void attend(cuda::Context& context, const AttentionShape& shape, const float* qkv, float* out);
// A new position of each row, over keys and values (rows, heads, capacity, dim).
struct Cached {
  const float* qkv;
  float *keys, *values, *out;
  int heads, dim, capacity, slot_new, slot_first, visible;
};
Cached cached(const DecodeShape& shape, const float* qkv, float* keys, float* values, float* out);
void attend_cached(cuda::Context& context, const Cached& queries, int64_t rows, bool linear);

// linear_attention.cu: along sequences, with a running state.
void attend_running(cuda::Context& context, const AttentionShape& shape, const float* qkv,
                    float* out);
void attend_state(cuda::Context& context, const DecodeShape& shape, const float* qkv, float* state,
                  float* out);

// frequencies.cu
void cross_entropy(cuda::Context& context, const LossShape& shape, const float* logits,
                   const uint16_t* targets, float* losses, double* total);
void byte_shares(cuda::Context& context, const float* logits, int64_t rows, int64_t vocab,
                 const uint16_t* bytes, ByteShare* shares);
void decode_bytes(cuda::Context& context, const float* logits, int64_t rows, int64_t vocab,
                  RangeDecoder* decoders, uint16_t* bytes);

}  // namespace megabyte::exact_cuda
