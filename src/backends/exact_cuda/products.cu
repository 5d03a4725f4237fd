// Products of int8 with sums in int32 on the tensor cores: exact in any order, so that nothing but
// the scaling of a finished sum has to be done in one way.
#include <algorithm>

#include "backends/cuda/vector.cuh"
#include "backends/exact_cuda/products.cuh"

namespace megabyte::exact_cuda {
namespace {

// A warp multiplies kTiles * 16 rows by kOutputs outputs.
constexpr int kColumnTiles = static_cast<int>(kOutputs) / 8;
constexpr int kMostWarps = 4;

struct Product {
  const int4 *x, *w;  // blocks: 32 int4 each
  const float *scales, *w_scales, *bias;
  float* y;
  int64_t rows, outputs, across;
  Act act;
  bool pairs;  // may two neighbouring results be stored at once?
};

// What a warp reads of 64 terms: 16 bytes of a row in each lane.
template <int kTiles>
struct Operands {
  int4 x[2 * kTiles], w[kColumnTiles];
  __device__ void load(const int4* from_x, const int4* from_w, int64_t across) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) w[j] = from_w[j * across * 32];
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) x[i] = from_x[i * across * 32];
  }
};

template <int kTiles>
__global__ void __launch_bounds__(32 * kMostWarps) product_kernel(const Product p) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = (int64_t{blockIdx.x} * (blockDim.x / 32) + warp) * kOutputs;
  const int64_t row = int64_t{blockIdx.y} * (16 * kTiles);
  if (column >= p.outputs) return;
  const int4* x = p.x + row / kBlockRows * p.across * 32 + lane;
  const int4* w = p.w + column / kBlockRows * p.across * 32 + lane;
  int sums[kTiles][kColumnTiles][4] = {};
  Operands<kTiles> next;
  next.load(x, w, p.across);
#pragma unroll 2
  for (int64_t k = 1; k <= p.across; ++k) {
    const Operands<kTiles> now = next;
    const int64_t ahead = (k < p.across ? k : 0) * 32;
    next.load(x + ahead, w + ahead, p.across);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int4 low = now.x[2 * i], high = now.x[2 * i + 1];
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        multiply_tiles(sums[i][j], low.x, high.x, low.y, high.y, now.w[j].x, now.w[j].y);
        multiply_tiles(sums[i][j], low.z, high.z, low.w, high.w, now.w[j].z, now.w[j].w);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const int64_t n = column + j * 8 + lane % 4 * 2;
    if (n >= p.outputs) continue;
    const bool both = n + 1 < p.outputs;
    const float scale[2] = {p.w_scales[n], p.w_scales[n + 1]};
    const float bias[2] = {p.bias != nullptr ? p.bias[n] : 0.0f,
                           p.bias != nullptr && both ? p.bias[n + 1] : 0.0f};
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      const int64_t m = row + i * 8 + lane / 4;
      if (m >= p.rows) continue;
      float y[2];
#pragma unroll
      for (int c = 0; c < 2; ++c)
        y[c] = scaled(sums[i / 2][j][i % 2 * 2 + c], p.scales[m], scale[c], bias[c]);
      activate(p.act, y);
      float* to = p.y + m * p.outputs + n;
      if (both && p.pairs) {
        *reinterpret_cast<float2*>(to) = make_float2(y[0], y[1]);
      } else {
        to[0] = y[0];
        if (both) to[1] = y[1];
      }
    }
  }
}

template <int kTiles>
void launch(cuda::Context& context, const Product& p) {
  const int64_t tiles = cuda::ceil_div(p.rows, 16 * kTiles);
  const int64_t columns = cuda::ceil_div(p.outputs, kOutputs);
  // Warps of a block share rows in the cache; few of them make more blocks.
  int64_t warps = kMostWarps;
  while (warps > 1 && tiles * cuda::ceil_div(columns, warps) < context.multiprocessors())
    warps /= 2;
  const dim3 grid(cuda::grid_of(cuda::ceil_div(columns, warps)), cuda::grid_of(tiles));
  product_kernel<kTiles><<<grid, static_cast<unsigned>(32 * warps), 0, context.stream()>>>(p);
  cuda::check_launch("product");
}

}  // namespace

void multiply(cuda::Context& context, const Int8Rows& x, int64_t rows, const DeviceMatrix& w,
              const float* bias, exact::Act act, float* y) {
  Product p{.x = reinterpret_cast<const int4*>(x.q),
            .w = reinterpret_cast<const int4*>(w.q),
            .scales = x.scales,
            .w_scales = w.scales,
            .bias = bias,
            .y = y,
            .rows = rows,
            .outputs = w.N,
            .across = blocks_across(w.K),
            .act = act,
            .pairs = w.N % 2 == 0 && reinterpret_cast<uintptr_t>(y) % sizeof(float2) == 0};
  // The grid has at most 65535 tiles of rows.
  constexpr int64_t kMostRows = int64_t{65535} * kTileRows;
  for (int64_t done = 0; done < rows; done += kMostRows) {
    p.rows = std::min(kMostRows, rows - done);
    p.x = reinterpret_cast<const int4*>(x.q + place_of<int64_t>(done, 0, p.across));
    p.scales = x.scales + done;
    p.y = y + done * w.N;
    // Large tiles read less, small ones keep more multiprocessors busy.
    const auto fills = [&](int64_t tile_rows) {
      return cuda::ceil_div(p.rows, tile_rows) * cuda::ceil_div(w.N, kOutputs) >=
             int64_t{4} * context.multiprocessors();
    };
    if (fills(64))
      launch<4>(context, p);
    else if (fills(32))
      launch<2>(context, p);
    else
      launch<1>(context, p);
  }
}

}  // namespace megabyte::exact_cuda
