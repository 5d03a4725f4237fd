#include "convert/orientation.h"

#include <libexif/exif-data.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace megabyte {

int exif_orientation(std::span<const uint8_t> exif) {
  const std::unique_ptr<ExifData, void (*)(ExifData*)> data(
      exif_data_new_from_data(exif.data(), static_cast<unsigned>(exif.size())), exif_data_unref);
  if (data == nullptr) return 1;
  // Of the picture, and not of its thumbnail.
  const ExifEntry* entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
  if (entry == nullptr || entry->format != EXIF_FORMAT_SHORT || entry->size < 2) return 1;
  const int orientation = exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

Image upright(Image stored, int orientation) {
  if (orientation == 1) return stored;
  // From the last column, from the last row; 5 to 8: rows become columns.
  const bool last_column = orientation == 2 || orientation == 3 || orientation >= 7;
  const bool last_row =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool turned = orientation >= 5;
  Image shown{stored.width, stored.height, std::vector<uint8_t>(stored.rgb.size())};
  if (turned) std::swap(shown.width, shown.height);
  uint8_t* to = shown.rgb.data();
  for (int64_t y = 0; y < shown.height; ++y)
    for (int64_t x = 0; x < shown.width; ++x, to += 3) {
      const int64_t column = turned ? y : x, row = turned ? x : y;
      const int64_t pixel = (last_row ? stored.height - 1 - row : row) * stored.width +
                            (last_column ? stored.width - 1 - column : column);
      std::copy_n(stored.rgb.data() + 3 * pixel, 3, to);
    }
  return shown;
}

}  // namespace megabyte
