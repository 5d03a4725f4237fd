// Products of few rows (decoding) in bf16: every weight is read once, at the speed of memory.
//
// A block has 16 (or 8) rows of w: it sends for all of them before it waits for the kernel before
// it, which is still at work on x. The tensor cores take them as operand A and the rows of x, in
// tiles of 8, as operand B. The warps of the block share the summed index: each has a piece of it,
// and the block adds up the pieces at the end.
#include <algorithm>

#include "backends/cuda/activation.cuh"
#include "backends/cuda/attention_fragments.cuh"
#include "backends/cuda/copies.cuh"
#include "backends/cuda/kernels.h"
#include "backends/cuda/overlap.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kChunk = 32;  // elements of the summed index in a step of a warp

struct Product {
  int rows, cols, inner;  // M, N, K
  const bf16 *x, *w;
  const float* bias;
  Activation activation;
  void* y;
  bool wide;  // y is f32
};

// x = norm(sum), sum = x + delta.
struct NormedInput {
  const float* x;
  const bf16* delta;
  const float *weight, *bias;
  float eps;
  float* sum;
};

// Of rows in shared memory, whose 16-byte pieces lie in different banks for neighbouring rows. (A
// chunk of 32 elements is 64 bytes; odd numbers of 64 bytes keep the 8 rows of a load apart.)
__host__ __device__ inline int row_bytes(const Product& a) {
  return (a.inner + 31) / 64 * 128 + 64;
}

// kTiles * 8 rows of x, kHalves * 8 rows of w; kPacks > 0: x is a norm, of which a thread holds
// kPacks times 4 elements.
template <int kHalves_, int kWarps_, int kTiles_, int kAhead_, int kPacks_ = 0>
struct Config {
  static constexpr int kHalves = kHalves_, kWarps = kWarps_, kTiles = kTiles_, kPacks = kPacks_;
  static constexpr int kThreads = 32 * kWarps, kCols = 8 * kHalves;
  // Chunks that a warp loads at a time: each such load of x is a trip to the device's cache.
  static constexpr int kAhead = kAhead_;
  // Blocks that a multiprocessor has room for: those of the next kernel come before these are gone.
  static constexpr int kBlocks = (kTiles * kAhead <= 4   ? 32
                                  : kTiles * kAhead <= 8 ? 24
                                                         : 16) /
                                 kWarps;
  // Sums that do not wait for each other.
  static constexpr int kChains = kTiles <= 2 ? 2 : 1;
  // Tiles whose sums the warps exchange at a time, and floats of one warp's tile: 8 rows of x, each
  // of 16 sums and 4 unused, which keep the banks apart.
  static constexpr int kExchanged = std::min(kTiles, 4), kPitch = 20, kSums = 8 * kPitch;
  static constexpr int kSumBytes = 4 * kWarps * kExchanged * kSums;

  static int shared_bytes(const Product& a) {
    return kSumBytes + (kCols + (kPacks > 0 ? a.rows : 0)) * row_bytes(a);
  }
};

// Of what nothing on the stream changes: it may be loaded before the wait.
__device__ float4 load_constant(const float* p) {
  float4 v;
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}

// A thread's part of a row that is normed: 4 elements at `first` and every `stride` further on.
// Rows, no more than warps, are dealt to 1, 2, 4, ... neighbouring warps each.
template <int kWarps, int kPacks>
class NormedRow {
 public:
  __device__ NormedRow(const NormedInput& in, int rows, int inner)
      : in_(in), rows_(rows), inner_(inner) {
    for (int n = 1; n < rows; n *= 2) warps_ /= 2;
    share_ = 1 / static_cast<float>(inner);
    const int threads = 32 * warps_;
    row_ = static_cast<int>(threadIdx.x) / threads;
    first_ = static_cast<int>(threadIdx.x) % threads * 4;
    stride_ = threads * 4;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      weight_[p] = there(p) ? load_constant(in.weight + at(p)) : float4{};
      bias_[p] = there(p) ? load_constant(in.bias + at(p)) : float4{};
    }
  }

  // Leaves norm(x + delta) in `to`, rows of `pitch` bytes, and where `sums` x + delta in in.sum.
  __device__ void run(char* to, int pitch, bool sums) {
    const int64_t start = int64_t{row_} * inner_;
    float4 x[kPacks];
    uint2 delta[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      x[p] = there(p) ? __ldcg(reinterpret_cast<const float4*>(in_.x + start + at(p))) : float4{};
      delta[p] = there(p) && in_.delta != nullptr
                     ? __ldcg(reinterpret_cast<const uint2*>(in_.delta + start + at(p)))
                     : uint2{};
    }
    // About the row's first element, which lies among the others: one pass is enough.
    const float pivot = row_ < rows_ ? first_of(start) : 0;
    float total = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const auto* d = reinterpret_cast<const bf16*>(&delta[p]);
      x[p].x += to_float(d[0]);
      x[p].y += to_float(d[1]);
      x[p].z += to_float(d[2]);
      x[p].w += to_float(d[3]);
      if (sums && in_.delta != nullptr && there(p))
        *reinterpret_cast<float4*>(in_.sum + start + at(p)) = x[p];
      const float4 off{x[p].x - pivot, x[p].y - pivot, x[p].z - pivot, x[p].w - pivot};
      if (there(p)) {
        total += (off.x + off.y) + (off.z + off.w);
        squares += (off.x * off.x + off.y * off.y) + (off.z * off.z + off.w * off.w);
      }
    }
    total = warp_sum(total);
    squares = warp_sum(squares);
    __shared__ float2 parts[kWarps];
    const int warp = static_cast<int>(threadIdx.x) / 32, first_warp = warp / warps_ * warps_;
    if (threadIdx.x % 32 == 0) parts[warp] = float2{total, squares};
    __syncthreads();
    total = squares = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i)
      if (i < warps_) {
        total += parts[first_warp + i].x;
        squares += parts[first_warp + i].y;
      }
    const float off = total * share_, mean = pivot + off;
    const float rstd = rsqrtf(fmaxf(squares * share_ - off * off, 0) + in_.eps);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!there(p)) continue;
      const float4 w = weight_[p], b = bias_[p];
      uint2 y;
      y.x = pack((x[p].x - mean) * rstd * w.x + b.x, (x[p].y - mean) * rstd * w.y + b.y);
      y.y = pack((x[p].z - mean) * rstd * w.z + b.z, (x[p].w - mean) * rstd * w.w + b.w);
      *reinterpret_cast<uint2*>(to + row_ * pitch + at(p) * 2) = y;
    }
  }

 private:
  __device__ float first_of(int64_t start) const {
    return __ldcg(in_.x + start) + (in_.delta != nullptr ? to_float(__ldcg(in_.delta + start)) : 0);
  }
  __device__ int at(int p) const { return first_ + p * stride_; }
  __device__ bool there(int p) const { return row_ < rows_ && at(p) < inner_; }

  const NormedInput& in_;
  int rows_, inner_, warps_ = kWarps, row_, first_, stride_;
  float share_;  // of an element in a mean
  float4 weight_[kPacks], bias_[kPacks];
};

__device__ float activate_as(Activation activation, float x) {
  if (activation == Activation::gelu) return activate<Activation::gelu, bf16>(x);
  return activation == Activation::relu ? activate<Activation::relu, bf16>(x) : x;
}

// Block b has rows b * kCols and so on of w, which are columns of y.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    narrow_kernel(const Product a, const NormedInput in) {
  extern __shared__ uint4 memory[];
  __shared__ uint64_t arrival;
  start_next();
  auto* sums = reinterpret_cast<float*>(memory);
  char* weights = reinterpret_cast<char*>(memory) + C::kSumBytes;
  const int pitch = row_bytes(a), first_col = static_cast<int>(blockIdx.x) * C::kCols;
  char* normed = weights + C::kCols * pitch;
  const RowCopies copies(&arrival);
  copies.send(min(C::kCols, a.cols - first_col), weights, pitch,
              reinterpret_cast<const char*>(a.w + int64_t{first_col} * a.inner),
              int64_t{a.inner} * 2, a.inner * 2);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, chunks = (a.inner + C::kWarps * kChunk - 1) / (C::kWarps * kChunk);
  const int first = warp * chunks * kChunk + lane % 4 * 8;
  const int out = static_cast<int>(threadIdx.x) % C::kCols;  // column of y, below
  const float bias = a.bias != nullptr && first_col + out < a.cols ? a.bias[first_col + out] : 0;
  if constexpr (C::kPacks > 0) {
    NormedRow<C::kWarps, C::kPacks> row(in, a.rows, a.inner);
    wait_for_previous();
    row.run(normed, pitch, blockIdx.x == 0);
    __syncthreads();
  } else {
    wait_for_previous();
  }

  uint4 rows[C::kAhead][C::kTiles];
  const auto load_x = [&](uint4(&to)[C::kTiles], int chunk) {
    const int k = first + chunk * kChunk;
#pragma unroll
    for (int i = 0; i < C::kTiles; ++i) {
      const int row = i * 8 + g;
      const bool there = chunk < chunks && k < a.inner && row < a.rows;
      if constexpr (C::kPacks > 0)
        to[i] = there ? *reinterpret_cast<const uint4*>(normed + row * pitch + k * 2) : uint4{};
      else
        to[i] = there ? __ldcg(reinterpret_cast<const uint4*>(a.x + int64_t{row} * a.inner + k))
                      : uint4{};
    }
  };
#pragma unroll
  for (int d = 0; d < C::kAhead; ++d) load_x(rows[d], d);

  copies.wait();
  float chains[C::kChains][C::kTiles][4] = {};
  for (int chunk = 0; chunk < chunks; chunk += C::kAhead) {
#pragma unroll
    for (int d = 0; d < C::kAhead; ++d) {
      const int k = first + (chunk + d) * kChunk;
      uint4 w[2] = {};
#pragma unroll
      for (int h = 0; h < C::kHalves; ++h)
        if (chunk + d < chunks && k < a.inner)
          w[h] = *reinterpret_cast<const uint4*>(weights + (g + h * 8) * pitch + k * 2);
#pragma unroll
      for (int i = 0; i < C::kTiles; ++i) {
        const uint4 x = rows[d][i];
        mma(chains[0][i], w[0].x, w[1].x, w[0].y, w[1].y, x.x, x.y);
        mma(chains[C::kChains - 1][i], w[0].z, w[1].z, w[0].w, w[1].w, x.z, x.w);
      }
    }
    if (chunk + C::kAhead < chunks)
#pragma unroll
      for (int d = 0; d < C::kAhead; ++d) load_x(rows[d], chunk + C::kAhead + d);
  }
  float(&tiles)[C::kTiles][4] = chains[0];
  if constexpr (C::kChains == 2)
#pragma unroll
    for (int i = 0; i < C::kTiles; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) tiles[i][e] += chains[1][i][e];

        // A warp's sums: rows (of w) g and g + 8, rows (of x) 2 (lane % 4) and the next.
#pragma unroll
  for (int begin = 0; begin < C::kTiles; begin += C::kExchanged) {
    if (begin > 0) __syncthreads();
#pragma unroll
    for (int i = 0; i < C::kExchanged; ++i) {
      float* to = sums + (warp * C::kExchanged + i) * C::kSums + lane % 4 * 2 * C::kPitch + g;
      const float(&tile)[4] = tiles[begin + i];
      to[0] = tile[0];
      to[C::kPitch] = tile[1];
      if constexpr (C::kHalves == 2) {
        to[8] = tile[2];
        to[C::kPitch + 8] = tile[3];
      }
    }
    __syncthreads();
    const int end = min(a.rows - begin * 8, C::kExchanged * 8);
    if (first_col + out >= a.cols) continue;
    for (int r = static_cast<int>(threadIdx.x) / C::kCols; r < end; r += C::kThreads / C::kCols) {
      const float* from = sums + r * C::kPitch + out;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < C::kWarps; ++i) sum += from[i * C::kExchanged * C::kSums];
      sum = activate_as(a.activation, sum + bias);
      const int64_t at = int64_t{begin * 8 + r} * a.cols + first_col + out;
      if (a.wide)
        static_cast<float*>(a.y)[at] = sum;
      else
        static_cast<bf16*>(a.y)[at] = __float2bfloat16_rn(sum);
    }
  }
}

template <class C>
void launch(Context& context, const Product& a, const NormedInput& in) {
  launch_overlapped<narrow_kernel<C>>(context, "linear",
                                      dim3(static_cast<unsigned>(ceil_div(a.cols, C::kCols))),
                                      C::kThreads, static_cast<size_t>(C::shared_bytes(a)), a, in);
}

// A block for each row.
constexpr int kNormWarps = 8;
template <int kPacks>
__global__ void __launch_bounds__(32 * kNormWarps) norm_kernel(NormedInput in, int inner, bf16* y) {
  start_next();
  const int64_t start = int64_t{blockIdx.x} * inner;
  in.x += start;
  if (in.delta != nullptr) {
    in.delta += start;
    in.sum += start;
  }
  NormedRow<kNormWarps, kPacks> row(in, 1, inner);
  wait_for_previous();
  row.run(reinterpret_cast<char*>(y + start), 0, true);
}

// 16 rows of w for a block, or where they would take most of a multiprocessor's memory, 8: some is
// for the kernels before and after.
template <int kTiles, int kAhead>
void launch_linear(Context& context, const Product& a) {
  using Wide = Config<2, 8, kTiles, kAhead>;
  constexpr int kMostInner = 4096;
  if (a.inner <= kMostInner && Wide::shared_bytes(a) <= context.shared_memory())
    launch<Wide>(context, a, {});
  else
    launch<Config<1, 16, kTiles, kAhead>>(context, a, {});
}

Product product_of(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                   const Tensor& y) {
  return {static_cast<int>(x.shape[0]),
          static_cast<int>(w.shape[0]),
          static_cast<int>(w.shape[1]),
          static_cast<const bf16*>(x.data),
          static_cast<const bf16*>(w.data),
          bias ? bias.as<float>() : nullptr,
          activation,
          y.data,
          y.dtype == DType::f32};
}

// Rows of 16-byte vectors, few enough of them, 8 of which fit a block's memory beside the sums.
bool fits(Context& context, const Tensor& x, const Tensor& w, const Tensor& y) {
  constexpr int64_t kMostCols = 1 << 30;
  const int64_t most_inner = (context.shared_memory() - Config<1, 16, 8, 2>::kSumBytes) / 16 - 64;
  const auto address = reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(w.data);
  return w.dtype == DType::bf16 && (y.dtype == DType::f32 || y.dtype == DType::bf16) &&
         x.shape[0] <= kNarrowRows && w.shape[1] % 8 == 0 && address % 16 == 0 &&
         w.shape[0] <= kMostCols && w.shape[1] <= most_inner;
}

void linear(Context& context, const Product& a) {
  if (a.rows <= 8)
    launch_linear<1, 4>(context, a);
  else if (a.rows <= 16)
    launch_linear<2, 4>(context, a);
  else if (a.rows <= 32)
    launch_linear<4, 4>(context, a);
  else
    launch_linear<8, 2>(context, a);
}

}  // namespace

bool narrow_linear(Context& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                   Activation activation, const Tensor& y) {
  if (!fits(context, x, w, y)) return false;
  linear(context, product_of(x, w, bias, activation, y));
  return true;
}

bool narrow_norm_linear(Context& context, const Tensor& x, const Tensor& delta,
                        const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                        const Tensor& w, const Tensor& bias, Activation activation,
                        const Tensor& sum, const Tensor& norm, const Tensor& y) {
  constexpr int64_t kMostInner = 4 * 128 * kNormWarps;  // of four packs
  if (!fits(context, norm, w, y) || w.shape[1] > kMostInner) return false;
  const NormedInput in{x.as<float>(),           static_cast<const bf16*>(delta.data),
                       norm_weight.as<float>(), norm_bias.as<float>(),
                       static_cast<float>(eps), delta ? sum.as<float>() : nullptr};
  const Product a = product_of(norm, w, bias, activation, y);
  // Where the block of a product makes the norms itself, it reads all rows, which pays for no more
  // than one of usual width.
  int64_t size = a.inner;
  for (int n = 1; n < a.rows; n *= 2) size *= 2;
  using Fused = Config<2, 4, 1, 8, 2>;
  if (a.rows <= Fused::kWarps && size <= 4 * Fused::kThreads * Fused::kPacks) {
    launch<Fused>(context, a, in);
    return true;
  }
  auto* normed = static_cast<bf16*>(norm.data);
  if (a.inner <= 2 * 128 * kNormWarps)
    launch_overlapped<norm_kernel<2>>(context, "norm", dim3(static_cast<unsigned>(a.rows)),
                                      32 * kNormWarps, 0, in, a.inner, normed);
  else
    launch_overlapped<norm_kernel<4>>(context, "norm", dim3(static_cast<unsigned>(a.rows)),
                                      32 * kNormWarps, 0, in, a.inner, normed);
  linear(context, a);
  return true;
}

}  // namespace megabyte::cuda
