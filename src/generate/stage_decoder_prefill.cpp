// What a stage decoder takes over from a parallel forward (prefill.h).
#include <algorithm>

#include "generate/stage_decoder.h"

namespace megabyte {
namespace {

Tensor from(const Tensor& flat, int64_t begin) { return flat.slice(begin, flat.size() - begin); }

}  // namespace

// Positions [first, last) of each row of qkv (B * row_length, 3 D).
void StageDecoder::absorb_keys(const Tensor& qkv, const BlockCache& cache, int64_t row_length,
                               int64_t first, int64_t last) const {
  const AttentionShape& at = shape_.attention;
  const int64_t D = at.dim(), d = at.head_dim, width = 3 * D, capacity = cache.keys.shape[2];
  const Tensor in = qkv.view({qkv.size()});
  while (first < last) {  // in a ring, the rows up to its end and the rest
    const int64_t slot = first % capacity, count = std::min(last - first, capacity - slot);
    // Copies of a row's positions, or of a position's rows, whichever are fewer.
    const bool by_row = batch_ <= count;
    for (int64_t i = 0; i < std::min(batch_, count); ++i)
      for (int64_t h = 0; h < at.heads; ++h) {
        const int64_t b = by_row ? i : 0, p = by_row ? 0 : i;
        const int64_t key = (b * row_length + first + p) * width + D + h * d;
        const int64_t to = ((b * at.heads + h) * capacity + slot + p) * d;
        for (const auto& [cached, offset] : {std::pair{cache.keys, key}, {cache.values, key + D}})
          backend_.copy_rows(from(in, offset), by_row ? width : row_length * width,
                             from(cached.view({cached.size()}), to),
                             by_row ? d : at.heads * capacity * d, by_row ? count : batch_, d);
      }
    first += count;
  }
}

void StageDecoder::absorb_block(const StageShape& shape, int64_t patches, bool encoder,
                                size_t block, const BlockActivations& activations,
                                const Pending& out) {
  const AttentionShape& at = shape_.attention;
  if (!coarsest_ && at.cross == 0) return;  // the next sequence sees nothing of these
  const int64_t complete = patches * per_patch_, row_length = complete + per_patch_;
  const bool latent = latents_ > 0 && block > 0;
  if (window_ && block == 0)
    window_->store(backend_, out, shape.blocks.front().attention.queries, complete);
  if (latent && complete >= latents_) return;  // from here on the window runs anew each time
  const BlockCache& cache = encoder ? encoder_[block] : blocks_[block];
  if (cache.keys) {
    const int64_t first = at.cross > 0 ? std::max<int64_t>(0, complete - at.cross) : 0;
    absorb_keys(activations.qkv, cache, row_length, first, complete);
    return;
  }
  const Tensor in = activations.qkv.view({activations.qkv.size()});
  const int64_t width = 3 * at.dim();
  if (cache.earlier) {
    for (int64_t p = std::max<int64_t>(0, complete - at.cross); p < complete; ++p)
      backend_.copy_rows(from(in, p * width), row_length * width, cache.earlier_at(p), width,
                         batch_, width);
    return;
  }
  // A running state has no order but that of the positions.
  const DecodeShape step{.batch = batch_, .heads = at.heads, .head_dim = at.head_dim};
  backend_.zero(cache.state);
  for (int64_t p = 0; p < complete; ++p) {
    backend_.copy_rows(from(in, p * width), row_length * width, scratch_.qkv, width, batch_, width);
    backend_.linear_attention_decode(step, scratch_.qkv, cache.state, scratch_.attended);
  }
}

void StageDecoder::absorb_stage(const StageShape& shape, int64_t patches,
                                const StageActivations& activations) {
  const int64_t D = shape.dim, row_length = shape.sequences * shape.length;
  skip(patches);
  // The shifted vectors hold at the next position the unshifted one before it.
  const Tensor x = activations.x.view({activations.x.size()});
  backend_.copy_rows(from(x, next_ * D), row_length * D, last_, D, batch_, D);
  if (!convolutions_) return;
  const int64_t bytes = row_length * patch_, e = embed_dim_;
  for (size_t j = 0; j < shape.convolutions.size(); ++j) {
    const Tensor& in = j == 0 ? activations.embedded : activations.convolutions[j - 1].out;
    convolutions_->absorb(backend_, j, in.view({batch_ * bytes, e}), bytes, next_ * patch_);
  }
}

}  // namespace megabyte
