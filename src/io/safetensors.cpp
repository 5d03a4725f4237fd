#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace megabyte {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeader = 100'000'000;  // the public readers' cap
constexpr size_t kDataAlignment = 64;       // ours; readers of aligned types need 8
constexpr const char* kMetadata = "__metadata__";

struct Name {
  std::string_view name;
  DType dtype;
};
constexpr std::array<Name, 6> kNames{{{"F64", DType::f64},
                                      {"F32", DType::f32},
                                      {"BF16", DType::bf16},
                                      {"U16", DType::u16},
                                      {"U8", DType::u8},
                                      {"I8", DType::i8}}};

std::string_view format_name(DType dtype) {
  return std::find_if(kNames.begin(), kNames.end(), [&](const Name& n) { return n.dtype == dtype; })
      ->name;
}

size_t read_offset(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_unsigned())
    fail("{}: data_offsets must be two whole numbers, not {}", where, printable(value));
  return value.get<size_t>();
}

Shape read_shape(const nlohmann::json& value, const std::string& where) {
  if (!value.is_array()) fail("{}: shape must be a list", where);
  if (value.size() > Shape::kMaxRank)
    fail("{}: has {} extents, but at most {} are supported", where, value.size(), Shape::kMaxRank);
  std::vector<int64_t> extents;
  for (const auto& extent : value) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > INT64_MAX)
      fail("{}: shape has the impossible extent {}", where, printable(extent));
    extents.push_back(extent.get<int64_t>());
  }
  return Shape(extents);
}

// Bytes of a tensor; Error instead of overflow.
size_t byte_size(DType dtype, const Shape& shape, const std::string& where) {
  size_t bytes = size_of(dtype);
  for (int i = 0; i < shape.rank(); ++i)
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(shape[i]), &bytes))
      fail("{}: shape {} is impossibly large", where, shape.to_string());
  return bytes;
}

SafetensorsEntry parse_entry(const nlohmann::json& value, size_t data_begin, size_t data_size,
                             const std::string& where) {
  if (!value.is_object()) fail("{}: its header entry is not an object", where);
  for (const auto& item : value.items())
    if (item.key() != "dtype" && item.key() != "shape" && item.key() != "data_offsets")
      fail("{}: unknown key '{}' in its header entry", where, printable(item.key()));
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!value.contains(key)) fail("{}: its header entry lacks {}", where, key);
  const nlohmann::json& dtype = value["dtype"];
  const auto known = std::find_if(kNames.begin(), kNames.end(), [&](const Name& n) {
    return dtype.is_string() && n.name == dtype.get_ref<const std::string&>();
  });
  if (known == kNames.end())
    fail("{}: element type {} is not supported: store it as F32 or BF16", where, printable(dtype));
  const nlohmann::json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2)
    fail("{}: data_offsets must be two whole numbers", where);
  const size_t begin = read_offset(offsets[0], where), end = read_offset(offsets[1], where);
  if (begin > end || end > data_size)
    fail(
        "{}: its data lies at bytes {} to {}, but the file has {} bytes of data: it is damaged or "
        "cut short",
        where, begin, end, data_size);
  const Shape shape = read_shape(value["shape"], where);
  if (byte_size(known->dtype, shape, where) != end - begin)
    fail("{}: {} {} does not take the {} bytes that data_offsets give it", where, known->name,
         shape.to_string(), end - begin);
  return {known->dtype, shape, data_begin + begin, data_begin + end};
}

// Tensors must follow one another without gaps or overlaps, to the end of the file.
void check_places(const std::map<std::string, SafetensorsEntry>& tensors, size_t begin, size_t end,
                  const std::string& where) {
  std::vector<const std::pair<const std::string, SafetensorsEntry>*> sorted;
  for (const auto& tensor : tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  size_t at = begin;
  for (const auto* tensor : sorted) {
    if (tensor->second.begin != at)
      fail("{}: tensor {}: {} before its data", where, printable(tensor->first),
           tensor->second.begin < at ? "another tensor overlaps it" : "there is a gap");
    at = tensor->second.end;
  }
  if (at != end)
    fail("{}: {} bytes after the last tensor belong to none: the file is damaged", where, end - at);
}

template <class Stored, class T>
void convert_elements(std::span<const std::byte> bytes, std::vector<T>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored x;
    std::memcpy(&x, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    if constexpr (std::is_same_v<Stored, bf16>)
      out[i] = static_cast<T>(static_cast<float>(x));
    else
      out[i] = static_cast<T>(x);
  }
}

template <class T>
std::vector<T> read_elements(const SafetensorsEntry& entry, std::span<const std::byte> bytes) {
  std::vector<T> out(static_cast<size_t>(entry.shape.size()));
  switch (entry.dtype) {
    case DType::f64:
      convert_elements<double>(bytes, out);
      break;
    case DType::f32:
      convert_elements<float>(bytes, out);
      break;
    case DType::bf16:
      convert_elements<bf16>(bytes, out);
      break;
    case DType::u16:
      convert_elements<uint16_t>(bytes, out);
      break;
    case DType::u8:
      convert_elements<uint8_t>(bytes, out);
      break;
    case DType::i8:
      convert_elements<int8_t>(bytes, out);
      break;
  }
  return out;
}

}  // namespace

SafetensorsIndex parse_safetensors(std::span<const std::byte> file, const std::string& where) {
  uint64_t length = 0;
  if (file.size() < kLengthBytes)
    fail("{}: {} bytes are too few for a safetensors file: it is cut short", where, file.size());
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kMaxHeader)
    fail("{}: its header claims {} bytes, more than the format allows: not a safetensors file?",
         where, length);
  if (length > file.size() - kLengthBytes)
    fail("{}: its header claims {} bytes, but only {} follow: it is cut short", where, length,
         file.size() - kLengthBytes);
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!header.starts_with('{')) fail("{}: the header does not start with '{{'", where);
  const nlohmann::json json = parse_json(header, where + ": header");

  SafetensorsIndex index;
  const size_t data_begin = kLengthBytes + length, data_size = file.size() - data_begin;
  for (const auto& item : json.items()) {
    if (item.key() != kMetadata) {
      index.tensors[item.key()] =
          parse_entry(item.value(), data_begin, data_size,
                      fmt::format("{}: tensor {}", where, printable(item.key())));
      continue;
    }
    if (!item.value().is_object()) fail("{}: {} is not an object", where, kMetadata);
    for (const auto& [key, value] : item.value().items()) {
      if (!value.is_string())
        fail("{}: {} entry '{}' is not a string", where, kMetadata, printable(key));
      index.metadata[key] = value.get<std::string>();
    }
  }
  check_places(index.tensors, data_begin, file.size(), where);
  return index;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : name_(file.string()), mapped_(file), index_(parse_safetensors(mapped_.bytes(), name_)) {}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& tensor) const {
  const auto found = index_.tensors.find(tensor);
  if (found == index_.tensors.end()) fail("{}: has no tensor {}", name_, tensor);
  return found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& tensor) const {
  const SafetensorsEntry& e = entry(tensor);
  return mapped_.bytes().subspan(e.begin, e.end - e.begin);
}

std::vector<float> SafetensorsFile::read_floats(const std::string& tensor) const {
  return read_elements<float>(entry(tensor), bytes(tensor));
}

std::vector<double> SafetensorsFile::read_doubles(const std::string& tensor) const {
  return read_elements<double>(entry(tensor), bytes(tensor));
}

void SafetensorsWriter::declare(const std::string& tensor, DType dtype, const Shape& shape) {
  check(tensor != kMetadata && tensors_.emplace(tensor, Tensor{nullptr, dtype, shape}).second,
        "a tensor is declared once");
}

void SafetensorsWriter::write(
    const std::function<void(const std::string& tensor, std::byte* to)>& fill) const {
  // Wider element types first, so that every tensor is aligned for its own.
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& tensor : tensors_) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype) > size_of(b->second.dtype);
  });
  nlohmann::json json = nlohmann::json::object();
  if (!metadata_.empty()) json[kMetadata] = metadata_;
  size_t at = 0, largest = 0;
  for (const auto* entry : order) {
    const auto& [name, tensor] = *entry;
    const size_t bytes = tensor.bytes();
    json[name] = {{"dtype", format_name(tensor.dtype)},
                  {"shape", tensor.shape.to_vector()},
                  {"data_offsets", {at, at + bytes}}};
    at += bytes;
    largest = std::max(largest, bytes);
  }
  // Metadata may hold names of files, which are bytes of any kind; JSON is UTF-8.
  std::string header = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  header.resize(
      (kLengthBytes + header.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment -
          kLengthBytes,
      ' ');
  if (header.size() > kMaxHeader) fail("cannot write {}: too many tensors", file_.string());

  AtomicFile out(file_);
  const uint64_t length = header.size();
  out.write(&length, kLengthBytes);
  out.write(header);
  std::vector<std::byte> buffer(largest);
  for (const auto* entry : order) {
    fill(entry->first, buffer.data());
    out.write(buffer.data(), entry->second.bytes());
  }
  out.commit();
}

}  // namespace megabyte
