#include "convert/image.h"

#include <cstdio>
// jpeglib.h wants FILE declared.
#include <jpeglib.h>
#include <png.h>

#include <cstdlib>

#include "support/command.h"
#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

using test::bytes_of;
using test::random_image;
using testing::AllOf;
using testing::HasSubstr;

std::string image_complaint(const std::string& file) {
  return test::error_of([&] { decode_image(bytes_of(file)); });
}

// A PNG file of rows of the given format (png.h).
template <class Sample>
std::string png_of(uint32_t format, uint32_t width, uint32_t height,
                   const std::vector<Sample>& samples) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = width;
  png.height = height;
  png.format = format;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string file(size, '\0');
  EXPECT_TRUE(png_image_write_to_memory(&png, file.data(), &size, 0, samples.data(), 0, nullptr));
  file.resize(size);
  return file;
}

std::string jpeg_of(const std::vector<uint8_t>& samples, uint32_t width, uint32_t height,
                    J_COLOR_SPACE space, int channels) {
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
  state.in_color_space = space;
  jpeg_set_defaults(&state);
  jpeg_set_quality(&state, 95, TRUE);
  jpeg_start_compress(&state, TRUE);
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

TEST(ImageTest, PngAndPpmKeepEveryBit) {
  test::TemporaryFolder folder;
  const Image image = random_image(13, 7, 1);
  write_png(folder / "a.png", image);
  for (const std::string& file : {test::read_file(folder / "a.png"), test::ppm_of(image)}) {
    const Image back = decode_image(bytes_of(file));
    EXPECT_EQ(back.width, 13);
    EXPECT_EQ(back.height, 7);
    EXPECT_EQ(back.rgb, image.rgb);
  }
}

TEST(ImageTest, OtherPngsBecomeRgb) {
  const std::string grey = png_of<uint8_t>(PNG_FORMAT_GRAY, 2, 1, {7, 200});
  EXPECT_EQ(decode_image(bytes_of(grey)).rgb, (std::vector<uint8_t>{7, 7, 7, 200, 200, 200}));
  const std::string clear = png_of<uint8_t>(PNG_FORMAT_RGBA, 2, 1, {1, 2, 3, 255, 1, 2, 3, 0});
  EXPECT_EQ(decode_image(bytes_of(clear)).rgb, (std::vector<uint8_t>{1, 2, 3, 255, 255, 255}));
  // 16 bits, linear: the ends of the scale are the same.
  const std::string deep = png_of<uint16_t>(PNG_FORMAT_LINEAR_Y, 2, 1, {0, 65535});
  EXPECT_EQ(decode_image(bytes_of(deep)).rgb, (std::vector<uint8_t>{0, 0, 0, 255, 255, 255}));
}

TEST(ImageTest, JpegsBecomeRgb) {
  std::vector<uint8_t> flat;
  for (int i = 0; i < 20 * 10; ++i) flat.insert(flat.end(), {200, 100, 50});
  const Image image = decode_image(bytes_of(jpeg_of(flat, 20, 10, JCS_RGB, 3)));
  EXPECT_EQ(image.width, 20);
  EXPECT_EQ(image.height, 10);
  for (size_t i = 0; i < flat.size(); ++i) EXPECT_NEAR(image.rgb[i], flat[i], 4);
  const std::vector<uint8_t> grey(64, 90);
  for (const uint8_t value : decode_image(bytes_of(jpeg_of(grey, 8, 8, JCS_GRAYSCALE, 1))).rgb)
    EXPECT_NEAR(value, 90, 2);
  EXPECT_THAT(image_complaint(jpeg_of(std::vector<uint8_t>(256, 9), 8, 8, JCS_CMYK, 4)),
              HasSubstr("cannot be read"));
}

TEST(ImageTest, PpmHeadersVary) {
  const auto rgb = [](const std::string& file) { return decode_image(bytes_of(file)).rgb; };
  EXPECT_EQ(rgb("P6 # a comment\n# and another\n1\t1 255\nabc"),
            (std::vector<uint8_t>{'a', 'b', 'c'}));
  EXPECT_EQ(rgb(std::string("P5\n2 1\n100\n\0d", 13)),
            (std::vector<uint8_t>{0, 0, 0, 255, 255, 255}));
  EXPECT_EQ(rgb(std::string("P5 1 1 65535\n\x80\x00", 15)), (std::vector<uint8_t>{128, 128, 128}));
  EXPECT_THAT(image_complaint("P6 2 2 255\nabc"), HasSubstr("1 of 2 x 2 pixels"));
  for (const char* header :
       {"P6", "P6 0 1 255\n", "P6 a", "P6 1 1 70000\n", "P6 -1 1 255\n", "P6 1#"})
    EXPECT_THAT(image_complaint(header), HasSubstr("damaged header")) << header;
  EXPECT_THAT(image_complaint("P6 1000000 1000000 255\n"), HasSubstr("cut short"));
}

TEST(ImageTest, DamageIsNeverPaintedOver) {
  test::TemporaryFolder folder;
  const Image image = random_image(40, 30, 2);
  write_png(folder / "a.png", image);
  const std::string png = test::read_file(folder / "a.png");
  const std::string jpeg = jpeg_of(image.rgb, 40, 30, JCS_RGB, 3);
  for (const double part : {0.05, 0.3, 0.6, 0.9}) {
    const auto cut = [&](const std::string& file) {
      return file.substr(0, static_cast<size_t>(part * static_cast<double>(file.size())));
    };
    EXPECT_THAT(image_complaint(cut(png)), HasSubstr("PNG")) << part;
    EXPECT_THAT(image_complaint(cut(jpeg)), HasSubstr("JPEG")) << part;
  }
  std::string wrong = png;
  wrong[png.size() / 2] ^= 1;
  EXPECT_THAT(image_complaint(wrong), HasSubstr("damaged PNG"));
  EXPECT_THAT(image_complaint("GIF89a"), HasSubstr("no PNG, JPEG or PPM"));
  EXPECT_THAT(image_complaint(""), HasSubstr("no PNG, JPEG or PPM"));
}

}  // namespace
}  // namespace megabyte
