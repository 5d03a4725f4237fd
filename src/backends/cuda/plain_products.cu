// Products that cuBLASLt is not made for: few rows, and shapes or strides that it refuses.
#include "backends/cuda/activation.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kWarps = 8;

template <class T, class O>
struct FewRows {
  int64_t rows, cols, inner;  // M, N, K
  const T *x, *w;
  const float* bias;
  T* pre;
  O* y;
};

// A warp for each column of y: reads a row of w once, x comes from the caches.
template <int V, int kRows, Activation kind, class T, class O>
__global__ void __launch_bounds__(32 * kWarps) few_rows_kernel(const FewRows<T, O> a) {
  const int lane = threadIdx.x % 32;
  const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (n >= a.cols) return;
  const T* w = a.w + n * a.inner;
  float sums[kRows] = {};
#pragma unroll 4
  for (int64_t k = lane * V; k < a.inner; k += 32 * V) {
    const Floats<V> wk = load<V>(w + k);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m >= a.rows) continue;
      const Floats<V> xk = load<V>(a.x + m * a.inner + k);
#pragma unroll
      for (int j = 0; j < V; ++j) sums[m] += xk[j] * wk[j];
    }
  }
  const float bias = a.bias != nullptr ? a.bias[n] : 0;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    const float sum = warp_sum(sums[m]) + bias;
    if (lane != 0 || m >= a.rows) continue;
    if (a.pre != nullptr) a.pre[m * a.cols + n] = from_float<T>(sum);
    a.y[m * a.cols + n] = from_float<O>(activate<kind, T>(sum));
  }
}

constexpr int kTile = 16;

template <class T, class O>
__global__ void __launch_bounds__(kTile* kTile)
    product_kernel(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_col,
                   const T* b, int64_t b_row, int64_t b_col, bool add, O* c) {
  __shared__ float as[kTile][kTile + 1], bs[kTile][kTile + 1];
  const int64_t i = int64_t{blockIdx.x} * kTile + threadIdx.y;
  const int64_t j = int64_t{blockIdx.y} * kTile + threadIdx.x;
  float sum = 0;
  for (int64_t first = 0; first < k; first += kTile) {
    const int64_t ka = first + threadIdx.x, kb = first + threadIdx.y;
    as[threadIdx.y][threadIdx.x] = i < m && ka < k ? to_float(a[i * a_row + ka * a_col]) : 0;
    bs[threadIdx.y][threadIdx.x] = j < n && kb < k ? to_float(b[kb * b_row + j * b_col]) : 0;
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kTile; ++p) sum += as[threadIdx.y][p] * bs[p][threadIdx.x];
    __syncthreads();
  }
  if (i >= m || j >= n) return;
  if (add) sum += to_float(c[i * n + j]);
  c[i * n + j] = from_float<O>(sum);
}

template <int V, int kRows, class T, class O>
void few_rows(Context& context, Activation activation, const FewRows<T, O>& a) {
  with_activation(activation, [&](auto kind) {
    few_rows_kernel<V, kRows, decltype(kind)::value>
        <<<grid_of(ceil_div(a.cols, kWarps)), 32 * kWarps, 0, context.stream()>>>(a);
  });
}

}  // namespace

void few_row_linear(Context& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                    Activation activation, const Tensor& pre, const Tensor& y) {
  with_float(x.dtype, [&](auto from) {
    with_float(y.dtype, [&](auto to) {
      using T = decltype(from);
      using O = decltype(to);
      constexpr int V = 16 / sizeof(T);
      const FewRows<T, O> a{x.shape[0],   w.shape[0],          x.shape[1],     device<T>(x),
                            device<T>(w), device<float>(bias), device<T>(pre), device<O>(y)};
      check(a.rows <= kFewRows, "few rows");
      const bool vectors = a.inner % V == 0 && aligned16(a.x, a.w);
      if (!vectors)
        few_rows<1, kFewRows>(context, activation, a);
      else if (a.rows == 1)
        few_rows<V, 1>(context, activation, a);
      else if (a.rows <= 4)
        few_rows<V, 4>(context, activation, a);
      else
        few_rows<V, kFewRows>(context, activation, a);
      check_launch("linear");
    });
  });
}

void plain_product(Context& context, DType dtype, int64_t m, int64_t n, int64_t k, PlainMatrix a,
                   PlainMatrix b, bool add, const Tensor& c) {
  with_float(dtype, [&](auto from) {
    with_float(c.dtype, [&](auto to) {
      using T = decltype(from);
      using O = decltype(to);
      const dim3 grid(grid_of(ceil_div(m, kTile)), grid_of(ceil_div(n, kTile)));
      product_kernel<<<grid, dim3(kTile, kTile), 0, context.stream()>>>(
          m, n, k, static_cast<const T*>(a.data), a.row_stride, a.col_stride,
          static_cast<const T*>(b.data), b.row_stride, b.col_stride, add, device<O>(c));
      check_launch("linear");
    });
  });
}

}  // namespace megabyte::cuda
