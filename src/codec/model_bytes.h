// A model as one run of bytes, the same for the same numbers wherever they came from: what archives
// name a model by (the SHA-256 of these bytes), and what travels inside one. docs/archive.md has
// the layout.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/hierarchy.h"

namespace megabyte {

// Matrices in 8 bits, as the exact backend multiplies them; other tensors too, where 8 bits say
// the same numbers. A model that was not quantised has the bytes of one whose matrices were.
std::vector<uint8_t> pack_model(const Hierarchy& model);

// Error that begins with `where` for anything that pack_model() does not write; memory in
// proportion to the bytes that are there.
std::unique_ptr<Hierarchy> unpack_model(std::span<const uint8_t> bytes, Backend& backend,
                                        const std::string& where);

}  // namespace megabyte
