// One new position at a time, on cached keys and values or on a running state.
#include <algorithm>
#include <cmath>

#include "backends/cuda/attention.h"
#include "backends/cuda/attention_rows.cuh"
#include "backends/cuda/copies.cuh"
#include "backends/cuda/overlap.cuh"

namespace megabyte::cuda {
namespace {

// Eight lanes share a key and four groups of them, of each warp, the keys of a block; lane l of a
// group holds chunks l, l + 8, ... of the head, each of kVector elements (16 bytes, or one where
// heads are not made of such chunks).
constexpr int kKeysOfWarp = 32;    // up to so many, one warp does it alone
constexpr int kKeysPerBlock = 64;  // at least, when keys are split among blocks
constexpr int kMaxSplits = 32;

struct DecodeCall {
  int heads, head_dim, capacity, keys_per_block, position, first;
};

// A lane's part of one head.
template <class T, int kVector, int kChunks, int kThreads>
struct Piece {
  struct alignas(sizeof(T) * kVector) Chunk {
    T v[kVector];
  };
  Chunk chunks[kChunks];

  __device__ static int begin(int chunk) {
    return (chunk * 8 + static_cast<int>(threadIdx.x) % 8) * kVector;
  }
  __device__ void load(const T* from, int width) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      chunks[i] = begin(i) < width ? *reinterpret_cast<const Chunk*>(from + begin(i)) : Chunk{};
  }
  // To and from a queue in shared memory, where a lane's chunks lie kThreads apart.
  __device__ static void fetch(Chunk* to, const T* from, int width) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      Chunk& at = to[i * kThreads];
      if (begin(i) >= width)
        at = Chunk{};
      else if constexpr (sizeof(Chunk) == 16)
        copy_async(shared_address(&at), from + begin(i));
      else
        at = *reinterpret_cast<const Chunk*>(from + begin(i));
    }
  }
  __device__ void take(const Chunk* from) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chunks[i] = from[i * kThreads];
  }
  __device__ void store(T* to, int width) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      if (begin(i) < width) *reinterpret_cast<Chunk*>(to + begin(i)) = chunks[i];
  }
  __device__ float operator()(int i, int e) const { return to_float(chunks[i].v[e]); }
};

// What a group has summed so far.
template <bool kLinear, class P, int kVector, int kChunks>
struct Answer {
  float top = kLinear ? 0 : -INFINITY, total = 0;
  float sums[kChunks][kVector] = {};

  // Adds kCount keys, of which the first `count` are there.
  template <int kCount>
  __device__ void add(const float (&q)[kChunks][kVector], const P (&k)[kCount],
                      const P (&v)[kCount], int count) {
    float weights[kCount];
    float largest = top;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < kChunks; ++i)
#pragma unroll
        for (int e = 0; e < kVector; ++e)
          score = fmaf(q[i][e], kLinear ? feature(k[n](i, e)) : k[n](i, e), score);
      const unsigned mask = 0xFFU << (threadIdx.x % 32 / 8 * 8);
      for (int i = 1; i < 8; i *= 2) score += __shfl_xor_sync(mask, score, i);
      weights[n] = n < count ? score : kLinear ? 0 : -INFINITY;
      largest = fmaxf(largest, weights[n]);
    }
    if constexpr (!kLinear) {
      scale_to(largest);
#pragma unroll
      for (float& weight : weights) weight = expf(weight - largest);
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      total += weights[n];
#pragma unroll
      for (int i = 0; i < kChunks; ++i)
#pragma unroll
        for (int e = 0; e < kVector; ++e)
          sums[i][e] = n < count ? fmaf(weights[n], v[n](i, e), sums[i][e]) : sums[i][e];
    }
  }

  // Adds what the other groups of the warp have summed.
  __device__ void merge() {
    if constexpr (!kLinear) {
      float largest = fmaxf(top, __shfl_xor_sync(~0U, top, 8));
      largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, 16));
      scale_to(largest);
    }
    total = groups_sum(total);
#pragma unroll
    for (auto& chunk : sums)
#pragma unroll
      for (float& sum : chunk) sum = groups_sum(sum);
  }

 private:
  __device__ static float groups_sum(float x) {
    x += __shfl_xor_sync(~0U, x, 8);
    return x + __shfl_xor_sync(~0U, x, 16);
  }
  // From weights relative to `top` to weights relative to `largest`.
  __device__ void scale_to(float largest) {
    const float fade = largest == -INFINITY ? 1 : expf(top - largest);
    top = largest;
    total *= fade;
#pragma unroll
    for (auto& chunk : sums)
#pragma unroll
      for (float& sum : chunk) sum *= fade;
  }
};

// The answer from those of all blocks of a head, by the last of them; `partial` as below.
template <class T, int kThreads>
__device__ void combine(const float* partial, int splits, int d, T* out) {
  __shared__ float factors[kMaxSplits];
  const int i = static_cast<int>(threadIdx.x);
  if (i < 32) {
    const bool there = i < splits;
    const float top = there ? __ldcg(partial + i * (d + 2)) : -INFINITY;
    float largest = top;
    for (int offset = 16; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, offset));
    const float factor = expf(top - largest);
    float all = there ? factor * __ldcg(partial + i * (d + 2) + 1) : 0;
    for (int offset = 16; offset > 0; offset /= 2) all += __shfl_xor_sync(~0U, all, offset);
    factors[i] = factor / all;
  }
  __syncthreads();
  for (int c = i; c < d; c += kThreads) {
    float sum = 0;
#pragma unroll 8
    for (int n = 0; n < splits; ++n)
      sum = fmaf(factors[n], __ldcg(partial + n * (d + 2) + 2 + c), sum);
    out[c] = from_float<T>(sum);
  }
}

// How many keys (and values) a lane has on their way at most, and uses at a time.
template <class Chunk, int kChunks, int kThreads>
struct Queue {
  static constexpr int kKeyBytes = 2 * kChunks * static_cast<int>(sizeof(Chunk)) * kThreads;
  static constexpr int kDepth = std::clamp((64 << 10) / kKeyBytes, 2, 8), kCount = 2;
  static constexpr int kBatches = kDepth / kCount;

  // For a block of so many keys.
  static int bytes(int64_t keys) {
    const int64_t batches = ceil_div(keys, kThreads / 8 * kCount);
    return static_cast<int>(std::min<int64_t>(batches, kBatches)) * kCount * kKeyBytes;
  }
};

// Block (split, batch * heads + head). With `partial` a block leaves there its largest score, the
// sum of its weights and its weighted sum of values (head_dim + 2 floats), and the last block of a
// head to arrive answers; otherwise each does.
template <class T, bool kLinear, int kVector, int kChunks, int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    decode_kernel(DecodeCall call, const T* qkv, T* keys, T* values, T* out, float* partial,
                  unsigned* arrivals, float scale) {
  constexpr int kThreads = 32 * kWarps, kGroups = 4 * kWarps;
  using P = Piece<T, kVector, kChunks, kThreads>;
  using Chunk = typename P::Chunk;
  using Q = Queue<Chunk, kChunks, kThreads>;
  start_next();
  const int d = call.head_dim, thread = static_cast<int>(threadIdx.x), group = thread / 8;
  const int64_t width = int64_t{call.heads} * d;
  const int64_t sample = blockIdx.y / static_cast<unsigned>(call.heads),
                head = blockIdx.y % static_cast<unsigned>(call.heads);
  const T* q_row = qkv + sample * 3 * width + head * d;
  keys += int64_t{blockIdx.y} * call.capacity * d;
  values += int64_t{blockIdx.y} * call.capacity * d;
  out += sample * width + head * d;

  extern __shared__ uint4 shared[];
  auto* queue = reinterpret_cast<Chunk*>(shared) + thread;
  // Of the cache; what is new is the last key of the last block.
  const int begin = call.first + static_cast<int>(blockIdx.x) * call.keys_per_block;
  const int end = min(begin + call.keys_per_block, call.position);
  const int count = (end - begin - group + kGroups - 1) / kGroups;  // of this group
  int fetched = 0, slot = (begin + group) % call.capacity;
  const int new_slot = call.position % call.capacity;
  const auto fetch = [&] {
#pragma unroll
    for (int n = 0; n < Q::kCount; ++n) {
      if (fetched < count) {
        Chunk* to = queue + fetched % Q::kDepth * 2 * kChunks * kThreads;
        P::fetch(to, keys + int64_t{slot} * d, d);
        P::fetch(to + kChunks * kThreads, values + int64_t{slot} * d, d);
      }
      ++fetched;
      slot += kGroups;
      while (slot >= call.capacity) slot -= call.capacity;
    }
    commit_copies();
  };
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < Q::kBatches; ++i) fetch();

  P piece;
  piece.load(q_row, d);
  const bool newest = group == 0 && begin + call.keys_per_block > call.position;
  P new_key[1], new_value[1];
  if (newest) {
    new_key[0].load(q_row + width, d);
    new_value[0].load(q_row + 2 * width, d);
  }
  float q[kChunks][kVector];
#pragma unroll
  for (int i = 0; i < kChunks; ++i)
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      // Beyond the head phi(0) = 1: nothing may come from there.
      if constexpr (kLinear)
        q[i][e] = P::begin(i) < d ? feature(piece(i, e)) : 0;
      else
        q[i][e] = piece(i, e) * scale;
    }
  Answer<kLinear, P, kVector, kChunks> answer;
  if (newest) {
    new_key[0].store(keys + int64_t{new_slot} * d, d);
    new_value[0].store(values + int64_t{new_slot} * d, d);
    answer.add(q, new_key, new_value, 1);
  }
  for (int used = 0; used < count; used += Q::kCount) {
    wait_for_copies<Q::kBatches - 1>();
    P k[Q::kCount], v[Q::kCount];
#pragma unroll
    for (int n = 0; n < Q::kCount; ++n) {
      const Chunk* from = queue + (used + n) % Q::kDepth * 2 * kChunks * kThreads;
      k[n].take(from);
      v[n].take(from + kChunks * kThreads);
    }
    answer.add(q, k, v, count - used);
    fetch();
  }
  __syncwarp();
  answer.merge();

  if constexpr (kWarps == 1) {
    if (group > 0) return;
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        if (P::begin(i) < d) out[P::begin(i) + e] = from_float<T>(answer.sums[i][e] / answer.total);
  } else {
    __shared__ float tops[kWarps], totals[kWarps], rows[kWarps][256];
    const int warp = thread / 32;
    if (thread % 32 < 8) {
#pragma unroll
      for (int i = 0; i < kChunks; ++i)
#pragma unroll
        for (int e = 0; e < kVector; ++e)
          if (P::begin(i) < d) rows[warp][P::begin(i) + e] = answer.sums[i][e];
      tops[warp] = answer.top;
      totals[warp] = answer.total;
    }
    __syncthreads();
    float largest = kLinear ? 0 : -INFINITY, all = 0, factors[kWarps];
    if constexpr (!kLinear)
      for (int i = 0; i < kWarps; ++i) largest = fmaxf(largest, tops[i]);
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      factors[i] = kLinear ? 1 : expf(tops[i] - largest);
      all += factors[i] * totals[i];
    }
    float* to = nullptr;
    if (partial != nullptr) {
      partial += int64_t{blockIdx.y} * gridDim.x * (d + 2);
      to = partial + int64_t{blockIdx.x} * (d + 2);
    }
    for (int c = thread; c < d; c += kThreads) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) sum = fmaf(factors[i], rows[i][c], sum);
      if (to == nullptr)
        out[c] = from_float<T>(sum / all);
      else
        to[2 + c] = sum;
    }
    if (to == nullptr) return;
    __shared__ bool last;
    if (thread == 0) {
      to[0] = largest;
      to[1] = all;
    }
    __threadfence();
    __syncthreads();
    if (thread == 0) {
      last = atomicAdd(arrivals + blockIdx.y, 1U) == gridDim.x - 1;
      if (last) arrivals[blockIdx.y] = 0;
      __threadfence();
    }
    __syncthreads();
    if (last) combine<T, kThreads>(partial, static_cast<int>(gridDim.x), d, out);
  }
}

template <class T, bool kLinear, int kVector, int kChunks, int kWarps>
void launch(Context& context, const DecodeCall& call, int64_t pairs, int64_t splits,
            const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& out) {
  constexpr int kThreads = 32 * kWarps;
  using Q = Queue<typename Piece<T, kVector, kChunks, kThreads>::Chunk, kChunks, kThreads>;
  const int64_t floats = splits > 1 ? pairs * splits * (call.head_dim + 2) : 0;
  launch_overlapped<decode_kernel<T, kLinear, kVector, kChunks, kWarps>>(
      context, "attention_decode",
      dim3(static_cast<unsigned>(splits), static_cast<unsigned>(pairs)), kThreads,
      static_cast<size_t>(Q::bytes(call.keys_per_block)), call, static_cast<const T*>(qkv.data),
      static_cast<T*>(keys.data), static_cast<T*>(values.data), static_cast<T*>(out.data),
      floats > 0 ? context.scratch_of<float>(floats) : nullptr, context.arrivals(),
      static_cast<float>(1 / std::sqrt(static_cast<double>(call.head_dim))));
}

template <class T, bool kLinear, int kVector, int kChunks, class... Args>
void launch_split(Context& context, const DecodeShape& shape, const Args&... args) {
  const int64_t visible = shape.position - shape.first + 1, pairs = shape.batch * shape.heads;
  // Few pairs: their keys are split so that every multiprocessor has work, but no more than it runs
  // at once: the others would begin when these are done, all at the same time.
  const int64_t enough = 4 * context.multiprocessors();
  const int64_t most = std::min<int64_t>(kMaxSplits, ceil_div(visible, kKeysPerBlock));
  const int64_t per_block = ceil_div(visible, std::clamp(enough / pairs, int64_t{1}, most));
  const int64_t splits = ceil_div(visible, per_block);
  check(splits == 1 || pairs <= Context::kArrivals, "decode: a counter for each head");
  const DecodeCall call{static_cast<int>(shape.heads),    static_cast<int>(shape.head_dim),
                        static_cast<int>(shape.capacity), static_cast<int>(per_block),
                        static_cast<int>(shape.position), static_cast<int>(shape.first)};
  if (visible <= kKeysOfWarp)
    launch<T, kLinear, kVector, kChunks, 1>(context, call, pairs, splits, args...);
  else
    launch<T, kLinear, kVector, kChunks, 4>(context, call, pairs, splits, args...);
}

template <class T, bool kLinear, class... Args>
void decode(Context& context, const DecodeShape& shape, const Args&... args) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  if (shape.head_dim % kVector != 0)
    launch_split<T, kLinear, 1, 32>(context, shape, args...);
  else if (shape.head_dim <= 64)
    launch_split<T, kLinear, kVector, 8 / kVector>(context, shape, args...);
  else if (shape.head_dim <= 128)
    launch_split<T, kLinear, kVector, 16 / kVector>(context, shape, args...);
  else
    launch_split<T, kLinear, kVector, 32 / kVector>(context, shape, args...);
}

// One block for a head of a sample: column c of the state belongs to the threads c, c + width, ...
template <class T>
__global__ void state_kernel(int heads, int d, const T* qkv, float* state, T* out) {
  extern __shared__ float memory[];
  float *q = memory, *k = q + d, *products = k + d, *sums = products + d;
  const int64_t width = int64_t{heads} * d, head = blockIdx.x % static_cast<unsigned>(heads);
  const T* row = qkv + blockIdx.x / static_cast<unsigned>(heads) * 3 * width + head * d;
  float* table = state + int64_t{blockIdx.x} * (d + 1) * d;
  const int threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < d; i += threads) {
    q[i] = feature(to_float(row[i]));
    k[i] = feature(to_float(row[width + i]));
    const float sum = table[d * d + i] + k[i];
    table[d * d + i] = sum;
    products[i] = q[i] * sum;
  }
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x) % d, slices = threads / d,
            slice = static_cast<int>(threadIdx.x) / d;
  const float v = to_float(row[2 * width + c]);
  float sum = 0, total = 0;
  for (int i = slice; i < d; i += slices) {
    const float entry = fmaf(k[i], v, table[i * d + c]);
    table[i * d + c] = entry;
    sum = fmaf(q[i], entry, sum);
  }
  for (int i = 0; i < d; ++i) total += products[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (slice > 0) return;
  for (int i = 1; i < slices; ++i) sum += sums[i * d + c];
  out[int64_t{blockIdx.x} * d + c] = from_float<T>(sum / total);
}

template <class T>
void advance(const DecodeShape& shape, const Tensor& qkv, const Tensor& state, const Tensor& out,
             cudaStream_t stream) {
  const auto d = static_cast<int>(shape.head_dim);
  const int threads = d * std::max(1, 256 / d);
  const auto bytes = static_cast<size_t>(3 * d + threads) * sizeof(float);
  state_kernel<T>
      <<<static_cast<unsigned>(shape.batch * shape.heads), static_cast<unsigned>(threads), bytes,
         stream>>>(static_cast<int>(shape.heads), d, static_cast<const T*>(qkv.data),
                   static_cast<float*>(state.data), static_cast<T*>(out.data));
  check_launch("linear_attention_decode");
}

}  // namespace

void attention_decode(Context& context, const DecodeShape& shape, const Tensor& qkv,
                      const Tensor& keys, const Tensor& values, const Tensor& out) {
  check(shape.first >= 0 && shape.first <= shape.position &&
            shape.position - shape.first < shape.capacity,
        "decode: the visible positions fit the cache");
  check(shape.head_dim <= 256, "decode: heads of at most 256");
  check(shape.position < INT32_MAX - shape.capacity, "decode: a position of 32 bits");
  if (qkv.dtype == DType::f32)
    shape.linear ? decode<float, true>(context, shape, qkv, keys, values, out)
                 : decode<float, false>(context, shape, qkv, keys, values, out);
  else
    shape.linear ? decode<__nv_bfloat16, true>(context, shape, qkv, keys, values, out)
                 : decode<__nv_bfloat16, false>(context, shape, qkv, keys, values, out);
}

void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                             const Tensor& out, cudaStream_t stream, const Workspace&) {
  check(shape.head_dim <= 256, "decode: heads of at most 256");
  if (qkv.dtype == DType::f32)
    advance<float>(shape, qkv, state, out, stream);
  else
    advance<__nv_bfloat16>(shape, qkv, state, out, stream);
}

}  // namespace megabyte::cuda
