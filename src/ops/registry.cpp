#include <algorithm>
#include <thread>

#include "backends/factories.h"
#include "base/error.h"
#include "ops/ops.h"

namespace megabyte {

std::unique_ptr<Backend> make_backend(const std::string& device, int threads) {
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (device == "reference") return make_reference_backend();
  if (device == "exact") return make_exact_backend(threads);
  if (device == "cuda" || device == "exact-cuda" || device == "auto") {
#ifdef MEGABYTE_WITH_CUDA
    if (device == "exact-cuda") return make_exact_cuda_backend();
    if (device == "cuda" || why_no_cuda_device().empty()) return make_cuda_backend();
#else
    if (device != "auto")
      fail(
          "this build has no {} backend: install the CUDA toolkit (nvcc), configure with "
          "-DMEGABYTE_CUDA=ON and build again, or use --device {}",
          device, device == "cuda" ? "cpu" : "exact");
#endif
  }
  if (device == "cpu" || device == "auto") {
#ifdef MEGABYTE_WITH_CPU
    return make_cpu_backend(threads);
#else
    if (device == "auto") return make_reference_backend();
    fail(
        "this build has no cpu backend: install libdnnl-dev and libhwy-dev, configure with "
        "-DMEGABYTE_CPU=ON and build again, or use --device reference");
#endif
  }
  fail("unknown device '{}': use auto, cpu, cuda, exact, exact-cuda or reference", device);
}

}  // namespace megabyte
