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
// 4 bytes.
__device__ inline void copy_word_async(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
// The copies since the last commit arrive together.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for those of all but the last kPending commits.
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Hopper's barriers at shared addresses, that so many threads arrive at in turn, and bytes that the
// copy engine brings. Phases end one after another, with parity 0, 1, 0, ...; a wait for parity 1
// before the first has ended returns at once.
__device__ inline void init_arrivals(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Of the thread that did so, before others use them or the copy engine does.
__device__ inline void publish_arrivals() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives; the phase also waits for `bytes` of copies.
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void wait_for_arrivals(uint32_t barrier, uint32_t parity) {
  uint32_t arrived = 0;
  while (arrived == 0)
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(arrived)
        : "r"(barrier), "r"(parity)
        : "memory");
}
// `bytes`, a multiple of 16 as both addresses are.
__device__ inline void copy_bulk(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Rows of `bytes` (a multiple of 16) that a block sends for and waits for. On Hopper the copy
// engine brings them, past the load units, and so keeps nothing else waiting.
class RowCopies {
 public:
  // All threads; `arrival` is in shared memory.
  __device__ explicit RowCopies(uint64_t* arrival) : arrival_(shared_address(arrival)) {}

  // Sends for `count` rows.
  __device__ void send(int count, char* to, int to_pitch, const char* from, int64_t from_pitch,
                       int bytes) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      init_arrivals(arrival_, 1);
      publish_arrivals();
    }
    __syncthreads();
    // The phase does not end before this, whatever has been brought by then.
    if (threadIdx.x == 0) arrive_expecting(arrival_, count * bytes);
    // A warp sends for one row after another, which takes its time: all warps do.
    if (lane == 0)
      for (int i = warp; i < count; i += static_cast<int>(blockDim.x) / 32)
        copy_bulk(shared_address(to + i * to_pitch), from + i * from_pitch, bytes, arrival_);
#else
    if (warp > 0) return;
    for (int i = 0; i < count; ++i)
      for (int at = lane * 16; at < bytes; at += 32 * 16)
        copy_async(shared_address(to + i * to_pitch + at), from + i * from_pitch + at);
    commit_copies();
#endif
  }
  __device__ void wait() const {
#if __CUDA_ARCH__ >= 900
    wait_for_arrivals(arrival_, 0);
#else
    wait_for_copies<0>();  // of the first warp
    __syncthreads();
#endif
  }

 private:
  uint32_t arrival_;
};

}  // namespace megabyte::cuda
