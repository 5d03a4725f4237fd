#include "train/metrics.h"

#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"

namespace megabyte {

double Metrics::bpb() const { return loss / std::numbers::ln2; }

std::string Metrics::to_json() const {
  nlohmann::ordered_json json{
      {"step", step}, {"bytes", bytes}, {"seconds", seconds},     {"loss", loss},
      {"bpb", bpb()}, {"lr", lr},       {"grad_norm", grad_norm}, {"bytes_per_s", bytes_per_s}};
  if (valid_bpb) json["valid_bpb"] = *valid_bpb;
  return json.dump();
}

namespace {

// The bytes of the lines that belong to the first `step` steps.
uintmax_t committed_size(const std::filesystem::path& file, int64_t step) {
  std::ifstream in(file, std::ios::binary);
  uintmax_t size = 0;
  std::string line;
  while (std::getline(in, line) && !in.eof()) {  // a line without its end was torn
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer() ||
        json["step"].get<int64_t>() > step)
      break;
    size += line.size() + 1;
  }
  return size;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& file, int64_t step) : file_(file) {
  std::error_code error;
  if (std::filesystem::exists(file))
    std::filesystem::resize_file(file, committed_size(file, step), error);
  out_.open(file, std::ios::binary | std::ios::app);
  if (error || !out_) fail("cannot write {}: check its permissions", file.string());
}

void MetricsLog::write(const Metrics& metrics) {
  out_ << metrics.to_json() << std::endl;
  if (!out_) fail("cannot write {}: is the disk full?", file_.string());
}

}  // namespace megabyte
