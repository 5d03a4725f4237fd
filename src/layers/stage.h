// The weights of one stage, bound by name from the flat parameters (names: docs/model.md).
#pragma once

#include <vector>

#include "layers/block.h"
#include "model/config.h"
#include "model/parameters.h"

namespace megabyte {

struct ConvolutionWeights {
  Weight weight, bias;  // (e, e, width), (e)
  int64_t width;
};

struct StageWeights {
  Weight embed;      // (V, e_s); none where the child stage encodes
  Weight positions;  // (n * P, e_s) = n vectors of width D_s; none unless learned
  Weight pad;        // (D)
  std::vector<ConvolutionWeights> patch_encoder;  // stage 0 only
  Weight from_parent;                             // (D, D_parent / n); none for stage 0
  Weight to_parent;  // (D_parent / n, D) and encoder_norm (D): only where the stage encodes
  Weight encoder_norm_weight, encoder_norm_bias;
  std::vector<BlockWeights> encoder, blocks;
  Weight norm_weight, norm_bias;  // (D)
};

StageWeights bind_stage(const Parameters& parameters, const Config& config, int stage);

}  // namespace megabyte
