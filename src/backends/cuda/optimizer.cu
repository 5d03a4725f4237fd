// The gradients' norm, and AdamW (Loshchilov and Hutter 2019, algorithm 2) on flat memory. The norm
// is read on the device, so that nothing waits for it.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

// The sum over the block, on its thread 0.
__device__ double block_sum(double x) {
  __shared__ double sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  if (threadIdx.x == 0)
    for (double s : sums) x += s;
  return x;
}

__global__ void __launch_bounds__(kThreads)
    total_kernel(const double* partial, int64_t count, double* total) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total += sum;
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const float* x, int64_t n, double* partial) {
  double sum = 0;
  const int64_t stride = int64_t{gridDim.x} * kThreads * N;
  for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N; i < n; i += stride) {
    if (i + N <= n) {
      const Floats<N> part = load<N>(x + i);
      float squares = 0;
#pragma unroll
      for (int j = 0; j < N; ++j) squares += part[j] * part[j];
      sum += static_cast<double>(squares);
    } else {
      for (int64_t k = i; k < n; ++k) sum += static_cast<double>(x[k]) * x[k];
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

struct Adamw {
  float lr, beta1, beta2, rest1, rest2, eps, decay, clip;  // rest = 1 - beta
  float correct1, correct2;  // 1 / (1 - beta1^step), the same of beta2
  int64_t n;
  float* value;
  const float* grad;
  float *m, *v;
  const double* norm_sq;
};

template <int N, class T>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const Adamw a, T* copy) {
  const double squares = *a.norm_sq;
  if (!isfinite(squares)) return;
  const float clip =
      a.clip > 0 ? static_cast<float>(fmin(1.0, static_cast<double>(a.clip) / sqrt(squares))) : 1;
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  const auto update = [&](auto width, int64_t at) {
    constexpr int W = decltype(width)::value;
    Floats<W> x = load<W>(a.value + at), g = load<W>(a.grad + at);
    Floats<W> m = load<W>(a.m + at), v = load<W>(a.v + at);
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float grad = clip * g[j];
      m[j] = a.beta1 * m[j] + a.rest1 * grad;
      v[j] = a.beta2 * v[j] + a.rest2 * grad * grad;
      const float move = m[j] * a.correct1 / (sqrtf(v[j] * a.correct2) + a.eps);
      x[j] -= a.lr * (move + a.decay * x[j]);
    }
    store<W>(a.value + at, x);
    store<W>(a.m + at, m);
    store<W>(a.v + at, v);
    if (copy != nullptr) store<W>(copy + at, x);
  };
  if (i + N <= a.n)
    update(std::integral_constant<int, N>{}, i);
  else
    for (int64_t k = i; k < a.n; ++k) update(std::integral_constant<int, 1>{}, k);
}

}  // namespace

void add_total(Context& context, const double* partial, int64_t count, double* total) {
  total_kernel<<<1, kThreads, 0, context.stream()>>>(partial, count, total);
  check_launch("total");
}

void sum_of_squares(Context& context, const Tensor& x, const Tensor& total) {
  const float* data = device<float>(x);
  const int64_t n = x.size();
  const int64_t blocks =
      std::clamp<int64_t>(ceil_div(n, 4 * kThreads), 1, 8 * int64_t{context.multiprocessors()});
  double* partial = context.scratch_of<double>(blocks);
  if (aligned16(data))
    squares_kernel<4><<<grid_of(blocks), kThreads, 0, context.stream()>>>(data, n, partial);
  else
    squares_kernel<1><<<grid_of(blocks), kThreads, 0, context.stream()>>>(data, n, partial);
  check_launch("sum of squares");
  add_total(context, partial, blocks, device<double>(total));
}

void adamw(Context& context, const AdamwStep& step, const Tensor& value, const Tensor& copy,
           const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& norm_sq) {
  check(step.step >= 1, "adamw: steps count from 1");
  const auto count = static_cast<double>(step.step);
  const Adamw a{static_cast<float>(step.lr),
                static_cast<float>(step.beta1),
                static_cast<float>(step.beta2),
                static_cast<float>(1 - step.beta1),
                static_cast<float>(1 - step.beta2),
                static_cast<float>(step.eps),
                static_cast<float>(step.decay),
                static_cast<float>(step.clip),
                static_cast<float>(1 / (1 - std::pow(step.beta1, count))),
                static_cast<float>(1 / (1 - std::pow(step.beta2, count))),
                value.size(),
                device<float>(value),
                device<float>(grad),
                device<float>(m),
                device<float>(v),
                device<double>(norm_sq)};
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* to = device<T>(copy);
    if (aligned16(a.value, a.grad, a.m, a.v, to))
      adamw_kernel<4>
          <<<grid_of(ceil_div(a.n, 4 * kThreads)), kThreads, 0, context.stream()>>>(a, to);
    else
      adamw_kernel<1><<<grid_of(ceil_div(a.n, kThreads)), kThreads, 0, context.stream()>>>(a, to);
    check_launch("adamw");
  };
  if (copy)
    with_float(copy.dtype, run);
  else
    run(float{});
}

}  // namespace megabyte::cuda
