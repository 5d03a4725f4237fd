// One new position at a time, and the draw of its byte.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"
#include "backends/reference/feature_map.h"
#include "ops/sampling.h"

namespace megabyte::reference {

void ReferenceBackend::attention_decode(const DecodeShape& shape, const Tensor& qkv,
                                        const Tensor& keys, const Tensor& values,
                                        const Tensor& out) {
  check(shape.first >= 0 && shape.first <= shape.position &&
            shape.position - shape.first < shape.capacity,
        "decode: the visible positions fit the cache");
  with_type(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t D = shape.dim(), d = shape.head_dim, size = shape.batch * shape.capacity * D;
    const T* x = elements<T>(qkv, shape.batch * 3 * D, "decode: qkv");
    T* K = elements<T>(keys, size, "decode: keys");
    T* V = elements<T>(values, size, "decode: values");
    T* y = elements<T>(out, shape.batch * D, "decode: out");
    std::vector<double> weights, sum(static_cast<size_t>(d));
    for (int64_t b = 0; b < shape.batch; ++b)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const T* q = x + b * 3 * D + h * d;
        T* k = K + (b * shape.heads + h) * shape.capacity * d;
        T* v = V + (b * shape.heads + h) * shape.capacity * d;
        const int64_t slot = shape.position % shape.capacity;
        std::copy_n(q + D, d, k + slot * d);
        std::copy_n(q + 2 * D, d, v + slot * d);
        weights.clear();
        for (int64_t p = shape.first; p <= shape.position; ++p) {
          const T* key = k + p % shape.capacity * d;
          double score = 0;
          for (int64_t c = 0; c < d; ++c)
            score +=
                shape.linear ? feature(q[c]) * feature(key[c]) : static_cast<double>(q[c]) * key[c];
          weights.push_back(shape.linear ? score : score / std::sqrt(static_cast<double>(d)));
        }
        if (!shape.linear) {
          const double top = *std::max_element(weights.begin(), weights.end());
          for (double& w : weights) w = std::exp(w - top);
        }
        double total = 0;
        for (const double w : weights) total += w;
        std::fill(sum.begin(), sum.end(), 0);
        for (int64_t p = shape.first; p <= shape.position; ++p)
          for (int64_t c = 0; c < d; ++c)
            sum[static_cast<size_t>(c)] += weights[static_cast<size_t>(p - shape.first)] / total *
                                           v[p % shape.capacity * d + c];
        for (int64_t c = 0; c < d; ++c)
          y[b * D + h * d + c] = static_cast<T>(sum[static_cast<size_t>(c)]);
      }
  });
}

void ReferenceBackend::linear_attention_decode(const DecodeShape& shape, const Tensor& qkv,
                                               const Tensor& state, const Tensor& out) {
  with_type(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t D = shape.dim(), d = shape.head_dim;
    const T* x = elements<T>(qkv, shape.batch * 3 * D, "decode: qkv");
    T* S = elements<T>(state, shape.batch * D * (d + 1), "decode: state");
    T* y = elements<T>(out, shape.batch * D, "decode: out");
    for (int64_t b = 0; b < shape.batch; ++b)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const T* q = x + b * 3 * D + h * d;
        const T* k = q + D;
        const T* v = q + 2 * D;
        T* products = S + (b * shape.heads + h) * (d + 1) * d;  // row i: sum_t phi(k_t)[i] * v_t
        T* sums = products + d * d;                             // sum_t phi(k_t)
        double total = 0;
        for (int64_t i = 0; i < d; ++i) {
          sums[i] = static_cast<T>(sums[i] + feature(k[i]));
          total += feature(q[i]) * sums[i];
          for (int64_t c = 0; c < d; ++c)
            products[i * d + c] = static_cast<T>(products[i * d + c] + feature(k[i]) * v[c]);
        }
        for (int64_t c = 0; c < d; ++c) {
          double sum = 0;
          for (int64_t i = 0; i < d; ++i) sum += feature(q[i]) * products[i * d + c];
          y[b * D + h * d + c] = static_cast<T>(sum / total);
        }
      }
  });
}

void ReferenceBackend::sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
                              const Tensor& tokens) {
  sample_on_host(shape, logits, draws, elements<uint16_t>(tokens, shape.batch, "sample: tokens"));
}

}  // namespace megabyte::reference
