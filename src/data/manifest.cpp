#include "data/manifest.h"

#include <fmt/format.h>

#include <fstream>

#include "base/error.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace megabyte {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

void check_items(const Manifest& manifest, const std::string& where) {
  uint64_t end = 0;
  for (const Manifest::Item& item : manifest.items) {
    if (item.begin != end || item.bytes > manifest.bytes - end)
      fail("{}: the bytes of {} do not follow those before it: the manifest is damaged", where,
           printable(item.source));
    end += item.bytes;
  }
  if (end != manifest.bytes)
    fail("{}: the items have {} bytes of {}: the manifest is damaged", where, end, manifest.bytes);
}

Manifest parse(std::string_view text, const std::string& where) {
  const auto json = parse_json(text, where);
  Manifest manifest;
  try {
    json.at("kind").get_to(manifest.kind);
    json.at("bytes").get_to(manifest.bytes);
    manifest.settings = json.at("settings");
    for (const auto& item : json.at("items"))
      manifest.items.push_back(
          {item.at("source"), item.at("source_bytes"),
           static_cast<uint32_t>(std::stoul(item.at("crc32").get<std::string>(), nullptr, 16)),
           item.at("begin"), item.at("bytes")});
    for (const auto& item : json.at("skipped"))
      manifest.skipped.push_back({item.at("source"), item.at("reason")});
  } catch (const std::exception&) {  // of JSON, or of the checksum
    fail("{} is no manifest of 'megabyte data', or a damaged one", where);
  }
  check_items(manifest, where);
  return manifest;
}

}  // namespace

fs::path manifest_path(const fs::path& data) { return data.string() + ".json"; }

std::string to_json(const Manifest& manifest) {
  ordered_json items = ordered_json::array(), skipped = ordered_json::array();
  for (const Manifest::Item& item : manifest.items)
    items.push_back({{"source", item.source},
                     {"source_bytes", item.source_bytes},
                     {"crc32", fmt::format("{:08x}", item.crc32)},
                     {"begin", item.begin},
                     {"bytes", item.bytes}});
  for (const Manifest::Skipped& item : manifest.skipped)
    skipped.push_back({{"source", item.source}, {"reason", item.reason}});
  const ordered_json json{{"kind", manifest.kind},
                          {"bytes", manifest.bytes},
                          {"settings", manifest.settings},
                          {"items", std::move(items)},
                          {"skipped", std::move(skipped)}};
  return to_text(json, 1) + "\n";
}

bool is_manifest(const fs::path& file) {
  constexpr std::string_view kBegin = "{\n \"kind\": \"";
  std::string begin(kBegin.size(), '\0');
  std::ifstream(file, std::ios::binary).read(begin.data(), std::ssize(begin));
  return begin == kBegin;
}

std::optional<Manifest> load_manifest(const fs::path& data) {
  const fs::path path = manifest_path(data);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  const MappedFile file(path);
  Manifest manifest = parse(file.text(), path.string());
  const uint64_t size = fs::file_size(data);
  if (size != manifest.bytes)
    fail("{} has {} bytes, but {} tells of {}: make both anew with 'megabyte data'", data.string(),
         size, path.string(), manifest.bytes);
  return manifest;
}

}  // namespace megabyte
