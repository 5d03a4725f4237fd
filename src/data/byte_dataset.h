// Any number of files as one long sequence of symbols: raw bytes and, where a model knows them, the
// ends of documents.
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

// The symbol after the 256 bytes ends a document. A model whose vocabulary reaches it is trained
// on documents one after another with this symbol behind each.
inline constexpr uint16_t kEndOfDocument = 256;
inline bool ends_documents(int64_t vocab) { return vocab > kEndOfDocument; }

// Symbols [begin, end) of a dataset.
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size() const { return end - begin; }
};

// The files of find_files(), in that order, mapped into memory one by one as they are first needed
// and never loaded whole. Any number of files: only so many are mapped at a time, and none is held
// open. Manifests (data/manifest.h) beside their data are no data. Safe to read from several
// threads.
class ByteDataset {
 public:
  struct File {
    std::filesystem::path path;
    uint64_t size;
  };
  // A file, or one source of a file that has a manifest. None is empty.
  struct Document {
    size_t file;           // its place in files()
    uint64_t from, bytes;  // its place in the file
    uint64_t begin;        // its place in the sequence
  };

  // With `documents` the end of each is a symbol of its own, and manifests tell where they are in a
  // file; without, files are documents, and nothing marks their ends. Error when there is nothing
  // to read, or no byte in it.
  explicit ByteDataset(const std::vector<std::string>& paths, bool documents = false);

  uint64_t size() const { return size_; }  // symbols
  ByteRange all() const { return {0, size_}; }
  const std::vector<File>& files() const { return files_; }
  const std::vector<Document>& documents() const { return documents_; }
  const Document& document_at(uint64_t offset) const;  // offset < size()

  // Copies symbols from `offset` on, across the borders of files. A file that was shortened since
  // the start is an Error (only one that shrinks within this very call still ends the program);
  // what was appended to a file is not seen.
  void read(uint64_t offset, std::span<uint16_t> out) const;

 private:
  static constexpr size_t kMostMapped = 4096;  // the system allows some 65,000 mappings

  void add(size_t file, uint64_t from, uint64_t bytes);
  const MappedFile& mapped(size_t file) const;

  bool ends_;
  std::vector<File> files_;
  std::vector<Document> documents_;
  uint64_t size_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<MappedFile>> maps_;  // by file; none until needed
  mutable std::deque<size_t> oldest_;                      // mapped files, the longest mapped first
};

// Training symbols and the held-out last 5%, from a multiple of `align` on.
std::pair<ByteRange, ByteRange> split_held_out(const ByteDataset& data, int64_t align = 1);

// Error that names a file whose size is no multiple of `align`.
void check_aligned(const ByteDataset& data, int64_t align);

}  // namespace megabyte
