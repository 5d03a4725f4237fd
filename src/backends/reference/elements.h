// How the reference backend reaches the numbers of a tensor.
#pragma once

#include <string_view>

#include "base/error.h"
#include "base/tensor.h"

namespace megabyte::reference {

// Calls f with a zero of the element type: float or double, all that this backend computes in.
// Sums are taken in double either way.
template <class F>
void with_type(DType dtype, F&& f) {
  check(dtype == DType::f32 || dtype == DType::f64, "the reference backend computes in f32 or f64");
  if (dtype == DType::f64)
    f(double{});
  else
    f(float{});
}

// The elements of a tensor that must be of type T and have `size` of them.
template <class T>
T* elements(const Tensor& t, int64_t size, std::string_view what) {
  check(t && t.size() == size && t.dtype == dtype_of<T>, what);
  return static_cast<T*>(t.data);
}

// The same of one that may be larger.
template <class T>
T* elements_at_least(const Tensor& t, int64_t size, std::string_view what) {
  check(t && t.size() >= size && t.dtype == dtype_of<T>, what);
  return static_cast<T*>(t.data);
}

// The same of one that may not be there.
template <class T>
T* optional_elements(const Tensor& t, int64_t size, std::string_view what) {
  return t ? elements<T>(t, size, what) : nullptr;
}

// One element of any floating-point type.
double load(const Tensor& t, int64_t i);
void store(const Tensor& t, int64_t i, double x);

}  // namespace megabyte::reference
