// The cuda backend: chooses for each operation between cuBLASLt and the kernels of this folder.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <optional>
#include <vector>

#include "backends/cuda/attention.h"
#include "backends/cuda/cublas.h"
#include "backends/cuda/decode_stack.h"
#include "backends/cuda/device_backend.h"
#include "backends/cuda/fp8.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/products.h"
#include "backends/factories.h"

namespace megabyte {
namespace {

using cuda::Epilogue;
using cuda::Matrix;
using cuda::Products;

class CudaBackend final : public cuda::DeviceBackend {
 public:
  std::string name() const override { return "cuda"; }
  std::string description() const override {
    int runtime = 0;
    cuda::check_cuda(cudaRuntimeGetVersion(&runtime), "version");
    return fmt::format("{}, CUDA {}.{}, cuBLASLt {}", context_.device_name(), runtime / 1000,
                       runtime % 1000 / 10, cuda::cublas().version());
  }
  bool supports(DType compute) const override {
    return compute == DType::f32 || compute == DType::bf16;
  }
  bool fast(DType compute) const override { return supports(compute); }
  // In bf16 the stream itself would take logits beyond their tolerance; its gradient may.
  DType residual_dtype(DType) const override { return DType::f32; }
  DType residual_gradient_dtype(DType compute) const override { return compute; }

  size_t workspace() const override { return Products::kWorkspace; }

  void embed_backward(const EmbedShape& shape, const Tensor& tokens, const Tensor& dout,
                      const Tensor& dtable, const Tensor& dpositions, const Tensor& dpad) override {
    check(tokens.size() == shape.sequences * shape.length * shape.patch, "embed: tokens");
    check(dout.size() == tokens.size() * shape.dim, "embed: dout");
    cuda::embed_backward(context_, shape, tokens, dout, dtable, dpositions, dpad);
  }
  void place_backward(const PlaceShape& shape, const Tensor& dout, const Tensor& din,
                      const Tensor& dpositions, const Tensor& dpad) override {
    check(din.size() == shape.sequences * shape.length * shape.dim && dout.size() == din.size(),
          "place: dout and din");
    cuda::place_backward(context_, shape, dout, din, dpositions, dpad);
  }
  void unfold_backward(const Tensor& dout, int64_t length, int64_t width,
                       const Tensor& din) override {
    check(dout.size() == din.size() * width && din.shape[0] % length == 0, "unfold: dout");
    cuda::unfold_backward(context_, dout, length, width, din);
  }

  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override;
  void norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                   const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                   Activation activation, const Tensor& sum, const Tensor& norm,
                   const Tensor& y) override {
    check(x.size() == norm.size() && y.size() == x.shape[0] * w.shape[0] &&
              (!delta || (sum.size() == x.size() && sum.data != x.data)),
          "norm and linear: shapes");
    if (!cuda::narrow_norm_linear(context_, x, delta, norm_weight, norm_bias, eps, w, bias,
                                  activation, sum, norm, y))
      Backend::norm_linear(x, delta, norm_weight, norm_bias, eps, w, bias, activation, sum, norm,
                           y);
  }
  void linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                             const Tensor& saved, const Tensor& dx) override;
  void activation_backward(const Tensor& dy, Activation activation, const Tensor& saved,
                           const Tensor& dx) override {
    check(dy.size() == dx.size() && saved.size() == dx.size(), "activation: sizes differ");
    cuda::activation_backward(context_, dy, activation, saved, dx);
  }
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                              const Tensor& dbias) override;
  void linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& dw,
                       const Tensor& dbias, const Tensor& dx) override {
    const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
    check(dy.size() == M * N && w.shape[1] == K && dw.size() == N * K && dx.size() == M * K &&
              (!dbias || dbias.size() == N),
          "linear: shapes of gradients");
    if (in_fp8(M, N, K, {&dy, &x, &w, &dx})) return fp8_->linear_backward(dy, x, w, dw, dbias, dx);
    Backend::linear_backward(dy, x, w, dw, dbias, dx);
  }
  void feed_forward(const FeedForward& w, Activation activation, const Tensor& x, const Tensor& pre,
                    const Tensor& hidden, const Tensor& y) override {
    if (feed_forward_in_fp8(w, activation, x, hidden))
      return fp8_->feed_forward(w, x, pre, hidden, y);
    Backend::feed_forward(w, activation, x, pre, hidden, y);
  }
  void feed_forward_backward(const FeedForward& w, Activation activation, const Tensor& dy,
                             const Tensor& x, const Tensor& pre, const Tensor& hidden,
                             const Tensor& dhidden, const FeedForward& dw,
                             const Tensor& dx) override {
    if (feed_forward_in_fp8(w, activation, x, hidden))
      return fp8_->feed_forward_backward(w, dy, x, pre, hidden, dhidden, dw, dx);
    Backend::feed_forward_backward(w, activation, dy, x, pre, hidden, dhidden, dw, dx);
  }
  void use_fp8(bool on) override {
    if (on && !fp8_) fp8_.emplace(context_, products_);
    fp8_on_ = on;
  }

  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    check(x.size() == y.size() && (!delta || delta.size() == y.size()), "norm: sizes differ");
    cuda::residual_norm_forward(context_, x, delta, dropout, weight, bias, eps, sum, y, xhat, rstd);
  }
  void residual_norm_backward(const Tensor& dy, const Tensor& xhat, const Tensor& rstd,
                              const Tensor& weight, const Dropout& dropout, bool accumulate,
                              const Tensor& dsum, const Tensor& ddelta, const Tensor& dweight,
                              const Tensor& dbias) override {
    check(xhat.size() == dy.size() && dsum.size() == dy.size(), "norm: sizes of gradients differ");
    cuda::residual_norm_backward(context_, dy, xhat, rstd, weight, dropout, accumulate, dsum,
                                 ddelta, dweight, dbias);
  }
  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    check(head_dim % 2 == 0 && qkv.shape[1] == 3 * heads * head_dim, "rotary: pairs of a head");
    cuda::rotary(context_, qkv, heads, head_dim, length,
                 turns(first + length, head_dim) + first * (head_dim / 2), inverse);
  }
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override {
    check(qkv.size() == shape.sequences * shape.length * 3 * shape.dim() &&
              out.size() == shape.sequences * shape.queries * shape.dim(),
          "attention: shapes");
    cuda::attention_forward(shape, qkv, out, stats, context_.stream(), workspace_);
  }
  void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                          const Tensor& stats, const Tensor& dout, const Tensor& dqkv) override {
    check(dqkv.size() == qkv.size() && dout.size() == out.size(), "attention: gradient shapes");
    cuda::attention_backward(shape, qkv, out, stats, dout, dqkv, context_.stream(), workspace_);
  }

  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override {
    check(logits.size() == shape.rows * shape.length * shape.vocab, "cross entropy: logits");
    cuda::cross_entropy(context_, shape, logits, targets, losses, dlogits, total);
  }
  void sum_of_squares(const Tensor& x, const Tensor& total) override {
    cuda::sum_of_squares(context_, x, total);
  }
  void adamw(const AdamwStep& step, const Tensor& value, const Tensor& copy, const Tensor& grad,
             const Tensor& m, const Tensor& v, const Tensor& norm_sq) override {
    check(grad.size() == value.size() && m.size() == value.size() && v.size() == value.size(),
          "adamw: sizes differ");
    cuda::adamw(context_, step, value, copy, grad, m, v, norm_sq);
  }

  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    check(shape.position - shape.first < shape.capacity, "decoding sees no more than the cache");
    cuda::attention_decode(context_, shape, qkv, keys, values, out);
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    cuda::linear_attention_decode(shape, qkv, state, out, context_.stream(), workspace_);
  }
  bool decode_stack(const DecodeShape& shape, const DecodeStack& stack, const Tensor& x,
                    const Tensor& delta, const Tensor& sum, const Tensor& y) override {
    check(x.size() == shape.batch * shape.dim() && sum.size() == x.size() && y.size() == x.size() &&
              (!delta || delta.size() == x.size()),
          "decode stack: shapes");
    return stack_kernel_.run(shape, stack, x, delta, sum, y);
  }

 private:
  // Elements of a result from which on bias and activation are left to the library, which rounds
  // the bias to the result's type; smaller ones cost their launches, not their memory traffic.
  static constexpr int64_t kEpiloguePays = int64_t{1} << 20;

  bool in_fp8(int64_t M, int64_t N, int64_t K, std::initializer_list<const Tensor*> tensors) const {
    return fp8_on_ && cuda::Fp8Layers::pays(M, N, K) &&
           std::all_of(tensors.begin(), tensors.end(),
                       [](const Tensor* t) { return t->dtype == DType::bf16; });
  }
  bool feed_forward_in_fp8(const FeedForward& w, Activation activation, const Tensor& x,
                           const Tensor& hidden) const {
    const int64_t M = x.shape[0], D = x.shape[1], F = w.up.shape[0];
    return activation == Activation::gelu && in_fp8(M, F, D, {&x, &w.up, &w.down, &hidden}) &&
           cuda::Fp8Layers::pays(M, D, F);
  }
  // linear_forward() in one product; false where the library does not offer it.
  bool fused_linear(const Matrix& a, const Matrix& b, const Tensor& bias, Activation activation,
                    const Tensor& pre, const Tensor& y);
  // Scratch memory for a product: the library's, then `more` bytes.
  std::byte* product_scratch(size_t more) {
    return static_cast<std::byte*>(context_.scratch(Products::kWorkspace + more));
  }
  // Cosines and sines of at least the first `positions`.
  const float2* turns(int64_t positions, int64_t head_dim) {
    std::vector<Buffer>& tables = turns_[head_dim];
    const auto bytes = [head_dim](int64_t n) {
      return static_cast<size_t>(n * (head_dim / 2)) * sizeof(float2);
    };
    if (tables.empty() || tables.back().bytes() < bytes(positions)) {
      int64_t capacity = 1024;
      while (capacity < positions) capacity *= 2;
      tables.push_back(cuda::allocate_on_device(bytes(capacity)));
      cuda::fill_rotary_table(context_, capacity, head_dim,
                              reinterpret_cast<float2*>(tables.back().data()));
    }
    return reinterpret_cast<const float2*>(tables.back().data());
  }

  Products products_{context_};
  cuda::StackKernel stack_kernel_{context_};
  std::optional<cuda::Fp8Layers> fp8_;  // from the first use_fp8(true) on
  bool fp8_on_ = false;
  // By head_dim, each twice the one before: work that is still to be done, and recordings, use old
  // ones.
  std::map<int64_t, std::vector<Buffer>> turns_;
  cuda::Workspace workspace_ = [this](size_t bytes) { return context_.scratch(bytes); };
};

Matrix matrix(const Tensor& t, int64_t rows, int64_t cols, bool transposed = false) {
  return {t.data, cuda::type_of(t.dtype), rows, cols, transposed};
}

// In bf16 gelu and its slope are part of the product; in f32 they are taken apart, since the
// library's tangent is an approximation.
bool gelu_within(Activation activation, cudaDataType_t compute, const Tensor& y) {
  return activation == Activation::gelu && compute == CUDA_R_16BF && y.dtype == DType::bf16;
}

void CudaBackend::linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias,
                                 Activation activation, const Tensor& pre, const Tensor& y) {
  const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
  check(w.shape[1] == K && y.size() == M * N && (!bias || bias.size() == N) &&
            (!pre || pre.size() == M * N),
        "linear: shapes");
  if (!pre && cuda::narrow_linear(context_, x, w, bias, activation, y)) return;
  if (M <= cuda::kFewRows) return cuda::few_row_linear(context_, x, w, bias, activation, pre, y);
  if (activation == Activation::none && !pre && in_fp8(M, N, K, {&x, &w, &y}))
    return fp8_->linear_forward(x, w, bias, y);
  const Matrix a = matrix(x, M, K), b = matrix(w, N, K, true);
  if (M * N >= kEpiloguePays && fused_linear(a, b, bias, activation, pre, y)) return;
  std::byte* scratch = product_scratch(static_cast<size_t>(M * N) * sizeof(float));
  const Tensor product{scratch + Products::kWorkspace, DType::f32, {M, N}};
  if (!products_.multiply(a, b, product, false, {}, scratch))
    cuda::plain_product(context_, x.dtype, M, N, K, {x.data, K, 1}, {w.data, 1, K}, false, product);
  cuda::finish_linear(context_, product, bias, activation, pre, y);
}

bool CudaBackend::fused_linear(const Matrix& a, const Matrix& b, const Tensor& bias,
                               Activation activation, const Tensor& pre, const Tensor& y) {
  std::byte* scratch = product_scratch(static_cast<size_t>(b.rows) * sizeof(float));
  // The library takes the bias in the type of the result.
  const auto bias_as = [&](DType dtype) -> const void* {
    if (!bias || dtype == bias.dtype) return bias.data;
    const Tensor converted{scratch + Products::kWorkspace, dtype, {b.rows}};
    cuda::convert(context_, bias, converted);
    return converted.data;
  };
  if (gelu_within(activation, a.type, y)) {
    const Epilogue whole{bias
                             ? (pre ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_BIAS)
                             : (pre ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU),
                         bias_as(y.dtype), pre.data};
    return products_.multiply(a, b, y, false, whole, scratch);
  }
  const Tensor& product = pre ? pre : y;
  const Epilogue with_bias{bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
                           bias_as(product.dtype)};
  if (!products_.multiply(a, b, product, false, with_bias, scratch)) return false;
  if (pre || activation != Activation::none)
    cuda::activation_forward(context_, activation, product, y);
  return true;
}

void CudaBackend::linear_backward_input(const Tensor& dy, const Tensor& w, Activation activation,
                                        const Tensor& saved, const Tensor& dx) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = w.shape[1];
  check(w.shape[0] == N && dx.size() == M * K &&
            (activation == Activation::none || saved.size() == M * K),
        "linear: shapes of gradients");
  std::byte* scratch = product_scratch(0);
  const Matrix a = matrix(dy, M, N), b = matrix(w, N, K);
  if (gelu_within(activation, a.type, dx) &&
      products_.multiply(a, b, dx, false, {CUBLASLT_EPILOGUE_DGELU, nullptr, saved.data}, scratch))
    return;
  if (!products_.multiply(a, b, dx, false, {}, scratch))
    cuda::plain_product(context_, dy.dtype, M, K, N, {dy.data, N, 1}, {w.data, K, 1}, false, dx);
  if (activation != Activation::none)
    cuda::activation_backward(context_, dx, activation, saved, dx);
}

void CudaBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                         const Tensor& dbias) {
  const int64_t M = dy.shape[0], N = dy.shape[1], K = x.shape[1];
  check(x.shape[0] == M && dw.size() == N * K && (!dbias || dbias.size() == N),
        "linear: shapes of weight gradients");
  std::byte* scratch = product_scratch(0);
  if (!products_.multiply(matrix(dy, M, N, true), matrix(x, M, K), dw, true, {}, scratch))
    cuda::plain_product(context_, dy.dtype, N, K, M, {dy.data, 1, N}, {x.data, K, 1}, true, dw);
  if (dbias) cuda::add_column_sums(context_, dy, M, N, N, dbias.as<float>());
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend() { return std::make_unique<CudaBackend>(); }

std::string why_no_cuda_device() { return cuda::why_no_device(); }

}  // namespace megabyte
