// How blocks of threads tell each other vectors, through device memory: a block writes, all read
// until what they want is there. No barrier and no flag.
#pragma once

#include "backends/cuda/decode_stack_call.cuh"

namespace megabyte::cuda::stack {

// --- With tags: units of 8 bytes, two bf16 and a number that says whose they are. There is nothing
// to clear and no fence: a block writes a unit once every other block has read what was there
// before, since that went into what it has just read itself.

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

// --- Without, where that would be too much to read: units of 16 bytes, 8 bf16 or 4 floats, which
// are all ones until they are there, a NaN that no arithmetic makes. Their block clears them once
// all have read them. Of a unit each half may come first.

inline constexpr uint4 kAbsent{~0U, ~0U, ~0U, ~0U};

__device__ inline uint4 read_unit(const uint4* at) {
  const ulonglong2 v = read_units(reinterpret_cast<const uint64_t*>(at));
  return reinterpret_cast<const uint4&>(v);
}
__device__ inline void write_unit(uint4* at, uint4 unit) {
  const auto v = reinterpret_cast<const ulonglong2&>(unit);
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(at), "l"(v.x), "l"(v.y));
}
__device__ inline void write_half(uint2* at, uint2 half) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(at),
               "l"(reinterpret_cast<const uint64_t&>(half)));
}
__device__ inline bool is_there(uint32_t word) { return word != ~0U; }
__device__ inline bool is_there(uint4 unit) { return is_there(unit.x) && is_there(unit.z); }
// Reads it unless it is there already.
__device__ inline void read_unit_again(uint4& unit, const uint4* at) {
  auto& v = reinterpret_cast<ulonglong2&>(unit);
  asm volatile(
      "{ .reg .pred p; setp.eq.u32 p, %2, 0; @p ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%3]; }"
      : "+l"(v.x), "+l"(v.y)
      : "r"(static_cast<int>(is_there(unit))), "l"(at));
}

}  // namespace megabyte::cuda::stack
