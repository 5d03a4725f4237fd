// The operations of this folder other than products and attention: arguments as in ops/ops.h,
// already checked by backend.cpp.
#pragma once

#include "backends/cuda/context.h"
#include "ops/ops.h"

namespace megabyte::cuda {

// elementwise.cu
void convert(Context& context, const Tensor& src, const Tensor& dst);
void add(Context& context, const Tensor& a, const Tensor& b, const Tensor& out);
void activation_forward(Context& context, Activation activation, const Tensor& pre,
                        const Tensor& y);
void activation_backward(Context& context, const Tensor& dy, Activation activation,
                         const Tensor& saved, const Tensor& dx);

// column_sums.cu
// Adds the sums of the columns of x (rows, stride of which the first cols) to sums (cols), in a
// fixed order.
void add_column_sums(Context& context, const Tensor& x, int64_t rows, int64_t cols, int64_t stride,
                     float* sums);
// The same of partial (rows, cols), which may lie in scratch memory.
void add_partial_sums(Context& context, const float* partial, int64_t rows, int64_t cols,
                      float* sums);

// input.cu
void embed_forward(Context& context, const EmbedShape& shape, const Tensor& tokens,
                   const Tensor& table, const Tensor& positions, const Tensor& pad,
                   const Tensor& out);
void embed_backward(Context& context, const EmbedShape& shape, const Tensor& tokens,
                    const Tensor& dout, const Tensor& dtable, const Tensor& dpositions,
                    const Tensor& dpad);
void place_forward(Context& context, const PlaceShape& shape, const Tensor& in,
                   const Tensor& positions, const Tensor& pad, const Tensor& out);
void place_backward(Context& context, const PlaceShape& shape, const Tensor& dout,
                    const Tensor& din, const Tensor& dpositions, const Tensor& dpad);
void unfold(Context& context, const Tensor& in, int64_t length, int64_t width, const Tensor& out);
void unfold_backward(Context& context, const Tensor& dout, int64_t length, int64_t width,
                     const Tensor& din);

// norm.cu
void residual_norm_forward(Context& context, const Tensor& x, const Tensor& delta,
                           const Dropout& dropout, const Tensor& weight, const Tensor& bias,
                           double eps, const Tensor& sum, const Tensor& y, const Tensor& xhat,
                           const Tensor& rstd);
void residual_norm_backward(Context& context, const Tensor& dy, const Tensor& xhat,
                            const Tensor& rstd, const Tensor& weight, const Dropout& dropout,
                            bool accumulate, const Tensor& dsum, const Tensor& ddelta,
                            const Tensor& dweight, const Tensor& dbias);

// cache.cu
void cache_keys(Context& context, const CacheShape& shape, const Tensor& qkv, const Tensor& keys,
                const Tensor& values);

// rotary.cu; turns (positions, head_dim / 2) holds cosine and sine of each angle.
void fill_rotary_table(Context& context, int64_t positions, int64_t head_dim, float2* turns);
// `turns` starts at the position of row 0.
void rotary(Context& context, const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length,
            const float2* turns, bool inverse);

// loss.cu, optimizer.cu, sampling.cu
// total += the sum of partial (count), in a fixed order.
void add_total(Context& context, const double* partial, int64_t count, double* total);
void cross_entropy(Context& context, const LossShape& shape, const Tensor& logits,
                   const Tensor& targets, const Tensor& losses, const Tensor& dlogits,
                   const Tensor& total);
void sum_of_squares(Context& context, const Tensor& x, const Tensor& total);
void adamw(Context& context, const AdamwStep& step, const Tensor& value, const Tensor& copy,
           const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& norm_sq);
void sample(Context& context, const SampleShape& shape, const Tensor& logits, const Tensor& draws,
            const Tensor& tokens);

// narrow_products.cu
// y = act(x . w^T + bias) for at most kNarrowRows rows in bf16: reads w once, at the speed of
// memory. False where the shape does not suit it.
inline constexpr int64_t kNarrowRows = 64;
bool narrow_linear(Context& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                   Activation activation, const Tensor& y);
// The same of the norm of sum = x + delta, as Backend::norm_linear().
bool narrow_norm_linear(Context& context, const Tensor& x, const Tensor& delta,
                        const Tensor& norm_weight, const Tensor& norm_bias, double eps,
                        const Tensor& w, const Tensor& bias, Activation activation,
                        const Tensor& sum, const Tensor& norm, const Tensor& y);

// plain_products.cu
// y = act(x . w^T + bias) for at most kFewRows rows: reads w once, at the speed of memory.
inline constexpr int64_t kFewRows = 8;
void few_row_linear(Context& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                    Activation activation, const Tensor& pre, const Tensor& y);
// For shapes that cuBLASLt refuses: c (m, n) = (add ? c : 0) + a (m, k) . b (k, n), with strides of
// a and b in elements.
struct PlainMatrix {
  const void* data;
  int64_t row_stride, col_stride;
};
void plain_product(Context& context, DType dtype, int64_t m, int64_t n, int64_t k, PlainMatrix a,
                   PlainMatrix b, bool add, const Tensor& c);
// y = act(pre), pre = product (rows, cols; f32) + bias.
void finish_linear(Context& context, const Tensor& product, const Tensor& bias,
                   Activation activation, const Tensor& pre, const Tensor& y);

}  // namespace megabyte::cuda
