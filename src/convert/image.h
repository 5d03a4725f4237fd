// Pictures in memory, and the files they come from and go to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace megabyte {

struct Image {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  // (height, width, 3), sRGB
};

// Decodes a PNG, JPEG or binary PPM/PGM file, told apart by their first bytes. Grey becomes RGB, 16
// bits become 8, what is transparent shows white; a JPEG is turned as its camera notes. Error,
// without the file's name, for anything else and for a file that is damaged or cut short.
Image decode_image(std::span<const std::byte> file);

void write_png(const std::filesystem::path& file, const Image& image);

}  // namespace megabyte
