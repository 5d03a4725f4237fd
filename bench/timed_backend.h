// A backend that forwards every operation to another and, while timing, waits for it: how long each
// takes, by operation and shape. (An operation then also pays for its start and the wait, some 10
// us on a GPU.)
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "ops/ops.h"

namespace megabyte::bench {

class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  struct Total {
    int64_t calls = 0;
    double milliseconds = 0;
    double bytes = 0;  // of the tensors of all calls, each once
    double flops = 0;  // of products
  };

  bool timing = false;

  std::map<std::string, Total> totals;

  std::string name() const override { return inner_->name(); }
  std::string description() const override { return inner_->description(); }
  bool supports(DType compute) const override { return inner_->supports(compute); }
  bool fast(DType compute) const override { return inner_->fast(compute); }
  DType residual_dtype(DType compute) const override { return inner_->residual_dtype(compute); }
  DType residual_gradient_dtype(DType compute) const override {
    return inner_->residual_gradient_dtype(compute);
  }
  size_t peak_memory() const override { return inner_->peak_memory(); }
  size_t workspace() const override { return inner_->workspace(); }
  Buffer allocate(size_t bytes) override { return inner_->allocate(bytes); }
  void from_host(const Tensor& dst, const void* src) override { inner_->from_host(dst, src); }
  void to_host(void* dst, const Tensor& src) override { inner_->to_host(dst, src); }
  void synchronize() override { inner_->synchronize(); }

  void zero(const Tensor& x) override {
    timed("zero", {&x}, [&] { inner_->zero(x); });
  }
  void convert(const Tensor& src, const Tensor& dst) override {
    timed("convert", {&src, &dst}, [&] { inner_->convert(src, dst); });
  }
  void copy_rows(const Tensor& src, int64_t ss, const Tensor& dst, int64_t ds, int64_t rows,
                 int64_t cols) override {
    timed("copy_rows", {&src, &dst}, [&] { inner_->copy_rows(src, ss, dst, ds, rows, cols); });
  }
  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override {
    timed("embed_forward", {&tokens, &out},
          [&] { inner_->embed_forward(shape, tokens, table, positions, pad, out); });
  }
  void embed_backward(const EmbedShape& shape, const Tensor& tokens, const Tensor& dout,
                      const Tensor& dtable, const Tensor& dpositions, const Tensor& dpad) override {
    timed("embed_backward", {&tokens, &dout, &dout},
          [&] { inner_->embed_backward(shape, tokens, dout, dtable, dpositions, dpad); });
  }
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override {
    timed("place_forward", {&in, &out},
          [&] { inner_->place_forward(shape, in, positions, pad, out); });
  }
  void place_backward(const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                      const Tensor& dpositions, const Tensor& dpad) override {
    timed("place_backward", {&dout, &din},
          [&] { inner_->place_backward(shape, dout, din, dpositions, dpad); });
  }
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override {
    timed("unfold", {&in, &out}, [&] { inner_->unfold(in, length, width, out); });
  }
  void unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                       const Tensor& din) override {
    timed("unfold_backward", {&dout, &din},
          [&] { inner_->unfold_backward(dout, length, width, din); });
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override {
    timed("add", {&a, &b, &out}, [&] { inner_->add(a, b, out); });
  }
  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override {
    timed(
        product("linear_forward", x.shape[0], w.shape[0], x.shape[1], activation),
        {&x, &w, &pre, &y}, [&] { inner_->linear_forward(x, w, bias, activation, pre, y); },
        2.0 * static_cast<double>(x.size()) * static_cast<double>(w.shape[0]));
  }
  void linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                             const Tensor& saved, const Tensor& dx) override {
    timed(
        product("linear_backward_input", dy.shape[0], w.shape[1], dy.shape[1], activation),
        {&dy, &w, &saved, &dx},
        [&] { inner_->linear_backward_input(dy, w, activation, saved, dx); },
        2.0 * static_cast<double>(dy.size()) * static_cast<double>(w.shape[1]));
  }
  void activation_backward(const Tensor& dy, Activation activation, const Tensor& saved,
                           const Tensor& dx) override {
    timed("activation_backward", {&dy, &saved, &dx},
          [&] { inner_->activation_backward(dy, activation, saved, dx); });
  }
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                              const Tensor& dbias) override {
    timed(
        product(dbias ? "linear_backward_weight + bias" : "linear_backward_weight", dy.shape[1],
                x.shape[1], x.shape[0], Activation::none),
        {&dy, &x, &dw}, [&] { inner_->linear_backward_weight(dy, x, dw, dbias); },
        2.0 * static_cast<double>(dy.size()) * static_cast<double>(x.shape[1]));
  }
  // In 8 bits as the inner backend fuses them; else one product after another.
  void linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& dw,
                       const Tensor& dbias, const Tensor& dx) override {
    if (!fp8_) return Backend::linear_backward(dy, x, w, dw, dbias, dx);
    timed(
        product("linear_backward", x.shape[0], w.shape[0], w.shape[1], Activation::none),
        {&dy, &x, &w, &dw, &dx}, [&] { inner_->linear_backward(dy, x, w, dw, dbias, dx); },
        4.0 * static_cast<double>(x.size()) * static_cast<double>(w.shape[0]));
  }
  void feed_forward(const FeedForward& w, Activation activation, const Tensor& x, const Tensor& pre,
                    const Tensor& hidden, const Tensor& y) override {
    if (!fp8_) return Backend::feed_forward(w, activation, x, pre, hidden, y);
    timed(
        product("feed_forward", x.shape[0], w.up.shape[0], x.shape[1], activation),
        {&x, &w.up, &w.down, &pre, &hidden, &y},
        [&] { inner_->feed_forward(w, activation, x, pre, hidden, y); },
        4.0 * static_cast<double>(x.size()) * static_cast<double>(w.up.shape[0]));
  }
  void feed_forward_backward(const FeedForward& w, Activation activation, const Tensor& dy,
                             const Tensor& x, const Tensor& pre, const Tensor& hidden,
                             const Tensor& dhidden, const FeedForward& dw,
                             const Tensor& dx) override {
    if (!fp8_)
      return Backend::feed_forward_backward(w, activation, dy, x, pre, hidden, dhidden, dw, dx);
    timed(
        product("feed_forward_backward", x.shape[0], w.up.shape[0], x.shape[1], activation),
        {&dy, &x, &w.up, &w.down, &pre, &hidden, &dhidden, &dw.up, &dw.down, &dx},
        [&] { inner_->feed_forward_backward(w, activation, dy, x, pre, hidden, dhidden, dw, dx); },
        8.0 * static_cast<double>(x.size()) * static_cast<double>(w.up.shape[0]));
  }
  void use_fp8(bool on) override {
    inner_->use_fp8(on);
    fp8_ = on;
  }
  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    timed(rows_of("residual_norm_forward", x), {&x, &delta, &sum, &y, &xhat}, [&] {
      inner_->residual_norm_forward(x, delta, dropout, weight, bias, eps, sum, y, xhat, rstd);
    });
  }
  void norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                   const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                   Activation activation, const Tensor& sum, const Tensor& norm,
                   const Tensor& y) override {
    timed(
        product("norm_linear", x.shape[0], w.shape[0], x.shape[1], activation),
        {&x, &delta, &w, &sum, &y},
        [&] {
          inner_->norm_linear(x, delta, norm_weight, norm_bias, eps, w, bias, activation, sum, norm,
                              y);
        },
        2.0 * static_cast<double>(x.size()) * static_cast<double>(w.shape[0]));
  }
  void residual_norm_backward(const Tensor& dy, const Tensor& xhat, const Tensor& rstd,
                              const Tensor& weight, const Dropout& dropout, bool accumulate,
                              const Tensor& dsum, const Tensor& ddelta, const Tensor& dweight,
                              const Tensor& dbias) override {
    timed(rows_of("residual_norm_backward", xhat), {&dy, &xhat, &dsum, &dsum, &ddelta}, [&] {
      inner_->residual_norm_backward(dy, xhat, rstd, weight, dropout, accumulate, dsum, ddelta,
                                     dweight, dbias);
    });
  }
  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    timed("rotary", {&qkv}, [&] { inner_->rotary(qkv, heads, head_dim, length, first, inverse); });
  }
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override {
    timed(attention("attention_forward", shape), {&qkv, &out, &stats},
          [&] { inner_->attention_forward(shape, qkv, out, stats); });
  }
  void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                          const Tensor& stats, const Tensor& dout, const Tensor& dqkv) override {
    timed(attention("attention_backward", shape), {&qkv, &out, &stats, &dout, &dqkv},
          [&] { inner_->attention_backward(shape, qkv, out, stats, dout, dqkv); });
  }
  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override {
    timed("cross_entropy", {&logits, &losses, &dlogits},
          [&] { inner_->cross_entropy(shape, logits, targets, losses, dlogits, total); });
  }
  void sum_of_squares(const Tensor& x, const Tensor& total) override {
    timed("sum_of_squares", {&x}, [&] { inner_->sum_of_squares(x, total); });
  }
  void adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy, const Tensor& grad,
             const Tensor& m, const Tensor& v, const Tensor& norm_sq) override {
    timed("adamw", {&value, &value, &copy, &grad, &m, &m, &v, &v},
          [&] { inner_->adamw(step, value, copy, grad, m, v, norm_sq); });
  }
  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    timed("attention_decode", {}, [&] { inner_->attention_decode(shape, qkv, keys, values, out); });
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    timed("linear_attention_decode", {&state},
          [&] { inner_->linear_attention_decode(shape, qkv, state, out); });
  }
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override {
    timed("sample", {&logits}, [&] { inner_->sample(shape, logits, draws, tokens); });
  }

 private:
  static std::string product(const char* name, int64_t m, int64_t n, int64_t k,
                             Activation activation) {
    return fmt::format("{} {}x{}x{}{}", name, m, n, k,
                       activation == Activation::none ? "" : " + activation");
  }
  static std::string rows_of(const char* name, const Tensor& x) {
    return fmt::format("{} {}x{}", name, x.shape[0], x.shape[1]);
  }
  static std::string attention(const char* name, const AttentionShape& s) {
    return fmt::format("{} {}x{} positions, {} heads of {}", name, s.sequences, s.length, s.heads,
                       s.head_dim);
  }

  template <class F>
  void timed(const std::string& name, std::initializer_list<const Tensor*> tensors, F&& f,
             double flops = 0) {
    if (!timing) return f();
    using Clock = std::chrono::steady_clock;
    inner_->synchronize();
    const auto begin = Clock::now();
    f();
    inner_->synchronize();
    Total& total = totals[name];
    ++total.calls;
    total.milliseconds += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    total.flops += flops;
    for (const Tensor* t : tensors)
      if (*t) total.bytes += static_cast<double>(t->bytes());
  }

  std::unique_ptr<Backend> inner_;
  bool fp8_ = false;
};

}  // namespace megabyte::bench
