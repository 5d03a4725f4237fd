#include "data/byte_dataset.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "data/paths.h"

namespace megabyte {

namespace fs = std::filesystem;

namespace {

uint64_t size_of_file(const fs::path& file) {
  std::error_code error;
  const uint64_t size = fs::file_size(file, error);
  if (error) fail("cannot read {}: {}", file.string(), error.message());
  return size;
}

}  // namespace

ByteDataset::ByteDataset(const std::vector<std::string>& paths) {
  for (fs::path& path : find_files(paths)) {
    const uint64_t bytes = size_of_file(path);
    files_.push_back({std::move(path), size_, bytes});
    size_ += bytes;
  }
  if (files_.empty()) fail("the data has no files: name files, folders or patterns");
  if (size_ == 0)
    fail("the data is empty: {}{} has no bytes", files_.front().path.string(),
         files_.size() > 1 ? " and all other files" : "");
  maps_.resize(files_.size());
}

const MappedFile& ByteDataset::mapped(size_t file) const {
  const File& f = files_[file];
  const uint64_t now = size_of_file(f.path);
  if (now < f.size)
    fail("{} was shortened while it was in use: it had {} bytes and has {} now", f.path.string(),
         f.size, now);
  if (maps_[file] == nullptr) {
    if (oldest_.size() == kMostMapped) {
      maps_[oldest_.front()].reset();
      oldest_.pop_front();
    }
    maps_[file] = std::make_unique<MappedFile>(f.path);
    oldest_.push_back(file);
  }
  return *maps_[file];
}

void ByteDataset::read(uint64_t offset, std::span<uint8_t> out) const {
  check(offset <= size_ && out.size() <= size_ - offset, "reads stay inside the data");
  const std::lock_guard lock(mutex_);
  // The last file that begins at or before the offset; empty ones after it are passed over.
  auto at = std::upper_bound(files_.begin(), files_.end(), offset,
                             [](uint64_t x, const File& f) { return x < f.begin; }) -
            files_.begin() - 1;
  while (!out.empty()) {
    const auto file = static_cast<size_t>(at++);
    const File& f = files_[file];
    const uint64_t from = offset - f.begin;
    const size_t bytes = std::min<uint64_t>(out.size(), f.size - from);
    if (bytes == 0) continue;
    std::memcpy(out.data(), mapped(file).bytes().data() + from, bytes);
    out = out.subspan(bytes);
    offset += bytes;
  }
}

std::pair<ByteRange, ByteRange> split_held_out(const ByteDataset& data, int64_t align) {
  uint64_t border = data.size() - data.size() / 20;
  border -= border % static_cast<uint64_t>(align);
  return {{0, border}, {border, data.size()}};
}

void check_aligned(const ByteDataset& data, int64_t align) {
  for (const ByteDataset::File& file : data.files())
    if (file.size % static_cast<uint64_t>(align) != 0)
      fail("{} has {} bytes, no multiple of --align {}", file.path.string(), file.size, align);
}

}  // namespace megabyte
