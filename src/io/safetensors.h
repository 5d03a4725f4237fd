// The safetensors format: 8 bytes of header length (little-endian), a JSON header, then the raw
// bytes of all tensors without gaps. Read through a mapping, written atomically tensor by tensor.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "io/mapped_file.h"

namespace megabyte {

struct SafetensorsEntry {
  DType dtype;
  Shape shape;
  size_t begin, end;  // bytes, from the start of the file
};

struct SafetensorsIndex {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

// Checks a whole file against the format's rules. Errors are one line that begins with `where` and
// names the tensor.
SafetensorsIndex parse_safetensors(std::span<const std::byte> file, const std::string& where);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::string& name() const { return name_; }  // of the file, for messages
  const std::map<std::string, SafetensorsEntry>& tensors() const { return index_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return index_.metadata; }
  bool contains(const std::string& tensor) const { return index_.tensors.contains(tensor); }
  const SafetensorsEntry& entry(const std::string& tensor) const;  // Error if there is none

  std::span<const std::byte> bytes(const std::string& tensor) const;  // as stored, any alignment
  // Converted from any of the element types; row-major.
  std::vector<float> read_floats(const std::string& tensor) const;
  std::vector<double> read_doubles(const std::string& tensor) const;

 private:
  std::string name_;
  MappedFile mapped_;
  SafetensorsIndex index_;
};

// Declare all tensors first; write() then asks for the content of one after the other, so that only
// the largest is ever in memory twice.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(const std::filesystem::path& file) : file_(file) {}

  void set_metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }
  void declare(const std::string& tensor, DType dtype, const Shape& shape);
  // `fill` writes the tensor's bytes to `to`, which is aligned for every element type. Atomic: see
  // AtomicFile; an exception of `fill` leaves the old file, too.
  void write(const std::function<void(const std::string& tensor, std::byte* to)>& fill) const;

 private:
  std::filesystem::path file_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;  // without data
};

}  // namespace megabyte
