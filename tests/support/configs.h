// Small models that together use every feature of the family.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "model/config.h"

namespace megabyte::test {

struct NamedConfig {
  std::string name;
  Config config;
};
inline void PrintTo(const NamedConfig& named, std::ostream* out) { *out << named.name; }

inline std::vector<NamedConfig> small_configs() {
  using P = Positions;
  const auto linear = AttentionKind::linear;
  const Activation relu = Activation::relu, gelu = Activation::gelu;
  std::vector<NamedConfig> all;
  const auto add = [&](const std::string& name, Activation activation,
                       std::vector<StageConfig> stages) -> Config& {
    all.push_back({name, Config{.activation = activation, .stages = std::move(stages)}});
    return all.back().config;
  };
  // length, dim, layers, heads, ffn, positions, attention, cross_patch, encoder_layers
  add("paper", relu, {{6, 16, 2, 2, 32, P::learned}, {4, 12, 2, 2, 24, P::none}});
  add("local_positions", gelu, {{4, 32, 1, 2, 64, P::learned}, {8, 16, 2, 4, 32, P::learned}});
  add("rotary", gelu, {{6, 16, 2, 2, 32, P::rotary}, {4, 16, 1, 2, 32, P::rotary}});
  add("byte_transformer", relu, {{24, 16, 2, 2, 32, P::learned}});
  add("three_stages", gelu,
      {{4, 24, 1, 2, 32, P::learned}, {3, 24, 1, 2, 32, P::learned}, {2, 16, 1, 2, 32, P::rotary}});
  add("cross_patch", relu, {{6, 16, 1, 2, 32, P::learned}, {4, 16, 2, 2, 32, P::rotary, {}, 3}});
  add("cross_patch_wide", gelu,
      {{6, 16, 1, 2, 32, P::learned}, {4, 16, 2, 2, 32, P::rotary, {}, 11}});
  add("cross_patch_learned", gelu,
      {{6, 16, 1, 2, 32, P::learned}, {4, 16, 2, 2, 32, P::learned, {}, 4}});
  add("hourglass", gelu, {{6, 24, 1, 2, 32, P::learned}, {4, 16, 1, 2, 32, P::rotary, {}, 6, 2}});
  add("hourglass_paper_window", relu,
      {{6, 24, 1, 2, 32, P::rotary}, {4, 16, 1, 2, 32, P::learned, {}, 0, 1}});
  add("hourglass_three_stages", relu,
      {{4, 24, 1, 2, 32, P::rotary},
       {3, 24, 1, 2, 32, P::learned, {}, 0, 1},
       {4, 16, 1, 2, 32, P::rotary, {}, 4, 1}})
      .tie_embeddings = false;
  add("hourglass_inner", gelu,
      {{4, 24, 1, 2, 32, P::learned},
       {3, 24, 1, 2, 32, P::learned, {}, 2, 1},
       {2, 16, 1, 2, 32, P::learned}});
  add("encoder_only", gelu,
      {{6, 24, 1, 2, 32, P::learned}, {4, 16, 0, 2, 32, P::rotary, {}, 4, 1}});
  add("no_local_blocks", gelu, {{6, 16, 1, 2, 32, P::learned}, {4, 12, 0, 2, 24, P::learned}});
  add("patch_encoder", gelu, {{6, 16, 1, 2, 32, P::learned}, {4, 12, 1, 2, 24, P::none}})
      .patch_encoder = {3, 5, 7};
  add("patch_encoder_one_stage", gelu, {{24, 16, 1, 2, 32, P::rotary}}).patch_encoder = {3};
  add("perceiver", relu, {{24, 16, 3, 2, 32, P::learned}}).latents = 8;
  add("perceiver_rotary", gelu, {{24, 16, 2, 2, 32, P::rotary}}).latents = 5;
  add("linear", relu, {{24, 16, 2, 2, 32, P::learned, linear}}).tie_embeddings = false;
  add("linear_local", gelu,
      {{6, 16, 1, 2, 32, P::rotary, linear}, {4, 16, 1, 2, 32, P::rotary, linear}});
  add("linear_cross_patch", gelu,
      {{6, 16, 1, 2, 32, P::learned}, {4, 16, 2, 2, 32, P::rotary, linear, 6}});
  add("linear_cross_patch_learned", gelu,
      {{6, 16, 1, 2, 32, P::learned}, {4, 16, 1, 2, 32, P::learned, linear, 6}});
  add("linear_hourglass", gelu,
      {{6, 24, 1, 2, 32, P::rotary, linear}, {4, 16, 1, 2, 32, P::rotary, linear, 3, 1}});
  add("vocab_257", gelu, {{6, 16, 1, 2, 32, P::learned}, {4, 16, 1, 2, 32, P::learned}})
      .vocab_size = 257;
  return all;
}

}  // namespace megabyte::test
