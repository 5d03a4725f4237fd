#include "base/tensor.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace megabyte {

Shape::Shape(std::initializer_list<int64_t> extents)
    : Shape(std::span(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  check(extents.size() <= kMaxRank, "a tensor has at most four extents");
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

int64_t Shape::size() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::vector<int64_t> Shape::to_vector() const {
  return {extents_.begin(), extents_.begin() + rank_};
}

std::string Shape::to_string() const { return fmt::format("({})", fmt::join(to_vector(), ", ")); }

Tensor Tensor::view(const Shape& other) const {
  check(other.size() == size(), "a view keeps the number of elements");
  return {data, dtype, other};
}

Tensor Tensor::slice(int64_t begin, int64_t count) const {
  check(shape.rank() > 0 && begin >= 0 && count >= 0 && begin + count <= shape[0],
        "a slice lies inside the first extent");
  Shape part = shape;
  part.extents_[0] = count;
  const int64_t stride = shape[0] == 0 ? 0 : size() / shape[0];
  auto* at = data == nullptr ? nullptr
                             : static_cast<std::byte*>(data) +
                                   static_cast<size_t>(begin * stride) * size_of(dtype);
  return {at, dtype, part};
}

}  // namespace megabyte
