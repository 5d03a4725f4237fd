// The exact backend's twin on the GPU: the same bits (docs/exact.md). What only moves or adds comes
// from the cuda backend; the rest is in this folder's kernels.
#include <memory>

#include "backends/cuda/device_backend.h"
#include "backends/exact/forward_only.h"
#include "backends/exact/frequencies.h"
#include "backends/exact/rotary_table.h"
#include "backends/exact/weight_cache.h"
#include "backends/exact_cuda/program.h"
#include "backends/factories.h"
#include "ops/symbols.h"

namespace megabyte {
namespace {

using namespace exact_cuda;  // NOLINT: this file is the backend

// The elements of a float tensor of `size` elements; nullptr where there is none.
float* floats(const Tensor& t, int64_t size, std::string_view what) {
  if (!t) return nullptr;
  check(t.size() == size, what);
  return t.as<float>();
}

exact::Act act_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return exact::Act::none;
    case Activation::relu:
      return exact::Act::relu;
    case Activation::gelu:
      return exact::Act::gelu;
  }
  fail("the exact backend does not know this model's activation: use --device cpu or cuda");
}

class ExactCudaBackend final : public exact::ForwardOnly<cuda::DeviceBackend>, public ByteCoding {
 public:
  std::string name() const override { return "exact-cuda"; }
  std::string description() const override {
    return fmt::format("{}, numbers of version {}", context_.device_name(), exact::kVersion);
  }
  bool supports(DType compute) const override { return compute == DType::f32; }
  bool fast(DType compute) const override { return compute == DType::f32; }
  DType residual_dtype(DType) const override { return DType::f32; }
  DType residual_gradient_dtype(DType) const override { return DType::f32; }

  size_t workspace() const override { return 0; }
  Buffer allocate(size_t bytes) override {
    auto memory = std::make_shared<Buffer>(cuda::allocate_on_device(bytes));
    std::byte* data = memory->data();
    return {data, bytes,
            [memory, bytes, weights = weights_](std::byte* p) { weights->forget(p, bytes); }};
  }
  void from_host(const Tensor& dst, const void* src) override {
    weights_->forget(dst.data, dst.bytes());
    DeviceBackend::from_host(dst, src);
  }
  void zero(const Tensor& x) override {
    weights_->forget(x.data, x.bytes());
    DeviceBackend::zero(x);
  }

  // Rows that know nothing of each other go through what is small in one kernel.
  std::unique_ptr<Recording> record(const std::function<void()>& work, int64_t rows) override {
    return context_.record([&] { run_rows(work, rows); });
  }
  void run_rows(const std::function<void()>& work, int64_t rows) override {
    const Program::Collecting collecting(program_, rows);
    work();
    program_.launch();
  }
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override {
    const auto size = static_cast<int>(size_of(src.dtype));
    const CopyStep step{src.data, dst.data, src_stride, dst_stride, static_cast<int>(cols), size};
    if (!(size == 2 || size == 4) || src.dtype != dst.dtype || !program_.take(step, rows))
      DeviceBackend::copy_rows(src, src_stride, dst, dst_stride, rows, cols);
  }
  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override {
    const EmbedStep step{tokens.as<uint16_t>(),
                         table.as<float>(),
                         positions ? positions.as<float>() : nullptr,
                         out.as<float>(),
                         static_cast<int>(shape.patch),
                         static_cast<int>(shape.dim),
                         static_cast<int>(table.shape[0])};
    if (shape.shift || shape.length > 1 || !program_.take(step, shape.sequences))
      DeviceBackend::embed_forward(shape, tokens, table, positions, pad, out);
  }

  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override {
    if (pre) refuse();
    run_linear(x, {.x = x.as<float>()}, false, w, bias, activation, y);
  }
  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    if (xhat || rstd || dropout.rate > 0) refuse();
    const int64_t M = x.shape[0], D = x.shape[1];
    const LinearStep step{.norm = norm_of(x, delta, weight, bias, eps, sum),
                          .w = {.q = nullptr, .scales = nullptr, .N = 0, .K = D},
                          .bias = nullptr,
                          .y = floats(y, x.size(), "norm: y (M, D)"),
                          .act = exact::Act::none,
                          .norms = true};
    if (!program_.take(step, M)) norm(context_, step.norm, M, D, step.y);
  }
  void norm_linear(const Tensor& x, const Tensor& delta, const Tensor& norm_weight,
                   const Tensor& norm_bias, double eps, const Tensor& w, const Tensor& bias,
                   Activation activation, const Tensor& sum, const Tensor&,
                   const Tensor& y) override {
    run_linear(x, norm_of(x, delta, norm_weight, norm_bias, eps, sum), true, w, bias, activation,
               y);
  }

  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    exact::refuse_to_turn_back(inverse);
    check(head_dim % 2 == 0 && qkv.shape[1] == 3 * heads * head_dim, "rotary: pairs of a head");
    const int64_t rows = qkv.shape[0], half = head_dim / 2;
    const RotaryStep step{qkv.as<float>(), turns(first + length, head_dim) + first * half,
                          static_cast<int>(heads), static_cast<int>(half)};
    if (length > 1 || !program_.take(step, rows))
      rotate(context_, step.qkv, rows, heads, head_dim, length, step.turns);
  }
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override {
    if (stats) refuse();
    const int64_t D = shape.dim(), S = shape.sequences;
    const float* x = floats(qkv, S * shape.length * 3 * D, "attention: qkv");
    float* y = floats(out, S * shape.queries * D, "attention: out");
    if (shape.linear && shape.cross == 0)
      attend_running(context_, shape, x, y);
    else
      attend(context_, shape, x, y);
  }
  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    const int64_t D = shape.dim(), visible = shape.position - shape.first + 1;
    check(shape.first >= 0 && visible >= 1 && visible <= shape.capacity,
          "decode: the visible positions fit the cache");
    const Cached queries =
        cached(shape, floats(qkv, shape.batch * 3 * D, "decode: qkv"),
               floats(keys, shape.batch * shape.capacity * D, "decode: keys"),
               floats(values, shape.batch * shape.capacity * D, "decode: values"),
               floats(out, shape.batch * D, "decode: out"));
    const AttentionStep step{queries, scale_of(shape.head_dim)};
    if (shape.linear || !program_.take(step, shape.batch))
      attend_cached(context_, queries, shape.batch, shape.linear);
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    const int64_t D = shape.dim();
    attend_state(context_, shape, floats(qkv, shape.batch * 3 * D, "decode: qkv"),
                 floats(state, shape.batch * D * (shape.head_dim + 1), "decode: state"),
                 floats(out, shape.batch * D, "decode: out"));
  }

  // The probabilities are the codec's: whole frequencies.
  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override {
    if (dlogits) refuse();
    const int64_t rows = shape.rows * shape.length;
    check(targets.size() == rows, "cross entropy: targets");
    exact_cuda::cross_entropy(
        context_, shape, floats(logits, rows * shape.vocab, "cross entropy: logits"),
        targets.as<uint16_t>(), floats(losses, rows, "cross entropy: losses"), total.as<double>());
  }

  int64_t rows_that_pay() const override { return 1 << 16; }
  size_t spare_memory() const override {
    size_t free = 0, total = 0;
    cuda::check_cuda(cudaMemGetInfo(&free, &total), "memory");
    return free / 2;
  }
  void byte_shares(const Tensor& logits, const Tensor& bytes, const Tensor& shares) override {
    const int64_t rows = bytes.size(), V = logits.shape[1];
    check(V >= static_cast<int64_t>(kByteValues) &&
              shares.bytes() == static_cast<size_t>(rows) * sizeof(ByteShare),
          "shares: all bytes, a share for each row");
    exact_cuda::byte_shares(context_, floats(logits, rows * V, "shares: logits"), rows, V,
                            bytes.as<uint16_t>(),
                            reinterpret_cast<ByteShare*>(shares.as<uint8_t>()));
  }
  void decode_bytes(const Tensor& logits, const Tensor& decoders, const Tensor& bytes) override {
    const int64_t rows = bytes.size(), V = logits.shape[1];
    check(V >= static_cast<int64_t>(kByteValues) &&
              decoders.bytes() == static_cast<size_t>(rows) * sizeof(RangeDecoder),
          "decode: all bytes, a decoder for each row");
    const DecodeStep step{floats(logits, rows * V, "decode: logits"),
                          reinterpret_cast<RangeDecoder*>(decoders.as<uint8_t>()),
                          bytes.as<uint16_t>(), static_cast<int>(V)};
    if (!program_.take(step, rows))
      exact_cuda::decode_bytes(context_, step.logits, rows, V, step.decoders, step.bytes);
  }

 private:
  struct Matrix {
    Buffer q, scales;
  };
  using Weights = exact::WeightCache<Matrix>;

  static Norm norm_of(const Tensor& x, const Tensor& delta, const Tensor& weight,
                      const Tensor& bias, double eps, const Tensor& sum) {
    const int64_t size = x.size(), D = x.shape[1];
    check(!delta || sum, "norm: the sum");
    return {.x = x.as<float>(),
            .delta = floats(delta, size, "norm: delta"),
            .sum = delta ? floats(sum, size, "norm: sum") : nullptr,
            .weight = floats(weight, D, "norm: weight"),
            .bias = floats(bias, D, "norm: bias"),
            .eps = static_cast<float>(eps)};
  }

  // y = act(rows of `norm`, normed where `norms`, . w^T + bias)
  void run_linear(const Tensor& x, const Norm& norm, bool norms, const Tensor& w,
                  const Tensor& bias, Activation activation, const Tensor& y) {
    const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
    check(w.shape[1] == K && y.size() == M * N, "linear: x (M, K), w (N, K) and y (M, N)");
    const LinearStep s{.norm = norm,
                       .w = matrix_of(w),
                       .bias = floats(bias, N, "linear: bias (N)"),
                       .y = y.as<float>(),
                       .act = act_of(activation),
                       .norms = norms};
    if (program_.take(s, M)) return;
    const Int8Rows rows = scratch_rows(M, K);
    if (norms)
      norm_and_quantise(context_, norm, M, K, rows);
    else
      quantise(context_, norm.x, M, K, rows);
    multiply(context_, rows, M, s.w, s.bias, s.act, s.y);
  }
  Int8Rows scratch_rows(int64_t rows, int64_t columns) {
    return int8_rows(context_.scratch(int8_rows_bytes(rows, columns)), rows, columns);
  }

  DeviceMatrix matrix_of(const Tensor& w) {
    const int64_t N = w.shape[0], K = w.shape[1];
    const Matrix& made = weights_->get(w, [&] { return make_matrix(w); });
    return {reinterpret_cast<const int8_t*>(made.q.data()),
            reinterpret_cast<const float*>(made.scales.data()), N, K};
  }
  Matrix make_matrix(const Tensor& w) {
    const int64_t N = w.shape[0], K = w.shape[1], across = blocks_across(K);
    const int64_t padded = padded_outputs(N);
    std::vector<float> values(static_cast<size_t>(N * K));
    to_host(values.data(), w);
    QuantisedRows quantised = quantise_rows(values.data(), N, K);
    quantised.scales.resize(static_cast<size_t>(padded));
    std::vector<int8_t> blocks(static_cast<size_t>(padded * across * kBlockColumns));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t k = 0; k < K; ++k)
        blocks[static_cast<size_t>(place_of(n, k, across))] =
            quantised.q[static_cast<size_t>(n * K + k)];
    return {upload(blocks), upload(quantised.scales)};
  }
  template <class T>
  Buffer upload(const std::vector<T>& values) {
    Buffer buffer = cuda::allocate_on_device(values.size() * sizeof(T));
    context_.upload(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }

  // Cosines and sines of at least the first `positions`.
  const float2* turns(int64_t positions, int64_t head_dim) {
    std::vector<Buffer>& tables = turns_[head_dim];
    const int64_t half = head_dim / 2;
    const auto bytes = [half](int64_t n) { return static_cast<size_t>(n * half) * sizeof(float2); };
    if (tables.empty() || tables.back().bytes() < bytes(positions)) {
      int64_t capacity = 64;
      while (capacity < positions) capacity *= 2;
      const auto table = rotary_.up_to(capacity, head_dim);
      std::vector<float2> both(static_cast<size_t>(capacity * half));
      for (size_t i = 0; i < both.size(); ++i) both[i] = {table->cosines[i], table->sines[i]};
      tables.push_back(upload(both));
    }
    return reinterpret_cast<const float2*>(tables.back().data());
  }

  Program program_{context_};
  std::shared_ptr<Weights> weights_ =
      std::make_shared<Weights>();  // what is released later knows it
  exact::RotaryTables rotary_;
  // By head_dim, each larger than the one before: work that is still to be done, and recordings,
  // use old ones.
  std::map<int64_t, std::vector<Buffer>> turns_;
};

}  // namespace

std::unique_ptr<Backend> make_exact_cuda_backend() {
  if (const std::string why = cuda::why_no_device(); !why.empty())
    fail("no CUDA device can be used: {}; use --device exact, or cpu for archives", why);
  return std::make_unique<ExactCudaBackend>();
}

}  // namespace megabyte
