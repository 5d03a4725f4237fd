// Kernels that start before the one before them on the stream has ended (programmatic dependent
// launch): while the earlier one finishes, they read what it does not write.
//
// A kernel launched by launch_overlapped() calls start_next() as soon as it has asked for what it
// may read early, and wait_for_previous(), in every thread, before it touches anything else. Since
// the earlier kernel waited in the same way, all that came before on the stream is then complete.
// Before the wait only weights may be read: no kernel launched this way writes any, and after any
// other work on the stream Context::overlaps() says no.
#pragma once

#include "backends/cuda/context.h"

namespace megabyte::cuda {

// Below Hopper kernels start one after another and there is nothing to say.
__device__ inline void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// What the device needs to know of a kernel once.
class OverlappedKernel {
 public:
  template <class Kernel>
  explicit OverlappedKernel(Kernel* kernel) : kernel_(reinterpret_cast<const void*>(kernel)) {
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel_), "kernel");
    waits_ = attributes.ptxVersion >= 90;
    shared_ -= attributes.sharedSizeBytes;
    // A multiprocessor runs kernels side by side only if they agree on how much of its memory is
    // shared and how much is cache.
    set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  // Was the code that runs here compiled with the instructions above?
  bool waits() const { return waits_; }
  void allow_shared(size_t bytes) {
    if (bytes <= shared_) return;
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    shared_ = bytes;
  }

 private:
  void set(cudaFuncAttribute attribute, int value) {
    check_cuda(cudaFuncSetAttribute(kernel_, attribute, value), "kernel");
  }

  const void* kernel_;
  bool waits_ = false;
  size_t shared_ = size_t{48} << 10;  // allowed without asking, beside the kernel's own
};

template <auto kKernel, class... Arguments>
void launch_overlapped(Context& context, const char* operation, dim3 grid, unsigned threads,
                       size_t shared, const Arguments&... arguments) {
  static OverlappedKernel kernel(kKernel);
  kernel.allow_shared(shared);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &overlap;
  config.numAttrs = context.overlaps() && kernel.waits() ? 1 : 0;
  config.stream = context.overlapped_stream();
  check_cuda(cudaLaunchKernelEx(&config, kKernel, arguments...), operation);
}

}  // namespace megabyte::cuda
