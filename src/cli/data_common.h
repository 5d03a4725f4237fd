// What the sub-commands of `megabyte data` share: many files into one of raw bytes, and back.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/manifest.h"

namespace megabyte::cli {

// Files into one of raw bytes.
struct GatherOptions {
  std::vector<std::string> inputs, include, exclude;
  std::string out;
  bool hidden = false, overwrite = false, json = false;

  // `what` are the inputs; `names` the files of a folder that count unless --include is given.
  void add_to(CLI::App& command, const std::string& what, const std::vector<std::string>& names);
};

// The bytes of one file; an Error is why it is left out.
using Conversion = std::function<std::vector<uint8_t>(std::span<const std::byte> file)>;

// Converts all files into options.out and writes the manifest; names what it skips on stderr.
Manifest gather(const GatherOptions& options, const std::string& kind,
                const nlohmann::ordered_json& settings, const Conversion& convert);
// The summary: one JSON object, or `made` ("24 images of ...") and `advice`.
void print_summary(const GatherOptions& options, const Manifest& manifest, const std::string& made,
                   const std::string& advice);

std::string counted(size_t count, const std::string& what);  // "1 image", "2 images"

// Raw bytes back into files.
struct RestoreOptions {
  std::vector<std::string> inputs;
  std::string like, out;
  bool overwrite = false;

  void add_to(CLI::App& command);
};

struct RawFile {
  std::string stem;  // of the files that it becomes
  std::vector<uint8_t> bytes;
};
// The inputs in order; - is stdin, and of folders the *.bin files count.
std::vector<RawFile> read_raw(const RestoreOptions& options);

// The settings of the manifest beside --like, or else beside the first input; null if there is
// none. Error if it is of another kind.
nlohmann::ordered_json settings_like(const RestoreOptions& options, const std::string& kind);

// Error if it exists, unless --overwrite.
void check_free(const std::string& file, bool overwrite);
// Makes --out a folder, if it is none yet; `file` is what it could be instead ("FILE.png").
void make_folder(const std::string& out, const std::string& file);

}  // namespace megabyte::cli
