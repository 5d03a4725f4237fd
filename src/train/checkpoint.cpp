#include "train/checkpoint.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/files.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;

constexpr int kVersion = 1;  // of training.safetensors

fs::path training_file(const fs::path& folder) { return folder / "training.safetensors"; }
fs::path model_file(const fs::path& folder) { return folder / kModelFile; }

// What a checkpoint holds of every parameter, with the prefix of its name in the file.
std::array<std::pair<std::string, Tensor>, 3> flat_tensors(const Hierarchy& model,
                                                           const Optimizer& optimizer) {
  return {{{"", model.parameters().values()},
           {"first_moment.", optimizer.first_moment()},
           {"second_moment.", optimizer.second_moment()}}};
}

std::string to_json(const TrainingState& state) {
  return nlohmann::ordered_json{{"step", state.step},
                                {"elapsed", state.elapsed},
                                {"train_bytes", state.train_bytes},
                                {"valid_bytes", state.valid_bytes}}
      .dump();
}

const std::string& metadata(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end())
    fail("{}: the metadata has no '{}': this is not a checkpoint of megabyte train", file.name(),
         key);
  return found->second;
}

void write_model(const fs::path& folder, const TrainingState& state, const Hierarchy& model) {
  save_model(folder, model, dtype_from_name(state.settings.save_dtype),
             {{"step", std::to_string(state.step)}});
}

// The step that model.safetensors was made at; -1 if it cannot be read.
int64_t model_step(const fs::path& folder) {
  try {
    const SafetensorsFile file(model_file(folder));
    return std::stoll(metadata(file, "step"));
  } catch (const std::exception&) {
    return -1;
  }
}

}  // namespace

bool holds_checkpoint(const fs::path& folder) { return fs::exists(training_file(folder)); }

bool holds_model(const fs::path& folder) {
  return holds_checkpoint(folder) || fs::exists(model_file(folder)) ||
         fs::exists(folder / kConfigFile);
}

void save_checkpoint(const fs::path& folder, const TrainingState& state, const Hierarchy& model,
                     const Optimizer& optimizer) {
  SafetensorsWriter writer(training_file(folder));
  writer.set_metadata("version", std::to_string(kVersion));
  writer.set_metadata("config", to_json(state.config));
  writer.set_metadata("settings", to_json(state.settings));
  writer.set_metadata("state", to_json(state));
  std::unordered_map<std::string, Tensor> tensors;
  for (const auto& [prefix, flat] : flat_tensors(model, optimizer))
    for (const ParameterSpec& spec : model.parameters().specs()) {
      const Tensor tensor = model.parameters().view(flat, spec.name);
      writer.declare(prefix + spec.name, tensor.dtype, tensor.shape);
      tensors[prefix + spec.name] = tensor;
    }
  writer.write([&](const std::string& name, std::byte* to) {
    model.backend().to_host(to, tensors.at(name));
  });
  write_model(folder, state, model);
}

TrainingState load_state(const fs::path& folder) {
  const SafetensorsFile file(training_file(folder));
  const std::string where = file.name();
  if (const std::string& version = metadata(file, "version"); version != std::to_string(kVersion))
    fail("{}: made by a newer megabyte (version {} of the format, this one reads {}): update it",
         where, version, kVersion);
  TrainingState state;
  state.config = parse_config(metadata(file, "config"), where);
  state.settings = parse_train_settings(metadata(file, "settings"), where);
  const auto json = nlohmann::json::parse(metadata(file, "state"), nullptr, false);
  try {
    json.at("step").get_to(state.step);
    json.at("elapsed").get_to(state.elapsed);
    json.at("train_bytes").get_to(state.train_bytes);
    json.at("valid_bytes").get_to(state.valid_bytes);
  } catch (const nlohmann::json::exception&) {
    fail("{}: the metadata 'state' is damaged", where);
  }
  return state;
}

void load_tensors(const fs::path& folder, Hierarchy& model, const Optimizer& optimizer) {
  const SafetensorsFile file(training_file(folder));
  for (const auto& [prefix, flat] : flat_tensors(model, optimizer))
    read_parameters(file, prefix, model.parameters(), model.backend(), flat);
  model.parameters().refresh_copies();
}

void finish_commit(const fs::path& folder, const TrainingState& state, const Hierarchy& model) {
  if (model_step(folder) != state.step) write_model(folder, state, model);
}

void check_same_run(const TrainingState& saved, const TrainingState& now) {
  constexpr const char* kAdvice =
      "continue with the same, or start anew with --overwrite or another --out";
  for_each_setting([&](const char* name, auto member, bool fixed) {
    if (fixed && saved.settings.*member != now.settings.*member)
      throw UsageError(fmt::format("--{} is {}, but the run to resume has {}: {}", name,
                                   nlohmann::json(now.settings.*member).dump(),
                                   nlohmann::json(saved.settings.*member).dump(), kAdvice));
  });
  if (saved.config != now.config) {
    const auto before = nlohmann::json::parse(to_json(saved.config)),
               after = nlohmann::json::parse(to_json(now.config));
    std::string key = nlohmann::json::diff(before, after).at(0).at("path");
    key.erase(0, 1);
    std::replace(key.begin(), key.end(), '/', '.');
    throw UsageError(fmt::format(
        "--preset, --config or --set describe another model than the one to resume ('{}' differs): "
        "{}",
        key, kAdvice));
  }
  if (saved.train_bytes != now.train_bytes || saved.valid_bytes != now.valid_bytes)
    throw UsageError(fmt::format(
        "--data and --valid give {} bytes to train on and {} held-out ones, but the run to resume "
        "has {} and {}: {}",
        now.train_bytes, now.valid_bytes, saved.train_bytes, saved.valid_bytes, kAdvice));
}

}  // namespace megabyte
