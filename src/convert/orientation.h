// Which way up a picture is: cameras store what their sensor saw and note how it was held.
#pragma once

#include <cstdint>
#include <span>

#include "convert/image.h"

namespace megabyte {

// EXIF's Orientation (EXIF 2.32, 4.6.4): the side of the shown picture that the first row and the
// first column of the stored one are at. 1, top and left, is as it is stored.
//
// Of an EXIF block ("Exif", two zeros, a TIFF header and its directories); 1 if it has none, or one
// that means nothing, or is damaged: then a picture is still a picture.
int exif_orientation(std::span<const uint8_t> exif);

// The picture as it is to be shown. `orientation`: 1 to 8.
Image upright(Image stored, int orientation);

}  // namespace megabyte
