// Is there a device for the tests of the cuda backend?
#pragma once

#include <string>

#include "backends/factories.h"

namespace megabyte::test {

// Why this build or machine has none; empty when it has.
inline std::string why_no_cuda() {
#ifdef MEGABYTE_WITH_CUDA
  return why_no_cuda_device();
#else
  return "this build has no cuda backend";
#endif
}

}  // namespace megabyte::test
