// Copies from device to shared memory that run by themselves.
#pragma once

#include <cstdint>

namespace megabyte::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes to a shared address. What a thread copied itself it may read after wait_for_copies()
// without a barrier.
__device__ inline void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// The copies since the last commit arrive together.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for those of all but the last kPending commits.
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Rows of `bytes` (a multiple of 16) that one warp sends for and the whole block waits for. On
// Hopper the copy engine brings them, past the load units, and so keeps nothing else waiting.
class RowCopies {
 public:
  // All threads; `arrival` is in shared memory.
  __device__ explicit RowCopies(uint64_t* arrival) : arrival_(shared_address(arrival)) {}

  // The first warp sends for `count` rows; only then may others wait, after a __syncthreads().
  __device__ void send(int count, char* to, int to_pitch, const char* from, int64_t from_pitch,
                       int bytes) const {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane >= 32) return;
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(arrival_) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(arrival_),
                   "r"(count * bytes)
                   : "memory");
    }
    __syncwarp();
    for (int i = lane; i < count; i += 32)
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(shared_address(to + i * to_pitch)),
          "l"(from + i * from_pitch), "r"(bytes), "r"(arrival_)
          : "memory");
#else
    for (int i = 0; i < count; ++i)
      for (int at = lane * 16; at < bytes; at += 32 * 16)
        copy_async(shared_address(to + i * to_pitch + at), from + i * from_pitch + at);
    commit_copies();
#endif
  }
  __device__ void wait() const {
#if __CUDA_ARCH__ >= 900
    uint32_t arrived = 0;
    while (arrived == 0)
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
          : "=r"(arrived)
          : "r"(arrival_)
          : "memory");
#else
    wait_for_copies<0>();  // of the first warp
    __syncthreads();
#endif
  }

 private:
  uint32_t arrival_;
};

}  // namespace megabyte::cuda
