// A view of a dense, row-major tensor. It owns nothing and is copied like a pointer; a `const
// Tensor&` promises not to change the view, and by convention marks the inputs of an operation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace megabyte {

// Up to four extents, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);
  explicit Shape(std::span<const int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return extents_[static_cast<size_t>(i < 0 ? rank_ + i : i)]; }
  int64_t size() const;           // number of elements; 1 for rank 0
  std::string to_string() const;  // "(2, 64, 256)"
  std::vector<int64_t> to_vector() const;
  bool operator==(const Shape&) const = default;

 private:
  friend struct Tensor;
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return shape.size(); }
  size_t bytes() const { return static_cast<size_t>(size()) * size_of(dtype); }

  // The elements, after checking that they are of type T.
  template <class T>
  T* as() const {
    check(dtype == dtype_of<T>, "tensor accessed as another element type");
    return static_cast<T*>(data);
  }

  Tensor view(const Shape& other) const;             // the same elements under another shape
  Tensor slice(int64_t begin, int64_t count) const;  // [begin, begin + count) of the first extent
};

}  // namespace megabyte
