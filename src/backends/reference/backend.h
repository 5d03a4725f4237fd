// The reference backend: every operation of ops/ops.h as plain loops on one thread, in f32 or f64,
// the way the formulas are written. Other backends are compared with it, so it is to be read, not
// to be fast.
#pragma once

#include "ops/host_memory.h"
#include "ops/ops.h"

namespace megabyte::reference {

class ReferenceBackend : public Backend {
 public:
  std::string name() const override { return "reference"; }
  std::string description() const override { return "plain loops, one thread"; }
  bool supports(DType compute) const override {
    return compute == DType::f32 || compute == DType::f64;
  }
  bool fast(DType compute) const override { return compute == DType::f32; }
  DType residual_dtype(DType compute) const override { return compute; }
  DType residual_gradient_dtype(DType compute) const override { return compute; }

  // memory.cpp
  size_t peak_memory() const override { return peak_host_memory(); }
  size_t workspace() const override { return 0; }
  Buffer allocate(size_t bytes) override;
  void from_host(const Tensor& dst, const void* src) override;
  void to_host(void* dst, const Tensor& src) override;
  void synchronize() override {}
  void zero(const Tensor& x) override;
  void convert(const Tensor& src, const Tensor& dst) override;
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override;
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override;

  // input.cpp
  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override;
  void embed_backward(const EmbedShape& shape, const Tensor& tokens, const Tensor& dout,
                      const Tensor& dtable, const Tensor& dpositions, const Tensor& dpad) override;
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override;
  void place_backward(const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                      const Tensor& dpositions, const Tensor& dpad) override;
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override;
  void unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                       const Tensor& din) override;

  // linear.cpp
  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override;
  void linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                             const Tensor& saved, const Tensor& dx) override;
  void activation_backward(const Tensor& dy, Activation activation, const Tensor& saved,
                           const Tensor& dx) override;
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                              const Tensor& dbias) override;

  // norm.cpp
  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override;
  void residual_norm_backward(const Tensor& dy, const Tensor& xhat, const Tensor& rstd,
                              const Tensor& weight, const Dropout& dropout, bool accumulate,
                              const Tensor& dsum, const Tensor& ddelta, const Tensor& dweight,
                              const Tensor& dbias) override;

  // attention.cpp
  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override;
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override;
  void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                          const Tensor& stats, const Tensor& dout, const Tensor& dqkv) override;

  // loss.cpp
  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override;
  void sum_of_squares(const Tensor& x, const Tensor& total) override;
  void adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy, const Tensor& grad,
             const Tensor& m, const Tensor& v, const Tensor& norm_sq) override;

  // decode.cpp
  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override;
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override;
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override;
};

}  // namespace megabyte::reference
