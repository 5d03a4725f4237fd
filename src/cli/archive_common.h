// What the commands that write and read archives share: where bytes come from and go to, the model,
// how far the work is.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/terminal_line.h"
#include "codec/codec.h"
#include "io/atomic_file.h"
#include "io/mapped_file.h"

namespace megabyte::cli {

inline constexpr const char* kArchiveSuffix = ".mbz";

// The bytes of a file, or of stdin for "-".
class InputBytes {
 public:
  explicit InputBytes(const std::string& file);
  const std::string& name() const { return name_; }  // for messages
  Bytes bytes() const { return bytes_; }

 private:
  std::string name_;
  std::optional<MappedFile> mapped_;
  std::vector<uint8_t> read_;
  Bytes bytes_;
};

// A file that appears when it is complete, or stdout for "-". While there is an unfinished file the
// first SIGINT or SIGTERM only ends the work (ArchiveProgress), so that nothing is left; a second
// one kills.
class OutputBytes {
 public:
  // Error if the file exists, unless `force`.
  OutputBytes(const std::string& file, bool force);
  void write(Bytes bytes);
  void commit();

 private:
  std::optional<AtomicFile> file_;  // none: stdout
};

// The archive that a command reads, its first argument.
void add_archive_file(CLI::App& command, std::string& file);

// --model, --device and --threads.
struct ArchiveOptions {
  std::string model, device = "auto";
  int threads = 0;

  void add_to(CLI::App& command);
  // The exact backend to code so many streams with.
  std::string backend(uint64_t streams) const;
  // Of the folder named, or of a model in the box, which is named on stderr unless `quiet`.
  CodecModel::Load load(bool quiet, bool fast) const;
  // What so many streams of an archive are decoded with; of the models in the box the right one.
  std::unique_ptr<CodecModel> model_of(const Archive& archive, uint64_t streams,
                                       const std::string& where, bool quiet) const;
};

// "45%  12.3 kB/s  5m20s left" on a terminal. Error after a signal that OutputBytes has caught.
class ArchiveProgress {
 public:
  explicit ArchiveProgress(uint64_t bytes);
  void operator()(uint64_t done);
  // Takes the line away; the seconds since the beginning.
  double finish();

 private:
  double seconds() const;
  uint64_t bytes_;
  std::chrono::steady_clock::time_point start_;
  TerminalLine line_;
};

}  // namespace megabyte::cli
