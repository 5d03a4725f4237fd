#include "convert/image_bytes.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace megabyte {
namespace {

// In pixels of a picture.
struct Box {
  double x, y, width, height;
};

// The pixels that one pixel of a scaled row or column is made of, and their weights.
struct Mix {
  int64_t first;
  std::vector<float> weights;
};

// `count` pixels from the `length` ones of a row, of which those in [begin, begin + size) are
// shown.
std::vector<Mix> mixes(int64_t length, double begin, double size, int64_t count) {
  const double scale = size / static_cast<double>(count), reach = std::max(scale, 1.0);
  std::vector<Mix> all;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = begin + (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - reach)));
    const auto end = std::min(length, static_cast<int64_t>(std::ceil(centre + reach)));
    Mix mix{first, {}};
    double sum = 0;
    for (int64_t j = first; j < end; ++j) {
      const double distance = std::abs(static_cast<double>(j) + 0.5 - centre) / reach;
      mix.weights.push_back(static_cast<float>(std::max(0.0, 1 - distance)));
      sum += mix.weights.back();
    }
    for (float& weight : mix.weights) weight /= static_cast<float>(sum);
    all.push_back(std::move(mix));
  }
  return all;
}

Image scaled(const Image& image, const Box& box, int64_t width, int64_t height) {
  const std::vector<Mix> columns = mixes(image.width, box.x, box.width, width);
  const std::vector<Mix> rows = mixes(image.height, box.y, box.height, height);
  // Along the rows first: (image.height, width, 3).
  std::vector<float> narrow(static_cast<size_t>(3 * width * image.height));
  float* to = narrow.data();
  for (int64_t y = 0; y < image.height; ++y)
    for (const Mix& mix : columns)
      for (int64_t c = 0; c < 3; ++c, ++to) {
        const uint8_t* from = image.rgb.data() + 3 * (y * image.width + mix.first) + c;
        for (const float weight : mix.weights) {
          *to += weight * *from;
          from += 3;
        }
      }
  Image result{width, height, {}};
  result.rgb.reserve(static_cast<size_t>(3 * width * height));
  for (const Mix& mix : rows)
    for (int64_t i = 0; i < 3 * width; ++i) {
      float sum = 0;
      for (size_t j = 0; j < mix.weights.size(); ++j)
        sum += mix.weights[j] *
               narrow[static_cast<size_t>((mix.first + static_cast<int64_t>(j)) * 3 * width + i)];
      result.rgb.push_back(static_cast<uint8_t>(std::clamp(std::lround(sum), 0L, 255L)));
    }
  return result;
}

Image cut(const Image& image, int64_t x, int64_t y, int64_t width, int64_t height) {
  Image result{width, height, {}};
  result.rgb.reserve(static_cast<size_t>(3 * width * height));
  for (int64_t row = y; row < y + height; ++row) {
    const auto from = image.rgb.begin() + 3 * (row * image.width + x);
    result.rgb.insert(result.rgb.end(), from, from + 3 * width);
  }
  return result;
}

// The largest box of the shape width : height in the middle.
Box middle(const Image& image, int64_t width, int64_t height) {
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  const double scale = std::min(w / static_cast<double>(width), h / static_cast<double>(height));
  Box box{0, 0, scale * static_cast<double>(width), scale * static_cast<double>(height)};
  box.x = (w - box.width) / 2;
  box.y = (h - box.height) / 2;
  return box;
}

// Visits the pixels (index in the picture) in the layout's order.
template <class Visit>
void for_each_pixel(const ImageLayout& layout, Visit&& visit) {
  const bool patches = layout.scan == Scan::patch;
  const int64_t w = patches ? layout.patch : layout.width, h = patches ? layout.patch : 1;
  for (int64_t y = 0; y < layout.height; y += h)
    for (int64_t x = 0; x < layout.width; x += w)
      for (int64_t row = y; row < y + h; ++row)
        for (int64_t column = x; column < x + w; ++column) visit(row * layout.width + column);
}

}  // namespace

void validate(const ImageLayout& layout) {
  if (layout.width < 1 || layout.height < 1 || layout.width > 65535 || layout.height > 65535)
    fail("an image has 1 to 65535 pixels a side, not {} x {}", layout.width, layout.height);
  if (layout.scan == Scan::raster) return;
  if (layout.patch < 1 || layout.width % layout.patch != 0 || layout.height % layout.patch != 0)
    fail(
        "patches of {0} x {0} pixels do not fill an image of {1} x {2}: choose another --patch or "
        "--size",
        layout.patch, layout.width, layout.height);
}

std::vector<Image> fitted(const Image& image, int64_t width, int64_t height, Fit fit) {
  if (fit == Fit::cover) return {scaled(image, middle(image, width, height), width, height)};
  if (fit == Fit::stretch)
    return {scaled(image,
                   {0, 0, static_cast<double>(image.width), static_cast<double>(image.height)},
                   width, height)};
  if (image.width < width || image.height < height)
    fail("it has {} x {} pixels, fewer than {} x {}", image.width, image.height, width, height);
  if (fit == Fit::crop)
    return {cut(image, (image.width - width) / 2, (image.height - height) / 2, width, height)};
  std::vector<Image> tiles;
  for (int64_t y = 0; y + height <= image.height; y += height)
    for (int64_t x = 0; x + width <= image.width; x += width)
      tiles.push_back(cut(image, x, y, width, height));
  return tiles;
}

std::vector<uint8_t> to_bytes(const Image& image, const ImageLayout& layout) {
  check(image.width == layout.width && image.height == layout.height, "an image of the size");
  std::vector<uint8_t> bytes;
  bytes.reserve(image.rgb.size());
  for_each_pixel(layout, [&](int64_t pixel) {
    const auto from = image.rgb.begin() + 3 * pixel;
    bytes.insert(bytes.end(), from, from + 3);
  });
  return bytes;
}

Image from_bytes(std::span<const uint8_t> bytes, const ImageLayout& layout) {
  check(static_cast<int64_t>(bytes.size()) == layout.bytes(), "the bytes of one image");
  Image image{layout.width, layout.height, std::vector<uint8_t>(bytes.size())};
  const uint8_t* from = bytes.data();
  for_each_pixel(layout, [&](int64_t pixel) {
    std::copy_n(from, 3, image.rgb.begin() + 3 * pixel);
    from += 3;
  });
  return image;
}

Image contact_sheet(const std::vector<Image>& images) {
  check(!images.empty(), "a sheet shows an image");
  constexpr int64_t kGap = 2;
  const auto count = static_cast<int64_t>(images.size());
  const auto columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t rows = (count + columns - 1) / columns;
  const int64_t width = images[0].width, height = images[0].height;
  Image sheet{columns * (width + kGap) - kGap, rows * (height + kGap) - kGap, {}};
  sheet.rgb.assign(static_cast<size_t>(3 * sheet.width * sheet.height), 255);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t y = 0; y < height; ++y) {
      const int64_t row = i / columns * (height + kGap) + y;
      const int64_t to = 3 * (row * sheet.width + i % columns * (width + kGap));
      std::copy_n(images[static_cast<size_t>(i)].rgb.begin() + 3 * y * width, 3 * width,
                  sheet.rgb.begin() + to);
    }
  return sheet;
}

}  // namespace megabyte
