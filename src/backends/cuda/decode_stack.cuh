// What decode_stack.cu's kernel does: all blocks of a stage at one new position of one row.
//
// One block of threads on (almost) every multiprocessor owns fixed rows of every matrix. Its last
// warp sends for them in the order of their use, as far ahead as a ring in shared memory has room,
// whatever the others wait for: memory never idles. The other warps share the summed index: each
// multiplies its piece of the vector with the same piece of every row.
//
// A vector goes from the blocks that make it to all blocks through device memory, in units of 8
// bytes: two bf16 and a tag, the number of the Transformer block since this memory was made. A warp
// reads its piece until all tags are right. So there is no barrier, no flag and no fence, and
// nothing to clear: a block writes a unit once every other block has read what was there before,
// since that went into what it has just read itself.
#pragma once

#include <algorithm>
#include <cmath>

#include "backends/cuda/activation.cuh"
#include "backends/cuda/attention_fragments.cuh"
#include "backends/cuda/copies.cuh"
#include "backends/cuda/overlap.cuh"

namespace megabyte::cuda::stack {

// Of a block's threads, and one more warp that copies.
inline constexpr int kBlocks = 128, kWarps = 8, kThreads = 32 * kWarps;
inline constexpr int kHead = 64, kShortWindow = 8, kMostLayers = 32;
// Slots of the ring on their way at most: enough to keep memory busy. More, and what the blocks
// tell each other waits behind weights.
inline constexpr int kOnTheirWay = 2;

struct Layer {
  const float *norm1_weight, *norm1_bias, *qkv_bias, *out_bias;
  const float *norm2_weight, *norm2_bias, *up_bias, *down_bias;
  const bf16 *qkv, *out, *up, *down;
  bf16 *keys, *values;
};

struct Call {
  Layer layers[kMostLayers];
  int count, position, capacity;
  Activation activation;
  float eps;
  const float* x;
  const bf16* delta;
  const float *norm_weight, *norm_bias;
  float* sum;
  bf16* y;
  uint64_t* units;   // of the exchange, below
  unsigned* passed;  // Transformer blocks since the exchange was made
};

// D: width. A slot of the ring holds 8 rows of D elements (of `down`, a quarter of 8 rows).
template <int D_>
struct Geometry {
  static constexpr int D = D_;
  static constexpr int kSlice = D / kWarps;    // elements of a warp's piece
  static constexpr int kPacks = kSlice / 128;  // of which a lane holds 4 in each of these
  static constexpr int kChunks = kSlice / 32;  // steps of a product
  static constexpr int kPitch = 2 * D + 64;    // bytes; odd multiples of 64 keep the banks apart
  static constexpr int kSlotBytes = 8 * kPitch, kSlots = D == 1024 ? 11 : 6;
  static constexpr int kOut = D / kBlocks / 8, kQkv = 3 * kOut, kUp = 4 * kOut;  // slots
  static constexpr int kHeads = D / kHead, kSplits = kBlocks / kHeads;
  static constexpr int kKeys = D / 8;  // of a slot
  // Shared memory after the ring.
  static constexpr int kPieceBytes = std::max(2 * kSlice, 3 * 2 * kHead);
  static constexpr int kSums = kWarps * 8 * kUp;  // floats
  static constexpr int kAnswer = kHead + 4;       // floats of a warp's answer
  static constexpr int kShared = kSlots * kSlotBytes + 2 * kWarps * kPieceBytes + 2 * 4 * kSums +
                                 4 * kWarps * kAnswer + 8 * kWarps + 16 * kSlots;
  // Where the vectors are in the exchange, in units.
  static constexpr int kQkvUnits = 0, kAttendedUnits = 3 * D / 2, kHiddenUnits = 2 * D,
                       kDownUnits = 4 * D, kPartUnits = 9 * D / 2,
                       kScaleUnits = kPartUnits + kBlocks * kHead / 2,
                       kUnits = kScaleUnits + kBlocks;
};

__device__ inline float2 unpack(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}
__device__ inline ulonglong2 read_units(const uint64_t* at) {
  ulonglong2 v;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(at));
  return v;
}
__device__ inline uint64_t read_unit(const uint64_t* at) {
  uint64_t v;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(v) : "l"(at));
  return v;
}
__device__ inline void write_unit(uint64_t* at, uint32_t data, uint32_t tag) {
  const uint64_t v = uint64_t{tag} << 32 | data;
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(at), "l"(v));
}
__device__ inline bool tagged(uint64_t unit, uint32_t tag) {
  return static_cast<uint32_t>(unit >> 32) == tag;
}

// N pieces of 4 elements of a lane, the i-th at(i). Are they there?
template <int N, class At>
__device__ bool read_pieces(const At& at, uint32_t tag, uint2 (&data)[N]) {
  ulonglong2 v[N];
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = read_units(at(i));
  bool there = true;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    there = there && tagged(v[i].x, tag) && tagged(v[i].y, tag);
    data[i] = {static_cast<uint32_t>(v[i].x), static_cast<uint32_t>(v[i].y)};
  }
  return there;
}
// Once they are, for all lanes.
template <int N, class At>
__device__ void await(const At& at, uint32_t tag, uint2 (&data)[N]) {
  while (!__all_sync(~0U, read_pieces(at, tag, data))) {
  }
}

// Loads that stay where they are written, long before their use: the compiler would bring them
// near to it. Of weights, which do not change while the kernel runs, and of cached keys and values.
__device__ inline float4 weights_early(const float* p) {
  float4 v;
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}
__device__ inline float2 pair_early(const float* p) {
  float2 v;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p));
  return v;
}
__device__ inline uint4 keys_early(const bf16* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 values_early(const bf16* p) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}

// Named barriers of the computing warps: all wait, or the first waits for the others.
inline constexpr int kAll = 1, kEven = 2, kOdd = 3, kParts = 4;
template <int kBarrier>
__device__ void wait_for_warps() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}
template <int kBarrier>
__device__ void tell_first_warp() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// Keys of a head that this block attends to: position p belongs to block p / each of the head's.
template <class G>
struct Share {
  int first, count;  // of the cache
  bool newest;       // and the new position

  __device__ explicit Share(int position) {
    const int each = (position + G::kSplits) / G::kSplits;
    first = static_cast<int>(blockIdx.x) % G::kSplits * each;
    count = max(0, min(each, position - first));
    newest = first <= position && position < first + each;
  }
  __device__ int slots() const { return (count + G::kKeys - 1) / G::kKeys; }
};

// The ring of weights: slots are filled and used one after another.
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
      init_arrivals(empty + 8 * i, kWarps);
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

template <class G, bool kLong>
__device__ void send_weights(const Call& call, Ring<G> ring) {
  constexpr int D = G::D;
  const int lane = static_cast<int>(threadIdx.x) % 32, block = static_cast<int>(blockIdx.x);
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  Ring<G> behind = ring;
  int sent = 0;
  // Eight pieces of `bytes`, for one lane each, to the next slot.
  const auto send = [&](const void* from, int64_t from_pitch, int pitch, int bytes, int pieces) {
    wait_for_arrivals(ring.empty + 8 * ring.slot, (ring.turn & 1) ^ 1);
    if (sent++ >= kOnTheirWay) {
      wait_for_arrivals(behind.full + 8 * behind.slot, behind.turn & 1);
      behind.next();
    }
    if (lane == 0) arrive_expecting(ring.full + 8 * ring.slot, bytes * pieces);
    __syncwarp();
    if (lane < pieces)
      copy_streaming(shared_address(ring.memory + ring.slot * G::kSlotBytes + lane * pitch),
                     static_cast<const char*>(from) + lane * from_pitch, bytes,
                     ring.full + 8 * ring.slot, policy);
    ring.next();
  };
  const auto rows = [&](const bf16* w, int first, int slots) {
    for (int i = 0; i < slots; ++i)
      send(w + int64_t{first + i} * 8 * D, 2 * D, G::kPitch, 2 * D, 8);
  };
  const Share<G> share(call.position);
  for (int l = 0; l < call.count; ++l) {
    const Layer& w = call.layers[l];
    rows(w.qkv, block * G::kQkv, G::kQkv);
    if constexpr (kLong) {
      if (l == 0) wait_for_previous();  // it may have written keys
      const int64_t head = int64_t{block / G::kSplits} * call.capacity + share.first;
      for (int i = 0; i < share.slots(); ++i) {
        const int64_t from = (head + i * G::kKeys) * kHead;
        const int bytes = min(share.count - i * G::kKeys, G::kKeys) * kHead * 2;
        send(w.keys + from, 0, 0, bytes, 1);
        send(w.values + from, 0, 0, bytes, 1);
      }
    }
    rows(w.out, block * G::kOut, G::kOut);
    rows(w.up, block * G::kUp, G::kUp);
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int i = 0; i < G::kOut; ++i)
        send(w.down + int64_t{block * G::kOut + i} * 8 * 4 * D + quarter * D, 8 * D, G::kPitch,
             2 * D, 8);
  }
}

// A lane of a computing warp, and what it has of the vectors: elements warp * kSlice + 128 i +
// 4 lane and the three after it, for i < kPacks.
template <class G>
class Computer {
 public:
  static constexpr int D = G::D;
  using Pieces = uint2[G::kPacks];
  using Operand = uint4[G::kChunks];  // B of a product's steps

  __device__ Computer(const Call& call, const Ring<G>& ring, char* memory)
      : call_(call), ring_(ring) {
    piece_ = memory + warp_ * G::kPieceBytes;
    keys_ = memory + (kWarps + warp_) * G::kPieceBytes;
    sums_ = reinterpret_cast<float*>(memory + 2 * kWarps * G::kPieceBytes);
    answers_ = sums_ + 2 * G::kSums;
    stats_ = reinterpret_cast<float2*>(answers_ + kWarps * G::kAnswer);
    weights_ = ring.memory + g_ * G::kPitch + (warp_ * G::kSlice + c_ * 8) * 2;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(tag_) : "l"(call.passed));
  }

  template <bool kLong>
  __device__ void run() {
    load_norm(call_.layers[0].norm1_weight, call_.layers[0].norm1_bias);
    Pieces delta = {};
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(call_.x + mine() + 128 * i));
      x_[i][0] = v.x, x_[i][1] = v.y, x_[i][2] = v.z, x_[i][3] = v.w;
      if (call_.delta != nullptr)
        delta[i] = __ldcg(reinterpret_cast<const uint2*>(call_.delta + mine() + 128 * i));
    }
    for (int l = 0; l < call_.count; ++l) {
      const Layer& w = call_.layers[l];
      Window window;
      if constexpr (!kLong) load_window(w, window);
      float2 bias = bias_of<G::kQkv>(w.qkv_bias);
      if (l > 0) await(vector_at(G::kDownUnits), tag_, delta);
      ++tag_;
      add(delta);
      norm();
      load_norm(w.norm2_weight, w.norm2_bias);
      multiply<G::kQkv>(sums_);
      finish<G::kQkv, kEven>(sums_, bias, G::kQkvUnits, Activation::none);

      bias = bias_of<G::kOut>(w.out_bias);
      if constexpr (kLong) {
        attend_to_share(w);
        combine_shares();
      } else {
        attend(w, window);
      }
      multiply<G::kOut>(sums_ + G::kSums);
      finish<G::kOut, kOdd>(sums_ + G::kSums, bias, G::kAttendedUnits, Activation::none);

      bias = bias_of<G::kUp>(w.up_bias);
      await(vector_at(G::kAttendedUnits), tag_, delta);
      add(delta);
      norm();
      const bool last = l + 1 == call_.count;
      const Layer& next = call_.layers[last ? l : l + 1];
      load_norm(last ? call_.norm_weight : next.norm1_weight,
                last ? call_.norm_bias : next.norm1_bias);
      multiply<G::kUp>(sums_);
      finish<G::kUp, kEven>(sums_, bias, G::kHiddenUnits, call_.activation);

      bias = bias_of<G::kOut>(w.down_bias);
      multiply_hidden(sums_ + G::kSums);
      finish<G::kOut, kOdd>(sums_ + G::kSums, bias, G::kDownUnits, Activation::none);
    }
    if (blockIdx.x != 0) return;
    await(vector_at(G::kDownUnits), tag_, delta);
    add(delta);
    norm();
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const int at = mine() + 128 * i;
      *reinterpret_cast<float4*>(call_.sum + at) = float4{x_[i][0], x_[i][1], x_[i][2], x_[i][3]};
      *reinterpret_cast<uint2*>(call_.y + at) = piece(piece_, i);
    }
    if (threadIdx.x == 0) *call_.passed = tag_;
  }

 private:
  // Keys (as A of a product: key g) and values (of a lane's elements) of a short window.
  struct Window {
    uint4 keys[2 * G::kPacks][2];
    uint2 values[G::kPacks][kShortWindow];
  };

  __device__ int mine() const { return warp_ * G::kSlice + 4 * lane_; }
  // Where piece i % kPacks of part i / kPacks of a vector is, whose parts have D elements.
  __device__ auto vector_at(int vector) const {
    const uint64_t* first = call_.units + vector + mine() / 2;
    return [first](int i) { return first + i / G::kPacks * (D / 2) + i % G::kPacks * 64; };
  }
  __device__ uint2& piece(char* memory, int i) const {
    return *reinterpret_cast<uint2*>(memory + (128 * i + 4 * lane_) * 2);
  }
  __device__ int64_t head_at(int head) const { return int64_t{head} * call_.capacity * kHead; }

  __device__ void add(const Pieces& delta) {
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float2 a = unpack(delta[i].x), b = unpack(delta[i].y);
      x_[i][0] += a.x, x_[i][1] += a.y, x_[i][2] += b.x, x_[i][3] += b.y;
    }
  }

  // Long before they are needed.
  __device__ void load_norm(const float* weight, const float* bias) {
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      norm_weight_[i] = weights_early(weight + mine() + 128 * i);
      norm_bias_[i] = weights_early(bias + mine() + 128 * i);
    }
  }
  template <int kSlots>
  __device__ float2 bias_of(const float* bias) const {
    return threadIdx.x < 4 * kSlots ? pair_early(bias + blockIdx.x * 8 * kSlots + 2 * threadIdx.x)
                                    : float2{};
  }

  // Leaves the norm of x in piece_ and operand_.
  __device__ void norm() {
    const float pivot = __shfl_sync(~0U, x_[0][0], 0);
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float off = x_[i][e] - pivot;
        sum += off;
        squares = fmaf(off, off, squares);
      }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0U, sum, offset);
      squares += __shfl_xor_sync(~0U, squares, offset);
    }
    // Mean, and squares about it, of each warp's piece; then of all.
    constexpr float kShare = 1.0F / G::kSlice;
    if (lane_ == 0) stats_[warp_] = {pivot + sum * kShare, squares - sum * sum * kShare};
    wait_for_warps<kAll>();
    float2 stats[kWarps];
    float mean = 0, within = 0, between = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      stats[i] = stats_[i];
      mean += stats[i].x;
      within += stats[i].y;
    }
    mean *= 1.0F / kWarps;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) between = fmaf(stats[i].x - mean, stats[i].x - mean, between);
    const float variance = fmaxf(within + between * G::kSlice, 0) * (1.0F / D);
    const float rstd = rsqrtf(variance + call_.eps);
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const float4 w = norm_weight_[i], b = norm_bias_[i];
      piece(piece_, i) = {
          pack((x_[i][0] - mean) * rstd * w.x + b.x, (x_[i][1] - mean) * rstd * w.y + b.y),
          pack((x_[i][2] - mean) * rstd * w.z + b.z, (x_[i][3] - mean) * rstd * w.w + b.w)};
    }
    __syncwarp();
    load_operand<false>(piece_);
  }

  // The piece in `memory` as B: in the first column or in all.
  template <bool kEverywhere>
  __device__ void load_operand(const char* memory) {
#pragma unroll
    for (int c = 0; c < G::kChunks; ++c)
      operand_[c] = kEverywhere || g_ == 0
                        ? *reinterpret_cast<const uint4*>(memory + (32 * c + 8 * c_) * 2)
                        : uint4{};
    __syncwarp();
  }

  __device__ void wait_for_slot(int ahead) const {
    const int slot = ring_.slot + ahead;
    const bool wraps = slot >= G::kSlots;
    wait_for_arrivals(ring_.full + 8 * (wraps ? slot - G::kSlots : slot),
                      (ring_.turn + (wraps ? 1 : 0)) & 1);
  }
  __device__ void release_slot() {
    if (lane_ == 0) arrive(ring_.empty + 8 * ring_.slot);
    ring_.next();
  }
  __device__ const char* slot_memory(int ahead) const {
    const int slot = ring_.slot + ahead;
    return weights_ + (slot >= G::kSlots ? slot - G::kSlots : slot) * G::kSlotBytes;
  }

  // Adds the next kCount slots' rows times the operand: the first 8 to c[0], the next to c[2] (in
  // the lanes c_ = 0).
  template <int kCount>
  __device__ void multiply_slots(float (&c)[4]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) wait_for_slot(i);
    uint4 w[2][G::kChunks] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const char* from = slot_memory(i);
#pragma unroll
      for (int k = 0; k < G::kChunks; ++k) w[i][k] = *reinterpret_cast<const uint4*>(from + 64 * k);
    }
    float other[4] = {};
#pragma unroll
    for (int k = 0; k < G::kChunks; ++k) {
      const uint4 b = operand_[k];
      mma(c, w[0][k].x, w[1][k].x, w[0][k].y, w[1][k].y, b.x, b.y);
      mma(other, w[0][k].z, w[1][k].z, w[0][k].w, w[1][k].w, b.z, b.w);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kCount; ++i) release_slot();
    c[0] += other[0];
    c[2] += other[2];
  }

  template <int kSlots>
  __device__ void multiply(float* sums) {
#pragma unroll
    for (int i = 0; i + 1 < kSlots; i += 2) {
      float c[4] = {};
      multiply_slots<2>(c);
      store<kSlots>(sums, i, c);
    }
    if constexpr (kSlots % 2 == 1) {
      float c[4] = {};
      multiply_slots<1>(c);
      store<kSlots>(sums, kSlots - 1, c);
    }
  }
  template <int kSlots>
  __device__ void store(float* sums, int i, const float (&c)[4]) const {
    if (c_ != 0) return;
    sums[(warp_ * kSlots + i) * 8 + g_] = c[0];
    if (i + 1 < kSlots) sums[(warp_ * kSlots + i + 1) * 8 + g_] = c[2];
  }

  // The rows of `down`, quarter by quarter.
  __device__ void multiply_hidden(float* sums) {
    uint2 hidden[4 * G::kPacks];
    await(vector_at(G::kHiddenUnits), tag_, hidden);
    float c[4] = {};
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int i = 0; i < G::kPacks; ++i) piece(piece_, i) = hidden[q * G::kPacks + i];
      __syncwarp();
      load_operand<false>(piece_);
      static_assert(G::kOut <= 2);
      multiply_slots<G::kOut>(c);
    }
    store<G::kOut>(sums, 0, c);
  }

  // The warps' sums of 8 kSlots rows and their bias, activated, go out.
  template <int kSlots, int kBarrier>
  __device__ void finish(const float* sums, float2 bias, int vector, Activation activation) const {
    if (warp_ > 0) return tell_first_warp<kBarrier>();
    wait_for_warps<kBarrier>();
    if (lane_ < 4 * kSlots) {
      float2 sum = bias;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        const float2 part = *reinterpret_cast<const float2*>(sums + i * 8 * kSlots + 2 * lane_);
        sum.x += part.x;
        sum.y += part.y;
      }
      if (activation == Activation::gelu) {
        sum = {activate<Activation::gelu, bf16>(sum.x), activate<Activation::gelu, bf16>(sum.y)};
      } else if (activation == Activation::relu) {
        sum = {activate<Activation::relu, bf16>(sum.x), activate<Activation::relu, bf16>(sum.y)};
      }
      write_unit(call_.units + vector + static_cast<int>(blockIdx.x) * 4 * kSlots + lane_,
                 pack(sum.x, sum.y), tag_);
    }
    __syncwarp();
  }

  // Of the cache, for all heads of the warp's piece.
  __device__ void load_window(const Layer& w, Window& window) const {
#pragma unroll
    for (int i = 0; i < 2 * G::kPacks; ++i) {
      const bf16* keys = w.keys + head_at(warp_ * 2 * G::kPacks + i) + g_ * kHead + c_ * 8;
#pragma unroll
      for (int c = 0; c < 2; ++c)
        window.keys[i][c] = g_ < call_.position ? keys_early(keys + 32 * c) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      const bf16* values =
          w.values + head_at(warp_ * 2 * G::kPacks + 2 * i + lane_ / 16) + lane_ % 16 * 4;
#pragma unroll
      for (int j = 0; j < kShortWindow; ++j)
        window.values[i][j] = j < call_.position ? values_early(values + j * kHead) : uint2{};
    }
  }

  // A short window: every block attends for itself, each warp with the heads of its piece.
  __device__ void attend(const Layer& w, const Window& window) {
    uint2 qkv[3 * G::kPacks];
    await(vector_at(G::kQkvUnits), tag_, qkv);
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      piece(piece_, i) = qkv[i];
      piece(keys_, i) = qkv[G::kPacks + i];
      if (blockIdx.x == warp_ * G::kPacks + i) {
        const int64_t at = head_at(warp_ * 2 * G::kPacks + 2 * i + lane_ / 16) +
                           call_.position * kHead + lane_ % 16 * 4;
        *reinterpret_cast<uint2*>(w.keys + at) = qkv[G::kPacks + i];
        *reinterpret_cast<uint2*>(w.values + at) = qkv[2 * G::kPacks + i];
      }
    }
    __syncwarp();
    load_operand<true>(piece_);
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      float weights[2];  // of key g, of two heads
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float score[4] = {}, other[4] = {};
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          uint4 k = window.keys[2 * i + h][c];
          if (g_ == call_.position)
            k = *reinterpret_cast<const uint4*>(keys_ +
                                                (128 * i + kHead * h + 32 * c + 8 * c_) * 2);
          const uint4 q = operand_[4 * i + 2 * h + c];
          mma(score, k.x, 0, k.y, 0, q.x, q.y);
          mma(other, k.z, 0, k.w, 0, q.z, q.w);
        }
        weights[h] = g_ <= call_.position ? score[0] + other[0] : -INFINITY;
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = weights[h];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          top = fmaxf(top, __shfl_xor_sync(~0U, top, offset));
        weights[h] = power_of_two((weights[h] - top) * kScoreScale);
        float all = weights[h];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) all += __shfl_xor_sync(~0U, all, offset);
        weights[h] = __fdividef(weights[h], all);
      }
      const float given = c_ == 0 ? weights[0] : weights[1];
      float sums[4] = {};
#pragma unroll
      for (int j = 0; j < kShortWindow; ++j) {
        const float weight = __shfl_sync(~0U, given, 4 * j + lane_ / 16);
        const uint2 v = j == call_.position ? qkv[2 * G::kPacks + i] : window.values[i][j];
        add_weighted(sums, weight, v);
      }
      __syncwarp();  // the lanes have read q
      piece(piece_, i) = {pack(sums[0], sums[1]), pack(sums[2], sums[3])};
    }
    __syncwarp();
    load_operand<false>(piece_);
  }
  __device__ static void add_weighted(float (&sums)[4], float weight, uint2 v) {
    const float2 a = unpack(v.x), b = unpack(v.y);
    sums[0] = fmaf(weight, a.x, sums[0]);
    sums[1] = fmaf(weight, a.y, sums[1]);
    sums[2] = fmaf(weight, b.x, sums[2]);
    sums[3] = fmaf(weight, b.y, sums[3]);
  }

  // A long window: the block attends to its share of one head's keys, eight lanes to a key.
  __device__ void attend_to_share(const Layer& w) {
    const int head = static_cast<int>(blockIdx.x) / G::kSplits, e = lane_ % 8;
    const Share<G> share(call_.position);
    uint2 parts[2];  // q and k, v: four elements a lane
    {
      const uint64_t* first = call_.units + G::kQkvUnits + (head * kHead + lane_ % 16 * 4) / 2;
      const int part = lane_ < 16 ? 0 : D / 2;
      await([&](int i) { return first + (i == 0 ? part : D); }, tag_, parts);
    }
    auto* vectors = reinterpret_cast<uint2*>(piece_);  // q, k, v
    vectors[lane_] = parts[0];
    if (lane_ < 16) vectors[32 + lane_] = parts[1];
    __syncwarp();
    const auto* chunks = reinterpret_cast<const uint4*>(piece_) + e;
    float q[8], top = -INFINITY, total = 0, sums[8] = {};
    unpack8(chunks[0], q);
#pragma unroll
    for (float& x : q) x *= kScoreScale;
    const int group = warp_ * 4 + lane_ / 8;
    if (group == 0 && share.newest) {
      float k[8];
      unpack8(chunks[8], k);
      top = eight_sum(dot(q, k));
      total = 1;
      unpack8(chunks[16], sums);
      const int64_t at = head_at(head) + call_.position * kHead;
      *(reinterpret_cast<uint4*>(w.keys + at) + e) = chunks[8];
      *(reinterpret_cast<uint4*>(w.values + at) + e) = chunks[16];
    }
    __syncwarp();
    for (int i = 0; i < share.slots(); ++i) {
      const int count = share.count - i * G::kKeys;
      constexpr int kMine = G::kKeys / (4 * kWarps);
      const auto* from = reinterpret_cast<const uint4*>(ring_.memory + ring_.slot * G::kSlotBytes) +
                         lane_ + warp_ * 32;
      wait_for_slot(0);
      float scores[kMine], largest = top;
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        float k[8];
        unpack8(from[n * kThreads], k);
        scores[n] = eight_sum(dot(q, k));
        if (n * 4 * kWarps + group >= count) scores[n] = -INFINITY;
        largest = fmaxf(largest, scores[n]);
      }
      __syncwarp();
      release_slot();
      const float fade = largest == -INFINITY ? 1 : power_of_two(top - largest);
      top = largest;
      total *= fade;
#pragma unroll
      for (float& sum : sums) sum *= fade;
      from = reinterpret_cast<const uint4*>(ring_.memory + ring_.slot * G::kSlotBytes) + lane_ +
             warp_ * 32;
      wait_for_slot(0);
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        if (n * 4 * kWarps + group >= count) break;
        float v[8];
        unpack8(from[n * kThreads], v);
        const float weight = power_of_two(scores[n] - top);
        total += weight;
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[j] = fmaf(weight, v[j], sums[j]);
      }
      __syncwarp();
      release_slot();
    }
    // The four groups of the warp, then the warps.
    float largest = fmaxf(top, __shfl_xor_sync(~0U, top, 8));
    largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, 16));
    const float fade = largest == -INFINITY ? 0 : power_of_two(top - largest);
    total = groups_sum(total * fade);
#pragma unroll
    for (float& sum : sums) sum = groups_sum(sum * fade);
    float* answer = answers_ + warp_ * G::kAnswer;
    if (lane_ < 8) {
#pragma unroll
      for (int j = 0; j < 8; j += 4)
        *reinterpret_cast<float4*>(answer + 8 * e + j) =
            float4{sums[j], sums[j + 1], sums[j + 2], sums[j + 3]};
      if (e == 0) *reinterpret_cast<float2*>(answer + kHead) = {largest, total};
    }
    if (warp_ > 0) return tell_first_warp<kParts>();
    wait_for_warps<kParts>();
    float2 stats[kWarps], sum{0, 0};
    float highest = -INFINITY, all = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      stats[i] = *reinterpret_cast<const float2*>(answers_ + i * G::kAnswer + kHead);
      highest = fmaxf(highest, stats[i].x);
    }
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      const float factor = highest == -INFINITY ? 0 : power_of_two(stats[i].x - highest);
      const float2 part = *reinterpret_cast<const float2*>(answers_ + i * G::kAnswer + 2 * lane_);
      all = fmaf(factor, stats[i].y, all);
      sum.x = fmaf(factor, part.x, sum.x);
      sum.y = fmaf(factor, part.y, sum.y);
    }
    const float factor = all > 0 ? 1 / all : 0;
    write_unit(call_.units + G::kPartUnits + static_cast<int>(blockIdx.x) * 32 + lane_,
               pack(sum.x * factor, sum.y * factor), tag_);
    if (lane_ == 0)
      write_unit(call_.units + G::kScaleUnits + blockIdx.x,
                 __float_as_uint(all > 0 ? highest + log2f(all) : -INFINITY), tag_);
  }

  // The shares of each head of the warp's piece, together.
  __device__ void combine_shares() {
    constexpr int kS = G::kSplits, kWarpHeads = G::kSlice / kHead;
    static_assert(kWarpHeads * kS == 16);
    const uint64_t* first = call_.units + G::kPartUnits + warp_ * 16 * 32;
    const auto at = [&](int i) {  // share i % kS of a head
      return first + ((2 * (i / kS) + lane_ / 16) * kS + i % kS) * 32 + lane_ % 16 * 2;
    };
    uint2 parts[G::kPacks * kS];
    uint64_t scale;
    bool there;
    do {
      scale = read_unit(call_.units + G::kScaleUnits + warp_ * 16 + lane_ % 16);
      there = read_pieces(at, tag_, parts) && tagged(scale, tag_);
    } while (!__all_sync(~0U, there));
    const float mine = __uint_as_float(static_cast<uint32_t>(scale));
    float top = mine;
#pragma unroll
    for (int offset = 1; offset < kS; offset *= 2)
      top = fmaxf(top, __shfl_xor_sync(~0U, top, offset));
    float factor = power_of_two(mine - top), all = factor;
#pragma unroll
    for (int offset = 1; offset < kS; offset *= 2) all += __shfl_xor_sync(~0U, all, offset);
    factor /= all;
#pragma unroll
    for (int i = 0; i < G::kPacks; ++i) {
      float sums[4] = {};
#pragma unroll
      for (int n = 0; n < kS; ++n)
        add_weighted(sums, __shfl_sync(~0U, factor, (2 * i + lane_ / 16) * kS + n),
                     parts[i * kS + n]);
      piece(piece_, i) = {pack(sums[0], sums[1]), pack(sums[2], sums[3])};
    }
    __syncwarp();
    load_operand<false>(piece_);
  }

  __device__ static void unpack8(uint4 from, float (&to)[8]) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack(words[i]);
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
  __device__ static float dot(const float (&a)[8], const float (&b)[8]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
    return sum;
  }
  __device__ static float eight_sum(float x) {
    const unsigned mask = 0xFFU << (threadIdx.x % 32 / 8 * 8);
    x += __shfl_xor_sync(mask, x, 1);
    x += __shfl_xor_sync(mask, x, 2);
    return x + __shfl_xor_sync(mask, x, 4);
  }
  __device__ static float groups_sum(float x) {
    x += __shfl_xor_sync(~0U, x, 8);
    return x + __shfl_xor_sync(~0U, x, 16);
  }

  // Scores are powers of two: log2(e) / sqrt(kHead).
  static constexpr float kScoreScale = 1.4426950408889634F / 8;

  const Call& call_;
  Ring<G> ring_;
  const int lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
  const int g_ = lane_ / 4, c_ = lane_ % 4;
  char *piece_, *keys_;  // the warp's own
  float *sums_, *answers_;
  float2* stats_;
  const char* weights_;  // in the ring's first slot
  uint32_t tag_;
  float x_[G::kPacks][4];  // the residual stream, alike in all blocks
  float4 norm_weight_[G::kPacks], norm_bias_[G::kPacks];
  Operand operand_;
};

}  // namespace megabyte::cuda::stack
