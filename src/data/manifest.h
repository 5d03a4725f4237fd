// What a file of raw bytes was made from. `megabyte data` writes FILE, the bytes of all sources one
// after another, and FILE.json beside it: which source became which bytes, and by which settings.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace megabyte {

// NOLINTNEXTLINE(bugprone-exception-escape): the moves of nlohmann::json do not throw
struct Manifest {
  struct Item {
    std::string source;     // its path, relative to the manifest's folder
    uint64_t source_bytes;  // its size
    uint32_t crc32;         // of its bytes (zlib's)
    uint64_t begin, bytes;  // what it became: a range of the data
  };
  struct Skipped {
    std::string source, reason;
  };

  std::string kind;                 // images, audio or text
  nlohmann::ordered_json settings;  // what the bytes mean
  uint64_t bytes = 0;               // of the data
  std::vector<Item> items;          // side by side, from 0 to `bytes`
  std::vector<Skipped> skipped;
};

std::filesystem::path manifest_path(const std::filesystem::path& data);  // FILE.json

std::string to_json(const Manifest& manifest);

// Is this file, by how it begins, what to_json() writes?
bool is_manifest(const std::filesystem::path& file);
// The manifest beside `data`, if there is one. Error for one that is damaged, or whose data has
// another size than it says.
std::optional<Manifest> load_manifest(const std::filesystem::path& data);

}  // namespace megabyte
