#include "cli/common.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "base/error.h"

namespace megabyte::cli {

void DeviceOptions::add_to(CLI::App& command, const std::string& dtype_help, bool trains) {
  std::vector<std::string> devices{"auto", "cpu", "cuda", "reference"};
  if (!trains) devices.insert(devices.end(), {"exact", "exact-cuda"});  // only run models forward
  command.add_option("--device", device, fmt::format("where to run: {}", fmt::join(devices, ", ")))
      ->check(CLI::IsMember(devices))
      ->capture_default_str();
  command
      .add_option(
          "--dtype", dtype,
          fmt::format("element type to compute in: f32, bf16 (reference: also f64){}; {}",
                      trains ? ", or fp8: bf16 with large products in fp8 (cuda)" : "", dtype_help))
      ->check(CLI::IsMember(trains ? std::vector<std::string>{"f32", "bf16", "f64", "fp8"}
                                   : std::vector<std::string>{"f32", "bf16", "f64"}));
  command.add_option("--threads", threads, "CPU threads; 0 takes all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

DType DeviceOptions::compute(const Backend& backend, DType fallback) const {
  const DType type = dtype.empty() ? fallback : fp8() ? DType::bf16 : dtype_from_name(dtype);
  if (!backend.supports(type))
    fail("the {} backend does not compute in {}: use another --dtype or --device", backend.name(),
         name_of(type));
  return type;
}

DType DeviceOptions::training(Backend& backend, TrainSettings& settings) const {
  if (settings.dtype.empty()) settings.dtype = backend.fast(DType::bf16) ? "bf16" : "f32";
  backend.use_fp8(settings.fp8());
  return compute(backend, settings.compute());
}

}  // namespace megabyte::cli
