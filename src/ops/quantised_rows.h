// Weights in 8 bits: the rule by which every matrix of a quantised model, and of any model that the
// exact backend runs, becomes int8 with a scale for each row (output). docs/exact.md, section 3.
#pragma once

#include <cstdint>
#include <vector>

namespace megabyte {

// The longest row (the most terms of one product): sums of products stay in int32.
inline constexpr int64_t kMostQuantisedTerms = 131072;

// row[i] becomes q[i] * (the scale given back), q in [-127, 127]. The scale has 16 significant
// bits, so that q * scale is exact in float, and quantising those products gives the same q and
// scale again. Finite numbers only.
float quantise_row(const float* row, int64_t count, int8_t* q);

struct QuantisedRows {
  std::vector<int8_t> q;
  std::vector<float> scales;  // of the rows
};
// All rows of a matrix (rows, count).
QuantisedRows quantise_rows(const float* values, int64_t rows, int64_t count);

}  // namespace megabyte
