#include "model/files.h"

#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"

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
    if (entry.dtype != DType::f32 && entry.dtype != DType::bf16 && entry.dtype != DType::f64)
      fail("{}: tensor {} is stored as {}: a model's tensors are f32 or bf16", file.name(), name,
           name_of(entry.dtype));
    const Tensor to = parameters.view(flat, spec.name);
    if (to.dtype == DType::f64)
      to_backend(file, name, file.read_doubles(name), backend, to);
    else
      to_backend(file, name, file.read_floats(name), backend, to);
  }
}

std::unique_ptr<Hierarchy> load_model(const fs::path& folder, Backend& backend, DType compute,
                                      bool trainable) {
  for (const char* needed : {kConfigFile, kModelFile})
    if (!fs::exists(folder / needed))
      fail("{} holds no model: {} is missing; name a folder that 'megabyte train --out' wrote",
           folder.string(), needed);
  const Config config = load_config(folder / kConfigFile);
  const SafetensorsFile file(folder / kModelFile);

  // Before memory is asked for: a file that belongs to another config.
  std::set<std::string> names;
  for_each_parameter(config, [&](const ParameterSpec& spec) { names.insert(spec.name); });
  for (const auto& [name, entry] : file.tensors())
    if (!names.contains(name))
      fail("{}: tensor {} is not part of the model that {} describes", file.name(), name,
           (folder / kConfigFile).string());
  auto model = std::make_unique<Hierarchy>(config, backend, compute, trainable);
  read_parameters(file, "", model->parameters(), backend, model->parameters().values());
  model->parameters().refresh_copies();
  return model;
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

}  // namespace megabyte
