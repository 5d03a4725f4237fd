#include "convert/audio.h"

#include <samplerate.h>
#include <sndfile.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "io/atomic_file.h"

namespace megabyte {
namespace {

// A file in memory, as libsndfile wants it. What is written grows `bytes`; what is read is `view`.
struct Memory {
  std::span<const std::byte> view;
  std::vector<uint8_t> bytes;
  sf_count_t at = 0;

  sf_count_t size() const { return static_cast<sf_count_t>(std::max(view.size(), bytes.size())); }

  static Memory& of(void* data) { return *static_cast<Memory*>(data); }
  static SF_VIRTUAL_IO* functions() {
    static SF_VIRTUAL_IO io{
        [](void* data) { return of(data).size(); },
        [](sf_count_t offset, int whence, void* data) {
          Memory& memory = of(data);
          const sf_count_t from = whence == SEEK_CUR   ? memory.at
                                  : whence == SEEK_END ? memory.size()
                                                       : 0;
          return memory.at = std::max<sf_count_t>(0, from + offset);
        },
        [](void* to, sf_count_t count, void* data) {
          Memory& memory = of(data);
          const sf_count_t read = std::clamp<sf_count_t>(memory.size() - memory.at, 0, count);
          if (read > 0) std::memcpy(to, memory.view.data() + memory.at, static_cast<size_t>(read));
          memory.at += read;
          return read;
        },
        [](const void* from, sf_count_t count, void* data) {
          Memory& memory = of(data);
          const auto end = static_cast<size_t>(memory.at + count);
          if (memory.bytes.size() < end) memory.bytes.resize(end);
          std::memcpy(memory.bytes.data() + memory.at, from, static_cast<size_t>(count));
          memory.at += count;
          return count;
        },
        [](void* data) { return of(data).at; }};
    return &io;
  }
};

class Sound {
 public:
  Sound(Memory& memory, int mode, SF_INFO info)
      : info_(info), file_(sf_open_virtual(Memory::functions(), mode, &info_, &memory)) {
    if (!file_) fail("it is no WAV or FLAC file that can be read: {}", sf_strerror(nullptr));
  }
  const SF_INFO& info() const { return info_; }
  SNDFILE* get() const { return file_.get(); }

 private:
  struct Close {
    void operator()(SNDFILE* file) const { sf_close(file); }
  };
  SF_INFO info_;
  std::unique_ptr<SNDFILE, Close> file_;
};

// One channel of a stream, to 16 bits at another rate.
class Resampler {
 public:
  explicit Resampler(double ratio) : ratio_(ratio) {
    if (ratio == 1) return;
    int error = 0;
    state_.reset(src_new(SRC_SINC_BEST_QUALITY, 1, &error));
    if (!state_ || !src_is_valid_ratio(ratio))
      fail("its rate cannot be brought to the one asked for (1 : {:.4g})", ratio);
  }

  void push(std::span<const float> samples, bool last, std::vector<int16_t>& to) {
    if (!state_) return append(samples, to);
    std::vector<float> out(4096);
    SRC_DATA data{.data_in = samples.data(),
                  .data_out = out.data(),
                  .input_frames = static_cast<long>(samples.size()),
                  .output_frames = static_cast<long>(out.size()),
                  .input_frames_used = 0,
                  .output_frames_gen = 0,
                  .end_of_input = last,
                  .src_ratio = ratio_};
    do {
      const int error = src_process(state_.get(), &data);
      if (error != 0) fail("it cannot be resampled: {}", src_strerror(error));
      append(std::span(out).first(static_cast<size_t>(data.output_frames_gen)), to);
      data.data_in += data.input_frames_used;
      data.input_frames -= data.input_frames_used;
    } while (data.input_frames > 0 || data.output_frames_gen == data.output_frames);
  }

 private:
  static void append(std::span<const float> samples, std::vector<int16_t>& to) {
    for (const float x : samples)
      to.push_back(static_cast<int16_t>(std::clamp(std::lrint(x * 32768), -32768L, 32767L)));
  }
  struct Delete {
    void operator()(SRC_STATE* state) const { src_delete(state); }
  };
  double ratio_;
  std::unique_ptr<SRC_STATE, Delete> state_;
};

// libsndfile reads what there is of a WAV file that is cut short. Its header knows better (unless
// it was written to a pipe, with the largest size or none).
void check_riff_whole(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with("RIFF") || file.size() < 8) return;
  uint64_t size = 0;
  for (size_t i = 8; i-- > 4;) size = size << 8 | static_cast<uint64_t>(file[i]);
  if (size == 0 || size == std::numeric_limits<uint32_t>::max()) return;
  if (size + 8 > file.size() + 1)  // the last byte may be padding that some programs leave out
    fail("it is a WAV file that is cut short: {} bytes of {}", file.size(), size + 8);
}

int sndfile_format(SampleFormat format) {
  return SF_FORMAT_RAW | (format == SampleFormat::s16le ? SF_FORMAT_PCM_16 | SF_ENDIAN_LITTLE
                          : format == SampleFormat::u8  ? SF_FORMAT_PCM_U8
                                                        : SF_FORMAT_ULAW);
}

std::vector<uint8_t> encoded(std::span<const int16_t> samples, int64_t rate, int format) {
  Memory memory;
  {
    const Sound out(memory, SFM_WRITE,
                    {.samplerate = static_cast<int>(rate), .channels = 1, .format = format});
    const auto count = static_cast<sf_count_t>(samples.size());
    check(sf_writef_short(out.get(), samples.data(), count) == count, "memory takes all samples");
  }
  return std::move(memory.bytes);
}

}  // namespace

SampleFormat sample_format(const std::string& name) {
  if (name == "s16le") return SampleFormat::s16le;
  if (name == "u8") return SampleFormat::u8;
  if (name == "mulaw") return SampleFormat::mulaw;
  fail("there is no sample format '{}'; there are s16le, u8 and mulaw", name);
}

int64_t bytes_per_sample(SampleFormat format) { return format == SampleFormat::s16le ? 2 : 1; }

std::vector<int16_t> decode_audio(std::span<const std::byte> file, int64_t rate) {
  check_riff_whole(file);
  Memory memory{file, {}};
  const Sound in(memory, SFM_READ, {});
  const int64_t channels = in.info().channels;
  Resampler resampler(static_cast<double>(rate) / in.info().samplerate);
  constexpr int64_t kFrames = 16384;
  std::vector<float> frames(static_cast<size_t>(kFrames * channels)), mono(kFrames);
  std::vector<int16_t> samples;
  sf_count_t total = 0, count = 0;
  do {
    count = sf_readf_float(in.get(), frames.data(), kFrames);
    total += count;
    for (int64_t i = 0; i < count; ++i) {
      const float* frame = frames.data() + i * channels;
      float sum = 0;
      for (int64_t c = 0; c < channels; ++c) sum += frame[c];
      mono[static_cast<size_t>(i)] = sum / static_cast<float>(channels);
    }
    resampler.push(std::span(mono).first(static_cast<size_t>(count)), count == 0, samples);
  } while (count > 0);
  if (sf_error(in.get()) != SF_ERR_NO_ERROR) fail("it is damaged: {}", sf_strerror(in.get()));
  if (in.info().frames != SF_COUNT_MAX && total != in.info().frames)
    fail("it is cut short or damaged: {} samples of {}", total, in.info().frames);
  if (samples.empty()) fail("it has no samples");
  return samples;
}

std::vector<uint8_t> to_bytes(std::span<const int16_t> samples, SampleFormat format) {
  return encoded(samples, 16000, sndfile_format(format));
}

std::vector<int16_t> from_bytes(std::span<const uint8_t> bytes, SampleFormat format) {
  std::vector<int16_t> samples(bytes.size() / static_cast<size_t>(bytes_per_sample(format)));
  if (samples.empty()) return samples;
  Memory memory{std::as_bytes(bytes), {}};
  const Sound in(memory, SFM_READ,
                 {.samplerate = 16000, .channels = 1, .format = sndfile_format(format)});
  const auto count = static_cast<sf_count_t>(samples.size());
  check(sf_readf_short(in.get(), samples.data(), count) == count, "memory gives all samples");
  return samples;
}

void write_wav(const std::filesystem::path& file, std::span<const int16_t> samples, int64_t rate) {
  const std::vector<uint8_t> bytes = encoded(samples, rate, SF_FORMAT_WAV | SF_FORMAT_PCM_16);
  write_file_atomically(file, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace megabyte
