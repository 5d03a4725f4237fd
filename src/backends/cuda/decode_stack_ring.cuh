// The ring of weights in shared memory. One warp of a block sends for them in the order of their
// use, as far ahead as there is room, whatever the others wait for: memory never idles.
#pragma once

#include "backends/cuda/decode_stack_call.cuh"

namespace megabyte::cuda::stack {

// Slots are filled and used one after another. G: Deal, how many slots there are (kSlots), and how
// many are on their way at most (kOnTheirWay): enough to keep memory busy. More, and what the
// blocks tell each other waits behind weights.
template <class G>
struct Ring {
  uint32_t full, empty;  // barriers of each slot
  char* memory;
  int slot = 0;
  uint32_t turn = 0;

  __device__ Ring(char* ring, void* barriers)
      : full(shared_address(barriers)), empty(full + 8 * G::kSlots), memory(ring) {}
  __device__ void init() const {
    for (int i = 0; i < G::kSlots; ++i) {
      init_arrivals(full + 8 * i, 1);
      init_arrivals(empty + 8 * i, 32 * kWarps);
    }
    publish_arrivals();
  }
  __device__ void next() {
    if (++slot < G::kSlots) return;
    slot = 0;
    ++turn;
  }
};

// `bytes` without a place in the device's cache: nobody else needs them.
__device__ inline void copy_streaming(uint32_t to, const void* from, int bytes, uint32_t barrier,
                                      uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// The warp that fills the slots.
template <class G>
class Sender {
 public:
  __device__ explicit Sender(const Ring<G>& ring) : ring_(ring), behind_(ring) {
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
  }

  // `pieces` (at most 8) pieces of `bytes`, for one lane each, to the next slot.
  __device__ void send(const void* from, int64_t from_pitch, int pitch, int bytes, int pieces) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    wait_for_arrivals(ring_.empty + 8 * ring_.slot, (ring_.turn & 1) ^ 1);
    if (sent_++ >= G::kOnTheirWay) {
      wait_for_arrivals(behind_.full + 8 * behind_.slot, behind_.turn & 1);
      behind_.next();
    }
    if (lane == 0) arrive_expecting(ring_.full + 8 * ring_.slot, bytes * pieces);
    __syncwarp();
    if (lane < pieces)
      copy_streaming(shared_address(ring_.memory + ring_.slot * G::kSlotBytes + lane * pitch),
                     static_cast<const char*>(from) + lane * from_pitch, bytes,
                     ring_.full + 8 * ring_.slot, policy_);
    ring_.next();
  }
  // 8 * `slots` rows of D elements.
  __device__ void send_rows(const bf16* first, int64_t pitch, int slots) {
    for (int i = 0; i < slots; ++i) send(first + i * 8 * pitch, 2 * pitch, G::kPitch, 2 * G::D, 8);
  }
  // `count` keys and values in turn, of `heads` heads that are `pitch` elements apart: of a slot
  // each has a part of kMost.
  template <int kMost = 1>
  __device__ void send_cache(const bf16* keys, const bf16* values, int count, int64_t pitch = 0,
                             int heads = 1) {
    constexpr int kKeys = G::kKeys / kMost;
    for (int i = 0; i < count; i += kKeys) {
      const int bytes = min(count - i, kKeys) * kHead * 2;
      send(keys + int64_t{i} * kHead, 2 * pitch, kKeys * kHead * 2, bytes, heads);
      send(values + int64_t{i} * kHead, 2 * pitch, kKeys * kHead * 2, bytes, heads);
    }
  }

 private:
  Ring<G> ring_, behind_;
  int sent_ = 0;
  uint64_t policy_;
};

// What the other warps do with it, each for itself.
template <class G>
class Receiver {
 public:
  __device__ explicit Receiver(const Ring<G>& ring) : ring_(ring) {}

  // For the slot that is `ahead` of the current one.
  __device__ void wait(int ahead) const {
    const int slot = ring_.slot + ahead;
    const bool wraps = slot >= G::kSlots;
    wait_for_arrivals(ring_.full + 8 * (wraps ? slot - G::kSlots : slot),
                      (ring_.turn + (wraps ? 1 : 0)) & 1);
  }
  __device__ const char* memory(int ahead) const {
    const int slot = ring_.slot + ahead;
    return ring_.memory + (slot >= G::kSlots ? slot - G::kSlots : slot) * G::kSlotBytes;
  }
  // Of the current slot: a lane says so once it has read its part. (That all do costs nothing
  // beside one for the warp, and needs no order among its lanes.)
  __device__ void release() {
    arrive(ring_.empty + 8 * ring_.slot);
    ring_.next();
  }

 private:
  Ring<G> ring_;
};

}  // namespace megabyte::cuda::stack
