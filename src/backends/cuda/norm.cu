// Residual addition with dropout and layer norm in one pass over memory. A row is held in registers
// by a group of 32 to 256 threads, V * kPacks elements each.
#include <algorithm>
#include <type_traits>

#include "backends/cuda/kernels.h"
#include "backends/cuda/random.cuh"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// Sums over the group of threads that share a row; all threads of the block take part.
__device__ float2 row_sums(float2 x, int group_warps) {
  __shared__ float2 shared[kWarps];
  x.x = warp_sum(x.x);
  x.y = warp_sum(x.y);
  if (group_warps == 1) return x;
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) shared[warp] = x;
  __syncthreads();
  const int first = warp / group_warps * group_warps;
  x = make_float2(0, 0);
  for (int w = first; w < first + group_warps; ++w) {
    x.x += shared[w].x;
    x.y += shared[w].y;
  }
  __syncthreads();
  return x;
}
__device__ float row_sum(float x, int group_warps) {
  return row_sums(make_float2(x, 0), group_warps).x;
}

template <class T>
struct Forward {
  int64_t rows;
  int dim, group;  // threads of a row
  const float* x;
  const T* delta;
  DropoutMask mask;
  const float *weight, *bias;
  float eps;
  float* sum;
  T *y, *xhat;
  float* rstd;
};

// Rows of vectors are held in few enough registers for four blocks a multiprocessor.
template <int V, int kPacks, class T>
__global__ void __launch_bounds__(kThreads, V > 1 && kPacks * V <= 32 ? 4 : 1)
    forward_kernel(const Forward<T> a) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / a.group) + threadIdx.x / a.group;
  const int t = threadIdx.x % a.group, group_warps = a.group / 32;
  const bool active = row < a.rows;
  const int64_t start = row * a.dim;
  Floats<V> x[kPacks];
  float total = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int c = (p * a.group + t) * V;
    x[p] = Floats<V>{};
    if (!active || c >= a.dim) continue;
    x[p] = load<V>(a.x + start + c);
    if (a.delta != nullptr) {
      Floats<V> d = load<V>(a.delta + start + c);
      a.mask.template apply<V>(d.v, start + c);
#pragma unroll
      for (int j = 0; j < V; ++j) x[p][j] += d[j];
      store<V>(a.sum + start + c, x[p]);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) total += x[p][j];
  }
  const float mean = row_sum(total, group_warps) / static_cast<float>(a.dim);
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if ((p * a.group + t) * V >= a.dim) continue;
#pragma unroll
    for (int j = 0; j < V; ++j) squares += (x[p][j] - mean) * (x[p][j] - mean);
  }
  const float variance = row_sum(squares, group_warps) / static_cast<float>(a.dim);
  const float rstd = 1 / sqrtf(variance + a.eps);
  if (!active) return;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int c = (p * a.group + t) * V;
    if (c >= a.dim) continue;
    const Floats<V> w = load<V>(a.weight + c), b = load<V>(a.bias + c);
#pragma unroll
    for (int j = 0; j < V; ++j) x[p][j] = (x[p][j] - mean) * rstd;
    if (a.xhat != nullptr) store<V>(a.xhat + start + c, x[p]);
#pragma unroll
    for (int j = 0; j < V; ++j) x[p][j] = x[p][j] * w[j] + b[j];
    store<V>(a.y + start + c, x[p]);
  }
  if (t == 0 && a.rstd != nullptr) a.rstd[row] = rstd;
}

template <class T>
struct Backward {
  int64_t rows;
  int dim, group;
  const T *dy, *xhat;
  const float *rstd, *weight;
  DropoutMask mask;
  bool accumulate;
  T* dsum;
  T* ddelta;
  float *dweight, *dbias;  // (blocks, dim): each block's part
};

// Each block takes rows blockIdx, blockIdx + gridDim, ... and sums the parameters' gradients of
// those in registers.
template <int V, int kPacks, class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward<T> a) {
  extern __shared__ float shared[];  // (2, dim) where several rows share a block
  const int groups = kThreads / a.group, mine = threadIdx.x / a.group;
  const int t = threadIdx.x % a.group, group_warps = a.group / 32;
  Floats<V> dweight[kPacks], dbias[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) dweight[p] = dbias[p] = Floats<V>{};
  const float scale = 1 / static_cast<float>(a.dim);
  for (int64_t first = int64_t{blockIdx.x} * groups; first < a.rows;
       first += int64_t{gridDim.x} * groups) {
    const int64_t row = first + mine;
    const bool active = row < a.rows;
    const int64_t start = row * a.dim;
    const float rstd = active ? a.rstd[row] : 0;
    Floats<V> normed[kPacks], dnormed[kPacks], total[kPacks];
    float2 sums = make_float2(0, 0);  // of dnormed, and of dnormed * normed
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int c = (p * a.group + t) * V;
      normed[p] = dnormed[p] = total[p] = Floats<V>{};
      if (!active || c >= a.dim) continue;
      normed[p] = load<V>(a.xhat + start + c);
      dnormed[p] = load<V>(a.dy + start + c);
      if (a.accumulate) total[p] = load<V>(a.dsum + start + c);
    }
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int c = (p * a.group + t) * V;
      if (!active || c >= a.dim) continue;
      const Floats<V> w = load<V>(a.weight + c);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        dweight[p][j] += dnormed[p][j] * normed[p][j];
        dbias[p][j] += dnormed[p][j];
        dnormed[p][j] *= w[j];
        sums.x += dnormed[p][j];
        sums.y += dnormed[p][j] * normed[p][j];
      }
    }
    sums = row_sums(sums, group_warps);
    sums.x *= scale;
    sums.y *= scale;
    if (!active) continue;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int c = (p * a.group + t) * V;
      if (c >= a.dim) continue;
#pragma unroll
      for (int j = 0; j < V; ++j)
        total[p][j] += rstd * (dnormed[p][j] - sums.x - normed[p][j] * sums.y);
      store<V>(a.dsum + start + c, total[p]);
      if (a.ddelta == nullptr) continue;
      a.mask.template apply<V>(total[p].v, start + c);
      store<V>(a.ddelta + start + c, total[p]);
    }
  }
  // The groups of a block one after another, so that the order of the sum is fixed.
  for (int g = 0; g < groups; ++g) {
    if (g == mine) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int c = (p * a.group + t) * V;
        if (c >= a.dim) continue;
        if (g > 0) {
#pragma unroll
          for (int j = 0; j < V; ++j) {
            dweight[p][j] += shared[c + j];
            dbias[p][j] += shared[a.dim + c + j];
          }
        }
        if (g + 1 < groups) {
#pragma unroll
          for (int j = 0; j < V; ++j) {
            shared[c + j] = dweight[p][j];
            shared[a.dim + c + j] = dbias[p][j];
          }
        } else {
          store<V>(a.dweight + int64_t{blockIdx.x} * a.dim + c, dweight[p]);
          store<V>(a.dbias + int64_t{blockIdx.x} * a.dim + c, dbias[p]);
        }
      }
    }
    __syncthreads();
  }
}

// Calls f with V (kVector or 1), the number of packs (both compile-time constants) and the threads
// that share a row, as few as a row of `dim` elements needs when a thread takes at most kMost.
template <int kVector, int kMost, class F>
void with_packs(int64_t dim, bool vectors, F&& f) {
  const auto of = [&](auto V, auto elements) {
    constexpr int packs = decltype(elements)::value / decltype(V)::value;
    int group = 32;
    while (group < kThreads && int64_t{group} * elements < dim) group *= 2;
    check(int64_t{group} * elements >= dim, "norm: a row is too wide");
    f(V, std::integral_constant<int, packs>{}, group);
  };
  constexpr std::integral_constant<int, 1> one{};
  constexpr std::integral_constant<int, kVector> vector{};
  if (!vectors) {
    if (dim <= 4 * kThreads) return of(one, std::integral_constant<int, 4>{});
    return of(one, std::integral_constant<int, 32>{});
  }
  if (dim <= 128) return of(vector, vector);
  if (dim <= 256) return of(vector, std::integral_constant<int, 8>{});
  if (dim <= 512) return of(vector, std::integral_constant<int, 16>{});
  if (dim <= kMost * kThreads) return of(vector, std::integral_constant<int, kMost>{});
  of(vector, std::integral_constant<int, 128>{});
}

}  // namespace

void residual_norm_forward(Context& context, const Tensor& x, const Tensor& delta,
                           const Dropout& dropout, const Tensor& weight, const Tensor& bias,
                           double eps, const Tensor& sum, const Tensor& y, const Tensor& xhat,
                           const Tensor& rstd) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  with_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    Forward<T> a{rows,
                 static_cast<int>(dim),
                 0,
                 device<float>(x),
                 device<T>(delta),
                 DropoutMask(dropout),
                 device<float>(weight),
                 device<float>(bias),
                 static_cast<float>(eps),
                 device<float>(sum),
                 device<T>(y),
                 device<T>(xhat),
                 device<float>(rstd)};
    const bool vectors =
        dim % 4 == 0 && aligned16(a.x, a.delta, a.weight, a.bias, a.sum, a.y, a.xhat);
    with_packs<4, 32>(dim, vectors, [&](auto V, auto packs, int group) {
      a.group = group;
      forward_kernel<decltype(V)::value, decltype(packs)::value>
          <<<grid_of(ceil_div(rows, kThreads / group)), kThreads, 0, context.stream()>>>(a);
    });
    check_launch("residual norm");
  });
}

void residual_norm_backward(Context& context, const Tensor& dy, const Tensor& xhat,
                            const Tensor& rstd, const Tensor& weight, const Dropout& dropout,
                            bool accumulate, const Tensor& dsum, const Tensor& ddelta,
                            const Tensor& dweight, const Tensor& dbias) {
  const int64_t rows = xhat.shape[0], dim = xhat.shape[1];
  with_float(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    Backward<T> a{rows,
                  static_cast<int>(dim),
                  0,
                  device<T>(dy),
                  device<T>(xhat),
                  device<float>(rstd),
                  device<float>(weight),
                  DropoutMask(dropout),
                  accumulate,
                  device<T>(dsum),
                  device<T>(ddelta),
                  nullptr,
                  nullptr};
    constexpr int kVector = 16 / sizeof(T);  // what one access moves
    const bool vectors = dim % kVector == 0 && aligned16(a.dy, a.xhat, a.weight, a.dsum, a.ddelta);
    with_packs<kVector, 16>(dim, vectors, [&](auto V, auto packs, int group) {
      a.group = group;
      const int64_t groups = kThreads / group;
      const int64_t blocks =
          std::min<int64_t>(ceil_div(rows, groups), 2 * context.multiprocessors());
      const int64_t padded = ceil_div(blocks * dim, 4) * 4;
      a.dweight = context.scratch_of<float>(2 * padded);
      a.dbias = a.dweight + padded;
      const size_t shared = groups > 1 ? 2 * static_cast<size_t>(dim) * sizeof(float) : 0;
      backward_kernel<decltype(V)::value, decltype(packs)::value>
          <<<grid_of(blocks), kThreads, shared, context.stream()>>>(a);
      check_launch("residual norm backward");
      add_partial_sums(context, a.dweight, blocks, dim, device<float>(dweight));
      add_partial_sums(context, a.dbias, blocks, dim, device<float>(dbias));
    });
  });
}

}  // namespace megabyte::cuda
