// One stage of the hierarchy, one position at a time: what it remembers of a batch of rows that go
// in step, and its two halves. `step` runs the blocks at the next position, from the vector before
// it and the parent's output; `take` completes that position once its bytes are known.
#pragma once

#include <optional>
#include <vector>

#include "generate/byte_convolutions.h"
#include "generate/latent_window.h"
#include "layers/block_decode.h"
#include "model/hierarchy.h"

namespace megabyte {

class StageDecoder {
 public:
  StageDecoder(const Hierarchy& model, int stage, int64_t batch, Arena& arena);

  void reset();                                             // to the start of a row
  bool starts_sequence() const { return next_ % n_ == 0; }  // a parent's position begins here
  // parent_out (B, D_parent) compute dtype, at the start of a sequence.
  void condition(const Tensor& parent_out);
  void step();                                // leaves out()
  const Tensor& out() const { return out_; }  // (B, D) compute dtype

  // Completes the position: bytes (B * P) u16, or what the child pooled, (B, D).
  void take_bytes(const Tensor& bytes);
  void take_pooled(const Tensor& pooled);
  // Of an encoding stage whose sequence is complete: (B, D_parent) for the parent.
  Tensor pool();

  // Going on after a parallel forward over rows of `patches` complete positions of stage 0 and one
  // more (prefill.h). Does a sequence begin with anything but the parent's output?
  bool sees_earlier_patches() const { return coarsest_ || encodes_ || shape_.attention.cross > 0; }
  void absorb_block(const StageShape& shape, int64_t patches, bool encoder, size_t block,
                    const BlockActivations& activations, const Pending& out);
  void absorb_stage(const StageShape& shape, int64_t patches, const StageActivations& activations);
  void skip(int64_t patches) { next_ = patches * per_patch_; }
  // Is every patch of stage 0 but a row's first the same sequence of operations?
  bool repeats() const { return !coarsest_ && !window_ && shape_.attention.cross == 0; }

 private:
  BlockStep block_step() const;
  // Blocks and the norm after them, one after another: what h becomes adds up to `sum`
  // (scratch where none is given), and its norm is y.
  void run(const std::vector<BlockWeights>& weights, const std::vector<BlockCache>& caches,
           const std::vector<DecodeBlock>& blocks, const Weight& norm_weight,
           const Weight& norm_bias, Pending h, Tensor sum, const Tensor& y) const;
  Pending run_each(const std::vector<BlockWeights>& weights, const std::vector<BlockCache>& caches,
                   Pending h) const;
  // Row i of each sample in t (B * n, width); `packed` (B, width) receives it where it is not
  // contiguous.
  Tensor row(const Tensor& t, const Tensor& packed, int64_t i) const;
  Tensor position_rows() const;  // learned positions of the next position, or none
  void complete();               // `last_` holds the unshifted vector

  Backend& backend_;
  const StageWeights& weights_;
  BlockShape shape_;
  int64_t batch_, n_, patch_, embed_dim_, latents_;
  int64_t per_patch_;  // positions under one position of stage 0
  bool coarsest_, encodes_;
  int64_t capacity_;
  int64_t next_ = 0;  // position in the row

  std::vector<BlockCache> encoder_, blocks_;
  // The same blocks for Backend::decode_stack(); none where they are more than such a stack.
  std::vector<DecodeBlock> encoder_stack_, block_stack_;
  BlockDecodeScratch scratch_;
  std::optional<ByteConvolutions> convolutions_;
  std::optional<LatentWindow> window_;
  Tensor start_;  // (B, D) residual dtype: the pad
  Tensor last_;   // (B, D) residual dtype: the unshifted vector before the next position
  Tensor out_;    // (B, D)
  Tensor conditions_, condition_;  // (B * n, D), (B, D): from_parent
  Tensor encoded_, encoded_one_;   // (B * n, D), (B, D): normed, for the parent
  Tensor pooled_;                  // (B * n, D_parent / n)
};

}  // namespace megabyte
