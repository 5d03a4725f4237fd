#include "layers/window_attention.h"

#include <algorithm>

namespace megabyte {
namespace {

// Patch number `patch` of all batch rows, and the rows of qkv that it sees.
class PatchWindow {
 public:
  PatchWindow(Backend& backend, const AttentionShape& shape, int64_t patch)
      : backend_(backend), shape_(shape), patch_(patch) {
    before_ = std::min(shape.cross, patch * shape.length);
    seen_ = before_ + shape.length;
    batch_ = shape.sequences / shape.row_sequences;
  }

  AttentionShape attention() const {
    return {.sequences = batch_,
            .length = seen_,
            .queries = shape_.length,
            .heads = shape_.heads,
            .head_dim = shape_.head_dim,
            .linear = true};
  }
  // A window's rows are neighbours in qkv, and a patch's are neighbours in out.
  int64_t qkv_row(int64_t b) const { return own_row(b) - before_; }
  int64_t own_row(int64_t b) const { return (b * shape_.row_sequences + patch_) * shape_.length; }
  int64_t seen() const { return seen_; }
  int64_t batch() const { return batch_; }

  // The parts of scratch and stats that belong to this patch.
  Tensor seen_rows(const Tensor& t) const { return t.slice(0, batch_ * seen_); }
  Tensor stats(const Tensor& all) const {
    const int64_t count = batch_ * shape_.length * shape_.heads;
    return all ? all.slice(patch_ * count, count) : Tensor{};
  }

  // `window` = the rows seen, turned by their positions from the patch's start on: by those from
  // the window's start on, and all of them back.
  void take(const Tensor& qkv, const Tensor& window) const {
    const int64_t width = qkv.shape[1], size = seen_ * width;
    const int64_t stride = shape_.row_sequences * shape_.length * width;
    backend_.copy_rows(qkv.slice(qkv_row(0), qkv.shape[0] - qkv_row(0)), stride, window, size,
                       batch_, size);
    backend_.rotary(window, shape_.heads, shape_.head_dim, seen_, 0, false);
    backend_.rotary(window, shape_.heads, shape_.head_dim, 1, before_, true);
  }
  void turn_back(const Tensor& window) const {
    backend_.rotary(window, shape_.heads, shape_.head_dim, 1, before_, false);
    backend_.rotary(window, shape_.heads, shape_.head_dim, seen_, 0, true);
  }
  // Between this patch's rows of t (M, D) and `rows` (N * length, D).
  void gather(const Tensor& t, const Tensor& rows) const {
    const int64_t size = shape_.length * shape_.dim();
    backend_.copy_rows(from_own_row(t), shape_.row_sequences * size, rows, size, batch_, size);
  }
  void scatter(const Tensor& rows, const Tensor& t) const {
    const int64_t size = shape_.length * shape_.dim();
    backend_.copy_rows(rows, size, from_own_row(t), shape_.row_sequences * size, batch_, size);
  }

 private:
  Tensor from_own_row(const Tensor& t) const {
    return t.slice(own_row(0), t.shape[0] - own_row(0));
  }

  Backend& backend_;
  const AttentionShape& shape_;
  int64_t patch_, before_, seen_, batch_;
};

}  // namespace

WindowScratch plan_window_scratch(Arena& arena, const AttentionShape& shape, DType compute,
                                  bool backward) {
  const int64_t D = shape.dim(), batch = shape.sequences / shape.row_sequences;
  const int64_t seen =
      std::min(shape.cross, (shape.row_sequences - 1) * shape.length) + shape.length;
  WindowScratch s;
  s.qkv = arena.make({batch * seen, 3 * D}, compute);
  s.attended = arena.make({batch * shape.length, D}, compute);
  if (backward) {
    s.dqkv = arena.make({batch * seen, 3 * D}, compute);
    s.dattended = arena.make({batch * shape.length, D}, compute);
    s.sum = arena.make({shape.sequences * shape.length, 3 * D}, master_dtype(compute));
  }
  return s;
}

void window_attention_forward(Backend& backend, const AttentionShape& shape, const Tensor& qkv,
                              const Tensor& out, const Tensor& stats,
                              const WindowScratch& scratch) {
  for (int64_t patch = 0; patch < shape.row_sequences; ++patch) {
    const PatchWindow window(backend, shape, patch);
    const Tensor seen = window.seen_rows(scratch.qkv);
    window.take(qkv, seen);
    backend.attention_forward(window.attention(), seen, scratch.attended, window.stats(stats));
    window.scatter(scratch.attended, out);
  }
}

void window_attention_backward(Backend& backend, const AttentionShape& shape, const Tensor& qkv,
                               const Tensor& out, const Tensor& stats, const Tensor& dout,
                               const Tensor& dqkv, const WindowScratch& scratch) {
  backend.zero(scratch.sum);
  for (int64_t patch = 0; patch < shape.row_sequences; ++patch) {
    const PatchWindow window(backend, shape, patch);
    const Tensor seen = window.seen_rows(scratch.qkv), dseen = window.seen_rows(scratch.dqkv);
    window.take(qkv, seen);
    window.gather(out, scratch.attended);
    window.gather(dout, scratch.dattended);
    backend.attention_backward(window.attention(), seen, scratch.attended, window.stats(stats),
                               scratch.dattended, dseen);
    window.turn_back(dseen);
    for (int64_t b = 0; b < window.batch(); ++b) {
      const Tensor sum = scratch.sum.slice(window.qkv_row(b), window.seen());
      backend.add(sum, dseen.slice(b * window.seen(), window.seen()), sum);
    }
  }
  backend.convert(scratch.sum, dqkv);
}

}  // namespace megabyte
