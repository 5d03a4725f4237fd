// Raw bytes of any number of files as one long sequence.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/mapped_file.h"

namespace megabyte {

// Bytes [begin, end) of a dataset.
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size() const { return end - begin; }
};

// The files of find_files(), in that order, mapped into memory one by one as they are first needed
// and never loaded whole. Any number of files: only so many are mapped at a time, and none is held
// open. Safe to read from several threads.
class ByteDataset {
 public:
  struct File {
    std::filesystem::path path;
    uint64_t begin;  // of its bytes in the sequence
    uint64_t size;
  };

  // Error when there is nothing to read, or no byte in it.
  explicit ByteDataset(const std::vector<std::string>& paths);

  uint64_t size() const { return size_; }
  ByteRange all() const { return {0, size_}; }
  const std::vector<File>& files() const { return files_; }

  // Copies bytes from `offset` on, across the borders of files. A file that was shortened since the
  // start is an Error (only one that shrinks within this very call still ends the program); what
  // was appended to a file is not seen.
  void read(uint64_t offset, std::span<uint8_t> out) const;

 private:
  static constexpr size_t kMostMapped = 4096;  // the system allows some 65,000 mappings

  const MappedFile& mapped(size_t file) const;

  std::vector<File> files_;
  uint64_t size_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<MappedFile>> maps_;  // by file; none until needed
  mutable std::deque<size_t> oldest_;                      // mapped files, the longest mapped first
};

// Training bytes and the held-out last 5%, from a multiple of `align` bytes on.
std::pair<ByteRange, ByteRange> split_held_out(const ByteDataset& data, int64_t align = 1);

// Error that names a file whose size is no multiple of `align`.
void check_aligned(const ByteDataset& data, int64_t align);

}  // namespace megabyte
