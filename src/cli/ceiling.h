// What the machine can do at most, measured.
#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace megabyte::cli {

// FLOP/s of the product of two n x n matrices of random numbers: the best of several, which take
// about `seconds` in all.
double product_ceiling(Backend& backend, DType type, int64_t n, double seconds);

}  // namespace megabyte::cli
