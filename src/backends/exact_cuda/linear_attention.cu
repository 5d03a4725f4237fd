// Linear attention within a sequence: a running state of sums, one new position at a time. A block
// has a head of a sequence, and a thread some of its channels.
#include <algorithm>

#include "backends/cuda/vector.cuh"
#include "backends/exact_cuda/kernels.h"
#include "backends/exact_cuda/numbers.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kThreads = 64;

// Adds a position to state (dim + 1, dim), as Backend::linear_attention_decode, and asks. `query`
// and `key` (padded(dim)) are shared memory.
__device__ void advance(const float* q, const float* k, const float* v, int64_t dim, float* state,
                        float* query, float* key, float* out) {
  float* sums = state + dim * dim;
  for (int64_t i = threadIdx.x; i < padded(dim); i += kThreads) {
    const bool real = i < dim;
    query[i] = real ? feature(q[i]) : 0.0f;
    key[i] = real ? feature(k[i]) : 0.0f;
    if (real) sums[i] = __fadd_rn(sums[i], key[i]);
  }
  __syncthreads();
  float total = 0.0f;
  for (int64_t i = threadIdx.x % 16; i < padded(dim); i += 16)
    total = __fmaf_rn(query[i], i < dim ? sums[i] : 0.0f, total);
  const float divisor = sum_of_lanes(total);
  for (int64_t c = threadIdx.x; c < dim; c += kThreads) {
    float sum = 0.0f;
    const float value = v[c];
    for (int64_t i = 0; i < dim; ++i) {
      float* at = state + i * dim + c;
      const float product = __fmaf_rn(key[i], value, *at);
      *at = product;
      sum = __fmaf_rn(query[i], product, sum);
    }
    out[c] = __fdiv_rn(sum, divisor);
  }
  __syncthreads();  // before query, key and sums change
}

__global__ void __launch_bounds__(kThreads)
    state_kernel(const float* qkv, int64_t heads, int64_t dim, float* states, float* out) {
  extern __shared__ float shared[];
  const int64_t item = blockIdx.x, D = heads * dim;
  const float* q = qkv + item / heads * 3 * D + item % heads * dim;
  advance(q, q + D, q + 2 * D, dim, states + item * (dim + 1) * dim, shared, shared + padded(dim),
          out + item * dim);
}

struct Running {
  const float* qkv;
  float *out, *states;  // a state for each block; nullptr: in shared memory
  int64_t items, heads, dim, length, queries;
};

__global__ void __launch_bounds__(kThreads) running_kernel(const Running a) {
  extern __shared__ float shared[];
  float *query = shared, *key = query + padded(a.dim), *unasked = key + padded(a.dim);
  const int64_t D = a.heads * a.dim, size = (a.dim + 1) * a.dim;
  float* state = a.states != nullptr ? a.states + blockIdx.x * size : unasked + padded(a.dim);
  for (int64_t item = blockIdx.x; item < a.items; item += gridDim.x) {
    const int64_t s = item / a.heads, h = item % a.heads, skipped = a.length - a.queries;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) state[i] = 0.0f;
    __syncthreads();
    for (int64_t t = 0; t < a.length; ++t) {
      const float* q = a.qkv + (s * a.length + t) * 3 * D + h * a.dim;
      float* to = t < skipped ? unasked : a.out + (s * a.queries + t - skipped) * D + h * a.dim;
      advance(q, q + D, q + 2 * D, a.dim, state, query, key, to);
    }
  }
}

}  // namespace

void attend_running(cuda::Context& context, const AttentionShape& shape, const float* qkv,
                    float* out) {
  const int64_t d = shape.head_dim, size = (d + 1) * d;
  Running a{qkv,         out, nullptr,      shape.sequences * shape.heads,
            shape.heads, d,   shape.length, shape.queries};
  int64_t blocks = std::min(a.items, int64_t{8} * context.multiprocessors());
  const auto bytes = [](int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); };
  int64_t shared = bytes(3 * padded(d) + size);
  if (shared > context.shared_memory()) {
    a.states = context.scratch_of<float>(blocks * size);
    shared = bytes(3 * padded(d));
  }
  if (shared > (48 << 10))
    cuda::check_cuda(
        cudaFuncSetAttribute(running_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "linear attention");
  running_kernel<<<cuda::grid_of(blocks), kThreads, static_cast<size_t>(shared),
                   context.stream()>>>(a);
  cuda::check_launch("linear attention");
}

void attend_state(cuda::Context& context, const DecodeShape& shape, const float* qkv, float* state,
                  float* out) {
  const auto shared = static_cast<size_t>(2 * padded(shape.head_dim)) * sizeof(float);
  state_kernel<<<cuda::grid_of(shape.batch * shape.heads), kThreads, shared, context.stream()>>>(
      qkv, shape.heads, shape.head_dim, state, out);
  cuda::check_launch("linear attention");
}

}  // namespace megabyte::exact_cuda
