#include "codec/codec.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "backends/exact/frequencies.h"
#include "base/error.h"
#include "codec/in_order.h"
#include "codec/model_bytes.h"
#include "codec/stream_coder.h"

namespace megabyte {
namespace {

struct Stopped {};

using Coded = std::vector<std::vector<uint8_t>>;

// Counts bytes as they are coded, and ends the coding when it is told to.
struct Meter {
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> bytes = 0;

  StreamCoder::Progress counting() {
    return [this](uint64_t coded) {
      if (stop.load(std::memory_order_relaxed)) throw Stopped{};
      bytes.fetch_add(coded, std::memory_order_relaxed);
    };
  }
};

// A coder of at least so many streams, kept from group to group.
class Coders {
 public:
  explicit Coders(const CodecModel& with) : with_(with) {}
  StreamCoder& of(size_t streams) {
    const auto batch = static_cast<int64_t>(streams);
    if (!coder_ || coder_->batch() != batch) coder_.emplace(with_.model(), batch);
    return *coder_;
  }

 private:
  const CodecModel& with_;
  std::optional<StreamCoder> coder_;
};

void check_decodes(StreamCoder& coder, std::span<const Bytes> streams, const Coded& coded,
                   const StreamCoder::Progress& progress) {
  std::vector<std::vector<uint8_t>> again;
  for (const Bytes stream : streams) again.emplace_back(stream.size());
  const std::vector<Bytes> from(coded.begin(), coded.end());
  const std::vector<std::span<uint8_t>> to(again.begin(), again.end());
  coder.decode(from, to, progress);
  for (size_t i = 0; i < streams.size(); ++i)
    if (!std::equal(streams[i].begin(), streams[i].end(), again[i].begin()))
      fail("what was compressed does not decode to the same bytes: nothing was written");
}

}  // namespace

CodecModel::CodecModel(uint64_t streams, int threads, const Load& load, const std::string& device) {
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const auto cores = static_cast<uint64_t>(threads);
  streams = std::max<uint64_t>(streams, 1);
  const uint64_t workers = device == "exact" ? std::min(cores, streams) : 1;  // a device is shared
  workers_ = static_cast<int>(workers);
  backend_ = make_backend(device, static_cast<int>(cores / workers));
  model_ = load(*backend_);
  // As many rounds as it takes, all of them equally full.
  const uint64_t most = workers * static_cast<uint64_t>(StreamCoder::batch_that_pays(*model_));
  const uint64_t rounds = (streams + most - 1) / most;
  batch_ = static_cast<int64_t>((streams + workers * rounds - 1) / (workers * rounds));
  bytes_ = pack_model(*model_);
  hash_ = sha256(bytes_);
}

const CodedWith& CodecModel::identity() const {
  if (!identity_)
    identity_ = {.numerics = exact::kVersion, .model = hash_, .self_test = self_test(*model_)};
  return *identity_;
}

CompressResult compress(const CodecModel& with, Bytes original, const CompressOptions& options,
                        const ArchiveWriter::Sink& sink, const CodecProgress& progress) {
  const ArchiveHeader header{.stream_bits = options.stream_bits > 0
                                                ? options.stream_bits
                                                : stream_bits_for(original.size()),
                             .original_bytes = original.size(),
                             .original = sha256(original),
                             .coded = with.identity()};
  ArchiveWriter writer(original, header, options.embed ? Bytes(with.bytes()) : Bytes{}, sink);
  const auto batch = static_cast<uint64_t>(with.batch()), count = header.stream_count();
  Meter meter;
  const auto make_worker = [&] {
    return [&, coders = Coders(with), checkers = Coders(with)](size_t group) mutable {
      std::vector<Bytes> streams;
      for (uint64_t i = group * batch; i < std::min(count, (group + 1) * batch); ++i)
        streams.push_back(writer.original_stream(i));
      Coded coded = coders.of(streams.size()).encode(streams, meter.counting());
      if (options.verify)
        check_decodes(checkers.of(streams.size() + 1), streams, coded, [&](uint64_t) {
          if (meter.stop) throw Stopped{};
        });
      return coded;
    };
  };
  in_order((count + batch - 1) / batch, with.workers(), meter.stop, make_worker,
           [&](size_t, Coded coded) {
             for (std::vector<uint8_t>& stream : coded) writer.add(std::move(stream));
           },
           [&] {
             if (progress) progress(meter.bytes);
           });
  writer.finish();
  return {writer.written(), writer.coded()};
}

std::unique_ptr<CodecModel> model_of(const Archive& archive, uint64_t streams, int threads,
                                     std::span<const ModelSource> sources, const std::string& where,
                                     const std::string& device) {
  if (!archive.header().coded) return nullptr;
  const CodedWith& coded = *archive.header().coded;
  if (coded.numerics != exact::kVersion)
    fail(
        "{} was made with numbers of version {}, this program computes version {}: use the release "
        "that wrote it",
        where, coded.numerics, exact::kVersion);
  const Bytes inside = archive.model();
  if (!inside.empty() && sha256(inside) != coded.model)
    fail("{} is damaged: the model inside has another SHA-256", where);
  const ModelSource itself{"the one inside",
                           [&](Backend& backend) { return unpack_model(inside, backend, where); }};
  std::unique_ptr<CodecModel> model;
  std::string others;
  for (const ModelSource& source : inside.empty() ? sources : std::span(&itself, 1)) {
    model = std::make_unique<CodecModel>(streams, threads, source.load, device);
    if (model->hash() == coded.model) break;
    others +=
        fmt::format("{}that of {} {}", others.empty() ? "" : ", ", source.name, hex(model->hash()));
    model.reset();
  }
  if (!model)
    fail("{} was made with another model: its SHA-256 is {}, {}; name the right one with --model",
         where, hex(coded.model), others);
  if (model->identity().self_test != coded.self_test)
    fail(
        "this machine does not compute what the one did that wrote {}: the self-test differs, and "
        "decoding would give garbage",
        where);
  return model;
}

void decompress(const CodecModel* with, const Archive& archive, uint64_t from, uint64_t to,
                const std::string& where, const ArchiveWriter::Sink& sink,
                const CodecProgress& progress) {
  const ArchiveHeader& header = archive.header();
  check(from <= to && to <= header.original_bytes, "a range of the original");
  check(with || !header.coded, "what is coded needs a model");
  const ByteRange part = header.streams_of(from, to);
  const uint64_t first = part.begin, end = part.end;
  const auto batch = with ? static_cast<uint64_t>(with->batch()) : 1;
  Meter meter;
  Sha256 whole;

  const auto make_worker = [&] {
    return [&, coders = with ? std::optional<Coders>(*with) : std::nullopt](size_t group) mutable {
      std::vector<std::vector<uint8_t>> streams;
      std::vector<Bytes> coded;
      std::vector<std::span<uint8_t>> places;
      const uint64_t begin = first + group * batch;
      for (uint64_t i = begin; i < std::min(end, begin + batch); ++i) {
        const ArchiveStream stream = archive.stream(i);
        streams.emplace_back(stream.original_bytes);
        if (stream.stored) {
          std::copy(stream.bytes.begin(), stream.bytes.end(), streams.back().begin());
          meter.bytes += stream.original_bytes;
        } else {
          coded.push_back(stream.bytes);
          places.emplace_back(streams.back());
        }
      }
      if (!coded.empty()) coders->of(coded.size()).decode(coded, places, meter.counting());
      for (size_t i = 0; i < streams.size(); ++i) {
        const ArchiveStream stream = archive.stream(begin + i);
        if (crc32c(streams[i]) != stream.crc)
          fail(
              "{} is damaged: the checksum of bytes {} to {} of the original is wrong; --range "
              "gives those before and after",
              where, stream.first, stream.first + stream.original_bytes);
      }
      return streams;
    };
  };
  in_order((end - first + batch - 1) / batch, with ? with->workers() : 1, meter.stop, make_worker,
           [&](size_t group, const std::vector<std::vector<uint8_t>>& streams) {
             for (size_t i = 0; i < streams.size(); ++i) {
               const uint64_t start = header.stream(first + group * batch + i).begin;
               const uint64_t skip = from > start ? from - start : 0;
               const uint64_t stop = std::min<uint64_t>(streams[i].size(), to - start);
               const Bytes wanted = Bytes(streams[i]).subspan(skip, stop - skip);
               whole.update(wanted);
               sink(wanted);
             }
           },
           [&] {
             if (progress) progress(meter.bytes);
           });
  if (to - from == header.original_bytes && whole.finish() != header.original)
    fail("{} is damaged: what it decodes to is not the original (its SHA-256 differs)", where);
}

}  // namespace megabyte
