#include "ops/ops.h"

namespace megabyte {

void Backend::norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                          const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                          Activation activation, const Tensor& sum, const Tensor& norm,
                          const Tensor& y) {
  check(!delta || sum.data != x.data, "norm and linear: the sum is not in place");
  residual_norm_forward(x, delta, {}, norm_weight, norm_bias, eps, sum, norm, {}, {});
  linear_forward(norm, w, bias, activation, {}, y);
}

}  // namespace megabyte
