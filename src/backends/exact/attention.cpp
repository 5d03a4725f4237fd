#include "backends/exact/attention.h"

#include <algorithm>
#include <cmath>

#include "backends/exact/operands.h"
#include "backends/exact/parallel.h"

namespace megabyte::exact {
namespace {

float scale_of(int64_t head_dim) { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

// Linear attention along a sequence of n rows of qkv (n, 3 D), from this head's part of the first.
template <class Answer>
void run_state(const Kernels& kernels, const float* head, int64_t D, int64_t d, int64_t n,
               int64_t skipped, const Answer& answer) {
  const int64_t size = (d + 1) * d;
  auto* state = reinterpret_cast<float*>(
      thread_scratch(static_cast<size_t>(padded(size) + 3 * padded(d)) * sizeof(float)));
  float* scratch = state + padded(size);
  float* unasked = scratch + 2 * padded(d);
  std::fill_n(state, size, 0.0f);
  for (int64_t t = 0; t < n; ++t) {
    const float* q = head + t * 3 * D;
    kernels.attend_running(q, q + D, q + 2 * D, d, state, t < skipped ? unasked : answer(t),
                           scratch);
  }
}

}  // namespace

void Attention::rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
                       int64_t first) {
  check(head_dim % 2 == 0 && qkv.shape[1] == 3 * heads * head_dim, "rotary: pairs of a head");
  const auto table = rotary_.up_to(first + length, head_dim);
  const int64_t half = head_dim / 2, width = qkv.shape[1];
  float* data = qkv.as<float>();
  parallel(threads_, qkv.shape[0], rows_of(kGrain, width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto at = static_cast<size_t>((first + r % length) * half);
      for (int64_t h = 0; h < 2 * heads; ++h) {  // the heads of q, then those of k
        float* low = data + r * width + h * head_dim;
        kernels_.rotate(low, low + half, &table->cosines[at], &table->sines[at], half);
      }
    }
  });
}

void Attention::forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out) const {
  const int64_t D = shape.dim(), d = shape.head_dim, S = shape.sequences, n = shape.length;
  const float* x = floats(qkv, S * n * 3 * D, "attention: qkv");
  float* y = floats(out, S * shape.queries * D, "attention: out");
  const int64_t skipped = n - shape.queries, row = shape.row_sequences * n;
  const bool running = shape.linear && shape.cross == 0;
  parallel(threads_, S * shape.heads, rows_of(kGrain, n * n * d / 2),
           [&](int64_t begin, int64_t end) {
             for (int64_t i = begin, heads = 0; i < end; i += heads) {  // of one sequence
               const int64_t s = i / shape.heads, h = i % shape.heads;
               heads = running ? 1 : std::min(shape.heads - h, end - i);
               const int64_t from = std::max(s * n / row * row, s * n - shape.cross);
               const auto answer = [&](int64_t t) {
                 return y + (s * shape.queries + t - skipped) * D + h * d;
               };
               const float* head = x + h * d;
               if (running) {
                 run_state(kernels_, head + s * n * 3 * D, D, d, n, skipped, answer);
                 continue;
               }
               const int64_t most = s * n + n - from;
               auto* scratch = reinterpret_cast<float*>(thread_scratch(
                   static_cast<size_t>(heads * (padded(d) + padded(most))) * sizeof(float)));
               for (int64_t t = skipped; t < n; ++t) {
                 const int64_t visible = s * n + t - from + 1;
                 kernels_.attend({.q = head + (s * n + t) * 3 * D,
                                  .k = head + from * 3 * D + D,
                                  .v = head + from * 3 * D + 2 * D,
                                  .heads = heads,
                                  .dim = d,
                                  .stride = 3 * D,
                                  .head_stride = d,
                                  .slot = 0,
                                  .capacity = visible,
                                  .visible = visible,
                                  .scale = scale_of(d),
                                  .linear = shape.linear,
                                  .out = answer(t)},
                                 scratch);
               }
             }
           });
}

void Attention::decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                       const Tensor& values, const Tensor& out) const {
  const int64_t D = shape.dim(), d = shape.head_dim, capacity = shape.capacity;
  const int64_t visible = shape.position - shape.first + 1;
  check(shape.first >= 0 && visible >= 1 && visible <= capacity,
        "decode: the visible positions fit the cache");
  const float* x = floats(qkv, shape.batch * 3 * D, "decode: qkv");
  float* K = floats(keys, shape.batch * capacity * D, "decode: keys");
  float* V = floats(values, shape.batch * capacity * D, "decode: values");
  float* y = floats(out, shape.batch * D, "decode: out");
  parallel(threads_, shape.batch * shape.heads, rows_of(kGrain, visible * d),
           [&](int64_t begin, int64_t end) {
             auto* scratch = reinterpret_cast<float*>(
                 thread_scratch(static_cast<size_t>(std::min(shape.heads, end - begin) *
                                                    (padded(d) + padded(visible))) *
                                sizeof(float)));
             for (int64_t i = begin, heads = 0; i < end; i += heads) {  // of one row
               const int64_t b = i / shape.heads, h = i % shape.heads;
               heads = std::min(shape.heads - h, end - i);
               const float* q = x + b * 3 * D + h * d;
               float* k = K + i * capacity * d;
               float* v = V + i * capacity * d;
               for (int64_t j = 0; j < heads; ++j) {
                 const int64_t slot = (j * capacity + shape.position % capacity) * d;
                 std::copy_n(q + D + j * d, d, k + slot);
                 std::copy_n(q + 2 * D + j * d, d, v + slot);
               }
               kernels_.attend({.q = q,
                                .k = k,
                                .v = v,
                                .heads = heads,
                                .dim = d,
                                .stride = d,
                                .head_stride = capacity * d,
                                .slot = shape.first % capacity,
                                .capacity = capacity,
                                .visible = visible,
                                .scale = scale_of(d),
                                .linear = shape.linear,
                                .out = y + i * d},
                               scratch);
             }
           });
}

void Attention::decode_running(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) const {
  const int64_t D = shape.dim(), d = shape.head_dim;
  const float* x = floats(qkv, shape.batch * 3 * D, "decode: qkv");
  float* S = floats(state, shape.batch * D * (d + 1), "decode: state");
  float* y = floats(out, shape.batch * D, "decode: out");
  parallel(
      threads_, shape.batch * shape.heads, rows_of(kGrain, d * d), [&](int64_t begin, int64_t end) {
        auto* scratch = reinterpret_cast<float*>(
            thread_scratch(static_cast<size_t>(2 * padded(d)) * sizeof(float)));
        for (int64_t i = begin; i < end; ++i) {
          const float* q = x + i / shape.heads * 3 * D + i % shape.heads * d;
          kernels_.attend_running(q, q + D, q + 2 * D, d, S + i * (d + 1) * d, y + i * d, scratch);
        }
      });
}

}  // namespace megabyte::exact
