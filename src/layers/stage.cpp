#include "layers/stage.h"

#include <fmt/format.h>

namespace megabyte {

StageWeights bind_stage(const Parameters& parameters, const Config& config, int s) {
  const StageConfig& stage = config.stages[static_cast<size_t>(s)];
  const std::string pre = fmt::format("stages.{}.", s);
  StageWeights w;
  if (!config.encodes(s + 1)) w.embed = parameters[pre + "embed.weight"];
  if (stage.positions == Positions::learned) w.positions = parameters[pre + "positions.weight"];
  w.pad = parameters[pre + "pad"];
  if (s == 0) {
    for (size_t j = 0; j < config.patch_encoder.size(); ++j) {
      const std::string conv = fmt::format("{}patch_encoder.{}.", pre, j);
      w.patch_encoder.push_back(
          {parameters[conv + "weight"], parameters[conv + "bias"], config.patch_encoder[j]});
    }
  } else {
    w.from_parent = parameters[pre + "from_parent.weight"];
    if (stage.encoder_layers > 0) {
      w.to_parent = parameters[pre + "to_parent.weight"];
      w.encoder_norm_weight = parameters[pre + "encoder_norm.weight"];
      w.encoder_norm_bias = parameters[pre + "encoder_norm.bias"];
    }
  }
  for (int64_t i = 0; i < stage.encoder_layers; ++i)
    w.encoder.push_back(bind_block(parameters, fmt::format("{}encoder.{}.", pre, i)));
  for (int64_t i = 0; i < stage.layers; ++i)
    w.blocks.push_back(bind_block(parameters, fmt::format("{}blocks.{}.", pre, i)));
  w.norm_weight = parameters[pre + "norm.weight"];
  w.norm_bias = parameters[pre + "norm.bias"];
  return w;
}

}  // namespace megabyte
