#include "codec/archive.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace megabyte {
namespace {

constexpr uint8_t kMagic[4] = {0x89, 'M', 'B', 'Z'};
constexpr uint8_t kFlagCoded = 1, kFlagEmbedded = 2;
constexpr size_t kFixedBytes = 47, kCodedBytes = 42, kEmbeddedBytes = 8, kCrcBytes = 4;
constexpr size_t kEntryBytes = 8;
constexpr uint32_t kStored = 0x8000'0000;

void append(std::vector<uint8_t>& to, uint64_t value, int bytes) {  // little-endian
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}
void append(std::vector<uint8_t>& to, Bytes bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

uint64_t number(const uint8_t* from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= uint64_t{from[i]} << (8 * i);
  return value;
}

// Reads one field after the other.
class Fields {
 public:
  explicit Fields(Bytes bytes) : at_(bytes.data()) {}
  uint64_t next(int bytes) { return number(std::exchange(at_, at_ + bytes), bytes); }
  template <size_t n>
  void next(std::array<uint8_t, n>& to) {
    std::copy_n(std::exchange(at_, at_ + n), n, to.begin());
  }

 private:
  const uint8_t* at_;
};

[[noreturn]] void damaged(const std::string& where, const char* what) {
  fail("{} is damaged: {}; take another copy of it", where, what);
}

std::vector<uint8_t> header_bytes(const ArchiveHeader& header) {
  std::vector<uint8_t> bytes(std::begin(kMagic), std::end(kMagic));
  const bool embedded = header.coded && header.coded->embedded_bytes > 0;
  append(bytes, kArchiveVersion, 1);
  append(bytes, (header.coded ? kFlagCoded : 0) | (embedded ? kFlagEmbedded : 0), 1);
  append(bytes, static_cast<uint64_t>(header.stream_bits), 1);
  append(bytes, header.original_bytes, 8);
  append(bytes, header.original);
  if (header.coded) {
    append(bytes, header.coded->numerics, 2);
    append(bytes, header.coded->model);
    append(bytes, header.coded->self_test);
    if (embedded) append(bytes, header.coded->embedded_bytes, 8);
  }
  append(bytes, crc32c(bytes), kCrcBytes);
  return bytes;
}

}  // namespace

uint64_t ArchiveHeader::stream_count() const {
  return (original_bytes >> stream_bits) + (original_bytes % stream_bytes() != 0);
}

ByteRange ArchiveHeader::stream(uint64_t i) const {
  return {i * stream_bytes(), std::min((i + 1) * stream_bytes(), original_bytes)};
}

ByteRange ArchiveHeader::streams_of(uint64_t from, uint64_t to) const {
  const uint64_t first = from / stream_bytes();
  return {first, to == from ? first : (to - 1) / stream_bytes() + 1};
}

int stream_bits_for(uint64_t original_bytes) {
  constexpr uint64_t kKiB = 1024;
  return original_bytes <= 512 * kKiB ? 14 : original_bytes <= 2048 * kKiB ? 15 : 16;
}

uint64_t frame_bytes(uint64_t original_bytes) {
  const ArchiveHeader header{.stream_bits = stream_bits_for(original_bytes),
                             .original_bytes = original_bytes};
  return kFixedBytes + kCodedBytes + kCrcBytes + kEntryBytes * header.stream_count() + kCrcBytes;
}

Archive::Archive(Bytes file, const std::string& where) : file_(file) {
  const size_t common = std::min(file.size(), std::size(kMagic));
  if (!std::equal(kMagic, kMagic + common, file.begin()) || common == 0)
    fail("{} is no archive of 'megabyte compress'", where);
  const auto need = [&](uint64_t bytes) {
    if (file.size() < bytes) fail("{} is cut short: {} bytes are left of it", where, file.size());
  };
  need(kFixedBytes + kCrcBytes);
  Fields fields(file.subspan(std::size(kMagic)));
  const uint64_t version = fields.next(1), flags = fields.next(1), stream_bits = fields.next(1);
  if (version != kArchiveVersion)
    fail("{} has format version {}, this program reads version {}: use the release that wrote it",
         where, version, kArchiveVersion);
  const bool coded = flags & kFlagCoded, embedded = flags & kFlagEmbedded;
  const size_t size =
      kFixedBytes + (coded ? kCodedBytes : 0) + (coded && embedded ? kEmbeddedBytes : 0);
  need(size + kCrcBytes);
  if (number(file.data() + size, kCrcBytes) != crc32c(file.first(size)))
    damaged(where, "the header's checksum is wrong");
  if (flags > (kFlagCoded | kFlagEmbedded) || (embedded && !coded))
    damaged(where, "the header has unknown flags");
  if (stream_bits < kSmallestStreamBits || stream_bits > kLargestStreamBits)
    damaged(where, "streams cannot have the length that the header says");
  header_.stream_bits = static_cast<int>(stream_bits);
  header_.original_bytes = fields.next(8);
  fields.next(header_.original);
  if (coded) {
    header_.coded.emplace();
    header_.coded->numerics = static_cast<uint16_t>(fields.next(2));
    fields.next(header_.coded->model);
    fields.next(header_.coded->self_test);
    if (embedded) {
      header_.coded->embedded_bytes = fields.next(8);
      if (header_.coded->embedded_bytes == 0) damaged(where, "the model inside is empty");
    }
  }

  // From here on the sizes that the header says are measured against the file that is there.
  uint64_t left = file.size() - size - kCrcBytes;
  const uint64_t model_bytes = coded ? header_.coded->embedded_bytes : 0;
  const uint64_t count = header_.stream_count();
  const auto missing = [&] {
    fail("{} is cut short or damaged: it has {} bytes, which is less than its header says", where,
         file.size());
  };
  if (model_bytes > left) missing();
  model_ = file.subspan(size + kCrcBytes, model_bytes);
  left -= model_bytes;
  if (left < kCrcBytes || count > (left - kCrcBytes) / kEntryBytes) missing();
  const Bytes table = file.last(count * kEntryBytes + kCrcBytes);
  left -= table.size();
  if (number(table.data() + table.size() - kCrcBytes, kCrcBytes) !=
      crc32c(table.first(table.size() - kCrcBytes)))
    fail("{} is cut short, or something follows its end: the checksum of its table is wrong",
         where);
  table_ = table.data();
  uint64_t offset = size + kCrcBytes + model_bytes;
  offsets_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t word = table_word(i, 0);
    const uint64_t original = header_.stream(i).size(), bytes = word & ~kStored;
    const bool stored = word & kStored;
    if ((stored ? bytes != original : bytes >= original || !coded) || bytes > left)
      damaged(where, "a stream cannot have the length that the table says");
    offsets_.push_back(offset);
    offset += bytes;
    left -= bytes;
  }
  if (left > 0) damaged(where, "its streams do not fill it");
}

uint32_t Archive::table_word(size_t i, size_t word) const {
  return static_cast<uint32_t>(number(table_ + i * kEntryBytes + 4 * word, 4));
}

ArchiveStream Archive::stream(size_t i) const {
  const uint32_t word = table_word(i, 0);
  const ByteRange original = header_.stream(i);
  return {.stored = (word & kStored) != 0,
          .crc = table_word(i, 1),
          .first = original.begin,
          .bytes = file_.subspan(offsets_.at(i), word & ~kStored),
          .original_bytes = original.size()};
}

ArchiveWriter::ArchiveWriter(Bytes original, const ArchiveHeader& header, Bytes model, Sink sink)
    : original_(original), model_(model), header_(header), sink_(std::move(sink)) {
  check(header_.coded.has_value(), "a writer knows what codes the streams");
  check(header_.original_bytes == original.size(), "the header is that of the original");
  header_.coded->embedded_bytes = model.size();
}

Bytes ArchiveWriter::original_stream(uint64_t i) const {
  const ByteRange stream = header_.stream(i);
  return original_.subspan(stream.begin, stream.size());
}

void ArchiveWriter::put(Bytes bytes) {
  sink_(bytes);
  written_ += bytes.size();
}

void ArchiveWriter::add(std::vector<uint8_t> coded) {
  const size_t original = original_stream(added_).size();
  Coded kept;
  if (coded.size() < original) {
    saved_ += original - coded.size();
    kept = std::move(coded);
  }
  if (begun_)
    put_stream(added_, kept);
  else
    waiting_.push_back(std::move(kept));
  ++added_;
  if (!begun_ && saved_ >= kCodedBytes) begin();
}

void ArchiveWriter::begin() {
  begun_ = true;
  put(header_bytes(header_));
  put(model_);
  for (uint64_t i = 0; i < waiting_.size(); ++i) put_stream(i, waiting_[i]);
  waiting_.clear();
}

void ArchiveWriter::put_stream(uint64_t i, const Coded& coded) {
  const Bytes original = original_stream(i), bytes = coded ? Bytes(*coded) : original;
  append(table_, bytes.size() | (coded ? 0 : kStored), 4);
  append(table_, crc32c(original), 4);
  put(bytes);
}

void ArchiveWriter::finish() {
  check(added_ == header_.stream_count(), "an archive has all its streams");
  if (!begun_) {
    header_.coded.reset();
    model_ = {};
    for (Coded& coded : waiting_) coded.reset();
    begin();
  }
  append(table_, crc32c(table_), kCrcBytes);
  put(table_);
}

}  // namespace megabyte
