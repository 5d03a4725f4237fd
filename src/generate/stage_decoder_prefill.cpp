// What a stage decoder takes over from a parallel forward (prefill.h).
#include <algorithm>

#include "generate/stage_decoder.h"

namespace megabyte {
namespace {

Tensor from(const Tensor& flat, int64_t begin) { return flat.slice(begin, flat.size() - begin); }

}  // namespace

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
    backend_.cache_keys({.batch = batch_,
                         .heads = at.heads,
                         .head_dim = at.head_dim,
                         .capacity = cache.keys.shape[2],
                         .length = row_length,
                         .first = first,
                         .last = complete},
                        activations.qkv, cache.keys, cache.values);
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
