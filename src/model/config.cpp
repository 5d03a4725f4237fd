#include "model/config.h"

#include "base/error.h"
#include "io/mapped_file.h"
#include "model/config_json.h"

namespace megabyte {

int64_t Config::patch_bytes(int s) const {
  int64_t bytes = 1;
  for (size_t j = static_cast<size_t>(s) + 1; j < stages.size(); ++j) bytes *= stages[j].length;
  return bytes;
}

int64_t Config::context() const { return patch_bytes(-1); }

Config parse_config(const std::string& json, const std::string& where) {
  const Config config = config_from_json(parse_json(json, where), where);
  validate(config, where);
  return config;
}

Config load_config(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  return parse_config(std::string(mapped.text()), file.string());
}

std::string to_json(const Config& config) { return config_to_json(config, false).dump(2) + "\n"; }

void set_key(Config& config, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError(
        fmt::format("--set {}: write key=value, for example stages.0.layers=4", assignment));
  const std::string path = assignment.substr(0, equals), text = assignment.substr(equals + 1);
  try {
    nlohmann::ordered_json json = config_to_json(config, true);
    nlohmann::ordered_json* at = &json;
    for (size_t begin = 0; begin <= path.size();) {
      const size_t dot = std::min(path.find('.', begin), path.size());
      at = &json_child(*at, path.substr(begin, dot - begin), path.substr(0, dot));
      begin = dot + 1;
    }
    // 4, true and [3, 5, 7] are JSON; relu is a bare word.
    auto value = nlohmann::ordered_json::parse(text, nullptr, false);
    *at = value.is_discarded() ? nlohmann::ordered_json(text) : std::move(value);
    config = config_from_json(json, "");
  } catch (const Error& e) {
    throw UsageError(fmt::format("--set {}: {}", assignment, e.what()));
  }
}

}  // namespace megabyte
