// Small pictures, sounds and their files.
#pragma once

#include <span>
#include <string>

#include "base/random.h"
#include "convert/image.h"

namespace megabyte::test {

inline Image random_image(int64_t width, int64_t height, uint64_t seed) {
  Random random(seed, 0);
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(random.below(256));
  return image;
}

inline std::string ppm_of(const Image& image) {
  return "P6\n" + std::to_string(image.width) + " " + std::to_string(image.height) + "\n255\n" +
         std::string(image.rgb.begin(), image.rgb.end());
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

}  // namespace megabyte::test
