#include <cmath>

#include "backends/reference/elements.h"
#include "backends/reference/reference.h"
#include "base/random.h"

namespace megabyte {

using namespace reference;

namespace {

// 0 for a dropped element, else the factor that keeps the expectation.
double keep(const Dropout& dropout, int64_t i) {
  if (dropout.rate <= 0) return 1;
  const auto words = philox(dropout.seed, dropout.stream, static_cast<uint64_t>(i / 4));
  if (uniform(words[static_cast<size_t>(i % 4)]) < dropout.rate) return 0;
  return 1 / (1 - static_cast<double>(dropout.rate));
}

}  // namespace

void ReferenceBackend::residual_norm_forward(const Tensor& x, const Tensor& delta,
                                             const Dropout& dropout, const Tensor& weight,
                                             const Tensor& bias, double eps, const Tensor& sum,
                                             const Tensor& y, const Tensor& mean,
                                             const Tensor& rstd) {
  const int64_t D = weight.size(), M = x.size() / D;
  check(y.size() == M * D && (!delta || (delta.size() == M * D && sum.size() == M * D)),
        "residual_norm_forward: sizes");
  const Tensor& h = delta ? sum : x;
  for (int64_t m = 0; m < M; ++m) {
    if (delta)
      for (int64_t i = m * D; i < (m + 1) * D; ++i)
        store(sum, i, load(x, i) + keep(dropout, i) * load(delta, i));
    double mu = 0, variance = 0;
    for (int64_t c = 0; c < D; ++c) mu += load(h, m * D + c);
    mu /= static_cast<double>(D);
    for (int64_t c = 0; c < D; ++c) variance += std::pow(load(h, m * D + c) - mu, 2);
    const double r = 1 / std::sqrt(variance / static_cast<double>(D) + eps);
    for (int64_t c = 0; c < D; ++c)
      store(y, m * D + c, (load(h, m * D + c) - mu) * r * load(weight, c) + load(bias, c));
    if (mean) store(mean, m, mu);
    if (rstd) store(rstd, m, r);
  }
}

void ReferenceBackend::residual_norm_backward(const Tensor& dy, const Tensor& sum,
                                              const Tensor& mean, const Tensor& rstd,
                                              const Tensor& weight, const Dropout& dropout,
                                              bool accumulate, const Tensor& dsum,
                                              const Tensor& ddelta, const Tensor& dweight,
                                              const Tensor& dbias) {
  const int64_t D = weight.size(), M = dy.size() / D;
  check(sum.size() == M * D && dsum.size() == M * D, "residual_norm_backward: sizes");
  for (int64_t m = 0; m < M; ++m) {
    const double mu = load(mean, m), r = load(rstd, m);
    double dot = 0, dot_hat = 0;  // of the scaled gradient with 1 and with the normalised vector
    for (int64_t c = 0; c < D; ++c) {
      const int64_t i = m * D + c;
      const double hat = (load(sum, i) - mu) * r, d = load(dy, i);
      add_to(dweight, c, d * hat);
      add_to(dbias, c, d);
      dot += d * load(weight, c);
      dot_hat += d * load(weight, c) * hat;
    }
    for (int64_t c = 0; c < D; ++c) {
      const int64_t i = m * D + c;
      const double hat = (load(sum, i) - mu) * r, n = static_cast<double>(D);
      const double d = r * (load(dy, i) * load(weight, c) - dot / n - hat * dot_hat / n);
      store(dsum, i, (accumulate ? load(dsum, i) : 0) + d);
      if (ddelta) store(ddelta, i, keep(dropout, i) * load(dsum, i));
    }
  }
}

}  // namespace megabyte
