#include "convert/image_bytes.h"

#include <numeric>

#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

using test::random_image;
using testing::ElementsAre;
using testing::HasSubstr;

// Its red values count the pixels; green and blue follow.
Image counted(int64_t width, int64_t height) {
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
  for (size_t i = 0; i < image.rgb.size(); ++i)
    image.rgb[i] = static_cast<uint8_t>(i / 3 + 100 * (i % 3));
  return image;
}

std::vector<int> reds(const std::vector<uint8_t>& bytes) {
  std::vector<int> values;
  for (size_t i = 0; i < bytes.size(); i += 3) values.push_back(bytes[i]);
  return values;
}

TEST(ImageBytesTest, PatchScanGoesSquareBySquare) {
  // 0 1 | 2 3
  // 4 5 | 6 7
  const Image image = counted(4, 2);
  const auto patches = to_bytes(image, {4, 2, Scan::patch, 2});
  EXPECT_THAT(reds(patches), ElementsAre(0, 1, 4, 5, 2, 3, 6, 7));
  EXPECT_THAT((std::vector<uint8_t>(patches.begin() + 3, patches.begin() + 6)),
              ElementsAre(1, 101, 201));
  EXPECT_EQ(to_bytes(image, {4, 2, Scan::raster, 1}), image.rgb);
  EXPECT_EQ(to_bytes(image, {4, 2, Scan::patch, 1}), image.rgb);
}

TEST(ImageBytesTest, TheWayBack) {
  const Image image = random_image(24, 12, 3);
  for (const ImageLayout& layout :
       {ImageLayout{24, 12, Scan::patch, 1}, ImageLayout{24, 12, Scan::patch, 4},
        ImageLayout{24, 12, Scan::patch, 12}, ImageLayout{24, 12, Scan::raster, 5}}) {
    const Image back = from_bytes(to_bytes(image, layout), layout);
    EXPECT_EQ(back.width, 24);
    EXPECT_EQ(back.height, 12);
    EXPECT_EQ(back.rgb, image.rgb);
  }
}

TEST(ImageBytesTest, SquaresFillThePicture) {
  EXPECT_NO_THROW(validate({64, 48, Scan::patch, 8}));
  EXPECT_NO_THROW(validate({7, 5, Scan::raster, 8}));
  EXPECT_THAT(test::error_of([] { validate({64, 50, Scan::patch, 8}); }), HasSubstr("--patch"));
  EXPECT_THAT(test::error_of([] { validate({64, 64, Scan::patch, 0}); }), HasSubstr("--patch"));
  EXPECT_THAT(test::error_of([] { validate({0, 64, Scan::raster, 1}); }), HasSubstr("0 x 64"));
}

TEST(ImageBytesTest, CropsAndTilesDoNotScale) {
  const Image image = counted(5, 4);
  const auto middle = fitted(image, 3, 2, Fit::crop);
  ASSERT_EQ(middle.size(), 1u);
  EXPECT_THAT(reds(middle[0].rgb), ElementsAre(6, 7, 8, 11, 12, 13));
  const auto tiles = fitted(image, 2, 2, Fit::tile);
  ASSERT_EQ(tiles.size(), 4u);  // the fifth column is left over
  EXPECT_THAT(reds(tiles[0].rgb), ElementsAre(0, 1, 5, 6));
  EXPECT_THAT(reds(tiles[1].rgb), ElementsAre(2, 3, 7, 8));
  EXPECT_THAT(reds(tiles[2].rgb), ElementsAre(10, 11, 15, 16));
  for (const Fit fit : {Fit::crop, Fit::tile})
    EXPECT_THAT(test::error_of([&] { fitted(image, 6, 2, fit); }), HasSubstr("5 x 4"));
}

TEST(ImageBytesTest, AtItsOwnSizeAPictureStays) {
  const Image image = random_image(9, 6, 4);
  for (const Fit fit : {Fit::cover, Fit::stretch, Fit::crop, Fit::tile})
    EXPECT_EQ(fitted(image, 9, 6, fit).at(0).rgb, image.rgb);
}

TEST(ImageBytesTest, CoverKeepsTheShape) {
  // Left half black, right half white, and a strip of red on both sides that a square leaves out.
  Image image{12, 4, {}};
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 12; ++x) {
      const uint8_t value = x < 6 ? 0 : 255;
      const bool side = x < 2 || x >= 10;
      image.rgb.insert(image.rgb.end(), {side ? uint8_t{200} : value, value, value});
    }
  const Image square = fitted(image, 4, 4, Fit::cover).at(0);
  for (size_t i = 0; i < square.rgb.size(); ++i) EXPECT_EQ(square.rgb[i], i / 3 % 4 < 2 ? 0 : 255);
  const Image narrow = fitted(image, 4, 4, Fit::stretch).at(0);
  EXPECT_GT(narrow.rgb[0], 100);  // red
  EXPECT_EQ(narrow.rgb[1], 0);
}

TEST(ImageBytesTest, ReducingWeighsByATriangle) {
  // At half the size a pixel's triangle reaches two pixels: weights 3, 3, 1 at the left edge.
  Image image{6, 1, {}};
  for (const uint8_t value : std::vector<uint8_t>{70, 0, 0, 140, 0, 0})
    image.rgb.insert(image.rgb.end(), {value, value, value});
  const Image half = fitted(image, 3, 1, Fit::stretch).at(0);
  // Between, 1, 3, 3, 1 over eight: pixels 1 to 4.
  EXPECT_THAT(reds(half.rgb), ElementsAre(30, 53, 20));
  const Image flat = [&] {
    Image grey{37, 23, std::vector<uint8_t>(3 * 37 * 23, 77)};
    return fitted(grey, 10, 9, Fit::cover).at(0);
  }();
  for (const uint8_t value : flat.rgb) EXPECT_EQ(value, 77);
}

TEST(ImageBytesTest, EnlargingGoesFromPixelToPixel) {
  Image image{2, 1, {0, 0, 0, 100, 100, 100}};
  EXPECT_THAT(reds(fitted(image, 4, 1, Fit::stretch).at(0).rgb), ElementsAre(0, 25, 75, 100));
}

TEST(ImageBytesTest, ASheetShowsAll) {
  std::vector<Image> images(5, Image{3, 2, std::vector<uint8_t>(18, 9)});
  images[4].rgb.assign(18, 1);
  const Image sheet = contact_sheet(images);
  EXPECT_EQ(sheet.width, 3 * 3 + 2 * 2);
  EXPECT_EQ(sheet.height, 2 * 2 + 2);
  const auto at = [&](int64_t x, int64_t y) {
    return sheet.rgb[static_cast<size_t>(3 * (y * sheet.width + x))];
  };
  EXPECT_EQ(at(0, 0), 9);
  EXPECT_EQ(at(3, 0), 255);   // between
  EXPECT_EQ(at(12, 1), 9);    // the third of the first row
  EXPECT_EQ(at(5, 4), 1);     // the fifth image
  EXPECT_EQ(at(10, 4), 255);  // there is no sixth
  EXPECT_EQ(contact_sheet({images[4]}).rgb, images[4].rgb);
}

}  // namespace
}  // namespace megabyte
