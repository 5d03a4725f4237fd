// Sound as raw bytes, and back. Inside all is one channel of 16-bit samples.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace megabyte {

// How a sample becomes bytes; the names are ffmpeg's.
enum class SampleFormat {
  s16le,  // two bytes, the lower one first: what a WAV file holds and the paper models
  u8,     // the upper eight bits, from 0 to 255
  mulaw,  // one byte on a logarithmic scale (G.711)
};
SampleFormat sample_format(const std::string& name);  // Error for an unknown name
int64_t bytes_per_sample(SampleFormat format);

// Decodes a WAV or FLAC file (or another that libsndfile knows) to samples at `rate` Hz: channels
// are averaged, other rates resampled (band-limited). Error, without the file's name, for what it
// cannot read, and for a file that is damaged or cut short.
std::vector<int16_t> decode_audio(std::span<const std::byte> file, int64_t rate);

std::vector<uint8_t> to_bytes(std::span<const int16_t> samples, SampleFormat format);
// Bytes that are no whole sample at the end are left out.
std::vector<int16_t> from_bytes(std::span<const uint8_t> bytes, SampleFormat format);

// 16 bits, one channel.
void write_wav(const std::filesystem::path& file, std::span<const int16_t> samples, int64_t rate);

}  // namespace megabyte
