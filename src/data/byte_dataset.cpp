#include "data/byte_dataset.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"
#include "data/manifest.h"
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

ByteDataset::ByteDataset(const std::vector<std::string>& paths, bool documents) : ends_(documents) {
  const std::vector<fs::path> found = find_files(paths);
  const std::set<fs::path> names(found.begin(), found.end());
  for (const fs::path& path : found) {
    if (path.extension() == ".json" && names.contains(fs::path(path).replace_extension()) &&
        is_manifest(path))
      continue;
    const size_t file = files_.size();
    files_.push_back({path, size_of_file(path)});
    std::optional<Manifest> manifest;
    if (documents && is_manifest(manifest_path(path))) manifest = load_manifest(path);
    if (!manifest) {
      add(file, 0, files_.back().size);
      continue;
    }
    for (const Manifest::Item& item : manifest->items) add(file, item.begin, item.bytes);
  }
  if (files_.empty()) fail("the data has no files: name files, folders or patterns");
  if (size_ == 0)
    fail("the data is empty: {}{} has no bytes", files_.front().path.string(),
         files_.size() > 1 ? " and all other files" : "");
  maps_.resize(files_.size());
}

void ByteDataset::add(size_t file, uint64_t from, uint64_t bytes) {
  if (bytes == 0) return;
  documents_.push_back({file, from, bytes, size_});
  size_ += bytes + ends_;
}

const ByteDataset::Document& ByteDataset::document_at(uint64_t offset) const {
  return *(std::upper_bound(documents_.begin(), documents_.end(), offset,
                            [](uint64_t x, const Document& d) { return x < d.begin; }) -
           1);
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

void ByteDataset::read(uint64_t offset, std::span<uint16_t> out) const {
  check(offset <= size_ && out.size() <= size_ - offset, "reads stay inside the data");
  const std::lock_guard lock(mutex_);
  for (const Document* d = &document_at(offset); !out.empty(); ++d) {
    const uint64_t from = offset - d->begin;
    const size_t bytes = std::min<uint64_t>(out.size(), d->bytes - from);
    if (bytes > 0) {
      const std::byte* begin = mapped(d->file).bytes().data() + d->from + from;
      std::transform(begin, begin + bytes, out.begin(),
                     [](std::byte b) { return std::to_integer<uint16_t>(b); });
    }
    out = out.subspan(bytes);
    offset += bytes;
    if (!ends_ || out.empty()) continue;
    out[0] = kEndOfDocument;
    out = out.subspan(1);
    ++offset;
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
