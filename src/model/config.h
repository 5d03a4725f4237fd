// The shape of a model: everything that config.json says. One structure covers the whole family
// (docs/model.md): a list of stages, coarsest first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace megabyte {

enum class Positions { none, learned, rotary };
enum class AttentionKind { softmax, linear };

struct StageConfig {
  int64_t length = 0;  // n_s: positions under one position of the parent
  int64_t dim = 0;     // D_s
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t ffn = 0;  // width of the feed-forward layer
  Positions positions = Positions::learned;
  AttentionKind attention = AttentionKind::softmax;
  int64_t cross_patch = 0;     // positions before its patch that a position also sees
  int64_t encoder_layers = 0;  // hourglass: blocks over the stage's own unshifted vectors

  int64_t head_dim() const { return dim / heads; }
  bool operator==(const StageConfig&) const = default;
};

struct Config {
  int64_t vocab_size = 256;
  Activation activation = Activation::gelu;
  double norm_eps = 1e-5;
  bool tie_embeddings = true;
  int64_t latents = 0;                 // Perceiver AR, one stage only; 0 = off
  std::vector<int64_t> patch_encoder;  // widths of the causal convolutions over bytes; empty = off
  std::vector<StageConfig> stages;

  int stage_count() const { return static_cast<int>(stages.size()); }
  int64_t patch_bytes(int s) const;  // P_s: bytes under one position of stage s
  int64_t context() const;           // T: bytes in all
  bool encodes(int s) const {
    return s < stage_count() && stages[static_cast<size_t>(s)].encoder_layers > 0;
  }
  bool operator==(const Config&) const = default;
};

// Parsing names the key and the file in its errors; unknown keys and impossible sizes are errors
// that say what to change. `where` is the file or preset that messages name.
Config parse_config(const std::string& json, const std::string& where);
Config load_config(const std::filesystem::path& file);
std::string to_json(const Config& config);
void validate(const Config& config, const std::string& where);
// "stages.1.layers=4", "activation=relu": one --set of the command line; validate() afterwards.
void set_key(Config& config, const std::string& assignment);

}  // namespace megabyte
