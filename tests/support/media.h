// Small pictures, sounds and their files, and the command that converts them.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "convert/image.h"
#include "support/command.h"

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

// Rows of `channels` samples a pixel: 1 grey, 3 RGB, 4 CMYK. With a block of EXIF if there is one.
std::string jpeg_of(const std::vector<uint8_t>& samples, uint32_t width, uint32_t height,
                    int channels, const std::string& exif = "");
// An EXIF block with an orientation and nothing else.
std::string exif_of(int orientation, bool little_endian);

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// `megabyte data` in a folder of its own.
class DataCommand : public testing::Test {
 protected:
  static CommandResult data(std::vector<std::string> words) {
    words.insert(words.begin(), "data");
    return run_megabyte(words);
  }
  // What it says on stderr, and nothing on stdout.
  static std::string complaint(const std::vector<std::string>& words, int code) {
    const CommandResult result = data(words);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    return result.err;
  }

  TemporaryFolder folder_;
};

}  // namespace megabyte::test
