// A model on disk with random weights, for tests of commands.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>

#include "model/files.h"
#include "support/configs.h"

namespace megabyte::test {

inline Config small_config(const std::string& name) {
  for (const NamedConfig& c : small_configs())
    if (c.name == name) return c.config;
  fail("no small config is named {}", name);
}

inline void save_random_model(const std::string& config, const std::filesystem::path& folder) {
  const auto backend = make_backend("reference");
  Hierarchy model(small_config(config), *backend, DType::f32, false);
  model.parameters().initialize(7, 0.4);
  std::filesystem::create_directories(folder);
  save_model(folder, model, DType::f32, {});
}

}  // namespace megabyte::test
