#include <algorithm>
#include <cmath>

#include "backends/reference/elements.h"
#include "backends/reference/reference.h"
#include "ops/sampling.h"

namespace megabyte {

using namespace reference;

void ReferenceBackend::cross_entropy(const LossShape& s, const Tensor& logits,
                                     const Tensor& targets, const Tensor& losses,
                                     const Tensor& dlogits, const Tensor& total) {
  check(logits.size() == s.rows * s.length * s.vocab && targets.size() == s.rows * s.length,
        "cross_entropy: sizes");
  double all = 0;
  for (int64_t p = 0; p < s.rows * s.length; ++p) {
    const bool counts = p % s.length < s.valid;
    const int64_t target = token(targets, p);
    double largest = load(logits, p * s.vocab), sum = 0;
    for (int64_t v = 1; v < s.vocab; ++v)
      largest = std::max(largest, load(logits, p * s.vocab + v));
    for (int64_t v = 0; v < s.vocab; ++v) sum += std::exp(load(logits, p * s.vocab + v) - largest);
    const double log_sum = largest + std::log(sum);
    const double loss = counts ? log_sum - load(logits, p * s.vocab + target) : 0;
    if (losses) store(losses, p, loss);
    if (dlogits)
      for (int64_t v = 0; v < s.vocab; ++v) {
        const double probability = std::exp(load(logits, p * s.vocab + v) - log_sum);
        store(dlogits, p * s.vocab + v,
              counts ? s.scale * (probability - (v == target ? 1 : 0)) : 0);
      }
    all += loss;
  }
  add_to(total, 0, all);
}

void ReferenceBackend::sum_of_squares(const Tensor& x, const Tensor& total) {
  double sum = 0;
  for (int64_t i = 0; i < x.size(); ++i) sum += load(x, i) * load(x, i);
  add_to(total, 0, sum);
}

void ReferenceBackend::adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy,
                             const Tensor& grad, const Tensor& m, const Tensor& v,
                             const Tensor& norm_sq) {
  const double norm = std::sqrt(load(norm_sq, 0));
  if (!std::isfinite(norm)) return;
  const double scale = step.clip > 0 && norm > step.clip ? step.clip / norm : 1;
  const double correct1 = 1 - std::pow(step.beta1, step.step),
               correct2 = 1 - std::pow(step.beta2, step.step);
  for (int64_t i = 0; i < value.size(); ++i) {
    const double g = scale * load(grad, i), x = load(value, i);
    store(m, i, step.beta1 * load(m, i) + (1 - step.beta1) * g);
    store(v, i, step.beta2 * load(v, i) + (1 - step.beta2) * g * g);
    const double update = load(m, i) / correct1 / (std::sqrt(load(v, i) / correct2) + step.eps);
    store(value, i, x - step.lr * (update + step.decay * x));
    if (copy) store(copy, i, load(value, i));
  }
}

void ReferenceBackend::sample(const SampleShape& shape, const Tensor& logits,
                              const Tensor& tokens) {
  check(logits.size() == shape.batch * shape.vocab && tokens.size() == shape.batch,
        "sample: sizes");
  sample_on_host(shape, logits, tokens.as<uint16_t>());
}

}  // namespace megabyte
