// Cross entropy and the optimizer.
#include <algorithm>
#include <cmath>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"

namespace megabyte::reference {

void ReferenceBackend::cross_entropy(const LossShape& shape, const Tensor& logits,
                                     const Tensor& targets, const Tensor& losses,
                                     const Tensor& dlogits, const Tensor& total) {
  check(shape.valid >= 0 && shape.valid <= shape.length, "cross entropy: valid positions of a row");
  with_type(logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = shape.rows * shape.length, V = shape.vocab;
    const T* x = elements<T>(logits, M * V, "cross entropy: logits");
    const auto* targeted = elements<uint16_t>(targets, M, "cross entropy: targets");
    T* each = optional_elements<T>(losses, M, "cross entropy: losses");
    T* d = optional_elements<T>(dlogits, M * V, "cross entropy: dlogits");
    double& sum_of_losses = *elements<double>(total, 1, "cross entropy: total");
    for (int64_t r = 0; r < M; ++r) {
      const T* row = x + r * V;
      if (r % shape.length >= shape.valid) {
        if (each != nullptr) each[r] = 0;
        if (d != nullptr) std::fill_n(d + r * V, V, T{0});
        continue;
      }
      const int64_t target = targeted[r];
      check(target < V, "cross entropy: a target is below the vocabulary's size");
      const double top = *std::max_element(row, row + V);
      double sum = 0;
      for (int64_t i = 0; i < V; ++i) sum += std::exp(row[i] - top);
      const double log_sum = top + std::log(sum), loss = log_sum - row[target];
      sum_of_losses += loss;
      if (each != nullptr) each[r] = static_cast<T>(loss);
      if (d == nullptr) continue;
      for (int64_t i = 0; i < V; ++i) {
        const double probability = std::exp(row[i] - log_sum);
        d[r * V + i] = static_cast<T>(shape.scale * (probability - (i == target ? 1 : 0)));
      }
    }
  });
}

void ReferenceBackend::sum_of_squares(const Tensor& x, const Tensor& total) {
  double& sum = *elements<double>(total, 1, "sum of squares: total");
  for (int64_t i = 0; i < x.size(); ++i) sum += load(x, i) * load(x, i);
}

// Loshchilov and Hutter 2019, algorithm 2.
void ReferenceBackend::adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy,
                             const Tensor& grad, const Tensor& m, const Tensor& v,
                             const Tensor& norm_sq) {
  check(step.step >= 1, "adamw: steps count from 1");
  with_type(value.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t n = value.size();
    T* x = elements<T>(value, n, "adamw: value");
    const T* gradients = elements<T>(grad, n, "adamw: grad");
    T* first = elements<T>(m, n, "adamw: m");
    T* second = elements<T>(v, n, "adamw: v");
    check(!copy || copy.size() == n, "adamw: copy");
    const double squares = *elements<double>(norm_sq, 1, "adamw: norm_sq");
    if (!std::isfinite(squares)) return;
    const double clip = step.clip > 0 ? std::min(1.0, step.clip / std::sqrt(squares)) : 1;
    const double correct1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
    const double correct2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
    for (int64_t i = 0; i < n; ++i) {
      const double g = clip * gradients[i];
      const double mean = step.beta1 * first[i] + (1 - step.beta1) * g;
      const double square = step.beta2 * second[i] + (1 - step.beta2) * g * g;
      const double move = mean / correct1 / (std::sqrt(square / correct2) + step.eps);
      first[i] = static_cast<T>(mean);
      second[i] = static_cast<T>(square);
      x[i] = static_cast<T>(x[i] - step.lr * (move + step.decay * x[i]));
      if (copy) store(copy, i, x[i]);
    }
  });
}

}  // namespace megabyte::reference
