// Files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace megabyte {

// Writes FILE.tmp in the same folder; commit() syncs it, renames it to FILE and syncs the folder.
// Without commit(), and on every Error, FILE.tmp is removed and an older FILE stays as it was.
// Errors name the file and the system's reason (a full disk, say).
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  [[noreturn]] void fail_with_reason() const;

  std::filesystem::path file_, temporary_;
  int descriptor_ = -1;
};

void write_file_atomically(const std::filesystem::path& file, std::string_view content);

}  // namespace megabyte
