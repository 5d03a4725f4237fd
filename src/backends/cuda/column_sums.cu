// Sums over rows in a fixed order: each block sums a piece of the rows, then the pieces are summed.
#include <algorithm>

#include "backends/cuda/kernels.h"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kWarps = 8;

// Block (x, y) sums rows y * rows_each.. of its 32 * N columns into row y of partial.
template <int N, class T>
__global__ void __launch_bounds__(32 * kWarps)
    piece_kernel(const T* x, int64_t rows, int64_t cols, int64_t stride, int64_t rows_each,
                 float* partial) {
  __shared__ float sums[kWarps][32 * N];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t column = (int64_t{blockIdx.x} * 32 + lane) * N;
  const int64_t begin = blockIdx.y * rows_each, end = min(rows, begin + rows_each);
  Floats<N> sum{};
  if (column < cols) {
#pragma unroll 4
    for (int64_t r = begin + warp; r < end; r += kWarps) {
      const Floats<N> row = load<N>(x + r * stride + column);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += row[j];
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) sums[warp][j * 32 + lane] = sum[j];
  __syncthreads();
  for (int i = warp * 32 + lane; i < 32 * N; i += 32 * kWarps) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][i];
    const int64_t c = (int64_t{blockIdx.x} * 32 + i % 32) * N + i / 32;
    if (c < cols) partial[blockIdx.y * cols + c] = total;
  }
}

__global__ void __launch_bounds__(32 * kWarps)
    total_kernel(const float* partial, int64_t rows, int64_t cols, float* sums) {
  __shared__ float shared[kWarps][32];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t column = int64_t{blockIdx.x} * 32 + lane;
  float sum = 0;
  if (column < cols) {
#pragma unroll 4
    for (int64_t r = warp; r < rows; r += kWarps) sum += partial[r * cols + column];
  }
  shared[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= cols) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += shared[w][lane];
  sums[column] += total;
}

}  // namespace

void add_partial_sums(Context& context, const float* partial, int64_t rows, int64_t cols,
                      float* sums) {
  total_kernel<<<grid_of(ceil_div(cols, 32)), dim3(32, kWarps), 0, context.stream()>>>(
      partial, rows, cols, sums);
  check_launch("column sums");
}

void add_column_sums(Context& context, const Tensor& x, int64_t rows, int64_t cols, int64_t stride,
                     float* sums) {
  with_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* data = device<T>(x);
    const bool vectors = aligned16(data) && cols % 8 == 0 && stride % 8 == 0;
    const int64_t across = ceil_div(cols, vectors ? 256 : 32);
    const int64_t pieces =
        std::clamp<int64_t>(context.multiprocessors() * 8 / across, 1, ceil_div(rows, 4 * kWarps));
    const int64_t rows_each = ceil_div(rows, pieces);
    float* partial = context.scratch_of<float>(pieces * cols);
    const dim3 grid(grid_of(across), grid_of(pieces)), block(32, kWarps);
    if (vectors)
      piece_kernel<8>
          <<<grid, block, 0, context.stream()>>>(data, rows, cols, stride, rows_each, partial);
    else
      piece_kernel<1>
          <<<grid, block, 0, context.stream()>>>(data, rows, cols, stride, rows_each, partial);
    check_launch("column sums");
    add_partial_sums(context, partial, pieces, cols, sums);
  });
}

}  // namespace megabyte::cuda
