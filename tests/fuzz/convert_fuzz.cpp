// Any file is either refused with an Error or a picture, a sound or a text of the size it says.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "convert/audio.h"
#include "convert/image_bytes.h"
#include "convert/text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megabyte;
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const Image image = decode_image(file);
    if (static_cast<int64_t>(image.rgb.size()) != 3 * image.width * image.height) std::abort();
    if (fitted(image, 4, 2, Fit::cover).at(0).rgb.size() != 24) std::abort();
  } catch (const Error&) {
  }
  try {
    if (decode_audio(file, 16000).empty()) std::abort();
  } catch (const Error&) {
  }
  try {
    check_text(file);
  } catch (const Error&) {
  }
  return 0;
}
