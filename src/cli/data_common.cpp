#include "cli/data_common.h"

#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <new>
#include <optional>

#include "base/error.h"
#include "cli/numbers.h"
#include "cli/terminal_line.h"
#include "convert/data_writer.h"
#include "data/paths.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace megabyte::cli {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

void GatherOptions::add_to(CLI::App& command, const std::string& what,
                           const std::vector<std::string>& names) {
  include = names;
  command.add_option("inputs", inputs, what + ": files, folders or quoted patterns")->required();
  command.add_option("--out", out, "file of raw bytes to write; its manifest is FILE.json")
      ->required();
  command
      .add_option("--include", include,
                  "pattern of the file names that count in folders (quoted, repeatable)")
      ->allow_extra_args(false)
      ->capture_default_str();
  command
      .add_option(
          "--exclude", exclude,
          "pattern of the file and folder names to leave out of folders (quoted, repeatable)")
      ->allow_extra_args(false);
  command.add_flag("--hidden", hidden, "also names in folders that begin with a dot");
  command.add_flag("--overwrite", overwrite, "replace --out");
  command.add_flag("--json", json, "print the summary as one JSON object");
}

Manifest gather(const GatherOptions& options, const std::string& kind, const ordered_json& settings,
                const Conversion& convert) {
  DataWriter writer(options.out, options.overwrite, kind, settings);
  TerminalLine line;
  const auto skip = [&](const fs::path& file, const std::string& reason) {
    writer.skip(file, reason);
    line.clear();
    fmt::print(stderr, "megabyte: skipped {}: {}\n", file.string(), reason);
  };
  std::vector<fs::path> files = find_files(options.inputs, {.include = options.include,
                                                            .exclude = options.exclude,
                                                            .hidden = options.hidden,
                                                            .on_unreadable = skip});
  // In a folder that is read there may be an older result, and the one being written.
  std::erase_if(files, [&](const fs::path& file) { return writer.writes(file); });
  for (size_t done = 0; const fs::path& file : files) {
    if (line.due()) line.show(fmt::format("{} of {}", done, counted(files.size(), "file")));
    ++done;
    std::optional<MappedFile> source;
    std::vector<uint8_t> bytes;
    try {
      source.emplace(file);
      bytes = convert(source->bytes());
    } catch (const Error& error) {
      skip(file, error.what());
      continue;
    } catch (const std::bad_alloc&) {
      skip(file, "it needs more memory than there is");
      continue;
    }
    writer.add(file, source->bytes(), bytes);
  }
  writer.commit();
  return writer.manifest();
}

void print_summary(const GatherOptions& options, const Manifest& manifest, const std::string& made,
                   const std::string& advice) {
  const std::string beside = manifest_path(options.out).string();
  if (options.json) {
    ordered_json skipped = ordered_json::array();
    for (const Manifest::Skipped& item : manifest.skipped)
      skipped.push_back({{"source", item.source}, {"reason", item.reason}});
    const ordered_json json{{"out", options.out},
                            {"manifest", beside},
                            {"kind", manifest.kind},
                            {"bytes", manifest.bytes},
                            {"files", manifest.items.size()},
                            {"skipped", std::move(skipped)}};
    fmt::print("{}\n", to_text(json));
    return;
  }
  fmt::print("{}: {} from {}, {}; the manifest is {}\n", options.out, made,
             counted(manifest.items.size(), "file"),
             scaled(static_cast<double>(manifest.bytes), "B"), beside);
  if (!manifest.skipped.empty())
    fmt::print("{} skipped; the manifest says why\n", counted(manifest.skipped.size(), "file"));
  if (!advice.empty()) fmt::print("{}\n", advice);
}

std::string counted(size_t count, const std::string& what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

void RestoreOptions::add_to(CLI::App& command) {
  command
      .add_option("inputs", inputs,
                  "files of raw bytes, folders (their *.bin files) or quoted patterns; - is stdin")
      ->required();
  command.add_option("--like", like,
                     "take the settings from the manifest of this file that 'megabyte data' made "
                     "(default: the first input's own manifest, if it has one)");
  command.add_flag("--overwrite", overwrite, "replace what is there");
}

std::vector<RawFile> read_raw(const RestoreOptions& options) {
  std::vector<RawFile> all;
  for (const std::string& input : options.inputs) {
    if (input == "-") {
      all.push_back({"stdin", {std::istreambuf_iterator<char>(std::cin), {}}});
      continue;
    }
    for (const fs::path& path : find_files({input}, {.include = {"*.bin"}})) {
      const MappedFile file(path);
      const auto* begin = reinterpret_cast<const uint8_t*>(file.bytes().data());
      all.push_back({path.stem().string(), {begin, begin + file.bytes().size()}});
    }
  }
  return all;
}

ordered_json settings_like(const RestoreOptions& options, const std::string& kind) {
  const std::string& data = options.like.empty() ? options.inputs.front() : options.like;
  std::error_code ignored;
  const bool asked = !options.like.empty();
  if (!asked && !fs::is_regular_file(data, ignored)) return nullptr;
  const std::optional<Manifest> manifest = load_manifest(data);
  if (!manifest && asked)
    fail("{} is not there: --like takes a file that 'megabyte data {}' made",
         manifest_path(data).string(), kind);
  if (!manifest) return nullptr;
  if (manifest->kind != kind) fail("{} was made from {}, not from {}", data, manifest->kind, kind);
  return manifest->settings;
}

void check_free(const std::string& file, bool overwrite) {
  std::error_code ignored;
  if (!overwrite && fs::exists(file, ignored))
    fail("{} exists already: choose another --out, or --overwrite", file);
}

void make_folder(const std::string& out, const std::string& file) {
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_directory(out, error))
    fail("{} is a file: --out takes {} or the name of a folder", out, file);
  fs::create_directories(out, error);
  if (error) fail("cannot create the folder {}: {}", out, error.message());
}

}  // namespace megabyte::cli
