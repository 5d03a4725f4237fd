#include "convert/image.h"

#include <png.h>

#include "support/command.h"
#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

using test::bytes_of;
using test::exif_of;
using test::jpeg_of;
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
  const Image image = decode_image(bytes_of(jpeg_of(flat, 20, 10, 3)));
  EXPECT_EQ(image.width, 20);
  EXPECT_EQ(image.height, 10);
  for (size_t i = 0; i < flat.size(); ++i) EXPECT_NEAR(image.rgb[i], flat[i], 4);
  const std::vector<uint8_t> grey(64, 90);
  for (const uint8_t value : decode_image(bytes_of(jpeg_of(grey, 8, 8, 1))).rgb)
    EXPECT_NEAR(value, 90, 2);
  EXPECT_THAT(image_complaint(jpeg_of(std::vector<uint8_t>(256, 9), 8, 8, 4)),
              HasSubstr("cannot be read"));
}

// A picture in four quarters, in one colour each, of whole blocks of JPEG.
constexpr uint32_t kWide = 64, kHigh = 32;
std::string quarters(const std::string& exif) {
  std::vector<uint8_t> rgb;
  for (uint32_t y = 0; y < kHigh; ++y)
    for (uint32_t x = 0; x < kWide; ++x)
      rgb.insert(rgb.end(), 3, static_cast<uint8_t>(50 * (x / (kWide / 2) + y / (kHigh / 2) * 2)));
  return jpeg_of(rgb, kWide, kHigh, 3, exif);
}
// Which of the stored quarters the shown ones are, from left to right and top to bottom.
std::vector<int> shown_quarters(const Image& image) {
  std::vector<int> shown;
  for (const int64_t y : {int64_t{3}, image.height - 3})
    for (const int64_t x : {int64_t{3}, image.width - 3})
      shown.push_back((image.rgb[static_cast<size_t>(3 * (y * image.width + x))] + 25) / 50);
  return shown;
}

TEST(ImageTest, JpegsAreTurnedAsTheirCameraNotes) {
  const std::vector<std::vector<int>> expected{{0, 1, 2, 3}, {1, 0, 3, 2}, {3, 2, 1, 0},
                                               {2, 3, 0, 1}, {0, 2, 1, 3}, {2, 0, 3, 1},
                                               {3, 1, 2, 0}, {1, 3, 0, 2}};
  for (const bool little_endian : {true, false})
    for (int orientation = 1; orientation <= 8; ++orientation) {
      SCOPED_TRACE(orientation);
      const Image image = decode_image(bytes_of(quarters(exif_of(orientation, little_endian))));
      EXPECT_EQ(image.width, orientation < 5 ? kWide : kHigh);
      EXPECT_EQ(image.height, orientation < 5 ? kHigh : kWide);
      EXPECT_EQ(shown_quarters(image), expected[static_cast<size_t>(orientation - 1)]);
    }
  // None, or one that says nothing: the picture is as it is stored.
  const std::string turned = exif_of(6, true);
  for (const std::string& exif :
       {exif_of(0, true), exif_of(9, false), turned.substr(0, 20), std::string("Exif\0\0", 6),
        std::string("http://ns.adobe.com"), std::string("Exif")})
    EXPECT_EQ(shown_quarters(decode_image(bytes_of(quarters(exif)))), expected[0]);
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
  const std::string jpeg = jpeg_of(image.rgb, 40, 30, 3);
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
