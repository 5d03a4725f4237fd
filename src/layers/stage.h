// One stage of the hierarchy: its weights, its memory for one batch, and its four passes.
//
//   up        finest stage first: the vectors of the stage's own positions (embedded bytes, or what
//   an encoding
//             child pooled), encoded where the stage encodes, shifted by one position    -> x
//   down      coarsest stage first: condition on the parent, run the blocks, norm        -> out
//   backward  down in reverse (finest first), then up in reverse (coarsest first)
//
// Symbols: B rows of the batch, n positions of a sequence, P bytes under a position, D width, e = D
// / P.
#pragma once

#include <functional>
#include <vector>

#include "base/arena.h"
#include "layers/block.h"
#include "model/config.h"
#include "model/parameters.h"
#include "ops/ops.h"

namespace megabyte {

// What a batch needs; memory is planned anew only when this changes.
struct BatchPlan {
  int64_t batch = 0;        // B: rows
  int64_t length = 0;       // L: bytes in a row, 1 to the context
  bool training = false;    // keep what backward needs
  bool checkpoint = false;  // keep only each block's input and recompute the rest in backward
  bool operator==(const BatchPlan&) const = default;
};

struct ConvolutionWeights {
  Weight weight, bias;  // (e, e, width), (e)
  int64_t width;
};

struct StageWeights {
  Weight embed;      // (V, e); none where the child stage encodes
  Weight positions;  // (n * P, e) = n vectors of width D; none unless learned
  Weight pad;        // (D)
  std::vector<ConvolutionWeights> patch_encoder;  // stage 0 only
  Weight from_parent;                             // (D, D_parent / n); none for stage 0
  Weight to_parent;  // (D_parent / n, D) and encoder_norm (D): only where the stage encodes
  Weight encoder_norm_weight, encoder_norm_bias;
  std::vector<BlockWeights> encoder, blocks;
  Weight norm_weight, norm_bias;  // (D)
};

StageWeights bind_stage(const Parameters& parameters, const Config& config, int stage);

// Sizes of one stage in one batch.
struct StageShape {
  int64_t batch = 0;      // B
  int64_t sequences = 0;  // of the stage in one batch row
  int64_t length =
      0;  // n: positions of a sequence (stage 0: only as many as the batch's bytes need)
  int64_t patch = 0;  // P
  int64_t dim = 0;    // D
  int64_t parent_slice =
      0;  // D_parent / n, the width that from_parent takes and to_parent gives; 0 for stage 0
  bool encodes = false;
  bool pooled = false;  // the child stage encodes: vectors come from it and not from bytes
  double eps = 1e-5;
  DType compute = DType::f32, residual = DType::f32, residual_gradient = DType::f32;
  BlockShape encoder_block;
  std::vector<BlockShape> blocks;  // of each layer: with Perceiver AR the first differs
  int64_t encoder_layers = 0;
  std::vector<int64_t> convolutions;  // widths

  int64_t positions() const { return batch * sequences * length; }  // M
  int64_t out_positions() const {
    return blocks.empty() ? positions() : blocks.back().out_positions();
  }
  int64_t embed_dim() const { return dim / patch; }  // e
};
StageShape make_stage_shape(const Config& config, int stage, const BatchPlan& plan, DType compute,
                            DType residual, DType residual_gradient = DType::f32);

struct ConvolutionActivations {
  Tensor unfolded, pre, activated;  // (B n P, e width), (B n P, e), (B n P, e) compute dtype
  Tensor out;                       // (B n P, e) residual dtype
};

struct StageActivations {
  Tensor embedded;  // (M, D) residual: unshifted vectors, where something runs on them before the
                    // shift
  std::vector<ConvolutionActivations> convolutions;
  std::vector<BlockActivations> encoder;
  Tensor encoded, encoded_norm, encoded_xhat, encoded_rstd;  // (M, D) residual, compute twice; (M)
  Tensor pooled;  // (M, D_parent / n) compute: for the parent
  Tensor x;       // (M, D) residual: what the blocks start from (training adds branches in place)
  std::vector<BlockActivations> blocks;
  // (out_positions, D) residual, compute, compute; (out_positions)
  Tensor final_sum, out, final_xhat, final_rstd;

  // gradients that outlive one pass
  Tensor dout;  // as `out`, and in its place: written by the child's backward, or by the head's
  Tensor dunshifted;  // (M, D) residual gradient: of what `x` is shifted from, in the place of `x`
  Tensor dpooled;     // (M, D_parent / n) compute: written by the parent's backward
  Tensor dconvolved, dactivated, dunfolded;  // (B n P, e) compute, the same, (B n P, e width)

  bool recompute =
      false;  // the blocks' activations are in scratch, and gone by the time backward runs
  BlockScratch scratch;  // shares memory with other stages' scratch
};

// `arena` holds what lives through the whole batch; scratch is planned from `scratch_arena`, which
// the caller rewinds between stages, so that stages share that memory.
StageActivations plan_stage(Arena& arena, Arena& scratch_arena, const StageShape& shape,
                            const BatchPlan& plan);

// Called after a block has run forward, before its activations may be reused; `block` counts the
// encoder's or the others. `out` is what the block gives.
using BlockObserver = std::function<void(bool encoder, size_t block,
                                         const BlockActivations& activations, const Pending& out)>;

// Where a stage's passes find everything.
struct StageRun {
  Backend& backend;
  const StageShape& shape;
  const StageWeights& weights;
  const StageActivations& activations;
  Dropout dropout;  // of the stage's first branch; every branch takes the next stream
  BlockObserver observer = {};
};

// tokens (B, sequences n P) u16; child_pooled (M, D) when shape.pooled. Leaves x, and pooled when
// it encodes.
void stage_up(const StageRun& run, const Tensor& tokens, const Tensor& child_pooled);
// parent_out (M, D_parent / n), the parent's `out` cut into slices; none for stage 0. Leaves out.
void stage_down(const StageRun& run, const Tensor& parent_out);
// From dout; writes dparent_out (M, D_parent / n). Goes on to the bytes' or the child's gradient
// (child_dpooled) unless the stage encodes: then dencoded is left for stage_up_backward().
void stage_down_backward(const StageRun& run, const Tensor& tokens, const Tensor& parent_out,
                         const Tensor& dparent_out, const Tensor& child_dpooled);
// Of an encoding stage, from dencoded and dpooled.
void stage_up_backward(const StageRun& run, const Tensor& tokens, const Tensor& child_dpooled);

}  // namespace megabyte
