// Models of the exact backends whose logits are pinned: what they compute is a format.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "generate/decoder.h"
#include "support/model_folder.h"
#include "support/models.h"

namespace megabyte::test {

// FNV-1a, 64 bits.
inline uint64_t hash_of(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325) {
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  return hash;
}

// Weights that no library's functions were needed for.
inline void fill_exactly(Backend& backend, const Parameters& parameters) {
  for (const ParameterSpec& spec : parameters.specs()) {
    Random random(hash_of(spec.name.data(), spec.name.size()), 0);
    std::vector<float> values(static_cast<size_t>(spec.shape.size()));
    for (float& x : values)
      x = (static_cast<float>(random.below(1 << 16)) - 0x1p15f) * 0x1p-16f +
          (spec.kind == ParameterKind::norm_weight ? 1.0f : 0.0f);
    backend.from_host(parameters.master(spec.name), values.data());
  }
}

struct ExactModel {
  std::unique_ptr<Backend> backend;
  Hierarchy model;

  ExactModel(const Config& config, std::unique_ptr<Backend> on)
      : backend(std::move(on)), model(config, *backend, DType::f32, false) {
    fill_exactly(*backend, model.parameters());
  }
};

// Of the logits of two rows of bytes in one forward, in the order (row, byte, symbol).
inline uint64_t logits_hash(ExactModel& m) {
  const Config& config = m.model.config();
  const std::vector<uint16_t> tokens = random_tokens(config, 2 * config.context(), 4);
  m.model.prepare({.batch = 2, .length = config.context()});
  m.model.load(tokens.data());
  m.model.forward();
  std::vector<double> logits;
  m.model.copy_logits(logits);
  const std::vector<float> narrow(logits.begin(), logits.end());
  return hash_of(narrow.data(), narrow.size() * sizeof(float));
}

// The same, byte by byte, for a batch that holds the two rows `copies` times.
inline uint64_t decoded_hash(ExactModel& m, int64_t copies) {
  const Config& config = m.model.config();
  const int64_t T = config.context(), V = config.vocab_size, batch = 2 * copies;
  const std::vector<uint16_t> tokens = random_tokens(config, 2 * T, 4);
  Decoder decoder(m.model, batch);
  std::vector<float> all(static_cast<size_t>(2 * T * V)), step(static_cast<size_t>(batch * V));
  for (int64_t t = 0; t < T; ++t) {
    m.backend->to_host(step.data(), decoder.advance());
    std::vector<uint16_t> bytes;
    for (int64_t b = 0; b < batch; ++b) {
      const float* row = step.data() + b * V;
      float* kept = all.data() + (b % 2 * T + t) * V;
      if (b < 2)
        std::copy_n(row, V, kept);
      else
        EXPECT_EQ(std::memcmp(row, kept, static_cast<size_t>(V) * sizeof(float)), 0) << b;
      bytes.push_back(tokens[static_cast<size_t>(b % 2 * T + t)]);
    }
    decoder.accept(bytes.data());
  }
  return hash_of(all.data(), all.size() * sizeof(float));
}

// Wide enough that whole vectors, tiles and what remains of them all take part.
inline Config wide_config() {
  return {.vocab_size = 257,
          .activation = Activation::gelu,
          .tie_embeddings = false,
          .stages = {{.length = 20, .dim = 120, .layers = 1, .heads = 2, .ffn = 152},
                     {.length = 4,
                      .dim = 88,
                      .layers = 2,
                      .heads = 2,
                      .ffn = 200,
                      .positions = Positions::rotary,
                      .cross_patch = 6,
                      .encoder_layers = 1}}};
}

struct PinnedModel {
  std::string name;
  Config config;
  uint64_t pin;
};
inline std::vector<PinnedModel> pinned_models() {
  return {{"paper", small_config("paper"), 0x36ab1dfa54ad50fe},
          {"hourglass", small_config("hourglass"), 0x42b468045cb2a7c1},
          {"patch_encoder", small_config("patch_encoder"), 0x656c2bf74ac4f476},
          {"linear_local", small_config("linear_local"), 0xcf8c513ae7847374},
          {"wide", wide_config(), 0xc348bf8dac7aacae}};
}

inline void expect_pinned(ExactModel& m, const PinnedModel& pinned) {
  const std::string pin = fmt::format("{:#x}", pinned.pin);
  EXPECT_EQ(fmt::format("{:#x}", logits_hash(m)), pin);
  for (const int64_t copies : {1, 5}) EXPECT_EQ(fmt::format("{:#x}", decoded_hash(m, copies)), pin);
}

}  // namespace megabyte::test
