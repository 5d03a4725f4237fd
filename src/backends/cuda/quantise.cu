#include "backends/cuda/quantise.h"

#include <cuda_fp8.h>

#include <algorithm>

#include "backends/cuda/activation.cuh"
#include "backends/cuda/vector.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kTile = 128;  // rows and columns that a block converts at once
constexpr int kThreads = 256, kWarps = kThreads / 32;
// A sample's largest number is scaled to between 2^5 and 2^6: room for 7 times as much in e4m3, 896
// times in e5m2, and 11 and 19 binades below before numbers lose bits.
constexpr int kSampleExponent = 5;

using Bf16x2 = __nv_bfloat162;

// Eight numbers in bf16.
struct Eight {
  Bf16x2 pairs[4];
};

__device__ Eight load_eight(const __nv_bfloat16* x) {
  const uint4 bits = *reinterpret_cast<const uint4*>(x);
  Eight e;
  memcpy(&e, &bits, sizeof e);
  return e;
}

// What is converted: eight neighbouring numbers of it, from element i on.
struct Values {
  const __nv_bfloat16* x;
  __device__ Eight operator()(int64_t i) const { return load_eight(x + i); }
};

struct Gelu {
  const __nv_bfloat16* pre;
  __device__ Eight operator()(int64_t i) const {
    Eight e = load_eight(pre + i);
#pragma unroll
    for (Bf16x2& pair : e.pairs) {
      const float2 p = __bfloat1622float2(pair);
      pair = __floats2bfloat162_rn(activate<Activation::gelu, __nv_bfloat16>(p.x),
                                   activate<Activation::gelu, __nv_bfloat16>(p.y));
    }
    return e;
  }
};

struct GeluBackward {
  const __nv_bfloat16 *dy, *pre;
  __device__ Eight operator()(int64_t i) const {
    Eight e = load_eight(dy + i);
    const Eight saved = load_eight(pre + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 d = __bfloat1622float2(e.pairs[j]), p = __bfloat1622float2(saved.pairs[j]);
      e.pairs[j] = __floats2bfloat162_rn(d.x * slope<Activation::gelu, __nv_bfloat16>(p.x),
                                         d.y * slope<Activation::gelu, __nv_bfloat16>(p.y));
    }
    return e;
  }
};

__device__ Bf16x2 largest_of(Bf16x2 largest, const Eight& e) {
#pragma unroll
  for (const Bf16x2& pair : e.pairs) largest = __hmax2_nan(largest, __habs2(pair));
  return largest;
}

// Of absolute values as bits, the order is that of the numbers, with NaN above infinity.
__device__ unsigned block_max(Bf16x2 pair, unsigned* shared) {
  unsigned bits = max(__float_as_uint(__low2float(pair)), __float_as_uint(__high2float(pair)));
  bits = __reduce_max_sync(~0u, bits);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = bits;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) bits = max(bits, shared[w]);
  return bits;
}

constexpr unsigned kInfinity = 0x7f800000;

__device__ int exponent_of(unsigned bits) { return static_cast<int>(bits >> 23) - 127; }
__device__ float power_of_two(int exponent) {
  return __uint_as_float(static_cast<unsigned>(min(max(exponent, -100), 100) + 127) << 23);
}

// 0: the sample says nothing.
__device__ float guessed_scale(unsigned largest) {
  if (largest == 0 || largest >= kInfinity) return 0;
  return power_of_two(kSampleExponent - exponent_of(largest));
}

__device__ constexpr float limit_of(__nv_fp8_interpretation_t format) {
  return format == __NV_E4M3 ? 448.0f : 57344.0f;  // 1.75 * 2^8, 1.75 * 2^15
}

// The largest power of two by which `largest` stays within the format.
template <__nv_fp8_interpretation_t format>
__device__ float fitting_scale(unsigned largest) {
  const int top = (format == __NV_E4M3 ? 8 : 15) - ((largest & 0x7fffff) > 0x600000 ? 1 : 0);
  return power_of_two(top - exponent_of(largest));
}

template <__nv_fp8_interpretation_t format>
__device__ uint32_t four(float2 a, float2 b) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(a, __NV_SATFINITE, format);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(b, __NV_SATFINITE, format);
  return low | high << 16;
}

struct Out {
  uint8_t *values, *transposed;
  float *inverse_scale, *partial_sums;
};

// Threads of a warp hold 8 columns (in two halves of a tile) of 4 rows each: 8 lanes side by side,
// 4 one under another.
struct Place {
  int column, row;  // of the thread's first numbers within a tile
  __device__ Place()
      : column(threadIdx.x % 8 * 8), row(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 8 * 4) {}
};

// Converts the tiles of one strip of columns: tile rows blockIdx.y, + gridDim.y, ...
template <__nv_fp8_interpretation_t format, bool kSums, class Source>
__device__ unsigned convert_tiles(const Source& source, int64_t rows, int64_t cols, float scale,
                                  const Out& out, Eight (&numbers)[2][4], unsigned* shared_max) {
  // Columns of a tile as words of 4 rows. Words are exchanged within a column so that neither the
  // stores of 4-row words nor the loads of 16-row pieces meet in a bank.
  __shared__ __align__(16) uint32_t columns[kTile][kTile / 4];
  __shared__ float column_sums[kSums ? kWarps : 1][kTile];
  const Place place;
  const int64_t first_column = int64_t{blockIdx.x} * kTile;
  const int64_t tiles = (rows + kTile - 1) / kTile;
  Bf16x2 largest = __floats2bfloat162_rn(0, 0);
  float sums[2][8] = {};

  const auto load_tile = [&](int64_t tile) {
    const int64_t row = tile * kTile + place.row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first_column + half * 64 + place.column;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        numbers[half][i] =
            row < rows && column < cols ? source((row + i) * cols + column) : Eight{};
    }
  };
  load_tile(blockIdx.y);
  for (int64_t tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int64_t row = tile * kTile + place.row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first_column + half * 64 + place.column;
      uint32_t bytes[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Eight& e = numbers[half][i];
        largest = largest_of(largest, e);
        float2 f[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          f[j] = __bfloat1622float2(e.pairs[j]);
          if constexpr (kSums) {
            sums[half][2 * j] += f[j].x;
            sums[half][2 * j + 1] += f[j].y;
          }
          f[j].x *= scale;
          f[j].y *= scale;
        }
        bytes[i][0] = four<format>(f[0], f[1]);
        bytes[i][1] = four<format>(f[2], f[3]);
        if (out.values != nullptr && row < rows && column < cols)
          *reinterpret_cast<uint2*>(out.values + (row + i) * cols + column) =
              make_uint2(bytes[i][0], bytes[i][1]);
      }
      if (out.transposed != nullptr) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {  // four by four bytes, turned
          const uint32_t a = __byte_perm(bytes[0][k], bytes[1][k], 0x5140);
          const uint32_t b = __byte_perm(bytes[0][k], bytes[1][k], 0x7362);
          const uint32_t c = __byte_perm(bytes[2][k], bytes[3][k], 0x5140);
          const uint32_t d = __byte_perm(bytes[2][k], bytes[3][k], 0x7362);
          const uint32_t words[4] = {__byte_perm(a, c, 0x5410), __byte_perm(a, c, 0x7632),
                                     __byte_perm(b, d, 0x5410), __byte_perm(b, d, 0x7632)};
#pragma unroll
          for (int j = 0; j < 4; ++j)
            columns[half * 64 + place.column + k * 4 + j][place.row / 4 ^ place.column / 2] =
                words[j];
        }
      }
    }
    if (tile + gridDim.y < tiles) load_tile(tile + gridDim.y);
    if (out.transposed == nullptr) continue;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile / 32; ++i) {
      const int column = i * 32 + threadIdx.x / 8, piece = threadIdx.x % 8;
      const int64_t from_row = tile * kTile + piece * 16;
      if (first_column + column < cols && from_row < rows)
        *reinterpret_cast<uint4*>(out.transposed + (first_column + column) * rows + from_row) =
            *reinterpret_cast<const uint4*>(&columns[column][4 * (piece ^ column / 8 % 8)]);
    }
    __syncthreads();
  }
  if constexpr (kSums) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float sum = sums[half][j];
        sum += __shfl_xor_sync(~0u, sum, 8);
        sum += __shfl_xor_sync(~0u, sum, 16);
        if (threadIdx.x % 32 < 8) column_sums[threadIdx.x / 32][half * 64 + place.column + j] = sum;
      }
    __syncthreads();
    const int64_t column = first_column + threadIdx.x;
    if (threadIdx.x < kTile && column < cols) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += column_sums[w][threadIdx.x];
      out.partial_sums[blockIdx.y * cols + column] = total;
    }
  }
  return block_max(largest, shared_max);
}

template <__nv_fp8_interpretation_t format, bool kSums, class Source>
__global__ void __launch_bounds__(kThreads, 3)
    quantise_kernel(Source source, int64_t rows, int64_t cols, QuantiseState* state, Out out) {
  __shared__ unsigned sampled[kWarps], largest[kWarps];
  // The same 2048 numbers in every block, from all over the matrix: every row of numbers gives one
  // sample at most, and neighbours in the sample are of different columns.
  const int64_t eights = rows * cols / 8, stride = max(eights / kThreads, int64_t{1});
  const int64_t at = threadIdx.x * stride + threadIdx.x * 37 % stride;
  const Eight sample = at < eights ? source(at * 8) : Eight{};
  const Bf16x2 zero = __floats2bfloat162_rn(0, 0);
  const float scale = guessed_scale(block_max(largest_of(zero, sample), sampled));
  Eight numbers[2][4];
  const unsigned bits =
      convert_tiles<format, kSums>(source, rows, cols, scale, out, numbers, largest);
  if (threadIdx.x != 0) return;
  // Most blocks have nothing to add.
  if (bits > *static_cast<volatile unsigned*>(&state->largest)) atomicMax(&state->largest, bits);
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    state->scale = scale;
    *out.inverse_scale = scale > 0 ? 1 / scale : 1;
  }
}

// Was the guess good? Else everything once more. Leaves the state as it was before the conversion.
template <__nv_fp8_interpretation_t format, class Source>
__global__ void __launch_bounds__(kThreads, 3)
    check_kernel(Source source, int64_t rows, int64_t cols, QuantiseState* state, Out out) {
  __shared__ unsigned shared_largest, unused[kWarps];
  if (threadIdx.x == 0) {
    shared_largest = *static_cast<volatile unsigned*>(&state->largest);
    __threadfence();
    const unsigned last = gridDim.x * gridDim.y - 1;
    if (atomicInc(&state->finished, last) == last) state->largest = 0;  // all have read it
  }
  __syncthreads();
  const unsigned largest = shared_largest;
  const bool first = threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0;
  if (largest >= kInfinity) {
    if (first) *out.inverse_scale = __uint_as_float(0x7fc00000);
    return;
  }
  const float guess = state->scale;
  const bool fits = guess > 0 ? __uint_as_float(largest) * guess <= limit_of(format) : largest == 0;
  if (fits) return;
  const float scale = fitting_scale<format>(largest);
  if (first) *out.inverse_scale = 1 / scale;
  Eight numbers[2][4];
  convert_tiles<format, false>(source, rows, cols, scale, out, numbers, unused);
}

// Blocks over a matrix: strips of columns, and in each strip pieces that take turns with its tiles.
dim3 grid_over(const Context& context, int64_t rows, int64_t cols, int64_t tiles_each) {
  const int64_t strips = ceil_div(cols, kTile), tiles = ceil_div(rows, kTile);
  const int64_t wanted = ceil_div(context.multiprocessors() * 6, strips);  // fill the device twice
  return dim3(grid_of(strips),
              grid_of(std::clamp(ceil_div(tiles, tiles_each), std::min(wanted, tiles), tiles)));
}
constexpr int64_t kTilesEach = 4;

template <__nv_fp8_interpretation_t format, class Source>
void launch(Context& context, const Source& source, int64_t rows, int64_t cols,
            QuantiseState* state, const Quantised& to) {
  check(rows % 16 == 0 && cols % 16 == 0, "quantise: sizes in multiples of 16");
  const Out out{static_cast<uint8_t*>(to.values), static_cast<uint8_t*>(to.transposed),
                to.inverse_scale, to.partial_sums};
  const dim3 grid = grid_over(context, rows, cols, kTilesEach);
  if (to.partial_sums != nullptr)
    quantise_kernel<format, true>
        <<<grid, kThreads, 0, context.stream()>>>(source, rows, cols, state, out);
  else
    quantise_kernel<format, false>
        <<<grid, kThreads, 0, context.stream()>>>(source, rows, cols, state, out);
  check_launch("quantise");
  // Few blocks: as a rule they have nothing to do.
  check_kernel<format><<<grid_over(context, rows, cols, rows), kThreads, 0, context.stream()>>>(
      source, rows, cols, state, out);
  check_launch("quantise");
}

}  // namespace

int64_t sum_pieces(const Context& context, int64_t rows, int64_t cols) {
  return grid_over(context, rows, cols, kTilesEach).y;
}

void quantise(Context& context, const Tensor& x, Fp8 format, QuantiseState* state,
              const Quantised& out) {
  const Values source{device<__nv_bfloat16>(x)};
  if (format == Fp8::e4m3)
    launch<__NV_E4M3>(context, source, x.shape[0], x.shape[1], state, out);
  else
    launch<__NV_E5M2>(context, source, x.shape[0], x.shape[1], state, out);
}

void quantise_gelu(Context& context, const Tensor& pre, QuantiseState* state,
                   const Quantised& out) {
  launch<__NV_E4M3>(context, Gelu{device<__nv_bfloat16>(pre)}, pre.shape[0], pre.shape[1], state,
                    out);
}

void quantise_gelu_backward(Context& context, const Tensor& dy, const Tensor& pre,
                            QuantiseState* state, const Quantised& out) {
  check(dy.size() == pre.size(), "quantise: gradient and pre-activation");
  launch<__NV_E5M2>(context, GeluBackward{device<__nv_bfloat16>(dy), device<__nv_bfloat16>(pre)},
                    pre.shape[0], pre.shape[1], state, out);
}

}  // namespace megabyte::cuda
