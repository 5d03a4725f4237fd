// A model on disk: a folder with config.json and model.safetensors.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "model/config.h"
#include "model/hierarchy.h"

namespace megabyte {

class SafetensorsFile;

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kModelFile = "model.safetensors";

using Metadata = std::map<std::string, std::string>;

// Error, with a hint, when the folder holds no model; when a file is damaged or does not fit its
// config: one line that names file and tensor.
std::unique_ptr<Hierarchy> load_model(const std::filesystem::path& folder, Backend& backend,
                                      DType compute, bool trainable);

// The values of the model in `folder` into one of the same tensors, whatever its context: to go on
// training from them. Errors as load_model's.
void load_parameters(const std::filesystem::path& folder, Hierarchy& model);

// Writes config.json, then model.safetensors, each atomically; masters stored as f32 or bf16.
void save_model(const std::filesystem::path& folder, const Hierarchy& model, DType stored,
                const Metadata& metadata);

// The same with matrices and convolutions in 8 bits (ops/quantised_rows.h): NAME is I8, NAME.scale
// (F32) has a factor for each of its rows. Whoever loads it gets their products in float.
void save_quantised_model(const std::filesystem::path& folder, const Hierarchy& model,
                          const Metadata& metadata);

// Tensor by tensor from a file into a flat tensor laid out like parameters.values(): f32, bf16,
// f64 or (matrices) i8 with scales stored; tensor NAME of the model is PREFIX + NAME in the file.
// Error for a missing tensor, another shape or element type, and for values that are not finite.
void read_parameters(const SafetensorsFile& file, const std::string& prefix,
                     const Parameters& parameters, Backend& backend, const Tensor& flat);

// One tensor on its way to a file: `size` elements at `to`, in the type stored.
void copy_to_file(Backend& backend, const Tensor& tensor, DType stored, std::byte* to);

}  // namespace megabyte
