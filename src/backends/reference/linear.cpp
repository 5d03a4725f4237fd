// Products with activations.
#include <cmath>
#include <numbers>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"

namespace megabyte::reference {
namespace {

// gelu(x) = x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
const double kGeluScale = std::sqrt(2 / std::numbers::pi);
constexpr double kGeluCube = 0.044715;

double activate(Activation activation, double x) {
  if (activation == Activation::relu) return x < 0 ? 0 : x;  // NaN stays
  if (activation == Activation::gelu)
    return 0.5 * x * (1 + std::tanh(kGeluScale * (x + kGeluCube * x * x * x)));
  return x;
}

// The derivative, from the pre-activation (gelu) or from the activation itself (relu).
double slope(Activation activation, double saved) {
  if (activation == Activation::relu) return saved > 0 ? 1 : 0;
  if (activation == Activation::gelu) {
    const double x = saved, t = std::tanh(kGeluScale * (x + kGeluCube * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCube * x * x);
  }
  return 1;
}

}  // namespace

void ReferenceBackend::linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias,
                                      Activation activation, const Tensor& pre, const Tensor& y) {
  check(x.shape.rank() == 2 && w.shape.rank() == 2, "linear: x (M, K) and w (N, K)");
  with_type(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
    const T* X = elements<T>(x, M * K, "linear: x");
    const T* W = elements<T>(w, N * K, "linear: w");
    const T* b = optional_elements<T>(bias, N, "linear: bias");
    T* before = optional_elements<T>(pre, M * N, "linear: pre");
    T* Y = elements<T>(y, M * N, "linear: y");
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < K; ++k) sum += static_cast<double>(X[i * K + k]) * W[j * K + k];
        if (b != nullptr) sum += b[j];
        if (before != nullptr) before[i * N + j] = static_cast<T>(sum);
        Y[i * N + j] = static_cast<T>(activate(activation, sum));
      }
  });
}

void ReferenceBackend::linear_backward_input(const Tensor& dy, const Tensor& w,
                                             Activation activation, const Tensor& saved,
                                             const Tensor& dx) {
  check(dy.shape.rank() == 2 && w.shape.rank() == 2, "linear: dy (M, N) and w (N, K)");
  with_type(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = dy.shape[0], N = dy.shape[1], K = w.shape[1];
    const T* dY = elements<T>(dy, M * N, "linear: dy");
    const T* W = elements<T>(w, N * K, "linear: w");
    const T* A =
        activation == Activation::none ? nullptr : elements<T>(saved, M * K, "linear: saved");
    T* dX = elements<T>(dx, M * K, "linear: dx");
    for (int64_t i = 0; i < M; ++i)
      for (int64_t k = 0; k < K; ++k) {
        double sum = 0;
        for (int64_t j = 0; j < N; ++j) sum += static_cast<double>(dY[i * N + j]) * W[j * K + k];
        if (A != nullptr) sum *= slope(activation, A[i * K + k]);
        dX[i * K + k] = static_cast<T>(sum);
      }
  });
}

void ReferenceBackend::activation_backward(const Tensor& dy, Activation activation,
                                           const Tensor& saved, const Tensor& dx) {
  check(activation != Activation::none, "activation: relu or gelu");
  with_type(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* dY = elements<T>(dy, dy.size(), "activation: dy");
    const T* A = elements<T>(saved, dy.size(), "activation: saved");
    T* dX = elements<T>(dx, dy.size(), "activation: dx");
    for (int64_t i = 0; i < dy.size(); ++i) dX[i] = static_cast<T>(dY[i] * slope(activation, A[i]));
  });
}

void ReferenceBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                              const Tensor& dbias) {
  check(dy.shape.rank() == 2 && x.shape.rank() == 2, "linear: dy (M, N) and x (M, K)");
  with_type(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
    const T* dY = elements<T>(dy, M * N, "linear: dy");
    const T* X = elements<T>(x, M * K, "linear: x");
    T* dW = elements<T>(dw, N * K, "linear: dw");
    T* db = optional_elements<T>(dbias, N, "linear: dbias");
    for (int64_t j = 0; j < N; ++j) {
      for (int64_t k = 0; k < K; ++k) {
        double sum = dW[j * K + k];
        for (int64_t i = 0; i < M; ++i) sum += static_cast<double>(dY[i * N + j]) * X[i * K + k];
        dW[j * K + k] = static_cast<T>(sum);
      }
      if (db == nullptr) continue;
      double sum = db[j];
      for (int64_t i = 0; i < M; ++i) sum += dY[i * N + j];
      db[j] = static_cast<T>(sum);
    }
  });
}

}  // namespace megabyte::reference
