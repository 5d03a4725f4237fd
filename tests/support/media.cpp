#include "support/media.h"

#include <cstdio>
// jpeglib.h wants FILE declared.
#include <jpeglib.h>

#include <cstdlib>

namespace megabyte::test {

std::string jpeg_of(const std::vector<uint8_t>& samples, uint32_t width, uint32_t height,
                    int channels, const std::string& exif) {
  jpeg_compress_struct state{};
  jpeg_error_mgr errors{};
  state.err = jpeg_std_error(&errors);
  jpeg_create_compress(&state);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&state, &memory, &size);
  state.image_width = width;
  state.image_height = height;
  state.input_components = channels;
  state.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&state);
  jpeg_set_quality(&state, 95, TRUE);
  jpeg_start_compress(&state, TRUE);
  if (!exif.empty())
    jpeg_write_marker(&state, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(exif.data()),
                      static_cast<unsigned>(exif.size()));
  std::vector<uint8_t> rows = samples;
  for (uint32_t y = 0; y < height; ++y) {
    JSAMPROW row = rows.data() + size_t{y} * width * static_cast<uint32_t>(channels);
    jpeg_write_scanlines(&state, &row, 1);
  }
  jpeg_finish_compress(&state);
  jpeg_destroy_compress(&state);
  const std::string file(reinterpret_cast<char*>(memory), size);
  std::free(memory);
  return file;
}

std::string exif_of(int orientation, bool little_endian) {
  // A TIFF header, and a directory of one entry: tag 0x112, one number of 16 bits.
  using namespace std::string_literals;
  const auto value = static_cast<char>(orientation);
  return little_endian
             ? "Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"s + value + "\0\0\0\0\0\0\0"s
             : "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"s + value + "\0\0\0\0\0\0"s;
}

}  // namespace megabyte::test
