// Operations that are others in a row, for backends that gain nothing by fusing them.
#include "base/error.h"
#include "ops/ops.h"

namespace megabyte {

void Backend::linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& dw,
                              const Tensor& dbias, const Tensor& dx) {
  linear_backward_weight(dy, x, dw, dbias);
  linear_backward_input(dy, w, Activation::none, {}, dx);
}

void Backend::feed_forward(const FeedForward& w, Activation activation, const Tensor& x,
                           const Tensor& pre, const Tensor& hidden, const Tensor& y) {
  linear_forward(x, w.up, w.up_bias, activation, pre, hidden);
  if (y) linear_forward(hidden, w.down, w.down_bias, Activation::none, {}, y);
}

void Backend::feed_forward_backward(const FeedForward& w, Activation activation, const Tensor& dy,
                                    const Tensor& x, const Tensor& pre, const Tensor& hidden,
                                    const Tensor& dhidden, const FeedForward& dw,
                                    const Tensor& dx) {
  linear_backward_weight(dy, hidden, dw.down, dw.down_bias);
  linear_backward_input(dy, w.down, activation, activation == Activation::gelu ? pre : hidden,
                        dhidden);
  linear_backward(dhidden, x, w.up, dw.up, dw.up_bias, dx);
}

void Backend::use_fp8(bool on) {
  if (on) fail("the {} backend has no products in fp8: use --dtype bf16, or --device cuda", name());
}

void Backend::norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                          const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                          Activation activation, const Tensor& sum, const Tensor& norm,
                          const Tensor& y) {
  check(!delta || sum.data != x.data, "norm and linear: the sum is not in place");
  residual_norm_forward(x, delta, {}, norm_weight, norm_bias, eps, sum, norm, {}, {});
  linear_forward(norm, w, bias, activation, {}, y);
}

}  // namespace megabyte
