#include "generate/latent_window.h"

namespace megabyte {

LatentWindow::LatentWindow(const BlockShape& shape, int64_t layers, int64_t batch, int64_t latents,
                           int64_t length, Arena& arena)
    : latents_(latents), length_(length), every_(shape) {
  every_.attention.sequences = batch;
  every_.attention.length = every_.attention.queries = latents;
  last_ = every_;
  last_.attention.queries = 1;
  const int64_t D = shape.dim();
  stream_ = arena.make({batch, length * D}, shape.residual);
  window_ = arena.make({batch * latents, D}, shape.residual);
  const Tensor sum = arena.make({batch * latents, D}, shape.residual);
  if (layers > 2) activations_ = plan_block(arena, every_, false);
  last_activations_ = plan_block(arena, last_, false);
  activations_.sum1 = activations_.sum2 = last_activations_.sum1 = sum;
  last_activations_.sum2 = sum.slice(0, batch);
  scratch_ = plan_block_scratch(arena, every_, false);
}

void LatentWindow::store(Backend& backend, const Tensor& x, int64_t position) const {
  const int64_t D = every_.dim(), all = stream_.size();
  const Tensor at = stream_.view({all}).slice(position * D, all - position * D);
  backend.copy_rows(x, D, at, length_ * D, x.shape[0], D);
}

void LatentWindow::store(Backend& backend, const Pending& made, int64_t count,
                         int64_t position) const {
  const int64_t D = every_.dim(), first = position + 1 - count;
  for (int64_t b = 0; b < every_.attention.sequences; ++b) {
    const Tensor rows =
        stream_.view({every_.attention.sequences * length_, D}).slice(b * length_ + first, count);
    backend.add(made.x.slice(b * count, count), made.delta.slice(b * count, count), rows);
  }
}

Pending LatentWindow::run(Backend& backend, const std::vector<BlockWeights>& blocks,
                          int64_t position) const {
  const int64_t D = every_.dim(), all = stream_.size(), first = (position + 1 - latents_) * D;
  backend.copy_rows(stream_.view({all}).slice(first, all - first), length_ * D, window_,
                    latents_ * D, every_.attention.sequences, latents_ * D);
  Pending h{window_, {}, {}};
  for (size_t i = 1; i + 1 < blocks.size(); ++i)
    h = block_forward(backend, every_, blocks[i], h, {}, activations_, scratch_);
  return block_forward(backend, last_, blocks.back(), h, {}, last_activations_, scratch_);
}

}  // namespace megabyte
