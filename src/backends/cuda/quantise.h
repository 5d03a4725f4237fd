// Matrices in 8 bits for products, with one scale each.
//
// A scale is a power of two, so that only the 8 bits round. It is guessed from a sample of the
// numbers while they are converted, with room above, and the largest of all numbers is taken on the
// way: in the rare case that it does not fit (or that the sample saw nothing but zeros), the matrix
// is converted once more with the scale that fits. So the numbers are read once, every one of them
// fits, and nothing is remembered from call to call: the same numbers give the same bits.
#pragma once

#include <cstdint>

#include "backends/cuda/context.h"

namespace megabyte::cuda {

// e4m3 (3 bits of mantissa, at most 448) for values; e5m2 (2 bits, at most 57344) for gradients.
enum class Fp8 { e4m3, e5m2 };

// Where a matrix (rows, cols) goes; both sizes are multiples of 16. The library multiplies 8-bit
// matrices only where the summed index is contiguous in both, hence the transpose.
struct Quantised {
  void* values = nullptr;      // (rows, cols); may be left out
  void* transposed = nullptr;  // (cols, rows); may be left out
  // 1 / scale, for the product. NaN if one of the numbers is not finite: then the whole product is.
  float* inverse_scale = nullptr;
  // (sum_pieces(), cols): the sums of the columns over pieces of the rows; may be left out.
  float* partial_sums = nullptr;
};

// What one conversion tells its check: zero before the first use, zero again after each.
struct QuantiseState {
  float scale;
  unsigned largest;   // bits of the largest absolute number, a float
  unsigned finished;  // blocks of the check
};

int64_t sum_pieces(const Context& context, int64_t rows, int64_t cols);

// x (rows, cols) bf16
void quantise(Context& context, const Tensor& x, Fp8 format, QuantiseState* state,
              const Quantised& out);
// gelu(pre) in e4m3
void quantise_gelu(Context& context, const Tensor& pre, QuantiseState* state, const Quantised& out);
// dy * gelu'(pre) in e5m2
void quantise_gelu_backward(Context& context, const Tensor& dy, const Tensor& pre,
                            QuantiseState* state, const Quantised& out);

}  // namespace megabyte::cuda
