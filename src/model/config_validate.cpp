// The rules of a model's shape (docs/model.md). Every message says what to change.
#include <fmt/ranges.h>

#include <numeric>

#include "base/error.h"
#include "model/config.h"

namespace megabyte {
namespace {

// Bounds far above any model, small enough that no product of sizes overflows 64 bits.
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxDim = int64_t{1} << 18;
constexpr int64_t kMaxFfn = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxVocab = 65536;  // tokens are 16 bits
constexpr int64_t kMaxConvolution = 1024;
constexpr size_t kMaxConvolutions = 16;
constexpr size_t kMaxStages = 16;

// "96 or 104": the multiples of `unit` around `value`.
std::string multiples_around(int64_t value, int64_t unit) {
  const int64_t below = value / unit * unit;
  return below == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit);
}

// "2 or 4": the numbers around `value` that `fits`.
std::string heads_around(int64_t value, int64_t most, const auto& fits) {
  std::vector<int64_t> found;
  for (int64_t h = std::min(value, most); h >= 1 && found.empty(); --h)
    if (fits(h)) found.push_back(h);
  for (int64_t h = value + 1; h <= most; ++h)
    if (fits(h)) {
      found.push_back(h);
      break;
    }
  return fmt::format("{}", fmt::join(found, " or "));
}

class Validator {
 public:
  Validator(const Config& config, const std::string& where) : config_(config), where_(where) {}

  void run() const {
    check_model();
    int64_t context = 1;  // bounded before any product is formed
    for (size_t s = config_.stages.size(); s-- > 0;) {
      const int64_t length = config_.stages[s].length;
      check_range(key(s, "length"), length, 1, kMaxContext);
      if (length > kMaxContext / context)
        wrong("the context, the product of all lengths, is above {} bytes: shorten {}", kMaxContext,
              key(s, "length"));
      context *= length;
    }
    for (size_t s = 0; s < config_.stages.size(); ++s) check_stage(s);
    check_latents(context);
  }

 private:
  template <class... Args>
  [[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  static std::string key(size_t s, const char* name) {
    return fmt::format("stages.{}.{}", s, name);
  }

  void check_range(const std::string& name, int64_t value, int64_t least, int64_t most) const {
    if (value < least || value > most) wrong("{} is {}: use {} to {}", name, value, least, most);
  }

  void check_model() const {
    check_range("vocab_size", config_.vocab_size, 2, kMaxVocab);
    if (!(config_.norm_eps > 0 && config_.norm_eps <= 1))
      wrong("norm_eps is {}: use a small number above 0, such as 1e-5", config_.norm_eps);
    if (config_.activation == Activation::none) wrong("activation is none: use relu or gelu");
    if (config_.stages.empty()) wrong("stages is empty: a model has at least one");
    if (config_.stages.size() > kMaxStages)
      wrong("there are {} stages: use at most {}", config_.stages.size(), kMaxStages);
    if (config_.patch_encoder.size() > kMaxConvolutions)
      wrong("patch_encoder has {} convolutions: use at most {}", config_.patch_encoder.size(),
            kMaxConvolutions);
    for (size_t j = 0; j < config_.patch_encoder.size(); ++j)
      check_range(fmt::format("patch_encoder.{}", j), config_.patch_encoder[j], 1, kMaxConvolution);
    if (!config_.patch_encoder.empty() && config_.encodes(1))
      wrong(
          "patch_encoder works on the byte embeddings of stage 0, which has none when stage 1 "
          "encodes: "
          "remove patch_encoder or set stages.1.encoder_layers to 0");
  }

  void check_stage(size_t s) const {
    const StageConfig& stage = config_.stages[s];
    check_range(key(s, "dim"), stage.dim, 1, kMaxDim);
    check_range(key(s, "heads"), stage.heads, 1, kMaxDim);
    check_range(key(s, "ffn"), stage.ffn, 1, kMaxFfn);
    check_range(key(s, "layers"), stage.layers, 0, kMaxLayers);
    check_range(key(s, "encoder_layers"), stage.encoder_layers, 0, kMaxLayers);
    check_range(key(s, "cross_patch"), stage.cross_patch, 0, kMaxContext);
    // A width that any rule would accept, for advice. (That D_s divides by P_s also makes it divide
    // by its child's length, so the child's slices of it are whole.)
    const bool rotary = stage.positions == Positions::rotary;
    const int64_t bytes = config_.patch_bytes(static_cast<int>(s));
    const int64_t unit = std::lcm(bytes, rotary ? 2 * stage.heads : stage.heads);
    const std::string dims = multiples_around(stage.dim, unit);
    if (stage.dim % bytes != 0)
      wrong("{} {} is not divisible by the {} bytes of a patch: use {}", key(s, "dim"), stage.dim,
            bytes, dims);
    if (stage.dim % stage.heads != 0)
      wrong("{} {} is not divisible by {} heads: use {} {}, or dim {}", key(s, "dim"), stage.dim,
            stage.heads, key(s, "heads"),
            heads_around(stage.heads, stage.dim, [&](int64_t h) { return stage.dim % h == 0; }),
            dims);
    if (rotary && stage.head_dim() % 2 != 0)
      wrong(
          "rotary positions need an even head width, but {} {} over {} heads is {}: use dim {}, or "
          "learned positions",
          key(s, "dim"), stage.dim, stage.heads, stage.head_dim(), dims);
    if (s == 0 && stage.cross_patch > 0)
      wrong(
          "stages.0.cross_patch looks across patches, but stage 0 has no parent and sees "
          "everything: "
          "remove it, or set it on a finer stage");
    if (s == 0 && stage.encoder_layers > 0)
      wrong(
          "stages.0.encoder_layers would encode for a parent, but stage 0 has none: remove it, or "
          "set "
          "it on a finer stage");
  }

  void check_latents(int64_t context) const {
    if (config_.latents == 0) return;
    if (config_.stages.size() > 1)
      wrong(
          "latents (Perceiver AR) are for one stage, but there are {}: remove latents or the other "
          "stages",
          config_.stages.size());
    check_range("latents", config_.latents, 1, context);
    if (config_.stages[0].layers == 0)
      wrong("latents need a layer to gather into them: set stages.0.layers to 1 or more");
  }

  const Config& config_;
  const std::string& where_;
};

}  // namespace

void validate(const Config& config, const std::string& where) { Validator(config, where).run(); }

}  // namespace megabyte
