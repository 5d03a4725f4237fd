#include "model/files.h"

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "ops/quantised_rows.h"

namespace megabyte {

namespace fs = std::filesystem;

namespace {

template <class T>
void to_backend(const SafetensorsFile& file, const std::string& name, const std::vector<T>& values,
                Backend& backend, const Tensor& to) {
  for (const T x : values)
    if (!std::isfinite(x))
      fail("{}: tensor {} holds values that are not finite: the file is damaged", file.name(),
           name);
  backend.from_host(to, values.data());
}

// What is stored as I8 comes with a scale in F32 for each of its rows (save_quantised_model).
std::string scales_of(const std::string& tensor) { return tensor + ".scale"; }

template <class T>
std::vector<T> read_values(const SafetensorsFile& file, const std::string& name) {
  std::vector<T> values;
  if constexpr (std::is_same_v<T, double>)
    values = file.read_doubles(name);
  else
    values = file.read_floats(name);
  const SafetensorsEntry& entry = file.entry(name);
  if (entry.dtype != DType::i8) return values;
  const std::string scales_name = scales_of(name);
  if (!file.contains(scales_name))
    fail("{}: tensor {} is stored as I8, but its scales {} are missing", file.name(), name,
         scales_name);
  const int64_t rows = entry.shape[0];
  if (file.entry(scales_name).dtype != DType::f32 || file.entry(scales_name).shape != Shape{rows})
    fail("{}: tensor {} must be F32 of shape {}: a scale for each row", file.name(), scales_name,
         Shape{rows}.to_string());
  const std::vector<float> scales = file.read_floats(scales_name);
  const size_t count = values.size() / static_cast<size_t>(rows);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / count];
  return values;
}

}  // namespace

void read_parameters(const SafetensorsFile& file, const std::string& prefix,
                     const Parameters& parameters, Backend& backend, const Tensor& flat) {
  for (const ParameterSpec& spec : parameters.specs()) {
    const std::string name = prefix + spec.name;
    if (!file.contains(name)) fail("{}: tensor {} of the model is missing", file.name(), name);
    const SafetensorsEntry& entry = file.entry(name);
    if (entry.shape != spec.shape)
      fail("{}: tensor {} has shape {}, but the config needs {}", file.name(), name,
           entry.shape.to_string(), spec.shape.to_string());
    if (entry.dtype != DType::f32 && entry.dtype != DType::bf16 && entry.dtype != DType::f64 &&
        (entry.dtype != DType::i8 || !spec.decayed()))
      fail("{}: tensor {} is stored as {}: a model's tensors are f32, bf16 or, if matrices, i8",
           file.name(), name, name_of(entry.dtype));
    const Tensor to = parameters.view(flat, spec.name);
    if (to.dtype == DType::f64)
      to_backend(file, name, read_values<double>(file, name), backend, to);
    else
      to_backend(file, name, read_values<float>(file, name), backend, to);
  }
}

namespace {

void check_holds_model(const fs::path& folder) {
  for (const char* needed : {kConfigFile, kModelFile})
    if (!fs::exists(folder / needed))
      fail("{} holds no model: {} is missing; name a folder that 'megabyte train --out' wrote",
           folder.string(), needed);
}

// Error for a file that belongs to another config.
void check_names(const SafetensorsFile& file, const Config& config, const std::string& described) {
  std::set<std::string> names;
  for_each_parameter(config, [&](const ParameterSpec& spec) {
    names.insert(spec.name);
    if (file.contains(spec.name) && file.entry(spec.name).dtype == DType::i8)
      names.insert(scales_of(spec.name));
  });
  for (const auto& [name, entry] : file.tensors())
    if (!names.contains(name))
      fail("{}: tensor {} is not part of the model that {} describes", file.name(), name,
           described);
}

}  // namespace

std::unique_ptr<Hierarchy> load_model(const fs::path& folder, Backend& backend, DType compute,
                                      bool trainable) {
  check_holds_model(folder);
  const Config config = load_config(folder / kConfigFile);
  const SafetensorsFile file(folder / kModelFile);
  check_names(file, config, (folder / kConfigFile).string());  // before memory is asked for
  auto model = std::make_unique<Hierarchy>(config, backend, compute, trainable);
  read_parameters(file, "", model->parameters(), backend, model->parameters().values());
  model->parameters().refresh_copies();
  return model;
}

void load_parameters(const fs::path& folder, Hierarchy& model) {
  check_holds_model(folder);
  const SafetensorsFile file(folder / kModelFile);
  check_names(file, model.config(), "this run");
  read_parameters(file, "", model.parameters(), model.backend(), model.parameters().values());
  model.parameters().refresh_copies();
}

void copy_to_file(Backend& backend, const Tensor& tensor, DType stored, std::byte* to) {
  if (tensor.dtype == stored) {
    backend.to_host(to, tensor);
    return;
  }
  std::vector<std::byte> bytes(tensor.bytes());
  backend.to_host(bytes.data(), tensor);
  for (size_t i = 0; i < static_cast<size_t>(tensor.size()); ++i) {
    double x;
    if (tensor.dtype == DType::f64) {
      std::memcpy(&x, bytes.data() + i * sizeof(double), sizeof(double));
    } else {
      check(tensor.dtype == DType::f32, "parameters are f32 or f64");
      float narrow;
      std::memcpy(&narrow, bytes.data() + i * sizeof(float), sizeof(float));
      x = narrow;
    }
    const float single = static_cast<float>(x);
    if (stored == DType::f32) {
      std::memcpy(to + i * sizeof(float), &single, sizeof(float));
    } else {
      check(stored == DType::bf16, "parameters are stored as f32 or bf16");
      const bf16 half(single);
      std::memcpy(to + i * sizeof(bf16), &half, sizeof(bf16));
    }
  }
}

void save_model(const fs::path& folder, const Hierarchy& model, DType stored,
                const Metadata& metadata) {
  write_file_atomically(folder / kConfigFile, to_json(model.config()));
  SafetensorsWriter writer(folder / kModelFile);
  writer.set_metadata("format", "megabyte");
  for (const auto& [key, value] : metadata) writer.set_metadata(key, value);
  for (const ParameterSpec& spec : model.parameters().specs())
    writer.declare(spec.name, stored, spec.shape);
  writer.write([&](const std::string& name, std::byte* to) {
    copy_to_file(model.backend(), model.parameters().master(name), stored, to);
  });
}

void save_quantised_model(const fs::path& folder, const Hierarchy& model,
                          const Metadata& metadata) {
  write_file_atomically(folder / kConfigFile, to_json(model.config()));
  SafetensorsWriter writer(folder / kModelFile);
  writer.set_metadata("format", "megabyte");
  for (const auto& [key, value] : metadata) writer.set_metadata(key, value);
  const auto& specs = model.parameters().specs();
  for (const ParameterSpec& spec : specs) {
    writer.declare(spec.name, spec.decayed() ? DType::i8 : DType::f32, spec.shape);
    if (spec.decayed()) writer.declare(scales_of(spec.name), DType::f32, {spec.shape[0]});
  }
  std::map<std::string, QuantisedRows> matrices;
  std::map<std::string, const std::vector<float>*> scales;  // by their own names
  for (const ParameterSpec& spec : specs) {
    if (!spec.decayed()) continue;
    std::vector<float> values(static_cast<size_t>(spec.shape.size()));
    copy_to_file(model.backend(), model.parameters().master(spec.name), DType::f32,
                 reinterpret_cast<std::byte*>(values.data()));
    const int64_t rows = spec.shape[0];
    matrices[spec.name] = quantise_rows(values.data(), rows, spec.shape.size() / rows);
    scales[scales_of(spec.name)] = &matrices[spec.name].scales;
  }
  writer.write([&](const std::string& name, std::byte* to) {
    if (const auto matrix = matrices.find(name); matrix != matrices.end())
      std::memcpy(to, matrix->second.q.data(), matrix->second.q.size());
    else if (const auto found = scales.find(name); found != scales.end())
      std::memcpy(to, found->second->data(), found->second->size() * sizeof(float));
    else
      copy_to_file(model.backend(), model.parameters().master(name), DType::f32, to);
  });
}

}  // namespace megabyte
