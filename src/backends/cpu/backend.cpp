// The cpu backend: chooses for each operation between oneDNN and the kernels of this folder.
#include <omp.h>

#include <cstring>
#include <map>

#include "backends/cpu/bf16_products.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn.h"
#include "backends/cpu/rotary_table.h"
#include "backends/factories.h"
#include "hwy/targets.h"
#include "ops/host_memory.h"
#include "ops/sampling.h"

namespace megabyte {
namespace {

using cpu::Products;
using cpu::Threads;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : threads_(threads), products_(threads) {}

  std::string name() const override { return "cpu"; }
  std::string description() const override {
    return fmt::format("{} thread{}, {}{}, {}", threads_.count(), threads_.count() == 1 ? "" : "s",
                       hwy::TargetName(hwy::SupportedTargets() & -hwy::SupportedTargets()),
                       bf16_products_ ? " with bf16 products" : "", Products::description());
  }
  bool supports(DType compute) const override {
    return compute == DType::f32 || (compute == DType::bf16 && Products::take_bf16());
  }
  bool fast(DType compute) const override {
    return compute == DType::f32 || (compute == DType::bf16 && bf16_products_);
  }
  DType residual_dtype(DType) const override { return DType::f32; }
  DType residual_gradient_dtype(DType) const override { return DType::f32; }

  size_t peak_memory() const override { return peak_host_memory(); }
  size_t workspace() const override { return 0; }
  Buffer allocate(size_t bytes) override { return allocate_on_host(bytes); }
  void from_host(const Tensor& dst, const void* src) override {
    std::memcpy(dst.data, src, dst.bytes());
  }
  void to_host(void* dst, const Tensor& src) override { std::memcpy(dst, src.data, src.bytes()); }
  void synchronize() override {}
  void zero(const Tensor& x) override {
    threads_.parallel(
        static_cast<int64_t>(x.bytes()), 1 << 18, [&](int64_t begin, int64_t end, int) {
          std::memset(static_cast<std::byte*>(x.data) + begin, 0, static_cast<size_t>(end - begin));
        });
  }
  void convert(const Tensor& src, const Tensor& dst) override {
    check(src.size() == dst.size(), "convert: sizes differ");
    cpu::convert(threads_, src, dst);
  }
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override {
    check(src.dtype == dst.dtype, "copy_rows: one element type");
    check(rows == 0 || ((rows - 1) * src_stride + cols <= src.size() &&
                        (rows - 1) * dst_stride + cols <= dst.size()),
          "copy_rows: rows lie inside both tensors");
    const auto size = static_cast<int64_t>(size_of(src.dtype));
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<std::byte*>(dst.data) + r * dst_stride * size,
                  static_cast<const std::byte*>(src.data) + r * src_stride * size,
                  static_cast<size_t>(cols * size));
  }

  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override {
    check(tokens.size() == shape.sequences * shape.length * shape.patch, "embed: tokens");
    check(out.size() == tokens.size() * shape.dim, "embed: out");
    cpu::embed_forward(threads_, shape, tokens, table, positions, pad, out);
  }
  void embed_backward(const EmbedShape& shape, const Tensor& tokens, const Tensor& dout,
                      const Tensor& dtable, const Tensor& dpositions, const Tensor& dpad) override {
    check(tokens.size() == shape.sequences * shape.length * shape.patch, "embed: tokens");
    check(dout.size() == tokens.size() * shape.dim, "embed: dout");
    cpu::embed_backward(threads_, shape, tokens, dout, dtable, dpositions, dpad);
  }
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override {
    check(in.size() == shape.sequences * shape.length * shape.dim && out.size() == in.size(),
          "place: in and out");
    cpu::place_forward(threads_, shape, in, positions, pad, out);
  }
  void place_backward(const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                      const Tensor& dpositions, const Tensor& dpad) override {
    check(din.size() == shape.sequences * shape.length * shape.dim && dout.size() == din.size(),
          "place: dout and din");
    cpu::place_backward(threads_, shape, dout, din, dpositions, dpad);
  }
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override {
    check(out.size() == in.size() * width && in.shape[0] % length == 0, "unfold: out");
    cpu::unfold(threads_, in, length, width, out);
  }
  void unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                       const Tensor& din) override {
    check(dout.size() == din.size() * width && din.shape[0] % length == 0, "unfold: dout");
    cpu::unfold_backward(threads_, dout, length, width, din);
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override {
    check(a.size() == out.size() && b.size() == out.size(), "add: sizes differ");
    cpu::add(threads_, a, b, out);
  }

  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override {
    const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
    check(w.shape[1] == K && y.size() == M * N && (!bias || bias.size() == N), "linear: shapes");
    if (M <= cpu::kFewRows) return cpu::few_row_linear(threads_, x, w, bias, activation, pre, y);
    if (own(x, w, K)) return cpu::bf16_linear_forward(threads_, x, w, bias, activation, pre, y);
    const Tensor& product = pre ? pre : y;
    products_.multiply({x, M, K}, {w, K, N, true}, bias, product, false);
    if (pre || activation != Activation::none)
      cpu::activation_forward(threads_, activation, product, y);
  }
  void linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                             const Tensor& saved, const Tensor& dx) override {
    const int64_t M = dy.shape[0], N = dy.shape[1], K = w.shape[1];
    check(w.shape[0] == N && dx.size() == M * K, "linear: shapes of gradients");
    if (own(dy, w, N))
      return cpu::bf16_linear_backward_input(threads_, dy, w, activation, saved, dx);
    products_.multiply({dy, M, N}, {w, N, K}, {}, dx, false);
    if (activation != Activation::none)
      cpu::activation_backward(threads_, dx, activation, saved, dx);
  }
  void activation_backward(const Tensor& dy, Activation activation, const Tensor& saved,
                           const Tensor& dx) override {
    check(dy.size() == dx.size(), "activation: sizes differ");
    cpu::activation_backward(threads_, dy, activation, saved, dx);
  }
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                              const Tensor& dbias) override {
    const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
    check(x.shape[0] == M && dw.size() == N * K, "linear: shapes of weight gradients");
    if (own(dy, x, 2)) return cpu::bf16_linear_backward_weight(threads_, dy, x, dw, dbias);
    products_.multiply({dy, N, M, true}, {x, M, K}, {}, dw, true);
    if (dbias) cpu::add_column_sums(threads_, dy, dbias);
  }

  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    check(x.size() == y.size() && (!delta || delta.size() == y.size()), "norm: sizes differ");
    cpu::residual_norm_forward(threads_, x, delta, dropout, weight, bias, eps, sum, y, xhat, rstd);
  }
  void residual_norm_backward(const Tensor& dy, const Tensor& xhat, const Tensor& rstd,
                              const Tensor& weight, const Dropout& dropout, bool accumulate,
                              const Tensor& dsum, const Tensor& ddelta, const Tensor& dweight,
                              const Tensor& dbias) override {
    check(xhat.size() == dy.size() && dsum.size() == dy.size(), "norm: sizes of gradients differ");
    cpu::residual_norm_backward(threads_, dy, xhat, rstd, weight, dropout, accumulate, dsum, ddelta,
                                dweight, dbias);
  }
  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    check(head_dim % 2 == 0 && qkv.shape[1] == 3 * heads * head_dim, "rotary: pairs of a head");
    const cpu::RotaryTable& table = angles_[head_dim].up_to(first + length, head_dim);
    const int64_t at = first * (head_dim / 2);
    cpu::rotate(threads_, qkv, heads, head_dim, length, table.cosines() + at, table.sines() + at,
                inverse);
  }
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override {
    check(qkv.size() == shape.sequences * shape.length * 3 * shape.dim() &&
              out.size() == shape.sequences * shape.queries * shape.dim(),
          "attention: shapes");
    if (shape.linear && shape.cross == 0)
      cpu::linear_attention_forward(threads_, shape, qkv, out, stats);
    else
      cpu::attention_forward(threads_, shape, qkv, out, stats);
  }
  void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                          const Tensor& stats, const Tensor& dout, const Tensor& dqkv) override {
    check(dqkv.size() == qkv.size() && dout.size() == out.size(), "attention: gradient shapes");
    if (shape.linear && shape.cross == 0)
      cpu::linear_attention_backward(threads_, shape, qkv, out, stats, dout, dqkv);
    else
      cpu::attention_backward(threads_, shape, qkv, out, stats, dout, dqkv);
  }

  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override {
    check(logits.size() == shape.rows * shape.length * shape.vocab, "cross entropy: logits");
    cpu::cross_entropy(threads_, shape, logits, targets, losses, dlogits, total);
  }
  void sum_of_squares(const Tensor& x, const Tensor& total) override {
    cpu::sum_of_squares(threads_, x, total);
  }
  void adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy, const Tensor& grad,
             const Tensor& m, const Tensor& v, const Tensor& norm_sq) override {
    check(grad.size() == value.size() && m.size() == value.size() && v.size() == value.size(),
          "adamw: sizes differ");
    cpu::adamw(threads_, step, value, copy, grad, m, v, norm_sq);
  }

  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    check(shape.position - shape.first < shape.capacity, "decoding sees no more than the cache");
    cpu::attention_decode(threads_, shape, qkv, keys, values, out);
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    cpu::linear_attention_decode(threads_, shape, qkv, state, out);
  }
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override {
    sample_on_host(shape, logits, draws, tokens.as<uint16_t>());
  }

 private:
  // Is a product of these operands, of `terms` terms, one for bf16_products.h?
  bool own(const Tensor& a, const Tensor& b, int64_t terms) const {
    return bf16_products_ && a.dtype == DType::bf16 && b.dtype == DType::bf16 && terms % 2 == 0;
  }

  const bool bf16_products_ = cpu::has_bf16_products();
  Threads threads_;
  Products products_;
  std::map<int64_t, cpu::RotaryTable> angles_;  // by head_dim
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<CpuBackend>(threads);
}

}  // namespace megabyte
