// Threads of the exact backend. Where OpenMP is missing there is one.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "backends/exact/floating_point.h"

namespace megabyte::exact {

// How many of `threads` share `items` when each should have at least `grain` of them.
inline int pieces_of(int threads, int64_t items, int64_t grain) {
#ifdef _OPENMP
  return static_cast<int>(
      std::clamp<int64_t>(items / std::max<int64_t>(grain, 1), 1, std::max(threads, 1)));
#else
  static_cast<void>(threads), static_cast<void>(items), static_cast<void>(grain);
  return 1;
#endif
}

// Calls body(begin, end) for as many contiguous pieces of [0, items), side by side.
template <class Body>
void parallel(int threads, int64_t items, int64_t grain, const Body& body) {
  const int pieces = pieces_of(threads, items, grain);
  if (pieces == 1) {
    const StandardFloatingPoint standard;
    body(int64_t{0}, items);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel num_threads(pieces)
  {
    const StandardFloatingPoint standard;
    // There may be fewer threads than were asked for.
    for (int64_t i = omp_get_thread_num(); i < pieces; i += omp_get_num_threads())
      body(items * i / pieces, items * (i + 1) / pieces);
  }
#endif
}

// Uninitialised memory of the calling thread, valid until its next call.
inline std::byte* thread_scratch(size_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, kAlignment); }
  };
  struct Memory {
    std::unique_ptr<std::byte, Free> data;
    size_t bytes = 0;
  };
  thread_local Memory memory;
  if (bytes > memory.bytes) {
    memory.data.reset();
    memory.bytes = 0;
    memory.data.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
    memory.bytes = bytes;
  }
  return memory.data.get();
}

}  // namespace megabyte::exact
