// The exact backend: operations of ops/ops.h with the same bits on every machine (docs/exact.md).
// All that is more than a copy or one addition is in the kernels.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "backends/exact/attention.h"
#include "backends/exact/forward_only.h"
#include "backends/exact/frequencies.h"
#include "backends/exact/kernels.h"
#include "backends/exact/operands.h"
#include "backends/exact/packed_weights.h"
#include "backends/exact/parallel.h"
#include "backends/factories.h"
#include "base/error.h"
#include "ops/byte_coding.h"
#include "ops/host_memory.h"
#include "ops/range_coder.h"
#include "ops/sampling.h"
#include "ops/symbols.h"

namespace megabyte {
namespace {

using namespace exact;  // NOLINT: this file is the backend

constexpr int64_t kProductGrain = 1 << 20;  // products of bytes

class ExactBackend final : public ForwardOnly<Backend>, public ByteCoding {
 public:
  ExactBackend(int threads, const Kernels& kernels)
      : threads_(threads),
        kernels_(kernels),
        weights_(std::make_shared<PackedWeights>(kernels)),
        attention_(threads, kernels) {}

  std::string name() const override { return "exact"; }
  std::string description() const override {
    return fmt::format("{} thread{}, {} kernels, numbers of version {}", threads_,
                       threads_ == 1 ? "" : "s", kernels_.name, kVersion);
  }
  bool supports(DType compute) const override { return compute == DType::f32; }
  bool fast(DType compute) const override { return compute == DType::f32; }
  DType residual_dtype(DType) const override { return DType::f32; }
  DType residual_gradient_dtype(DType) const override { return DType::f32; }

  // --- memory

  size_t peak_memory() const override { return peak_host_memory(); }
  size_t workspace() const override { return 0; }
  Buffer allocate(size_t bytes) override {
    auto memory = std::make_shared<Buffer>(allocate_on_host(bytes));
    std::byte* data = memory->data();
    return {data, bytes,
            [memory, bytes, weights = weights_](std::byte* p) { weights->forget(p, bytes); }};
  }
  void from_host(const Tensor& dst, const void* src) override {
    weights_->forget(dst.data, dst.bytes());
    std::memcpy(dst.data, src, dst.bytes());
  }
  void to_host(void* dst, const Tensor& src) override { std::memcpy(dst, src.data, src.bytes()); }
  void synchronize() override {}
  void zero(const Tensor& x) override {
    weights_->forget(x.data, x.bytes());
    std::memset(x.data, 0, x.bytes());
  }
  void convert(const Tensor& src, const Tensor& dst) override {
    check(src.size() == dst.size() && src.dtype == DType::f32 && dst.dtype == DType::f32,
          "convert: from float to float");
    std::memcpy(dst.data, src.data, src.bytes());
  }
  void copy_rows(const Tensor& src, int64_t src_stride, const Tensor& dst, int64_t dst_stride,
                 int64_t rows, int64_t cols) override {
    copy_rows_on_host(src, src_stride, dst, dst_stride, rows, cols);
  }

  // --- input side

  void embed_forward(const EmbedShape& shape, const Tensor& tokens, const Tensor& table,
                     const Tensor& positions, const Tensor& pad, const Tensor& out) override {
    const int64_t n = shape.length, P = shape.patch, e = shape.dim, D = P * e;
    const int64_t rows = shape.sequences * n, vocab = table.size() / e;
    check(tokens.size() == rows * P && (!positions || positions.size() >= n * D), "embed: shapes");
    const uint16_t* x = tokens.as<uint16_t>();
    const float* E = table.as<float>();
    const float* at = positions ? positions.as<float>() : nullptr;
    const float* first = shape.shift ? floats(pad, D, "embed: pad") : nullptr;
    float* y = floats(out, rows * D, "embed: out");
    for (int64_t i = 0; i < rows * P; ++i)
      check(x[i] < vocab, "embed: a token is below the vocabulary's size");
    parallel(threads_, rows, rows_of(kGrain, D), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = r % n, from = first != nullptr ? i - 1 : i;
        if (from < 0) {
          std::copy_n(first, D, y + r * D);
          continue;
        }
        for (int64_t p = 0; p < P; ++p) {
          const float* row = E + x[(r - i + from) * P + p] * e;
          const float* where = at != nullptr ? at + (from * P + p) * e : nullptr;
          float* to = y + r * D + p * e;
          for (int64_t c = 0; c < e; ++c) to[c] = where != nullptr ? row[c] + where[c] : row[c];
        }
      }
    });
  }
  void place_forward(const PlaceShape& shape, const Tensor& in, const Tensor& positions,
                     const Tensor& pad, const Tensor& out) override {
    const int64_t n = shape.length, D = shape.dim, rows = shape.sequences * n;
    check(!positions || positions.size() >= n * D, "place: positions");
    const float* x = floats(in, rows * D, "place: in");
    const float* at = positions ? positions.as<float>() : nullptr;
    const float* first = shape.shift ? floats(pad, D, "place: pad") : nullptr;
    float* y = floats(out, rows * D, "place: out");
    parallel(threads_, rows, rows_of(kGrain, D), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = r % n, from = first != nullptr ? i - 1 : i;
        float* to = y + r * D;
        if (from < 0) {
          std::copy_n(first, D, to);
          continue;
        }
        const float* row = x + (r - i + from) * D;
        for (int64_t c = 0; c < D; ++c) to[c] = at != nullptr ? row[c] + at[from * D + c] : row[c];
      }
    });
  }
  void unfold(const Tensor& in, int64_t length, int64_t width, const Tensor& out) override {
    const int64_t rows = in.shape[0], channels = in.shape[1];
    check(rows % length == 0, "unfold: whole rows");
    const float* x = in.as<float>();
    float* y = floats(out, rows * channels * width, "unfold: out");
    parallel(threads_, rows, rows_of(kGrain, channels * width), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t k = 0; k < width; ++k) {
            const int64_t t = r % length - (width - 1) + k;
            y[(r * channels + c) * width + k] =
                t < 0 ? 0.0f : x[(r - (width - 1) + k) * channels + c];
          }
    });
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& out) override {
    const int64_t size = out.size();
    const float* x = floats(a, size, "add: sizes differ");
    const float* y = floats(b, size, "add: sizes differ");
    float* z = out.as<float>();
    parallel(threads_, size, kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) z[i] = x[i] + y[i];
    });
  }

  // --- products and norms

  void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
                      const Tensor& pre, const Tensor& y) override {
    if (pre) refuse();
    const int64_t M = x.shape[0], K = x.shape[1], N = w.shape[0];
    check(w.shape[1] == K, "linear: x (M, K) and w (N, K)");
    const LinearCall call{.x = x.as<float>(),
                          .w = weights_->get(w),
                          .bias = floats(bias, N, "linear: bias (N)"),
                          .act = act_of(activation),
                          .y = floats(y, M * N, "linear: y (M, N)")};
    const int64_t blocks = (N + kernels_.block - 1) / kernels_.block;
    // Few rows are shared by outputs, and each thread quantises them all; many are cut into pieces.
    constexpr int64_t kManyRows = 8;
    if (M >= kManyRows * threads_)
      parallel(threads_, M, std::max<int64_t>(kManyRows, kProductGrain / (N * K)),
               [&](int64_t begin, int64_t end) { products(call, begin, end, 0, blocks); });
    else
      parallel(threads_, blocks, rows_of(kProductGrain, M * K * kernels_.block),
               [&](int64_t begin, int64_t end) { products(call, 0, M, begin, end); });
  }
  void residual_norm_forward(const Tensor& x, const Tensor& delta, const Dropout& dropout,
                             const Tensor& weight, const Tensor& bias, double eps,
                             const Tensor& sum, const Tensor& y, const Tensor& xhat,
                             const Tensor& rstd) override {
    if (xhat || rstd || dropout.rate > 0) refuse();
    const int64_t M = x.shape[0], D = x.shape[1];
    check(!delta || sum, "norm: the sum");
    const NormCall call{.x = x.as<float>(),
                        .delta = floats(delta, M * D, "norm: delta"),
                        .weight = floats(weight, D, "norm: weight"),
                        .bias = floats(bias, D, "norm: bias"),
                        .eps = static_cast<float>(eps),
                        .sum = delta ? floats(sum, M * D, "norm: sum") : nullptr,
                        .y = floats(y, M * D, "norm: y"),
                        .dim = D};
    parallel(threads_, M, rows_of(kGrain / 4, D),
             [&](int64_t begin, int64_t end) { kernels_.norm(call, begin, end); });
  }

  // --- attention

  void rotary(const Tensor& qkv, int64_t heads, int64_t head_dim, int64_t length, int64_t first,
              bool inverse) override {
    refuse_to_turn_back(inverse);
    attention_.rotary(qkv, heads, head_dim, length, first);
  }
  void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                         const Tensor& stats) override {
    if (stats) refuse();
    attention_.forward(shape, qkv, out);
  }
  void attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& keys,
                        const Tensor& values, const Tensor& out) override {
    attention_.decode(shape, qkv, keys, values, out);
  }
  void linear_attention_decode(const DecodeShape& shape, const Tensor& qkv, const Tensor& state,
                               const Tensor& out) override {
    attention_.decode_running(shape, qkv, state, out);
  }

  // --- loss, sampling

  // The probabilities are the codec's: whole frequencies.
  void cross_entropy(const LossShape& shape, const Tensor& logits, const Tensor& targets,
                     const Tensor& losses, const Tensor& dlogits, const Tensor& total) override {
    if (dlogits) refuse();
    const int64_t rows = shape.rows * shape.length, V = shape.vocab;
    const float* x = floats(logits, rows * V, "cross entropy: logits");
    check(targets.size() == rows, "cross entropy: targets");
    const uint16_t* wanted = targets.as<uint16_t>();
    float* kept = floats(losses, rows, "cross entropy: losses");
    double& all = *total.as<double>();
    std::vector<uint32_t> frequency(static_cast<size_t>(V));
    for (int64_t r = 0; r < rows; ++r) {
      double nats = 0;
      if (r % shape.length < shape.valid) {
        check(wanted[r] < V, "cross entropy: a target is below the vocabulary's size");
        kernels_.frequencies(x + r * V, V, frequency.data());
        uint64_t sum = 0;
        for (const uint32_t f : frequency) sum += f;
        nats = std::log(static_cast<double>(sum)) -
               std::log(static_cast<double>(frequency[wanted[r]]));
      }
      if (kept != nullptr) kept[r] = static_cast<float>(nats);
      all += nats;
    }
  }
  void sample(const SampleShape& shape, const Tensor& logits, const Tensor& draws,
              const Tensor& tokens) override {
    sample_on_host(shape, logits, draws, tokens.as<uint16_t>());
  }

  // --- coding

  // Products gain little with more rows, and every row has keys and values that should stay in a
  // cache.
  int64_t rows_that_pay() const override { return 16; }
  size_t spare_memory() const override { return std::numeric_limits<size_t>::max(); }

  void byte_shares(const Tensor& logits, const Tensor& bytes, const Tensor& shares) override {
    const int64_t rows = bytes.size(), V = logits.shape[1];
    const float* x = floats(logits, rows * V, "shares: logits");
    check(shares.bytes() == static_cast<size_t>(rows) * sizeof(ByteShare), "shares: shares");
    const uint16_t* wanted = bytes.as<uint16_t>();
    uint8_t* to = shares.as<uint8_t>();
    for_frequencies(x, rows, V, [=](int64_t r, const uint32_t* f) {
      check(wanted[r] < kByteValues, "shares: bytes");
      const ByteShare share{sum(f, wanted[r]), f[wanted[r]], sum(f, kByteValues)};
      std::memcpy(to + static_cast<size_t>(r) * sizeof(share), &share, sizeof(share));
    });
  }
  void decode_bytes(const Tensor& logits, const Tensor& decoders, const Tensor& bytes) override {
    const int64_t rows = bytes.size(), V = logits.shape[1];
    const float* x = floats(logits, rows * V, "decode: logits");
    check(decoders.bytes() == static_cast<size_t>(rows) * sizeof(RangeDecoder), "decode: decoders");
    auto* decoder = reinterpret_cast<RangeDecoder*>(decoders.as<uint8_t>());
    uint16_t* to = bytes.as<uint16_t>();
    for_frequencies(x, rows, V, [=](int64_t r, const uint32_t* f) {
      const Share found = share_of(f, decoder[r].target(sum(f, kByteValues)));
      decoder[r].take(found.below, f[found.symbol]);
      to[r] = found.symbol;
    });
  }

 private:
  // each(row, frequencies of the 256 bytes)
  template <class Each>
  void for_frequencies(const float* logits, int64_t rows, int64_t V, const Each& each) const {
    check(V >= static_cast<int64_t>(kByteValues), "the model knows all bytes");
    parallel(threads_, rows, rows_of(kGrain, V), [&](int64_t begin, int64_t end) {
      uint32_t frequencies[kByteValues];
      for (int64_t r = begin; r < end; ++r) {
        kernels_.frequencies(logits + r * V, kByteValues, frequencies);
        each(r, frequencies);
      }
    });
  }

  static Act act_of(Activation activation) {
    switch (activation) {
      case Activation::none:
        return Act::none;
      case Activation::relu:
        return Act::relu;
      case Activation::gelu:
        return Act::gelu;
    }
    fail("the exact backend does not know this model's activation: use --device cpu or cuda");
  }

  void products(const LinearCall& call, int64_t row, int64_t row_end, int64_t block,
                int64_t block_end) const {
    // So many rows at a time that what they become stays in the nearest memory.
    constexpr int64_t kRows = 64;
    std::byte* scratch =
        thread_scratch(kernels_.linear_scratch(std::min(kRows, row_end - row), call.w.K));
    for (; row < row_end; row += kRows)
      kernels_.linear(call, row, std::min(row + kRows, row_end), block, block_end, scratch);
  }

  int threads_;
  const Kernels& kernels_;
  std::shared_ptr<PackedWeights> weights_;  // what is released later still knows it
  Attention attention_;
};

}  // namespace

std::unique_ptr<Backend> make_exact_backend(int threads, const std::string& kernels) {
  for (const Kernels* available : available_kernels())
    if (kernels.empty() || kernels == available->name)
      return std::make_unique<ExactBackend>(threads, *available);
  fail("this machine does not run the exact backend's {} kernels", kernels);
}

}  // namespace megabyte
