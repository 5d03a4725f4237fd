#include "backends/exact/frequencies.h"

#include "backends/exact/floating_point.h"
#include "backends/exact/kernels.h"

namespace megabyte::exact {

void frequencies(const float* logits, int64_t rows, int64_t vocab, uint32_t* out) {
  const StandardFloatingPoint standard;
  const Kernels& kernels = *available_kernels().front();
  for (int64_t r = 0; r < rows; ++r)
    kernels.frequencies(logits + r * vocab, vocab, out + r * vocab);
}

}  // namespace megabyte::exact
