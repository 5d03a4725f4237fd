// What rows.cuh does, for any number of rows.
#include "backends/exact_cuda/rows.cuh"

#include "backends/cuda/vector.cuh"

namespace megabyte::exact_cuda {
namespace {

constexpr int kThreads = 128, kRowsOfBlock = kThreads / kLanes;

__device__ Place place_in(int64_t rows) {
  const int64_t row = int64_t{blockIdx.x} * kRowsOfBlock + threadIdx.x / kLanes;
  const bool real = row < rows;
  return {real ? row : rows - 1, row, static_cast<int>(threadIdx.x) % kLanes, real};
}

// What is only quantised needs no order: kWarps warps have a row.
template <int kWarps>
__global__ void __launch_bounds__(kThreads)
    quantise_kernel(const float* x, int64_t rows, int columns, int across, const Int8Rows out) {
  constexpr int kTeam = 32 * kWarps;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (row >= rows) return;  // a warp as a whole
  const float* from = x + row * columns;
  const int thread = static_cast<int>(threadIdx.x) % kTeam;
  unsigned largest = 0;
#pragma unroll 4
  for (int i = thread; i < columns; i += kTeam) largest = max(largest, magnitude_bits(from[i]));
  largest = __reduce_max_sync(~0u, largest);
  if constexpr (kWarps > 1) {
    __shared__ unsigned of_warps[kWarps];
    if (thread % 32 == 0) of_warps[thread / 32] = largest;
    __syncthreads();
#pragma unroll
    for (const unsigned other : of_warps) largest = max(largest, other);
  }
  const Quantiser quantise(largest);
  if (thread == 0) out.scales[row] = quantise.scale();
  int8_t* to = out.q + place_of<int64_t>(row, 0, across);
#pragma unroll 4
  for (int i = thread; i < across * kBlockColumns; i += kTeam)
    to[place_of(0, i, 0)] = i < columns ? quantise(from[i]) : int8_t{0};
}

template <int kHeld, bool kWhole, bool kQuantise>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const Norm norm, int64_t rows, int dim, float* y, const Int8Rows out) {
  run_row<kHeld, kWhole>(place_in(rows), norm, true, dim, kQuantise ? nullptr : y, out);
}

template <bool kQuantise>
void launch_norm(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim, float* y,
                 const Int8Rows& out) {
  const unsigned grid = cuda::grid_of(cuda::ceil_div(rows, kRowsOfBlock));
  const auto with = [&]<int kHeld, bool kWhole>() {
    norm_kernel<kHeld, kWhole, kQuantise>
        <<<grid, kThreads, 0, context.stream()>>>(norm, rows, static_cast<int>(dim), y, out);
  };
  // Usual widths need no questions about a row's end.
  const auto in_registers = [&]<int kHeld>() {
    if (dim > kHeld * kLanes) return false;
    if (dim == kHeld * kLanes)
      with.template operator()<kHeld, true>();
    else
      with.template operator()<kHeld, false>();
    return true;
  };
  if (!in_registers.template operator()<8>() && !in_registers.template operator()<16>() &&
      !in_registers.template operator()<24>() && !in_registers.template operator()<32>() &&
      !in_registers.template operator()<48>() && !in_registers.template operator()<64>())
    with.template operator()<0, false>();
  cuda::check_launch("norm");
}

}  // namespace

Int8Rows int8_rows(void* memory, int64_t rows, int64_t columns) {
  const int64_t padded = cuda::ceil_div(rows, kTileRows) * kTileRows;
  auto* q = static_cast<int8_t*>(memory);
  return {q, reinterpret_cast<float*>(q + padded * blocks_across(columns) * kBlockColumns)};
}

void quantise(cuda::Context& context, const float* x, int64_t rows, int64_t columns,
              const Int8Rows& out) {
  const auto launch = [&]<int kWarps>() {
    const unsigned grid = cuda::grid_of(cuda::ceil_div(rows, kThreads / (32 * kWarps)));
    quantise_kernel<kWarps><<<grid, kThreads, 0, context.stream()>>>(
        x, rows, static_cast<int>(columns), blocks_across(static_cast<int>(columns)), out);
  };
  if (columns <= 512)
    launch.template operator()<1>();
  else
    launch.template operator()<kThreads / 32>();
  cuda::check_launch("quantise");
}

void norm(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim, float* y) {
  launch_norm<false>(context, norm, rows, dim, y, {});
}

void norm_and_quantise(cuda::Context& context, const Norm& norm, int64_t rows, int64_t dim,
                       const Int8Rows& out) {
  launch_norm<true>(context, norm, rows, dim, nullptr, out);
}

}  // namespace megabyte::exact_cuda
