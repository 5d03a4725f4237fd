#include <cmath>
#include <numbers>

#include "backends/reference/elements.h"
#include "backends/reference/reference.h"

namespace megabyte {

using namespace reference;

namespace {

const double kGeluScale = std::sqrt(2 / std::numbers::pi);

double gelu(double x) { return 0.5 * x * (1 + std::tanh(kGeluScale * (x + 0.044715 * x * x * x))); }

double gelu_slope(double x) {
  const double t = std::tanh(kGeluScale * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kGeluScale * (1 + 3 * 0.044715 * x * x);
}

double act(Activation kind, double x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu:
      return gelu(x);
  }
  return x;
}

// The derivative from what forward saved: the pre-activation for gelu, the activation for relu.
double slope(Activation kind, const Tensor& saved, int64_t i) {
  switch (kind) {
    case Activation::none:
      return 1;
    case Activation::relu:
      return load(saved, i) > 0 ? 1 : 0;
    case Activation::gelu:
      return gelu_slope(load(saved, i));
  }
  return 1;
}

}  // namespace

void ReferenceBackend::linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias,
                                      Activation activation, const Tensor& pre, const Tensor& y) {
  const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
  check(w.shape[1] == K && y.size() == M * N && (!bias || bias.size() == N),
        "linear_forward: shapes");
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      double sum = bias ? load(bias, n) : 0;
      for (int64_t k = 0; k < K; ++k) sum += load(x, m * K + k) * load(w, n * K + k);
      if (pre) store(pre, m * N + n, sum);
      store(y, m * N + n, act(activation, sum));
    }
}

void ReferenceBackend::linear_backward_input(const Tensor& dy, const Tensor& w,
                                             Activation activation, const Tensor& saved,
                                             const Tensor& dx) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = w.shape[1];
  check(w.shape[0] == N && dx.size() == M * K, "linear_backward_input: shapes");
  for (int64_t m = 0; m < M; ++m)
    for (int64_t k = 0; k < K; ++k) {
      double sum = 0;
      for (int64_t n = 0; n < N; ++n) sum += load(dy, m * N + n) * load(w, n * K + k);
      store(dx, m * K + k, sum * slope(activation, saved, m * K + k));
    }
}

void ReferenceBackend::activation_backward(const Tensor& dy, Activation activation,
                                           const Tensor& saved, const Tensor& dx) {
  for (int64_t i = 0; i < dy.size(); ++i) store(dx, i, load(dy, i) * slope(activation, saved, i));
}

void ReferenceBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                              const Tensor& dbias) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
  check(x.shape[0] == M && dw.size() == N * K, "linear_backward_weight: shapes");
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      double sum = 0;
      for (int64_t m = 0; m < M; ++m) sum += load(dy, m * N + n) * load(x, m * K + k);
      add_to(dw, n * K + k, sum);
    }
    if (!dbias) continue;
    double sum = 0;
    for (int64_t m = 0; m < M; ++m) sum += load(dy, m * N + n);
    add_to(dbias, n, sum);
  }
}

}  // namespace megabyte
