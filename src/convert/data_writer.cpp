#include "convert/data_writer.h"

#include <zlib.h>

#include <utility>

#include "base/error.h"

namespace megabyte {

namespace fs = std::filesystem;

namespace {

fs::path free_path(const fs::path& file, bool overwrite) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored))
    fail("{} is a folder: --out takes the name of a file", file.string());
  for (const fs::path& path : {file, manifest_path(file)})
    if (!overwrite && fs::exists(path, ignored))
      fail("{} exists already: choose another --out, or --overwrite", path.string());
  return file;
}

}  // namespace

DataWriter::DataWriter(const fs::path& file, bool overwrite, std::string kind,
                       nlohmann::ordered_json settings)
    : path_(file), file_(free_path(file, overwrite)) {
  manifest_.kind = std::move(kind);
  manifest_.settings = std::move(settings);
}

std::string DataWriter::relative(const fs::path& source) const {
  const fs::path folder = fs::absolute(path_).parent_path();
  return fs::absolute(source).lexically_normal().lexically_proximate(folder).string();
}

bool DataWriter::writes(const fs::path& file) const {
  const std::string name = path_.filename().string();
  for (const char* end : {"", ".tmp", ".json", ".json.tmp"}) {
    std::error_code ignored;
    if (file.filename() == name + end && fs::equivalent(path_.string() + end, file, ignored))
      return true;
  }
  return false;
}

void DataWriter::add(const fs::path& source, std::span<const std::byte> content,
                     std::span<const uint8_t> bytes) {
  const auto* data = reinterpret_cast<const Bytef*>(content.data());
  const auto crc = static_cast<uint32_t>(crc32_z(0, data, content.size()));
  file_.write(bytes.data(), bytes.size());
  manifest_.items.push_back({relative(source), content.size(), crc, manifest_.bytes, bytes.size()});
  manifest_.bytes += bytes.size();
}

void DataWriter::skip(const fs::path& source, const std::string& reason) {
  manifest_.skipped.push_back({relative(source), reason});
}

void DataWriter::commit() {
  if (manifest_.items.empty())
    fail("nothing was made: {}", manifest_.skipped.empty()
                                     ? "the folders hold no file of the kind (--include)"
                                     : "all files were skipped");
  AtomicFile manifest(manifest_path(path_));
  manifest.write(to_json(manifest_));
  fs::remove(manifest_path(path_));  // an older one must not stand beside new data
  file_.commit();
  manifest.commit();
}

}  // namespace megabyte
