// A backend that records on the processor: what is recorded is a list of calls, with their
// arguments of then. Of the operations that decoding uses.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "backends/reference/backend.h"
#include "base/error.h"

namespace megabyte::test {

class RecordingBackend final : public reference::ReferenceBackend {
 public:
  int recordings = 0, replays = 0;

  std::unique_ptr<Recording> record(const std::function<void()>& work, int64_t) override {
    ++recordings;
    auto calls = std::make_unique<Calls>(*this);
    calls_ = &calls->list;
    work();
    calls_ = nullptr;
    return calls;
  }
  void from_host(const Tensor& dst, const void* src) override {
    check(calls_ == nullptr, "what is recorded does not read the host's memory");
    Base::from_host(dst, src);
  }
  void to_host(void* dst, const Tensor& src) override {
    check(calls_ == nullptr, "what is recorded does not write the host's memory");
    Base::to_host(dst, src);
  }

  void zero(const Tensor& x) override {
    run([=, this] { Base::zero(x); });
  }
  void convert(const Tensor& src, const Tensor& dst) override {
    run([=, this] { Base::convert(src, dst); });
  }
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override {
    run([=, this] { Base::copy_rows(src, src_stride, dst, dst_stride, rows, cols); });
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override {
    run([=, this] { Base::add(a, b, out); });
  }
  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override {
    run([=, this] { Base::embed_forward(shape, tokens, table, positions, pad, out); });
  }
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override {
    run([=, this] { Base::place_forward(shape, in, positions, pad, out); });
  }
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override {
    run([=, this] { Base::unfold(in, length, width, out); });
  }
  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override {
    run([=, this] { Base::linear_forward(x, w, bias, activation, pre, y); });
  }
  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    run([=, this] {
      Base::residual_norm_forward(x, delta, dropout, weight, bias, eps, sum, y, xhat, rstd);
    });
  }
  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    run([=, this] { Base::rotary(qkv, heads, head_dim, length, first, inverse); });
  }
  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    run([=, this] { Base::attention_decode(shape, qkv, keys, values, out); });
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    run([=, this] { Base::linear_attention_decode(shape, qkv, state, out); });
  }
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override {
    run([=, this] { Base::sample(shape, logits, draws, tokens); });
  }

 private:
  using Base = reference::ReferenceBackend;
  struct Calls final : Recording {
    explicit Calls(RecordingBackend& of) : backend(of) {}
    void replay() override {
      ++backend.replays;
      for (const auto& call : list) call();
    }
    RecordingBackend& backend;
    std::vector<std::function<void()>> list;
  };

  template <class Call>
  void run(Call&& call) {
    if (calls_ != nullptr)
      calls_->push_back(std::forward<Call>(call));
    else
      call();
  }

  std::vector<std::function<void()>>* calls_ = nullptr;
};

}  // namespace megabyte::test
