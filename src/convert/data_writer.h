// Writes a file of raw bytes and its manifest (data/manifest.h): both appear whole, or neither.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "data/manifest.h"
#include "io/atomic_file.h"

namespace megabyte {

class DataWriter {
 public:
  // Error if FILE cannot be written, or exists and `overwrite` is false.
  DataWriter(const std::filesystem::path& file, bool overwrite, std::string kind,
             nlohmann::ordered_json settings);

  // Appends what one source became; `content` is the source's own.
  void add(const std::filesystem::path& source, std::span<const std::byte> content,
           std::span<const uint8_t> bytes);
  void skip(const std::filesystem::path& source, const std::string& reason);

  // Is this one of the writer's own files, finished or not?
  bool writes(const std::filesystem::path& file) const;
  const Manifest& manifest() const { return manifest_; }
  // Error, and no file, when nothing was added.
  void commit();

 private:
  std::string relative(const std::filesystem::path& source) const;

  std::filesystem::path path_;
  AtomicFile file_;
  Manifest manifest_;
};

}  // namespace megabyte
