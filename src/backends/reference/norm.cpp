// Residual addition with dropout, and layer norm, in one operation.
#include <cmath>

#include "backends/reference/backend.h"
#include "backends/reference/elements.h"
#include "ops/dropout.h"

namespace megabyte::reference {

void ReferenceBackend::residual_norm_forward(const Tensor& x, const Tensor& delta,
                                             const Dropout& dropout, const Tensor& weight,
                                             const Tensor& bias, double eps, const Tensor& sum,
                                             const Tensor& y, const Tensor& xhat,
                                             const Tensor& rstd) {
  check(x.shape.rank() == 2, "norm: x (M, D)");
  with_type(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = x.shape[0], D = x.shape[1];
    const T* w = elements<T>(weight, D, "norm: weight");
    const T* b = elements<T>(bias, D, "norm: bias");
    T* Y = elements<T>(y, M * D, "norm: y");
    T* normed = optional_elements<T>(xhat, M * D, "norm: xhat");
    T* rstds = optional_elements<T>(rstd, M, "norm: rstd");
    const T* X = elements<T>(x, M * D, "norm: x");
    if (delta) {
      const T* branch = elements<T>(delta, M * D, "norm: delta");
      T* S = elements<T>(sum, M * D, "norm: sum");
      for (int64_t i = 0; i < M * D; ++i)
        S[i] = static_cast<T>(X[i] + branch[i] * dropout_factor(dropout, i));
      X = S;
    }
    for (int64_t r = 0; r < M; ++r, X += D, Y += D) {
      double mu = 0, variance = 0;
      for (int64_t c = 0; c < D; ++c) mu += X[c];
      mu /= static_cast<double>(D);
      for (int64_t c = 0; c < D; ++c) variance += (X[c] - mu) * (X[c] - mu);
      const double scale = 1 / std::sqrt(variance / static_cast<double>(D) + eps);
      for (int64_t c = 0; c < D; ++c) {
        Y[c] = static_cast<T>((X[c] - mu) * scale * w[c] + b[c]);
        if (normed != nullptr) normed[r * D + c] = static_cast<T>((X[c] - mu) * scale);
      }
      if (rstds != nullptr) rstds[r] = static_cast<T>(scale);
    }
  });
}

void ReferenceBackend::residual_norm_backward(const Tensor& dy, const Tensor& xhat,
                                              const Tensor& rstd, const Tensor& weight,
                                              const Dropout& dropout, bool accumulate,
                                              const Tensor& dsum, const Tensor& ddelta,
                                              const Tensor& dweight, const Tensor& dbias) {
  check(xhat.shape.rank() == 2, "norm: xhat (M, D)");
  with_type(xhat.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t M = xhat.shape[0], D = xhat.shape[1];
    const T* dY = elements<T>(dy, M * D, "norm: dy");
    const T* X = elements<T>(xhat, M * D, "norm: xhat");
    const T* rstds = elements<T>(rstd, M, "norm: rstd");
    const T* w = elements<T>(weight, D, "norm: weight");
    T* dX = elements<T>(dsum, M * D, "norm: dsum");
    T* branch = optional_elements<T>(ddelta, M * D, "norm: ddelta");
    T* dw = elements<T>(dweight, D, "norm: dweight");
    T* db = elements<T>(dbias, D, "norm: dbias");
    for (int64_t r = 0; r < M; ++r) {
      const auto normed = [&](int64_t c) { return static_cast<double>(X[r * D + c]); };
      const auto dnormed = [&](int64_t c) { return static_cast<double>(dY[r * D + c]) * w[c]; };
      double mean_d = 0, mean_dn = 0;  // of dnormed, and of dnormed * normed
      for (int64_t c = 0; c < D; ++c) {
        mean_d += dnormed(c) / static_cast<double>(D);
        mean_dn += dnormed(c) * normed(c) / static_cast<double>(D);
      }
      for (int64_t c = 0; c < D; ++c) {
        const int64_t i = r * D + c;
        const double g = rstds[r] * (dnormed(c) - mean_d - normed(c) * mean_dn);
        const double total = accumulate ? dX[i] + g : g;
        dX[i] = static_cast<T>(total);
        if (branch != nullptr) branch[i] = static_cast<T>(total * dropout_factor(dropout, i));
      }
    }
    for (int64_t c = 0; c < D; ++c) {
      double sum_w = dw[c], sum_b = db[c];
      for (int64_t r = 0; r < M; ++r) {
        const double g = dY[r * D + c];
        sum_w += g * X[r * D + c];
        sum_b += g;
      }
      dw[c] = static_cast<T>(sum_w);
      db[c] = static_cast<T>(sum_b);
    }
  });
}

}  // namespace megabyte::reference
