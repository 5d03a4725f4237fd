// Cross entropy and its gradient in one pass over the logits.
#include <algorithm>

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kWarps = 8;

template <class T>
struct Loss {
  LossShape shape;
  const float* logits;
  const uint16_t* targets;
  float* losses;
  T* dlogits;
  double* partial;  // of each block
};

// One warp for each row, blocks striding over the rows.
template <int N, class T>
__global__ void __launch_bounds__(32 * kWarps) loss_kernel(const Loss<T> a) {
  __shared__ double sums[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t rows = a.shape.rows * a.shape.length, V = a.shape.vocab;
  const float scale = static_cast<float>(a.shape.scale);
  double sum_of_losses = 0;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < rows;
       row += int64_t{gridDim.x} * kWarps) {
    const float* x = a.logits + row * V;
    const bool counts = row % a.shape.length < a.shape.valid;
    float loss = 0, log_sum = 0, top = 0;
    const int64_t target = a.targets[row];
    if (counts) {
      top = -INFINITY;
      for (int64_t c = lane * N; c < V; c += 32 * N) {
        const Floats<N> part = load<N>(x + c);
#pragma unroll
        for (int j = 0; j < N; ++j) top = fmaxf(top, part[j]);
      }
      top = warp_max(top);
      float sum = 0;
      for (int64_t c = lane * N; c < V; c += 32 * N) {
        const Floats<N> part = load<N>(x + c);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += expf(part[j] - top);
      }
      log_sum = logf(warp_sum(sum));
      // A target that is no symbol must not go unseen.
      loss = target < V ? log_sum + (top - x[target]) : __int_as_float(0x7fffffff);
      sum_of_losses += static_cast<double>(loss);
    }
    if (lane == 0 && a.losses != nullptr) a.losses[row] = loss;
    if (a.dlogits == nullptr) continue;
    for (int64_t c = lane * N; c < V; c += 32 * N) {
      Floats<N> g{};
      if (counts) {
        g = load<N>(x + c);
#pragma unroll
        for (int j = 0; j < N; ++j)
          g[j] = scale * (expf(g[j] - top - log_sum) - (c + j == target ? 1.0f : 0.0f));
      }
      store<N>(a.dlogits + row * V + c, g);
    }
  }
  if (lane == 0) sums[warp] = sum_of_losses;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w];
  a.partial[blockIdx.x] = total;
}

}  // namespace

void cross_entropy(Context& context, const LossShape& shape, const Tensor& logits,
                   const Tensor& targets, const Tensor& losses, const Tensor& dlogits,
                   const Tensor& total) {
  const int64_t rows = shape.rows * shape.length;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const int64_t blocks = std::min<int64_t>(ceil_div(rows, kWarps), 8 * context.multiprocessors());
    const Loss<T> a{shape,
                    device<float>(logits),
                    device<uint16_t>(targets),
                    device<float>(losses),
                    device<T>(dlogits),
                    context.scratch_of<double>(blocks)};
    if (shape.vocab % 4 == 0 && aligned16(a.logits, a.dlogits))
      loss_kernel<4><<<grid_of(blocks), 32 * kWarps, 0, context.stream()>>>(a);
    else
      loss_kernel<1><<<grid_of(blocks), 32 * kWarps, 0, context.stream()>>>(a);
    check_launch("cross entropy");
    add_total(context, a.partial, blocks, device<double>(total));
  };
  if (dlogits)
    with_float(dlogits.dtype, run);
  else
    run(float{});
}

}  // namespace megabyte::cuda
