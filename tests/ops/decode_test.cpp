// Decoding position by position gives what attention over the whole sequence gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "ops/ops.h"

namespace megabyte {
namespace {

struct Sequences {
  std::unique_ptr<Backend> backend = make_backend("reference");
  AttentionShape shape;
  std::vector<double> qkv, expected;

  explicit Sequences(const AttentionShape& s) : shape(s) {
    Random random(1, 2);
    qkv.resize(static_cast<size_t>(s.sequences * s.length * 3 * s.dim()));
    for (double& x : qkv) x = random.normal();
    expected.resize(qkv.size() / 3);
    backend->attention_forward(s, tensor(qkv, qkv.size()), tensor(expected, expected.size()), {});
  }
  static Tensor tensor(std::vector<double>& data, size_t size, size_t from = 0) {
    return {data.data() + from, DType::f64, {static_cast<int64_t>(size)}};
  }
  size_t dim() const { return static_cast<size_t>(shape.dim()); }
  void expect_row(int64_t row, const std::vector<double>& out) const {
    for (size_t c = 0; c < dim(); ++c)
      EXPECT_NEAR(out[c], expected[static_cast<size_t>(row) * dim() + c], 1e-12) << "row " << row;
  }
};

// One batch row of three sequences that see 5 positions before their own: the cache holds no more
// than any position sees.
void expect_cached_decoding_agrees(bool linear) {
  Sequences run({.sequences = 3,
                 .length = 4,
                 .queries = 4,
                 .heads = 2,
                 .head_dim = 3,
                 .row_sequences = 3,
                 .cross = 5,
                 .linear = linear});
  const AttentionShape& s = run.shape;
  const int64_t capacity = s.length + s.cross;
  std::vector<double> keys(static_cast<size_t>(capacity) * run.dim()), values(keys.size());
  std::vector<double> out(run.dim());
  for (int64_t p = 0; p < s.sequences * s.length; ++p) {
    const DecodeShape decode{.batch = 1,
                             .heads = s.heads,
                             .head_dim = s.head_dim,
                             .capacity = capacity,
                             .position = p,
                             .first = std::max<int64_t>(0, p / s.length * s.length - s.cross),
                             .linear = linear};
    run.backend->attention_decode(
        decode, Sequences::tensor(run.qkv, 3 * run.dim(), static_cast<size_t>(p) * 3 * run.dim()),
        Sequences::tensor(keys, keys.size()), Sequences::tensor(values, values.size()),
        Sequences::tensor(out, out.size()));
    run.expect_row(p, out);
  }
}

TEST(Decoding, OverACacheIsAttention) { expect_cached_decoding_agrees(false); }

TEST(Decoding, OverACacheIsLinearAttention) { expect_cached_decoding_agrees(true); }

TEST(Decoding, RunningStateIsLinearAttention) {
  Sequences run(
      {.sequences = 1, .length = 9, .queries = 9, .heads = 2, .head_dim = 3, .linear = true});
  const AttentionShape& s = run.shape;
  std::vector<double> state(run.dim() * static_cast<size_t>(s.head_dim + 1)), out(run.dim());
  const DecodeShape decode{.batch = 1, .heads = s.heads, .head_dim = s.head_dim};
  for (int64_t p = 0; p < s.length; ++p) {
    run.backend->linear_attention_decode(
        decode, Sequences::tensor(run.qkv, 3 * run.dim(), static_cast<size_t>(p) * 3 * run.dim()),
        Sequences::tensor(state, state.size()), Sequences::tensor(out, out.size()));
    run.expect_row(p, out);
  }
}

}  // namespace
}  // namespace megabyte
