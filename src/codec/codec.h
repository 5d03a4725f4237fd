// Compression and decompression of whole files: streams to archives and back, on many threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/archive.h"
#include "model/hierarchy.h"

namespace megabyte {

// Called on the calling thread now and then, with the bytes of the original that are done. What it
// throws ends the work.
using CodecProgress = std::function<void(uint64_t bytes)>;

// A model on an exact backend, ready to code: for the number of streams that there will be.
class CodecModel {
 public:
  using Load = std::function<std::unique_ptr<Hierarchy>(Backend&)>;

  // threads 0: all cores. device: "exact", or "exact-cuda", on which one thread codes.
  CodecModel(uint64_t streams, int threads, const Load& load, const std::string& device = "exact");

  const Hierarchy& model() const { return *model_; }
  const Sha256Digest& hash() const { return hash_; }  // of bytes()
  // What an archive says it was made with. The self-test runs when this is first called, which is
  // not safe on two threads.
  const CodedWith& identity() const;
  const std::vector<uint8_t>& bytes() const { return bytes_; }  // pack_model()
  int workers() const { return workers_; }  // threads that code, each some streams side by side
  int64_t batch() const { return batch_; }

 private:
  int workers_;
  int64_t batch_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Hierarchy> model_;
  std::vector<uint8_t> bytes_;
  Sha256Digest hash_;
  mutable std::optional<CodedWith> identity_;
};

struct CompressOptions {
  int stream_bits = 0;  // 0: stream_bits_for() the original
  bool embed = false;   // the model travels inside
  bool verify = false;  // decodes every stream again, in other batches, before it is written
};

struct CompressResult {
  uint64_t archive_bytes = 0;
  bool coded = false;  // false: everything is stored
};

CompressResult compress(const CodecModel& with, Bytes original, const CompressOptions& options,
                        const ArchiveWriter::Sink& sink, const CodecProgress& progress = {});

// A model that an archive may have been made with; messages name it.
struct ModelSource {
  std::string name;
  CodecModel::Load load;
};

// What `streams` of an archive are decoded with: the model inside, or the first of `sources` that
// it was made with; null where nothing is coded. Error when it was none of them, and when this
// program's or this machine's arithmetic is not the one that the archive was made with.
std::unique_ptr<CodecModel> model_of(const Archive& archive, uint64_t streams, int threads,
                                     std::span<const ModelSource> sources, const std::string& where,
                                     const std::string& device = "exact");

// Bytes [from, to) of the original, in order, each stream's checked before the sink is given them.
// Error for a wrong checksum, of a stream or of the whole.
void decompress(const CodecModel* with, const Archive& archive, uint64_t from, uint64_t to,
                const std::string& where, const ArchiveWriter::Sink& sink,
                const CodecProgress& progress = {});

}  // namespace megabyte
