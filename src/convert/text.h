// What counts as text.
#pragma once

#include <cstddef>
#include <span>

namespace megabyte {

// Error, without the file's name, unless the bytes are UTF-8 without 0x00: it names the first byte
// that is not. ASCII is UTF-8. An empty file is an Error, too.
void check_text(std::span<const std::byte> file);

}  // namespace megabyte
