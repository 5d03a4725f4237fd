// Linear attention (Katharopoulos et al. 2020) of long sequences, in time linear in their length.
//
// The result and its gradients have one form, r_i = sum_j (a_i . b_j + e_ij) w_j over the positions
// j that i sees or, in gradients of keys and values, that see i. With f the feature map, g = dout /
// stats and c = -(dout . out) / stats:
//   out * stats     a = f(q)  b = f(k)  w = v                j <= i
//   d f(q)          a = g     b = v     w = f(k)   e = c_i   j <= i
//   d f(k)          a = v     b = g     w = f(q)   e = c_j   j >= i
//   dv              a = f(k)  b = f(q)  w = g                j >= i
// A block walks along a segment of a head's positions in chunks. Inside a chunk it takes all pairs;
// all before it is a state of head_dim x head_dim, sum_j b_j w_j^T, and one more row: the sum of
// f(k), or of c_j f(q). (Where later positions count, it walks from the last to the first.) What a
// segment starts from comes from a pass over the segments before it.
// Every sum has a fixed order. Products are those of tensor cores in tf32; for f32, and for the
// sums of weights, which `stats` keeps in f32, both factors are split into two tf32 numbers.
#include <algorithm>
#include <type_traits>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/check.h"
#include "backends/cuda/tf32_products.cuh"

namespace megabyte::cuda {
namespace {

constexpr int kThreads = kTf32Threads, kWarps = kThreads / 32;

enum class Source { q, k, v, g };
enum class Result { out, dq, dk, dv };

struct Roles {
  Source a, b, w;
  Source place;  // the result is laid out like this
};
__host__ __device__ constexpr Roles roles_of(Result result) {
  switch (result) {
    case Result::out:
      return {Source::q, Source::k, Source::v, Source::g};
    case Result::dq:
      return {Source::g, Source::v, Source::k, Source::q};
    case Result::dk:
      return {Source::v, Source::g, Source::q, Source::k};
    default:
      return {Source::k, Source::q, Source::g, Source::v};
  }
}
// From the last position to the first?
__host__ __device__ constexpr bool is_backwards(Result result) {
  return result == Result::dk || result == Result::dv;
}

template <class T>
struct LinearArguments {
  const T *qkv, *dout;
  const float* stats;  // (sequences, heads, length)
  float* c;            // like stats
  T* to;               // out or dqkv
  float* new_stats;    // written with out; may be null
  float* states;       // (sequences, heads, segments, D + 1, D); null for one segment
  int pairs, heads, length;
  int segment, segments;  // positions of a segment: whole chunks
};

// Positions of a chunk, and the strides of tiles in shared memory: those that keep a warp's loads
// of operands in different banks, by rows and by columns.
template <int D>
struct Tiles {
  static constexpr int kChunk = D <= 64 ? 64 : 32;
  static constexpr int kByRow = D + 4, kByColumn = D + 8, kScore = kChunk + 4;
  static constexpr int kStateFloats = D * kByColumn;
};

// Which segment of which head.
struct Share {
  int pair, head, segment, begin, chunks;
  int64_t first_row;  // of the sequence

  template <class T>
  __device__ Share(const LinearArguments<T>& x, int chunk, int first_segment) {
    pair = static_cast<int>(blockIdx.x) % x.pairs;
    segment = static_cast<int>(blockIdx.x) / x.pairs + first_segment;
    head = pair % x.heads;
    first_row = int64_t{pair / x.heads} * x.length;
    begin = segment * x.segment;
    chunks = (min(begin + x.segment, x.length) - begin + chunk - 1) / chunk;
  }
};

// Where the head's elements of a position start.
template <int D, Source S, class T>
__device__ int64_t element(const LinearArguments<T>& x, const Share& share, int position) {
  const int64_t row = share.first_row + position;
  const int parts = S == Source::g ? 1 : 3, part = S == Source::g ? 0 : static_cast<int>(S);
  return ((row * parts + part) * x.heads + share.head) * D;
}

// Elements that a thread reads or writes at once.
template <class T>
constexpr int kElements = 16 / sizeof(T);

// tile[r] = position first + r, with stride `stride`; zeros after the end.
template <int D, Source S, class T>
__device__ void load_tile(float* tile, int stride, const LinearArguments<T>& x, const Share& share,
                          int first) {
  constexpr int kAccesses = D / kElements<T>;
  for (int i = static_cast<int>(threadIdx.x); i < Tiles<D>::kChunk * kAccesses; i += kThreads) {
    const int r = i / kAccesses, column = i % kAccesses * kElements<T>, position = first + r;
    Floats<kElements<T>> values = {};
    if (position < x.length) {
      const T* from =
          (S == Source::g ? x.dout : x.qkv) + element<D, S>(x, share, position) + column;
      values = load<kElements<T>>(from);
      float factor = 1;
      if constexpr (S == Source::g) factor /= x.stats[int64_t{share.pair} * x.length + position];
#pragma unroll
      for (int e = 0; e < kElements<T>; ++e)
        values[e] = S == Source::q || S == Source::k ? feature(values[e]) : values[e] * factor;
    }
#pragma unroll
    for (int e = 0; e < kElements<T>; e += 4)
      *reinterpret_cast<float4*>(tile + r * stride + column + e) =
          make_float4(values[e], values[e + 1], values[e + 2], values[e + 3]);
  }
}

__device__ void put(float* at, float x, float y) {
  *reinterpret_cast<float2*>(at) = make_float2(x, y);
}

// The state after a chunk; each number has one thread that reads and writes it.
template <Result R, bool kSplit, int D>
__device__ void add_chunk(float* state, float* extra, const float* b, const float* w,
                          const float* c) {
  using At = Tiles<D>;
  const WarpShare<D, D> mine;
  float sums[decltype(mine)::kTiles][4] = {};
  multiply<kSplit>(
      sums, 0, At::kChunk, [&](int i, int k) { return b[k * At::kByRow + mine.row + i]; },
      [&](int k, int j) { return w[k * At::kByColumn + mine.column + j]; });
  mine.each_pair(sums, [&](int i, int j, float x, float y) {
    float* at = state + i * At::kByColumn + j;
    put(at, at[0] + x, at[1] + y);
  });
  if (R == Result::dv || threadIdx.x >= D) return;
  float sum = 0;
#pragma unroll 8
  for (int k = 0; k < At::kChunk; ++k) {
    const float of_b = b[k * At::kByRow + threadIdx.x], of_w = w[k * At::kByColumn + threadIdx.x];
    sum += R == Result::out ? of_b : R == Result::dq ? of_w : c[k] * of_w;
  }
  extra[threadIdx.x] += sum;
}

template <int D, class T>
__device__ void load_c(float* c, const LinearArguments<T>& x, const Share& share, int first) {
  const int r = static_cast<int>(threadIdx.x), position = first + r;
  if (r < Tiles<D>::kChunk)
    c[r] = position < x.length ? x.c[int64_t{share.pair} * x.length + position] : 0;
}

__host__ __device__ constexpr bool has_c(Result result) {
  return result == Result::dq || result == Result::dk;
}

// What each segment adds to the state.
template <Result R, int D, class T>
__global__ void __launch_bounds__(kThreads) segment_kernel(LinearArguments<T> x) {
  using At = Tiles<D>;
  extern __shared__ float4 memory[];
  float* b = reinterpret_cast<float*>(memory);
  float* w = b + At::kChunk * At::kByRow;
  float* state = w + At::kChunk * At::kByColumn;
  float* extra = state + At::kStateFloats;
  float* c = extra + D;
  const int thread = static_cast<int>(threadIdx.x);
  // The last one in the walk's order is not asked for.
  const Share share(x, At::kChunk, is_backwards(R) ? 1 : 0);
  for (int i = thread; i < At::kStateFloats + D; i += kThreads) state[i] = 0;
  for (int n = 0; n < share.chunks; ++n) {
    const int first = share.begin + n * At::kChunk;
    __syncthreads();
    load_tile<D, roles_of(R).b>(b, At::kByRow, x, share, first);
    load_tile<D, roles_of(R).w>(w, At::kByColumn, x, share, first);
    if constexpr (has_c(R)) load_c<D>(c, x, share, first);
    __syncthreads();
    add_chunk<R, sizeof(T) == 4, D>(state, extra, b, w, c);
  }
  __syncthreads();
  float* to = x.states + (int64_t{share.pair} * x.segments + share.segment) * (D + 1) * D;
  for (int i = thread; i < (D + 1) * D; i += kThreads)
    to[i] = i < D * D ? state[i / D * At::kByColumn + i % D] : extra[i - D * D];
}

// In place: the sum of all segments before each one, or after it.
__global__ void __launch_bounds__(kThreads)
    before_segments_kernel(float* states, int64_t pairs, int segments, int numbers,
                           bool backwards) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= pairs * numbers) return;
  float* mine = states + i / numbers * segments * numbers + i % numbers;
  float sum = 0;
  for (int n = 0; n < segments; ++n) {
    float& at = mine[int64_t{backwards ? segments - 1 - n : n} * numbers];
    const float next = n + 1 < segments ? at : 0;  // the last one was not computed
    at = sum;
    sum += next;
  }
}

template <Result R, int D, class T>
__global__ void __launch_bounds__(kThreads) walk_kernel(LinearArguments<T> x) {
  using At = Tiles<D>;
  constexpr bool kSplit = sizeof(T) == 4;
  extern __shared__ float4 memory[];
  float* a = reinterpret_cast<float*>(memory);
  float* b = a + At::kChunk * At::kByRow;
  float* w = b + At::kChunk * At::kByRow;
  float* state = w + At::kChunk * At::kByColumn;
  float* extra = state + At::kStateFloats;
  float* c = extra + D;
  float* totals = c + At::kChunk;
  float* s = totals + At::kChunk;
  const int thread = static_cast<int>(threadIdx.x);
  const Share share(x, At::kChunk, 0);
  if (x.segments == 1) {
    for (int i = thread; i < At::kStateFloats + D; i += kThreads) state[i] = 0;
  } else {
    const float* from = x.states + (int64_t{share.pair} * x.segments + share.segment) * (D + 1) * D;
    for (int i = thread; i < (D + 1) * D; i += kThreads)
      (i < D * D ? state[i / D * At::kByColumn + i % D] : extra[i - D * D]) = from[i];
  }
  for (int n = 0; n < share.chunks; ++n) {
    const int first = share.begin + (is_backwards(R) ? share.chunks - 1 - n : n) * At::kChunk;
    __syncthreads();
    load_tile<D, roles_of(R).a>(a, At::kByRow, x, share, first);
    load_tile<D, roles_of(R).b>(b, At::kByRow, x, share, first);
    load_tile<D, roles_of(R).w>(w, At::kByColumn, x, share, first);
    if constexpr (has_c(R)) load_c<D>(c, x, share, first);
    __syncthreads();

    const WarpShare<At::kChunk, At::kChunk> scored;
    float scores[decltype(scored)::kTiles][4] = {};
    multiply<kSplit || R == Result::out>(
        scores, 0, D, [&](int i, int k) { return a[(scored.row + i) * At::kByRow + k]; },
        [&](int k, int j) { return b[(scored.column + j) * At::kByRow + k]; });
    scored.each_pair(scores, [&](int i, int j, float p, float q) {
      if constexpr (has_c(R)) {
        p += c[R == Result::dq ? i : j];
        q += c[R == Result::dq ? i : j + 1];
      }
      const bool first_seen = is_backwards(R) ? j >= i : j <= i;
      const bool second_seen = is_backwards(R) ? j + 1 >= i : j + 1 <= i;
      put(s + i * At::kScore + j, first_seen ? p : 0, second_seen ? q : 0);
    });
    __syncthreads();

    if constexpr (R == Result::out) {
      constexpr int kLanes = kThreads / At::kChunk;  // of a row
      const int row = thread / kLanes, lane = thread % kLanes;
      float total = 0;
      for (int i = lane; i < D; i += kLanes) total = fmaf(a[row * At::kByRow + i], extra[i], total);
      for (int i = lane; i < At::kChunk; i += kLanes) total += s[row * At::kScore + i];
      for (int i = 1; i < kLanes; i *= 2) total += __shfl_xor_sync(~0U, total, i);
      if (lane == 0) {
        totals[row] = total;
        if (x.new_stats != nullptr && first + row < x.length)
          x.new_stats[int64_t{share.pair} * x.length + first + row] = total;
      }
    }
    const WarpShare<At::kChunk, D> mine;
    float sums[decltype(mine)::kTiles][4] = {};
    multiply<kSplit>(
        sums, is_backwards(R) ? mine.row : 0, is_backwards(R) ? At::kChunk : mine.row + 16,
        [&](int i, int k) { return s[(mine.row + i) * At::kScore + k]; },
        [&](int k, int j) { return w[k * At::kByColumn + mine.column + j]; });
    multiply<kSplit>(
        sums, 0, D, [&](int i, int k) { return a[(mine.row + i) * At::kByRow + k]; },
        [&](int k, int j) { return state[k * At::kByColumn + mine.column + j]; });
    __syncthreads();

    // Through the rows of a, which nothing reads any more, to memory in whole lines.
    mine.each_pair(sums, [&](int i, int j, float p, float q) {
      if constexpr (has_c(R)) {
        const float factor = R == Result::dq ? c[i] : 1;
        p = fmaf(factor, extra[j], p);
        q = fmaf(factor, extra[j + 1], q);
      }
      put(a + i * At::kByRow + j, p, q);
    });
    __syncthreads();

    constexpr int kAccesses = D / kElements<T>;
    for (int i = thread; i < At::kChunk * kAccesses; i += kThreads) {
      const int r = i / kAccesses, column = i % kAccesses * kElements<T>;
      if (first + r >= x.length) continue;
      const int64_t at = element<D, roles_of(R).place>(x, share, first + r) + column;
      Floats<kElements<T>> input = {}, values;
      if constexpr (has_c(R)) input = load<kElements<T>>(x.qkv + at);
#pragma unroll
      for (int e = 0; e < kElements<T>; ++e) {
        values[e] = a[r * At::kByRow + column + e];
        if constexpr (R == Result::out) values[e] /= totals[r];
        if constexpr (has_c(R)) values[e] *= feature_slope(feature(input[e]));
      }
      store(x.to + at, values);
    }
    if (n + 1 < share.chunks) add_chunk<R, kSplit, D>(state, extra, b, w, c);
  }
}

// c of 8 positions of a head.
template <int D, class T>
__global__ void __launch_bounds__(kThreads) delta_kernel(LinearArguments<T> x, const T* out) {
  const int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;  // as rows of out, by heads
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t pairs = x.pairs;
  if (i >= pairs * x.length) return;
  float sum = 0;
#pragma unroll
  for (int j = lane; j < D; j += 32)
    sum = fmaf(to_float(out[i * D + j]), to_float(x.dout[i * D + j]), sum);
  for (int j = 1; j < 32; j *= 2) sum += __shfl_xor_sync(~0U, sum, j);
  const int64_t row = i / x.heads, head = i % x.heads;
  const int64_t at = (row / x.length * x.heads + head) * x.length + row % x.length;
  if (lane == 0) x.c[at] = -sum / x.stats[at];
}

template <int D>
LinearSegments segments_of(const AttentionRows& rows) {
  // Enough blocks for any device, of two chunks or more.
  constexpr int64_t kBlocks = 1024, kChunk = Tiles<D>::kChunk;
  const int64_t most = ceil_div(rows.length, 2 * kChunk);
  const int64_t wanted = ceil_div(kBlocks, int64_t{rows.rows} * rows.heads);
  const int64_t segment = ceil_div(ceil_div(rows.length, std::min(most, wanted)), kChunk) * kChunk;
  return {static_cast<int>(segment), static_cast<int>(ceil_div(rows.length, segment))};
}

template <class Kernel, class T>
void launch(Kernel kernel, int blocks, int floats, const LinearArguments<T>& x,
            const char* operation, cudaStream_t stream) {
  const int bytes = floats * static_cast<int>(sizeof(float));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             operation);
  kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(bytes), stream>>>(x);
  check_launch(operation);
}

template <Result R, int D, class T>
void compute(const LinearArguments<T>& x, const char* operation, cudaStream_t stream) {
  using At = Tiles<D>;
  constexpr int kStates = At::kStateFloats + D, kTile = At::kChunk * At::kByRow,
                kTileByColumn = At::kChunk * At::kByColumn;
  if (x.segments > 1) {
    launch(segment_kernel<R, D, T>, x.pairs * (x.segments - 1),
           kTile + kTileByColumn + kStates + At::kChunk, x, operation, stream);
    constexpr int kNumbers = (D + 1) * D;
    const int64_t blocks = ceil_div(int64_t{x.pairs} * kNumbers, kThreads);
    before_segments_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
        x.states, x.pairs, x.segments, kNumbers, is_backwards(R));
    check_launch(operation);
  }
  launch(walk_kernel<R, D, T>, x.pairs * x.segments,
         2 * kTile + kTileByColumn + kStates + 2 * At::kChunk + At::kChunk * At::kScore, x,
         operation, stream);
}

// Calls f with the head width as a constant.
template <class F>
auto with_head_dim(const AttentionRows& rows, F&& f) {
  if (rows.head_dim == 32) return f(std::integral_constant<int, 32>());
  if (rows.head_dim == 64) return f(std::integral_constant<int, 64>());
  return f(std::integral_constant<int, 128>());
}

template <class T>
LinearArguments<T> arguments_of(const AttentionRows& rows, float* states) {
  LinearArguments<T> x{};
  x.pairs = rows.rows * rows.heads;
  x.heads = rows.heads;
  x.length = rows.length;
  const LinearSegments segments = linear_segments(rows);
  x.segment = segments.length;
  x.segments = segments.count;
  x.states = states;
  return x;
}

}  // namespace

LinearSegments linear_segments(const AttentionRows& rows) {
  return with_head_dim(rows, [&](auto width) { return segments_of<width()>(rows); });
}

template <class T>
void linear_forward(const AttentionRows& rows, const AttentionForward<T>& forward, float* states,
                    cudaStream_t stream) {
  LinearArguments<T> x = arguments_of<T>(rows, states);
  x.qkv = forward.qkv;
  x.new_stats = forward.stats;
  x.to = forward.out;
  with_head_dim(rows,
                [&](auto width) { compute<Result::out, width()>(x, "attention_forward", stream); });
}

template <class T>
void linear_backward(const AttentionRows& rows, const AttentionBackward<T>& backward, float* states,
                     cudaStream_t stream) {
  LinearArguments<T> x = arguments_of<T>(rows, states);
  x.qkv = backward.qkv;
  x.dout = backward.dout;
  x.stats = backward.stats;
  x.c = backward.delta;
  x.to = backward.dqkv;
  with_head_dim(rows, [&](auto width) {
    constexpr int D = width();
    const int64_t blocks = ceil_div(int64_t{x.pairs} * x.length, kWarps);
    delta_kernel<D, T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(x, backward.out);
    check_launch("attention_backward");
    compute<Result::dq, D>(x, "attention_backward", stream);
    compute<Result::dk, D>(x, "attention_backward", stream);
    compute<Result::dv, D>(x, "attention_backward", stream);
  });
}

template void linear_forward(const AttentionRows&, const AttentionForward<float>&, float*,
                             cudaStream_t);
template void linear_forward(const AttentionRows&, const AttentionForward<__nv_bfloat16>&, float*,
                             cudaStream_t);
template void linear_backward(const AttentionRows&, const AttentionBackward<float>&, float*,
                              cudaStream_t);
template void linear_backward(const AttentionRows&, const AttentionBackward<__nv_bfloat16>&, float*,
                              cudaStream_t);

}  // namespace megabyte::cuda
