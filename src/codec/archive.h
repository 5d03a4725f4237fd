// The file that compression writes (docs/archive.md): a header, the model if it travels inside, the
// streams one after the other, and a table of them at the end, so that an archive can be written
// to a pipe and read at any place. Nothing here knows how a model codes a stream.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/checksums.h"
#include "data/byte_dataset.h"

namespace megabyte {

using Bytes = std::span<const uint8_t>;

inline constexpr int kArchiveVersion = 2;
inline constexpr int kSmallestStreamBits = 8, kLargestStreamBits = 20;

// What decoding needs to know about the arithmetic that coded an archive.
struct CodedWith {
  uint16_t numerics = 0;               // version of the numeric format (docs/exact.md)
  Sha256Digest model{};                // of the model in its canonical form
  std::array<uint8_t, 8> self_test{};  // what a machine must compute to read it
  uint64_t embedded_bytes = 0;         // of the model inside; 0: it is not

  bool operator==(const CodedWith&) const = default;
};

struct ArchiveHeader {
  int stream_bits = 0;  // a stream is 2^stream_bits bytes of the original, the last one shorter
  uint64_t original_bytes = 0;
  Sha256Digest original{};
  std::optional<CodedWith> coded;  // none where every stream is stored

  uint64_t stream_bytes() const { return uint64_t{1} << stream_bits; }
  uint64_t stream_count() const;
  ByteRange stream(uint64_t i) const;                      // its bytes of the original
  ByteRange streams_of(uint64_t from, uint64_t to) const;  // the numbers of those that hold bytes
};

struct ArchiveStream {
  bool stored;     // as it is: the model would have made it larger
  uint32_t crc;    // CRC-32C of the original bytes
  uint64_t first;  // of the original
  Bytes bytes;     // in the archive
  uint64_t original_bytes;
};

// An archive in memory (a mapping, that is), checked as a whole: every field, and that its parts
// fill the file exactly. Takes memory in proportion to the table that is really there. Errors are
// one line that begins with `where`.
class Archive {
 public:
  Archive(Bytes file, const std::string& where);

  const ArchiveHeader& header() const { return header_; }
  Bytes model() const { return model_; }  // empty unless it travels inside
  size_t stream_count() const { return offsets_.size(); }
  ArchiveStream stream(size_t i) const;
  uint64_t bytes() const { return file_.size(); }

 private:
  uint32_t table_word(size_t i, size_t word) const;

  Bytes file_, model_;
  ArchiveHeader header_;
  const uint8_t* table_ = nullptr;
  std::vector<uint64_t> offsets_;  // of streams
};

// Writes an archive in order. Until coding has saved as much as it costs in the header, streams
// wait: an archive where it never does holds the original as it is, so that no file grows by more
// than 64 bytes and 0.1%.
class ArchiveWriter {
 public:
  using Sink = std::function<void(Bytes)>;

  // `header.coded` says what coding would be done with; `model` is the model to embed, or empty.
  // `original` must stay.
  ArchiveWriter(Bytes original, const ArchiveHeader& header, Bytes model, Sink sink);

  Bytes original_stream(uint64_t i) const;
  // The next stream, coded. Where that is not shorter than the original it is stored.
  void add(std::vector<uint8_t> coded);
  void finish();  // after all streams

  uint64_t written() const { return written_; }
  bool coded() const { return header_.coded.has_value(); }  // after finish(): is anything?

 private:
  using Coded = std::optional<std::vector<uint8_t>>;  // none: stored

  void begin();  // writes the header, and the streams that waited
  void put_stream(uint64_t i, const Coded& coded);
  void put(Bytes bytes);

  Bytes original_, model_;
  ArchiveHeader header_;
  Sink sink_;
  bool begun_ = false;
  uint64_t added_ = 0, saved_ = 0, written_ = 0;
  std::vector<Coded> waiting_;  // the first streams
  std::vector<uint8_t> table_;
};

// The stream length that the file's size calls for: short streams make small files quick (they are
// coded side by side), long ones know more of what came before.
int stream_bits_for(uint64_t original_bytes);

// Bytes of an archive of a file of that size beside its coded streams: the header, and the table.
uint64_t frame_bytes(uint64_t original_bytes);

}  // namespace megabyte
