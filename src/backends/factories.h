// How each backend is made; the registry (ops/registry.cpp) is the only caller.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace megabyte {

std::unique_ptr<Backend> make_reference_backend();
std::unique_ptr<Backend> make_cpu_backend(int threads);  // only where MEGABYTE_CPU is ON

}  // namespace megabyte
