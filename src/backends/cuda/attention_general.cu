// Attention for every type, head width and kind, in f32 arithmetic: tiles of 32 queries and 32 keys
// in shared memory. A thread owns eight lanes' worth of one row: score columns sub + 8 j, and
// columns sub + 8 j of that row's sums.
#include <cmath>

#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/check.h"

namespace megabyte::cuda {
namespace {

constexpr int kTile = 32, kThreads = 256;
constexpr int kScores = kTile + 1;  // row stride of score tiles

// Sums over the eight lanes of a row.
__device__ float row_sum(float x) {
  for (int i = 1; i < 8; i *= 2) x += __shfl_xor_sync(~0U, x, i);
  return x;
}
__device__ float row_max(float x) {
  for (int i = 1; i < 8; i *= 2) x = fmaxf(x, __shfl_xor_sync(~0U, x, i));
  return x;
}

__device__ float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}

// rows[r] = the head's columns of row_of(r), through phi when asked; rows have stride width + 1.
template <class T, class RowOf>
__device__ void load_tile(float* rows, int width, bool through_feature, RowOf&& row_of) {
  for (int r = static_cast<int>(threadIdx.x) / 32; r < kTile; r += kThreads / 32) {
    const T* from = row_of(r);
    for (int i = static_cast<int>(threadIdx.x) % 32; i < width; i += 32) {
      const float value = to_float(from[i]);
      rows[r * (width + 1) + i] = through_feature ? feature(value) : value;
    }
  }
}

struct Place {
  int row, sub, head, batch_row, first;

  __device__ explicit Place(const AttentionRows& rows)
      : row(static_cast<int>(threadIdx.x) / 8), sub(static_cast<int>(threadIdx.x) % 8) {
    const AttentionBlock block(rows, kTile);
    head = block.head;
    batch_row = block.row;
    first = block.first;
  }
};

// kSums: sums of a thread; head widths up to 8 * kSums.
template <class T, bool kLinear, int kSums>
__global__ void __launch_bounds__(kThreads)
    general_forward_kernel(AttentionRows rows, AttentionForward<T> x, float scale) {
  extern __shared__ float memory[];
  const Place at(rows);
  const int d = rows.head_dim, last = min(at.first + kTile, rows.asking()) - 1;
  const int64_t width = rows.width();
  float *q = memory, *k = q + kTile * (d + 1), *v = k + kTile * (d + 1), *s = v + kTile * (d + 1);
  const T* inputs = x.qkv + rows.key_row(at.batch_row, 0) * 3 * width + at.head * d;
  load_tile<T>(q, d, kLinear, [&](int r) {
    return inputs + int64_t{rows.position(min(at.first + r, last))} * 3 * width;
  });
  const int query = min(at.first + at.row, last);
  const int begin = rows.begin(query), position = rows.position(query);
  const int end = rows.position(last) + 1;
  float top = kLinear ? 0 : -INFINITY, total = 0, sums[kSums] = {};
  for (int key = rows.begin(at.first); key < end; key += kTile) {
    __syncthreads();
    const auto key_at = [&](int r) { return inputs + int64_t{min(key + r, end - 1)} * 3 * width; };
    load_tile<T>(k, d, kLinear, [&](int r) { return key_at(r) + width; });
    load_tile<T>(v, d, false, [&](int r) { return key_at(r) + 2 * width; });
    __syncthreads();
    float weights[kTile / 8], largest = top;
    for (int j = 0; j < kTile / 8; ++j) {
      const int i = at.sub + 8 * j;
      const bool seen = key + i >= begin && key + i <= position;
      const float score = dot(q + at.row * (d + 1), k + i * (d + 1), d);
      if constexpr (kLinear)
        weights[j] = seen ? score : 0;
      else
        weights[j] = seen ? score * scale : -INFINITY;
      largest = fmaxf(largest, weights[j]);
    }
    if constexpr (!kLinear) {
      largest = row_max(largest);
      const float shift = largest == -INFINITY ? 0 : largest;  // nothing seen so far
      const float fade = expf(top - shift);
      top = largest;
      total *= fade;
      for (float& sum : sums) sum *= fade;
      for (float& weight : weights) weight = expf(weight - shift);
    }
    for (int j = 0; j < kTile / 8; ++j) {
      total += weights[j];
      s[at.row * kScores + at.sub + 8 * j] = weights[j];
    }
    __syncwarp();
    for (int i = 0; i < kTile; ++i) {
      const float weight = s[at.row * kScores + i];
#pragma unroll
      for (int j = 0; j < kSums; ++j)
        if (at.sub + 8 * j < d) sums[j] = fmaf(weight, v[i * (d + 1) + at.sub + 8 * j], sums[j]);
    }
  }
  total = row_sum(total);
  if (at.first + at.row > last) return;
  T* out = x.out + rows.out_row(at.batch_row, query) * width + at.head * d;
#pragma unroll
  for (int j = 0; j < kSums; ++j)
    if (at.sub + 8 * j < d) out[at.sub + 8 * j] = from_float<T>(sums[j] / total);
  if (x.stats != nullptr && at.sub == 0)
    x.stats[rows.stats_index(at.batch_row, query, at.head)] = kLinear ? total : top + logf(total);
}

// What a score's weight is, and the factor from (dweight - delta) to the score's gradient.
template <bool kLinear>
__device__ float2 weight_and_slope(float score, float stats, float scale) {
  if constexpr (kLinear) return {score / stats, 1 / stats};
  const float weight = expf(score * scale - stats);
  return {weight, weight * scale};
}

// dq of 32 queries, and their delta.
template <class T, bool kLinear, int kSums>
__global__ void __launch_bounds__(kThreads)
    general_queries_kernel(AttentionRows rows, AttentionBackward<T> x, float scale) {
  extern __shared__ float memory[];
  const Place at(rows);
  const int d = rows.head_dim, last = min(at.first + kTile, rows.asking()) - 1;
  const int64_t width = rows.width();
  float *q = memory, *dout = q + kTile * (d + 1), *k = dout + kTile * (d + 1),
        *v = k + kTile * (d + 1), *s = v + kTile * (d + 1);
  const T* inputs = x.qkv + rows.key_row(at.batch_row, 0) * 3 * width + at.head * d;
  const auto answer = [&](const T* of, int r) {
    return of + rows.out_row(at.batch_row, min(at.first + r, last)) * width + at.head * d;
  };
  load_tile<T>(q, d, kLinear, [&](int r) {
    return inputs + int64_t{rows.position(min(at.first + r, last))} * 3 * width;
  });
  load_tile<T>(dout, d, false, [&](int r) { return answer(x.dout, r); });
  const int query = min(at.first + at.row, last);
  const int begin = rows.begin(query), position = rows.position(query);
  const int64_t at_stats = rows.stats_index(at.batch_row, query, at.head);
  const float stats = x.stats[at_stats];
  float delta = 0;
  for (int i = at.sub; i < d; i += 8)
    delta = fmaf(to_float(answer(x.out, at.row)[i]), to_float(answer(x.dout, at.row)[i]), delta);
  delta = row_sum(delta);
  if (at.first + at.row <= last && at.sub == 0) x.delta[at_stats] = delta;

  const int end = rows.position(last) + 1;
  float sums[kSums] = {};
  for (int key = rows.begin(at.first); key < end; key += kTile) {
    __syncthreads();
    const auto key_at = [&](int r) { return inputs + int64_t{min(key + r, end - 1)} * 3 * width; };
    load_tile<T>(k, d, kLinear, [&](int r) { return key_at(r) + width; });
    load_tile<T>(v, d, false, [&](int r) { return key_at(r) + 2 * width; });
    __syncthreads();
    for (int j = 0; j < kTile / 8; ++j) {
      const int i = at.sub + 8 * j;
      const bool seen = key + i >= begin && key + i <= position;
      const float score = dot(q + at.row * (d + 1), k + i * (d + 1), d);
      const float dweight = dot(dout + at.row * (d + 1), v + i * (d + 1), d);
      s[at.row * kScores + i] =
          seen ? weight_and_slope<kLinear>(score, stats, scale).y * (dweight - delta) : 0;
    }
    __syncwarp();
    for (int i = 0; i < kTile; ++i) {
      const float dscore = s[at.row * kScores + i];
#pragma unroll
      for (int j = 0; j < kSums; ++j)
        if (at.sub + 8 * j < d) sums[j] = fmaf(dscore, k[i * (d + 1) + at.sub + 8 * j], sums[j]);
    }
  }
  if (at.first + at.row > last) return;
  T* dq = x.dqkv + (rows.key_row(at.batch_row, 0) + position) * 3 * width + at.head * d;
#pragma unroll
  for (int j = 0; j < kSums; ++j) {
    const int i = at.sub + 8 * j;
    if (i < d)
      dq[i] = from_float<T>(kLinear ? sums[j] * feature_slope(q[at.row * (d + 1) + i]) : sums[j]);
  }
}

// dk and dv of 32 keys.
template <class T, bool kLinear, int kSums>
__global__ void __launch_bounds__(kThreads)
    general_keys_kernel(AttentionRows rows, AttentionBackward<T> x, float scale) {
  extern __shared__ float memory[];
  const Place at(rows);
  const int d = rows.head_dim, last = min(at.first + kTile, rows.keys()) - 1;
  const int64_t width = rows.width();
  float *k = memory, *v = k + kTile * (d + 1), *q = v + kTile * (d + 1),
        *dout = q + kTile * (d + 1), *s = dout + kTile * (d + 1), *ds = s + kTile * kScores;
  const T* inputs = x.qkv + rows.key_row(at.batch_row, 0) * 3 * width + at.head * d;
  const auto key_at = [&](int r) { return inputs + int64_t{min(at.first + r, last)} * 3 * width; };
  load_tile<T>(k, d, kLinear, [&](int r) { return key_at(r) + width; });
  load_tile<T>(v, d, false, [&](int r) { return key_at(r) + 2 * width; });
  const int key = min(at.first + at.row, last), end = rows.end_asking(last);
  float dk[kSums] = {}, dv[kSums] = {};
  for (int query = rows.first_asking(at.first); query < end; query += kTile) {
    __syncthreads();
    load_tile<T>(q, d, kLinear, [&](int r) {
      return inputs + int64_t{rows.position(min(query + r, end - 1))} * 3 * width;
    });
    load_tile<T>(dout, d, false, [&](int r) {
      return x.dout + rows.out_row(at.batch_row, min(query + r, end - 1)) * width + at.head * d;
    });
    __syncthreads();
    for (int j = 0; j < kTile / 8; ++j) {
      const int i = at.sub + 8 * j, asking = min(query + i, end - 1);
      const bool seen =
          query + i < end && key >= rows.begin(asking) && key <= rows.position(asking);
      const int64_t at_stats = rows.stats_index(at.batch_row, asking, at.head);
      const float score = dot(k + at.row * (d + 1), q + i * (d + 1), d);
      const float dweight = dot(v + at.row * (d + 1), dout + i * (d + 1), d);
      const float2 weight = weight_and_slope<kLinear>(score, x.stats[at_stats], scale);
      s[at.row * kScores + i] = seen ? weight.x : 0;
      ds[at.row * kScores + i] = seen ? weight.y * (dweight - x.delta[at_stats]) : 0;
    }
    __syncwarp();
    for (int i = 0; i < kTile; ++i) {
      const float weight = s[at.row * kScores + i], dscore = ds[at.row * kScores + i];
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        const int c = at.sub + 8 * j;
        if (c >= d) continue;
        dv[j] = fmaf(weight, dout[i * (d + 1) + c], dv[j]);
        dk[j] = fmaf(dscore, q[i * (d + 1) + c], dk[j]);
      }
    }
  }
  if (at.first + at.row > last) return;
  T* gradients = x.dqkv + rows.key_row(at.batch_row, key) * 3 * width + at.head * d;
#pragma unroll
  for (int j = 0; j < kSums; ++j) {
    const int c = at.sub + 8 * j;
    if (c >= d) continue;
    gradients[width + c] =
        from_float<T>(kLinear ? dk[j] * feature_slope(k[at.row * (d + 1) + c]) : dk[j]);
    gradients[2 * width + c] = from_float<T>(dv[j]);
  }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, const AttentionRows& rows, int positions, int tiles, int score_tiles,
            const char* operation, cudaStream_t stream, const Args&... args) {
  const int floats = tiles * kTile * (rows.head_dim + 1) + score_tiles * kTile * kScores;
  const int bytes = floats * static_cast<int>(sizeof(float));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             operation);
  kernel<<<attention_blocks(rows, positions, kTile), kThreads, static_cast<size_t>(bytes),
           stream>>>(rows, args...);
  check_launch(operation);
}

float scale_of(const AttentionRows& rows) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(rows.head_dim)));
}

// Calls f<kLinear, kSums>().
template <class F>
void with_variant(const AttentionRows& rows, bool linear, F&& f) {
  if (linear)
    rows.head_dim <= 64 ? f.template operator()<true, 8>() : f.template operator()<true, 32>();
  else
    rows.head_dim <= 64 ? f.template operator()<false, 8>() : f.template operator()<false, 32>();
}

}  // namespace

template <class T>
void general_forward(const AttentionRows& rows, bool linear, const AttentionForward<T>& x,
                     cudaStream_t stream) {
  with_variant(rows, linear, [&]<bool kLinear, int kSums>() {
    launch(general_forward_kernel<T, kLinear, kSums>, rows, rows.asking(), 3, 1,
           "attention_forward", stream, x, scale_of(rows));
  });
}

template <class T>
void general_backward(const AttentionRows& rows, bool linear, const AttentionBackward<T>& x,
                      cudaStream_t stream) {
  with_variant(rows, linear, [&]<bool kLinear, int kSums>() {
    launch(general_queries_kernel<T, kLinear, kSums>, rows, rows.asking(), 4, 1,
           "attention_backward", stream, x, scale_of(rows));
    launch(general_keys_kernel<T, kLinear, kSums>, rows, rows.keys(), 4, 2, "attention_backward",
           stream, x, scale_of(rows));
  });
}

template void general_forward(const AttentionRows&, bool, const AttentionForward<float>&,
                              cudaStream_t);
template void general_forward(const AttentionRows&, bool, const AttentionForward<__nv_bfloat16>&,
                              cudaStream_t);
template void general_backward(const AttentionRows&, bool, const AttentionBackward<float>&,
                               cudaStream_t);
template void general_backward(const AttentionRows&, bool, const AttentionBackward<__nv_bfloat16>&,
                               cudaStream_t);

}  // namespace megabyte::cuda
