// The kernels behind attention.h: each takes whole batch rows (attention_rows.cuh).
#pragma once

#include "backends/cuda/attention_rows.cuh"

namespace megabyte::cuda {

// `stats` may be null in forward calls. `delta` (as many as stats) is scratch: the products
// dout.out.
template <class T>
struct AttentionForward {
  const T* qkv;
  T* out;
  float* stats;
};
template <class T>
struct AttentionBackward {
  const T *qkv, *out;
  const float* stats;
  const T* dout;
  T* dqkv;
  float* delta;
};

// Any head width up to 256, f32 arithmetic throughout; time quadratic in the window.
template <class T>
void general_forward(const AttentionRows& rows, bool linear, const AttentionForward<T>& x,
                     cudaStream_t stream);
template <class T>
void general_backward(const AttentionRows& rows, bool linear, const AttentionBackward<T>& x,
                      cudaStream_t stream);

// Linear attention in time linear in the length, for sequences of which every position asks and
// sees its own sequence only (rows.sequences = 1). Heads of 32, 64 or 128. `states`: scratch for
// head_dim * (head_dim + 1) floats of every segment of every head; none for one segment.
struct LinearSegments {
  int length, count;
};
LinearSegments linear_segments(const AttentionRows& rows);
template <class T>
void linear_forward(const AttentionRows& rows, const AttentionForward<T>& x, float* states,
                    cudaStream_t stream);
template <class T>
void linear_backward(const AttentionRows& rows, const AttentionBackward<T>& x, float* states,
                     cudaStream_t stream);

// Tensor cores, one warp for 16 positions of a head: for short windows. Heads of 32, 64 or 128.
void window_forward(const AttentionRows& rows, const AttentionForward<__nv_bfloat16>& x,
                    cudaStream_t stream);
void window_backward(const AttentionRows& rows, const AttentionBackward<__nv_bfloat16>& x,
                     cudaStream_t stream);

// Hopper's tensor cores (sm_90a): for long rows whose queries are neighbours. Heads of 64 or 128.
// `delta` is scratch of two floats for each of long_statistics() queries of every head.
bool long_supported();  // by the device in use and this build
__host__ __device__ inline int64_t long_statistics(const AttentionRows& rows) {
  constexpr int kMultiple = 384;  // of what every kernel's blocks take
  return int64_t{rows.asking() + kMultiple - 1} / kMultiple * kMultiple;
}
void long_forward(const AttentionRows& rows, const AttentionForward<__nv_bfloat16>& x,
                  cudaStream_t stream);
void long_backward(const AttentionRows& rows, const AttentionBackward<__nv_bfloat16>& x,
                   cudaStream_t stream);

}  // namespace megabyte::cuda
