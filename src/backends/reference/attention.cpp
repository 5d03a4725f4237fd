// Rotary positions, and causal attention in all its forms: one loop over what a query may see.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"
#include "backends/reference/feature_map.h"

namespace megabyte::reference {

void ReferenceBackend::rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
                              int64_t first, bool inverse) {
  check(head_dim % 2 == 0, "rotary: pairs need an even head width");
  check(qkv.shape.rank() == 2 && qkv.shape[1] == 3 * heads * head_dim, "rotary: qkv (M, 3 * dim)");
  check(length > 0 && first >= 0, "rotary: positions count from 0");
  with_type(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = qkv.shape[0], half = head_dim / 2;
    T* x = elements<T>(qkv, M * 3 * heads * head_dim, "rotary: qkv");
    for (int64_t r = 0; r < M; ++r)
      for (int64_t i = 0; i < half; ++i) {
        const double frequency =
            std::pow(10000.0, -2 * static_cast<double>(i) / static_cast<double>(head_dim));
        const double angle = static_cast<double>(first + r % length) * frequency;
        const double cosine = std::cos(angle), sine = inverse ? -std::sin(angle) : std::sin(angle);
        for (int64_t h = 0; h < 2 * heads; ++h) {  // the heads of q, then of k
          T* pair = x + (r * 3 * heads + h) * head_dim + i;
          const double a = pair[0], b = pair[half];
          pair[0] = static_cast<T>(a * cosine - b * sine);
          pair[half] = static_cast<T>(b * cosine + a * sine);
        }
      }
  });
}

namespace {

void check_shape(const AttentionShape& shape) {
  check(shape.queries >= 1 && shape.queries <= shape.length, "attention: 1 to length queries");
  check(shape.cross >= 0, "attention: a reach of 0 or more positions");
  check(shape.row_sequences > 0 && shape.sequences % shape.row_sequences == 0,
        "attention: whole batch rows");
}

// What one query sees: rows [begin, end) of qkv. Its own row is the last of them.
struct Window {
  int64_t begin, end;
};

// Query i (0 to queries - 1) of sequence s.
Window window_of(const AttentionShape& shape, int64_t s, int64_t i) {
  const int64_t sequence_start = s * shape.length;
  const int64_t row_start = s / shape.row_sequences * shape.row_sequences * shape.length;
  return {std::max(row_start, sequence_start - shape.cross),
          sequence_start + shape.length - shape.queries + i + 1};
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

template <class T>
double feature_dot(const T* q, const T* k, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += feature(q[i]) * feature(k[i]);
  return sum;
}

// Calls f(query, s, h, i) for every query i of head h of sequence s, numbered as in `stats`.
template <class F>
void for_each_query(const AttentionShape& shape, F&& f) {
  for (int64_t s = 0; s < shape.sequences; ++s)
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t i = 0; i < shape.queries; ++i)
        f((s * shape.heads + h) * shape.queries + i, s, h, i);
}

}  // namespace

void ReferenceBackend::attention_forward(const AttentionShape& shape, const Tensor& qkv,
                                         const Tensor& out, const Tensor& stats) {
  check_shape(shape);
  with_type(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t D = shape.dim(), d = shape.head_dim, S = shape.sequences;
    const T* x = elements<T>(qkv, S * shape.length * 3 * D, "attention: qkv");
    T* y = elements<T>(out, S * shape.queries * D, "attention: out");
    T* kept = optional_elements<T>(stats, S * shape.heads * shape.queries, "attention: stats");
    std::vector<double> weights, sum(static_cast<size_t>(d));
    for_each_query(shape, [&](int64_t query, int64_t s, int64_t h, int64_t i) {
      const Window window = window_of(shape, s, i);
      const T* q = x + (window.end - 1) * 3 * D + h * d;
      weights.clear();
      for (int64_t j = window.begin; j < window.end; ++j) {
        const T* k = x + (j * 3 + 1) * D + h * d;
        weights.push_back(shape.linear ? feature_dot(q, k, d)
                                       : dot(q, k, d) / std::sqrt(static_cast<double>(d)));
      }
      double top = 0;  // taken out of the exponentials
      if (!shape.linear) {
        top = *std::max_element(weights.begin(), weights.end());
        for (double& w : weights) w = std::exp(w - top);
      }
      double total = 0;
      for (const double w : weights) total += w;
      std::fill(sum.begin(), sum.end(), 0);
      for (int64_t j = window.begin; j < window.end; ++j) {
        const T* v = x + (j * 3 + 2) * D + h * d;
        const double weight = weights[static_cast<size_t>(j - window.begin)] / total;
        for (int64_t c = 0; c < d; ++c) sum[static_cast<size_t>(c)] += weight * v[c];
      }
      for (int64_t c = 0; c < d; ++c)
        y[(s * shape.queries + i) * D + h * d + c] = static_cast<T>(sum[static_cast<size_t>(c)]);
      if (kept != nullptr)
        kept[query] = static_cast<T>(shape.linear ? total : top + std::log(total));
    });
  });
}

void ReferenceBackend::attention_backward(const AttentionShape& shape, const Tensor& qkv,
                                          const Tensor& out, const Tensor& stats,
                                          const Tensor& dout, const Tensor& dqkv) {
  check_shape(shape);
  with_type(qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t D = shape.dim(), d = shape.head_dim, S = shape.sequences;
    const int64_t size = S * shape.length * 3 * D;
    const T* x = elements<T>(qkv, size, "attention: qkv");
    elements<T>(out, S * shape.queries * D, "attention: out");  // only its shape is needed here
    const T* kept = elements<T>(stats, S * shape.heads * shape.queries, "attention: stats");
    const T* dy = elements<T>(dout, S * shape.queries * D, "attention: dout");
    T* dx = elements<T>(dqkv, size, "attention: dqkv");
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    std::vector<double> gradient(static_cast<size_t>(size)), weights, dweights;
    for_each_query(shape, [&](int64_t query, int64_t s, int64_t h, int64_t i) {
      const Window window = window_of(shape, s, i);
      const int64_t at_q = (window.end - 1) * 3 * D + h * d;
      const T* q = x + at_q;
      const T* g = dy + (s * shape.queries + i) * D + h * d;
      // out = sum_j w_j v_j, so dw_j = dout . v_j
      weights.clear();
      dweights.clear();
      double mean = 0;  // sum_j w_j dw_j
      for (int64_t j = window.begin; j < window.end; ++j) {
        const T* k = x + (j * 3 + 1) * D + h * d;
        weights.push_back(shape.linear ? feature_dot(q, k, d) / kept[query]
                                       : std::exp(dot(q, k, d) * scale - kept[query]));
        dweights.push_back(dot(g, x + (j * 3 + 2) * D + h * d, d));
        mean += weights.back() * dweights.back();
      }
      for (int64_t j = window.begin; j < window.end; ++j) {
        const int64_t at_k = (j * 3 + 1) * D + h * d, at_v = (j * 3 + 2) * D + h * d;
        const double w = weights[static_cast<size_t>(j - window.begin)];
        const double above = dweights[static_cast<size_t>(j - window.begin)] - mean;
        // Of the score: of q.k / sqrt(d), or of the unnormalised phi(q).phi(k).
        const double dscore = shape.linear ? above / kept[query] : w * above * scale;
        for (int64_t c = 0; c < d; ++c) {
          const double qc = q[c], kc = x[at_k + c];
          double& dq = gradient[static_cast<size_t>(at_q + c)];
          double& dk = gradient[static_cast<size_t>(at_k + c)];
          if (shape.linear) {
            dq += dscore * feature(kc) * feature_slope(qc);
            dk += dscore * feature(qc) * feature_slope(kc);
          } else {
            dq += dscore * kc;
            dk += dscore * qc;
          }
          gradient[static_cast<size_t>(at_v + c)] += w * g[c];
        }
      }
    });
    for (int64_t i = 0; i < size; ++i) dx[i] = static_cast<T>(gradient[static_cast<size_t>(i)]);
  });
}

}  // namespace megabyte::reference
