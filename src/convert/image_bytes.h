// Pictures of one size as rows of bytes, in the orders of the paper's section 5, and back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "convert/image.h"

namespace megabyte {

// Raster scan goes through the rows of the picture. Patch scan goes through squares of patch x
// patch pixels: in raster order among them, and inside each. A pixel is three bytes, R, G and B;
// so a square is 3 patch^2 bytes, which should be the bytes under one position of the model's
// coarsest stage: it then sees squares, not strips.
enum class Scan { patch, raster };

struct ImageLayout {
  int64_t width = 64, height = 64;
  Scan scan = Scan::patch;
  int64_t patch = 2;  // pixels, the side of a square

  int64_t bytes() const { return 3 * width * height; }
};
// Error for sizes below 1, and for squares that do not fill the picture.
void validate(const ImageLayout& layout);

// How a picture comes to the layout's size.
enum class Fit {
  cover,    // scaled until it just covers the size, the middle cut out
  stretch,  // scaled to the size, in each direction by itself
  crop,     // not scaled, the middle cut out; Error for a smaller picture
  tile,     // not scaled, cut into as many as fit side by side; Error for a smaller picture
};
// One picture, several for tile. Scaling weighs pixels by a triangle as wide as the reduction asks
// (bilinear without aliasing); at scale 1 it changes nothing.
std::vector<Image> fitted(const Image& image, int64_t width, int64_t height, Fit fit);

// The image has the layout's size; `bytes` are layout.bytes() ones.
std::vector<uint8_t> to_bytes(const Image& image, const ImageLayout& layout);
Image from_bytes(std::span<const uint8_t> bytes, const ImageLayout& layout);

// The pictures, all of one size, in one: rows as long as there are rows, with white lines between.
Image contact_sheet(const std::vector<Image>& images);

}  // namespace megabyte
