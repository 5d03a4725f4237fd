// Options that every command which runs a model takes.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "ops/ops.h"
#include "train/settings.h"

namespace megabyte::cli {

struct DeviceOptions {
  std::string device = "auto";
  std::string dtype;  // empty: the command's default
  int threads = 0;    // 0: all cores

  // Declares --device, --dtype and --threads; `dtype_help` says the default. Commands that train
  // also take fp8.
  void add_to(CLI::App& command, const std::string& dtype_help, bool trains = false);
  std::unique_ptr<Backend> backend() const { return make_backend(device, threads); }
  bool fp8() const { return dtype == "fp8"; }
  // The type asked for (that of fp8 is bf16), or `fallback`; Error if the backend does not compute
  // in it.
  DType compute(const Backend& backend, DType fallback) const;
  // That of a run: decides settings.dtype where it is empty, and tells the backend about fp8.
  DType training(Backend& backend, TrainSettings& settings) const;
};

}  // namespace megabyte::cli
