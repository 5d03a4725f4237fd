#include "convert/text.h"

#include <array>
#include <cstdint>

#include "base/error.h"

namespace megabyte {
namespace {

// Bytes of the character that begins here; 0 where none does. Shortest forms only, no halves of
// surrogate pairs, nothing beyond U+10FFFF.
size_t character_size(std::span<const std::byte> text) {
  const auto byte = [&](size_t i) { return std::to_integer<uint32_t>(text[i]); };
  const uint32_t first = byte(0);
  if (first < 0x80) return first != 0;
  const size_t size = first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
  if (size == 0 || text.size() < size) return 0;
  uint32_t code = first & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr std::array<uint32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return code < kLeast[size] || code > 0x10ffff || surrogate ? 0 : size;
}

}  // namespace

void check_text(std::span<const std::byte> file) {
  if (file.empty()) fail("it is empty");
  for (size_t at = 0; at < file.size();) {
    const size_t size = character_size(file.subspan(at));
    if (size == 0)
      fail("it is no text in UTF-8: byte 0x{:02x} at {}", std::to_integer<int>(file[at]), at);
    at += size;
  }
}

}  // namespace megabyte
