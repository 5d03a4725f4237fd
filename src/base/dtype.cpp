#include "base/dtype.h"

#include <array>

#include "base/error.h"

namespace megabyte {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array<Entry, 6> kTypes{{{DType::f64, "f64", 8},
                                       {DType::f32, "f32", 4},
                                       {DType::bf16, "bf16", 2},
                                       {DType::u16, "u16", 2},
                                       {DType::u8, "u8", 1},
                                       {DType::i8, "i8", 1}}};

}  // namespace

size_t size_of(DType dtype) { return kTypes[static_cast<size_t>(dtype)].size; }

std::string_view name_of(DType dtype) { return kTypes[static_cast<size_t>(dtype)].name; }

DType dtype_from_name(std::string_view name) {
  for (const Entry& e : kTypes)
    if (e.name == name) return e.dtype;
  fail("unknown element type '{}': use f32 or bf16", name);
}

}  // namespace megabyte
