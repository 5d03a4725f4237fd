// One new position at a time, on cached keys and values or on a running state.
#include <algorithm>
#include <cmath>

#include "backends/cuda/attention.h"
#include "backends/cuda/attention_rows.cuh"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

// Eight lanes share a key and 16 groups of them the keys of a block; lane l of a group holds chunks
// l, l + 8, ... of the head, each of kVector elements (16 bytes, or one where heads are not made of
// such chunks).
constexpr int kGroups = 16, kThreads = kGroups * 8;
constexpr int kKeysPerBlock = 128;  // when keys are split among blocks

struct DecodeCall {
  int heads, head_dim, capacity, keys_per_block;
  int64_t position, first;
};

// A lane's part of one head.
template <class T, int kVector, int kChunks>
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
      const float fade = expf(top - largest);
      top = largest;
      total *= fade;
#pragma unroll
      for (auto& chunk : sums)
#pragma unroll
        for (float& sum : chunk) sum *= fade;
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
};

// Block (split, batch * heads + head). With `partial` a block leaves there its largest score, the
// sum of its weights and its weighted sum of values (head_dim + 2 floats); otherwise it answers.
template <class T, bool kLinear, int kVector, int kChunks>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(DecodeCall call, const T* qkv, T* keys, T* values, T* out, float* partial,
                  float scale) {
  using P = Piece<T, kVector, kChunks>;
  // Keys that a group loads before it uses the first.
  constexpr int kCount = kVector == 1 ? 1 : kVector * kChunks <= 16 ? 4 : 2;
  const int d = call.head_dim, group = static_cast<int>(threadIdx.x) / 8,
            lane = static_cast<int>(threadIdx.x) % 8;
  const int64_t width = int64_t{call.heads} * d;
  const int64_t sample = blockIdx.y / static_cast<unsigned>(call.heads),
                head = blockIdx.y % static_cast<unsigned>(call.heads);
  const T* q_row = qkv + sample * 3 * width + head * d;
  keys += int64_t{blockIdx.y} * call.capacity * d;
  values += int64_t{blockIdx.y} * call.capacity * d;

  P piece;
  piece.load(q_row, d);
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
  // Of the cache, then what is new: the last key of the last block.
  const int64_t begin = call.first + int64_t{blockIdx.x} * call.keys_per_block;
  const int64_t end = min(begin + call.keys_per_block, call.position);
  int slot = static_cast<int>((begin + group) % call.capacity);
  for (int64_t p = begin + group; p < end; p += kGroups * kCount) {
    P k[kCount], v[kCount];
    const int count = static_cast<int>(min((end - p + kGroups - 1) / kGroups, int64_t{kCount}));
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      if (n < count) {
        k[n].load(keys + int64_t{slot} * d, d);
        v[n].load(values + int64_t{slot} * d, d);
      } else {
        k[n] = v[n] = P{};
      }
      slot += kGroups;
      while (slot >= call.capacity) slot -= call.capacity;
    }
    answer.add(q, k, v, count);
  }
  if (group == 0 && begin + call.keys_per_block > call.position) {
    P k[1], v[1];
    k[0].load(q_row + width, d);
    v[0].load(q_row + 2 * width, d);
    const int64_t at = call.position % call.capacity * d;
    k[0].store(keys + at, d);
    v[0].store(values + at, d);
    answer.add(q, k, v, 1);
  }

  // Of all groups. Each has a row of head_dim sums.
  extern __shared__ float memory[];
  float *tops = memory, *totals = tops + kGroups, *rows = totals + kGroups;
#pragma unroll
  for (int i = 0; i < kChunks; ++i)
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const int at = (i * 8 + lane) * kVector + e;
      if (at < d) rows[group * d + at] = answer.sums[i][e];
    }
  if (lane == 0) {
    tops[group] = answer.top;
    totals[group] = answer.total;
  }
  __syncthreads();
  float largest = kLinear ? 0 : -INFINITY, all = 0, factors[kGroups];
  if constexpr (!kLinear)
    for (int i = 0; i < kGroups; ++i) largest = fmaxf(largest, tops[i]);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    factors[i] = kLinear ? 1 : expf(tops[i] - largest);
    all += factors[i] * totals[i];
  }
  float* to = partial == nullptr
                  ? nullptr
                  : partial + (int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * (d + 2);
  for (int c = static_cast<int>(threadIdx.x); c < d; c += kThreads) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) sum = fmaf(factors[i], rows[i * d + c], sum);
    if (to == nullptr)
      out[sample * width + head * d + c] = from_float<T>(sum / all);
    else
      to[2 + c] = sum;
  }
  if (to != nullptr && threadIdx.x == 0) {
    to[0] = largest;
    to[1] = all;
  }
}

template <class T>
__global__ void combine_kernel(const float* partial, int splits, int d, T* out) {
  partial += int64_t{blockIdx.x} * splits * (d + 2);
  float largest = -INFINITY, all = 0;
  for (int i = 0; i < splits; ++i) largest = fmaxf(largest, partial[i * (d + 2)]);
  for (int i = 0; i < splits; ++i)
    all = fmaf(expf(partial[i * (d + 2)] - largest), partial[i * (d + 2) + 1], all);
  for (int c = static_cast<int>(threadIdx.x); c < d; c += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int i = 0; i < splits; ++i)
      sum = fmaf(expf(partial[i * (d + 2)] - largest), partial[i * (d + 2) + 2 + c], sum);
    out[int64_t{blockIdx.x} * d + c] = from_float<T>(sum / all);
  }
}

template <class T, bool kLinear, int kVector, int kChunks>
void launch(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys, const Tensor& values,
            const Tensor& out, cudaStream_t stream, const Workspace& workspace) {
  const auto d = static_cast<int>(shape.head_dim);
  const int64_t visible = shape.position - shape.first + 1, pairs = shape.batch * shape.heads;
  // Few pairs: their keys are split so that every multiprocessor has work.
  constexpr int64_t kEnoughBlocks = 264;
  const int64_t per_block = divide_up(
      visible, std::clamp(kEnoughBlocks / pairs, int64_t{1}, divide_up(visible, kKeysPerBlock)));
  const int64_t splits = divide_up(visible, per_block);
  float* partial = nullptr;
  if (splits > 1)
    partial = static_cast<float*>(
        workspace(static_cast<size_t>(pairs * splits * (d + 2)) * sizeof(float)));
  const DecodeCall call{static_cast<int>(shape.heads),
                        d,
                        static_cast<int>(shape.capacity),
                        static_cast<int>(per_block),
                        shape.position,
                        shape.first};
  const auto bytes = static_cast<size_t>(kGroups * (d + 2)) * sizeof(float);
  decode_kernel<T, kLinear, kVector, kChunks>
      <<<dim3(static_cast<unsigned>(splits), static_cast<unsigned>(pairs)), kThreads, bytes,
         stream>>>(call, static_cast<const T*>(qkv.data), static_cast<T*>(keys.data),
                   static_cast<T*>(values.data), static_cast<T*>(out.data), partial,
                   static_cast<float>(1 / std::sqrt(static_cast<double>(d))));
  check_launch("attention_decode");
  if (splits == 1) return;
  combine_kernel<T><<<static_cast<unsigned>(pairs), 128, 0, stream>>>(
      partial, static_cast<int>(splits), d, static_cast<T*>(out.data));
  check_launch("attention_decode");
}

template <class T, bool kLinear, class... Args>
void decode(const DecodeShape& shape, const Args&... args) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  if (shape.head_dim % kVector != 0)
    launch<T, kLinear, 1, 32>(shape, args...);
  else if (shape.head_dim <= 64)
    launch<T, kLinear, kVector, 8 / kVector>(shape, args...);
  else if (shape.head_dim <= 128)
    launch<T, kLinear, kVector, 16 / kVector>(shape, args...);
  else
    launch<T, kLinear, kVector, 32 / kVector>(shape, args...);
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

void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                      const Tensor& values, const Tensor& out, cudaStream_t stream,
                      const Workspace& workspace) {
  check(shape.first >= 0 && shape.first <= shape.position &&
            shape.position - shape.first < shape.capacity,
        "decode: the visible positions fit the cache");
  check(shape.head_dim <= 256, "decode: heads of at most 256");
  if (qkv.dtype == DType::f32)
    shape.linear ? decode<float, true>(shape, qkv, keys, values, out, stream, workspace)
                 : decode<float, false>(shape, qkv, keys, values, out, stream, workspace);
  else
    shape.linear ? decode<__nv_bfloat16, true>(shape, qkv, keys, values, out, stream, workspace)
                 : decode<__nv_bfloat16, false>(shape, qkv, keys, values, out, stream, workspace);
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
