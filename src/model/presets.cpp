#include "model/presets.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace megabyte {
namespace {

// A stage with the usual feed-forward width of four times its own.
StageConfig stage(int64_t length, int64_t dim, int64_t layers, int64_t heads, Positions positions) {
  return {.length = length,
          .dim = dim,
          .layers = layers,
          .heads = heads,
          .ffn = 4 * dim,
          .positions = positions};
}

// The two sizes of docs/benchmarks.md: context 1024, patches of 8 bytes.
Preset small_megabyte(const std::string& name, const std::string& description, StageConfig global,
                      StageConfig local, int64_t batch, double learning_rate) {
  return {.name = name,
          .description = description,
          .config = {.activation = Activation::gelu, .stages = {global, local}},
          .batch = batch,
          .learning_rate = learning_rate,
          .warmup_steps = 100};
}

// How the paper trains (Yu et al. 2023, section 4 and appendix A): relu, initial values N(0,
// 0.006), learning rate 2e-4 after 500 steps of warm-up, dropout 0.1, 48 x 8192 bytes a step.
constexpr int64_t kPaperStepBytes = 48 * 8192;

Preset paper(const std::string& name, const std::string& description,
             std::vector<StageConfig> stages, int64_t latents = 0) {
  Preset preset{
      .name = name,
      .description = description,
      .config = {.activation = Activation::relu, .latents = latents, .stages = std::move(stages)},
      .batch = 1,
      .learning_rate = 2e-4,
      .warmup_steps = 500,
      .init_stddev = 0.006,
      .dropout = {0.1}};
  preset.batch = std::max<int64_t>(1, kPaperStepBytes / preset.config.context());
  return preset;
}

std::vector<Preset> make_presets() {
  const auto learned = Positions::learned, none = Positions::none;
  std::vector<Preset> all;

  Preset quickstart = small_megabyte(
      "quickstart", "small hourglass that learns English text in two minutes on two CPU cores",
      stage(128, 256, 3, 4, learned), stage(8, 128, 2, 4, Positions::rotary), 1, 3e-3);
  // In so little time many small steps, from larger initial values, reach the fewest bits per byte.
  quickstart.init_stddev = 0.06;
  quickstart.short_length = 128;
  quickstart.config.stages[1].cross_patch = 24;
  quickstart.config.stages[1].encoder_layers = 1;
  all.push_back(quickstart);
  all.push_back(small_megabyte("tiny", "3.6M parameters, context 1024, patches of 8 bytes",
                               stage(128, 256, 4, 4, learned), stage(8, 128, 2, 4, learned), 16,
                               1e-3));
  all.push_back(small_megabyte("small", "22.2M parameters, context 1024, patches of 8 bytes",
                               stage(128, 512, 6, 8, learned), stage(8, 256, 4, 4, learned), 8,
                               6e-4));

  // The two that docs/results.md compares, each with the settings it was best with there.
  Preset hourglass{
      .name = "hourglass",
      .description =
          "60M parameters, 41M a byte: one block before the eight global ones and ten after, "
          "context 4096, patches of 4; each byte sees 1020 before its patch",
      .config = {.stages = {stage(1024, 512, 8, 8, Positions::rotary),
                            stage(4, 512, 10, 8, Positions::rotary)}},
      .batch = 8,
      .learning_rate = 2e-3,
      .warmup_steps = 200,
      .init_stddev = 0.04,
      .init = {"from_parent=0.003"},
      .stage_lr = {0.7, 1},
      .weight_decay = 0.3,
      .short_length = 1024};
  hourglass.config.stages[1].cross_patch = 1020;
  hourglass.config.stages[1].encoder_layers = 1;
  all.push_back(hourglass);
  all.push_back({.name = "hourglass-transformer",
                 .description = "its byte Transformer: as many operations a byte, context 2048",
                 .config = {.stages = {stage(2048, 512, 14, 8, Positions::rotary)}},
                 .batch = 16,
                 .learning_rate = 2e-3,
                 .warmup_steps = 200,
                 .init_stddev = 0.04,
                 .weight_decay = 0.3,
                 .short_length = 1024});

  all.push_back(paper("paper-text",
                      "the paper's text model (it says 758M + 262M, we count 707M + 227M), context "
                      "8192, patches of 8",
                      {stage(1024, 2048, 14, 16, learned), stage(8, 1024, 18, 16, none)}));
  all.push_back(paper("paper-text-transformer",
                      "its Transformer (the paper says 320M, we count 278M), "
                      "context 1024",
                      {stage(1024, 1024, 22, 16, learned)}));
  all.push_back(paper("paper-text-perceiver",
                      "its Perceiver AR: 248M, context 8192, 1024 latents; D1024 L19 is our choice "
                      "for that size",
                      {stage(8192, 1024, 19, 16, learned)}, 1024));

  all.push_back(paper("paper-generation",
                      "the paper's generation model (it says 1.3B + 218M, we count 1.21B + 189M), "
                      "context 8192, patches of 8",
                      {stage(1024, 2048, 24, 32, learned), stage(8, 1024, 15, 16, none)}));
  all.push_back(paper("paper-generation-transformer",
                      "its Transformer (the paper says 350M, we count 311M), context 8192",
                      {stage(8192, 1024, 24, 16, learned)}));
  all.push_back(
      paper("paper-generation-perceiver",
            "a Perceiver AR beside it, all our choice: D1024 L24, context 8192, 1024 latents",
            {stage(8192, 1024, 24, 16, learned)}, 1024));

  all.push_back(
      paper("paper-image64",
            "ImageNet 64x64: context 12,288, patches of 12; global width 2112, the nearest "
            "to the paper's 2048 that 12 bytes and heads of 64 divide",
            {stage(1024, 2112, 24, 33, learned), stage(12, 2048, 24, 32, none)}));
  all.push_back(paper("paper-image64-transformer",
                      "a Transformer beside it: D1024 L24 and the full context are our choice",
                      {stage(12288, 1024, 24, 16, learned)}));
  all.push_back(
      paper("paper-image64-perceiver",
            "a Perceiver AR beside it: D1024 L24, full context, 1024 latents are our choice",
            {stage(12288, 1024, 24, 16, learned)}, 1024));

  all.push_back(paper("paper-image256", "ImageNet 256x256: context 196,608, patches of 192",
                      {stage(1024, 768, 12, 12, learned), stage(192, 768, 12, 12, none)}));
  all.push_back(paper("paper-image256-transformer",
                      "a Transformer beside it: D1024 L24 and context 1024 are our choice",
                      {stage(1024, 1024, 24, 16, learned)}));
  all.push_back(
      paper("paper-image256-perceiver",
            "a Perceiver AR beside it: D1024 L24, context 16,384, 1024 latents are our choice",
            {stage(16384, 1024, 24, 16, learned)}, 1024));

  all.push_back(paper("paper-image640", "ImageNet 640x640: context 1,228,800, patches of 192",
                      {stage(6400, 768, 12, 12, learned), stage(192, 768, 8, 12, none)}));
  all.push_back(paper("paper-image640-transformer",
                      "a Transformer beside it: D1024 L24 and context 1024 are our choice",
                      {stage(1024, 1024, 24, 16, learned)}));
  all.push_back(
      paper("paper-image640-perceiver",
            "a Perceiver AR beside it: D1024 L24, context 16,384, 1024 latents are our choice",
            {stage(16384, 1024, 24, 16, learned)}, 1024));

  all.push_back(paper("paper-audio", "16 kHz 16-bit audio: context 524,288, patches of 32",
                      {stage(16384, 1024, 24, 16, learned), stage(32, 768, 12, 12, none)}));
  all.push_back(paper("paper-audio-transformer",
                      "a Transformer beside it: D1024 L24 and context 1024 are our choice",
                      {stage(1024, 1024, 24, 16, learned)}));
  all.push_back(
      paper("paper-audio-perceiver",
            "a Perceiver AR beside it: D1024 L24, context 16,384, 1024 latents are our choice",
            {stage(16384, 1024, 24, 16, learned)}, 1024));
  return all;
}

// Insertions, deletions and replacements that turn a into b (Levenshtein).
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = make_presets();
  return all;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  return names;
}

const Preset& find_preset(const std::string& name) {
  for (const Preset& preset : presets())
    if (preset.name == name) return preset;
  const std::vector<std::string> names = preset_names();
  const auto nearest =
      std::min_element(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(name, a) < edit_distance(name, b);
      });
  fail("there is no preset '{}': did you mean {}? All: {}", name, *nearest, fmt::join(names, ", "));
}

}  // namespace megabyte
