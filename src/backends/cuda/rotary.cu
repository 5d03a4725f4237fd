// Rotary positions from a table of turns that is computed once, in double.
#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    table_kernel(int64_t positions, int64_t head_dim, float2* turns) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, half = head_dim / 2;
  if (at >= positions * half) return;
  const double frequency =
      pow(10000.0, -2 * static_cast<double>(at % half) / static_cast<double>(head_dim));
  double sine, cosine;
  sincos(static_cast<double>(at / half) * frequency, &sine, &cosine);
  turns[at] = make_float2(static_cast<float>(cosine), static_cast<float>(sine));
}

// One thread for N neighbouring pairs of a row's q and k heads.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    rotary_kernel(T* qkv, int64_t pairs, int64_t heads, int64_t head_dim, int64_t length,
                  const float2* turns, bool inverse) {
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (at >= pairs) return;
  const int64_t half = head_dim / 2, i = at % half, head = at / half % (2 * heads);
  const int64_t row = at / half / (2 * heads);
  T* x = qkv + (row * 3 * heads + head) * head_dim + i;
  Floats<N> a = load<N>(x), b = load<N>(x + half);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float2 turn = turns[row % length * half + i + j];
    const float sine = inverse ? -turn.y : turn.y, first = a[j];
    a[j] = first * turn.x - b[j] * sine;
    b[j] = b[j] * turn.x + first * sine;
  }
  store<N>(x, a);
  store<N>(x + half, b);
}

}  // namespace

void fill_rotary_table(Context& context, int64_t positions, int64_t head_dim, float2* turns) {
  const int64_t size = positions * (head_dim / 2);
  table_kernel<<<grid_of(ceil_div(size, kThreads)), kThreads, 0, context.stream()>>>(
      positions, head_dim, turns);
  check_launch("rotary table");
}

void rotary(Context& context, const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
            const float2* turns, bool inverse) {
  with_float(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* x = device<T>(qkv);
    const int64_t pairs = qkv.shape[0] * heads * head_dim;  // of q and k
    if (head_dim % 16 == 0 && aligned16(x))
      rotary_kernel<8><<<grid_of(ceil_div(pairs, 8 * kThreads)), kThreads, 0, context.stream()>>>(
          x, pairs, heads, head_dim, length, turns, inverse);
    else
      rotary_kernel<1><<<grid_of(ceil_div(pairs, kThreads)), kThreads, 0, context.stream()>>>(
          x, pairs, heads, head_dim, length, turns, inverse);
    check_launch("rotary");
  });
}

}  // namespace megabyte::cuda
