#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/reference/elements.h"
#include "backends/reference/reference.h"

namespace megabyte {

using namespace reference;

namespace {

enum Part { kQuery, kKey, kValue };

// Where component c of head h of a row's q, k or v lies in qkv (rows, 3, heads, head_dim).
struct Qkv {
  int64_t heads, head_dim;
  int64_t at(int64_t row, Part part, int64_t h, int64_t c = 0) const {
    return ((row * 3 + part) * heads + h) * head_dim + c;
  }
};

double phi(double x) { return x > 0 ? x + 1 : std::exp(x); }  // elu(x) + 1
double phi_slope(double x) { return x > 0 ? 1 : std::exp(x); }

// Rows of qkv whose keys one query sees: from its window's start through itself, in order.
struct Window {
  int64_t query, first;
};

Window window(const AttentionShape& s, int64_t sequence, int64_t q) {
  const int64_t position = s.length - s.queries + q, start = sequence * s.length;
  const int64_t row_start = sequence / s.row_sequences * s.row_sequences * s.length;
  return {start + position, std::max(row_start, start - s.cross)};
}

double score(const AttentionShape& s, const Tensor& qkv, const Qkv& at, int64_t query, int64_t key,
             int64_t h) {
  double sum = 0;
  for (int64_t c = 0; c < s.head_dim; ++c) {
    const double q = load(qkv, at.at(query, kQuery, h, c)), k = load(qkv, at.at(key, kKey, h, c));
    sum += s.linear ? phi(q) * phi(k) : q * k;
  }
  return s.linear ? sum : sum / std::sqrt(static_cast<double>(s.head_dim));
}

template <class Visit>
void for_each_query(const AttentionShape& s, Visit visit) {
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t q = 0; q < s.queries; ++q)
        visit(window(s, sequence, q), h, sequence * s.queries + q,
              (sequence * s.heads + h) * s.queries + q);
}

void check_attention(const AttentionShape& s, const Tensor& qkv, const Tensor& out) {
  check(s.queries <= s.length && s.sequences % s.row_sequences == 0, "attention: shape");
  check(qkv.size() == s.sequences * s.length * 3 * s.dim() &&
            out.size() == s.sequences * s.queries * s.dim(),
        "attention: sizes");
}

}  // namespace

void ReferenceBackend::rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
                              int64_t first, bool inverse) {
  const Qkv at{heads, head_dim};
  const int64_t rows = qkv.size() / (3 * heads * head_dim), half = head_dim / 2;
  check(head_dim % 2 == 0, "rotary: a head's width is even");
  for (int64_t r = 0; r < rows; ++r)
    for (const Part part : {kQuery, kKey})
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < half; ++i) {
          const double frequency =
              std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
          const double angle = static_cast<double>(first + r % length) * frequency;
          const double cosine = std::cos(angle),
                       sine = inverse ? -std::sin(angle) : std::sin(angle);
          const int64_t a = at.at(r, part, h, i), b = at.at(r, part, h, i + half);
          const double x = load(qkv, a), y = load(qkv, b);
          store(qkv, a, x * cosine - y * sine);
          store(qkv, b, y * cosine + x * sine);
        }
}

void ReferenceBackend::attention_forward(const AttentionShape& s, const Tensor& qkv,
                                         const Tensor& out, const Tensor& stats) {
  check_attention(s, qkv, out);
  const Qkv at{s.heads, s.head_dim};
  std::vector<double> weights;
  for_each_query(s, [&](Window w, int64_t h, int64_t out_row, int64_t stat) {
    weights.clear();
    for (int64_t key = w.first; key <= w.query; ++key)
      weights.push_back(score(s, qkv, at, w.query, key, h));
    double total = 0, largest = s.linear ? 0 : *std::max_element(weights.begin(), weights.end());
    for (double& x : weights) {
      if (!s.linear) x = std::exp(x - largest);
      total += x;
    }
    for (int64_t c = 0; c < s.head_dim; ++c) {
      double sum = 0;
      for (size_t j = 0; j < weights.size(); ++j)
        sum += weights[j] * load(qkv, at.at(w.first + static_cast<int64_t>(j), kValue, h, c));
      store(out, out_row * s.dim() + h * s.head_dim + c, sum / total);
    }
    if (stats) store(stats, stat, s.linear ? total : largest + std::log(total));
  });
}

// With p the normalised weight of a key: d(score) = p (dout.v - dout.out) for softmax; for linear
// attention the same without the factor p's own numerator: d(weight) = (dout.v - dout.out) / total.
void ReferenceBackend::attention_backward(const AttentionShape& s, const Tensor& qkv,
                                          const Tensor& out, const Tensor& stats,
                                          const Tensor& dout, const Tensor& dqkv) {
  check_attention(s, qkv, out);
  const Qkv at{s.heads, s.head_dim};
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  std::vector<double> gradient(static_cast<size_t>(dqkv.size()), 0.0);
  const auto grad = [&](int64_t i) -> double& { return gradient[static_cast<size_t>(i)]; };
  for_each_query(s, [&](Window w, int64_t h, int64_t out_row, int64_t stat) {
    const int64_t o = out_row * s.dim() + h * s.head_dim;
    double dot_out = 0;
    for (int64_t c = 0; c < s.head_dim; ++c) dot_out += load(dout, o + c) * load(out, o + c);
    for (int64_t key = w.first; key <= w.query; ++key) {
      const double x = score(s, qkv, at, w.query, key, h), st = load(stats, stat);
      const double p = s.linear ? x / st : std::exp(x - st);
      double dot_value = 0;
      for (int64_t c = 0; c < s.head_dim; ++c) {
        dot_value += load(dout, o + c) * load(qkv, at.at(key, kValue, h, c));
        grad(at.at(key, kValue, h, c)) += p * load(dout, o + c);
      }
      const double d = (dot_value - dot_out) * (s.linear ? 1 / st : p * scale);
      for (int64_t c = 0; c < s.head_dim; ++c) {
        const int64_t qi = at.at(w.query, kQuery, h, c), ki = at.at(key, kKey, h, c);
        const double q = load(qkv, qi), k = load(qkv, ki);
        grad(qi) += d * (s.linear ? phi(k) * phi_slope(q) : k);
        grad(ki) += d * (s.linear ? phi(q) * phi_slope(k) : q);
      }
    }
  });
  for (int64_t i = 0; i < dqkv.size(); ++i) store(dqkv, i, grad(i));
}

void ReferenceBackend::attention_decode(const DecodeShape& s, const Tensor& qkv, const Tensor& keys,
                                        const Tensor& values, const Tensor& out) {
  check(s.position - s.first < s.capacity, "attention_decode: what is visible fits the cache");
  const Qkv at{s.heads, s.head_dim};
  const auto slot = [&](int64_t b, int64_t h, int64_t position, int64_t c) {
    return ((b * s.heads + h) * s.capacity + position % s.capacity) * s.head_dim + c;
  };
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t c = 0; c < s.head_dim; ++c) {
        store(keys, slot(b, h, s.position, c), load(qkv, at.at(b, kKey, h, c)));
        store(values, slot(b, h, s.position, c), load(qkv, at.at(b, kValue, h, c)));
      }
      std::vector<double> weights;
      for (int64_t p = s.first; p <= s.position; ++p) {
        double x = 0;
        for (int64_t c = 0; c < s.head_dim; ++c) {
          const double q = load(qkv, at.at(b, kQuery, h, c)), k = load(keys, slot(b, h, p, c));
          x += s.linear ? phi(q) * phi(k) : q * k * scale;
        }
        weights.push_back(x);
      }
      double total = 0;
      const double largest = *std::max_element(weights.begin(), weights.end());
      for (double& x : weights) total += x = s.linear ? x : std::exp(x - largest);
      for (int64_t c = 0; c < s.head_dim; ++c) {
        double sum = 0;
        for (int64_t p = s.first; p <= s.position; ++p)
          sum += weights[static_cast<size_t>(p - s.first)] * load(values, slot(b, h, p, c));
        store(out, (b * s.heads + h) * s.head_dim + c, sum / total);
      }
    }
}

void ReferenceBackend::linear_attention_decode(const DecodeShape& s, const Tensor& qkv,
                                               const Tensor& state, const Tensor& out) {
  const Qkv at{s.heads, s.head_dim};
  const int64_t d = s.head_dim;
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t base = (b * s.heads + h) * (d + 1) * d;
      double total = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double k = phi(load(qkv, at.at(b, kKey, h, i)));
        for (int64_t c = 0; c < d; ++c)
          add_to(state, base + i * d + c, k * load(qkv, at.at(b, kValue, h, c)));
        add_to(state, base + d * d + i, k);
        total += phi(load(qkv, at.at(b, kQuery, h, i))) * load(state, base + d * d + i);
      }
      for (int64_t c = 0; c < d; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < d; ++i)
          sum += phi(load(qkv, at.at(b, kQuery, h, i))) * load(state, base + i * d + c);
        store(out, (b * s.heads + h) * d + c, sum / total);
      }
    }
}

}  // namespace megabyte
