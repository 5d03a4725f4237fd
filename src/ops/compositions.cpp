// Operations that are others in a row, for backends that gain nothing by fusing them.
#include <algorithm>
#include <utility>

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

void Backend::cache_keys(const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                         const Tensor& values) {
  const int64_t d = shape.head_dim, D = shape.dim(), width = 3 * D, capacity = shape.capacity;
  const auto from = [](const Tensor& t, int64_t begin) {
    return t.view({t.size()}).slice(begin, t.size() - begin);
  };
  for (int64_t first = shape.first; first < shape.last;) {
    // In a ring, the rows up to its end and the rest.
    const int64_t slot = first % capacity, count = std::min(shape.last - first, capacity - slot);
    // Copies of a row's positions, or of a position's rows, whichever are fewer.
    const bool by_row = shape.batch <= count;
    for (int64_t i = 0; i < std::min(shape.batch, count); ++i)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const int64_t b = by_row ? i : 0, p = by_row ? 0 : i;
        const int64_t key = (b * shape.length + first + p) * width + D + h * d;
        const int64_t to = ((b * shape.heads + h) * capacity + slot + p) * d;
        for (const auto& [cached, offset] : {std::pair{keys, key}, {values, key + D}})
          copy_rows(from(qkv, offset), by_row ? width : shape.length * width, from(cached, to),
                    by_row ? d : shape.heads * capacity * d, by_row ? count : shape.batch, d);
      }
    first += count;
  }
}

}  // namespace megabyte
