// Threads, and the memory each keeps between calls. Work is cut into equal contiguous pieces, one a
// thread, so that results are the same bit for bit whenever the thread count is.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace megabyte::cpu {

class Threads {
 public:
  explicit Threads(int count) : scratch_(static_cast<size_t>(count)) {}

  int count() const { return static_cast<int>(scratch_.size()); }

  // How many threads share `items` when each should have at least `grain` of them: a parallel
  // region costs about as much as ten microseconds of work.
  int used(int64_t items, int64_t grain) const {
    return static_cast<int>(std::clamp<int64_t>(items / std::max<int64_t>(grain, 1), 1, count()));
  }

  // Calls body(begin, end, thread) for the pieces of [0, items) and returns the number of pieces.
  template <class Body>
  int parallel(int64_t items, int64_t grain, const Body& body) const {
    const int pieces = used(items, grain);
    if (pieces == 1) {
      body(int64_t{0}, items, 0);
      return 1;
    }
#pragma omp parallel num_threads(pieces)
    {
      const int thread = omp_get_thread_num();
      body(items * thread / pieces, items * (thread + 1) / pieces, thread);
    }
    return pieces;
  }

  // Uninitialised memory of one thread, valid until its next call; it only ever grows.
  template <class T>
  T* scratch(int thread, int64_t count) {
    return scratch_[static_cast<size_t>(thread)].grow<T>(count);
  }
  // The same, of all threads together.
  template <class T>
  T* shared(int64_t count) {
    return shared_.grow<T>(count);
  }

 private:
  static constexpr std::align_val_t kAlignment{256};
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, kAlignment); }
  };
  struct alignas(64) Scratch {
    std::unique_ptr<std::byte, Free> data;
    size_t bytes = 0;

    template <class T>
    T* grow(int64_t count) {
      const size_t wanted = static_cast<size_t>(count) * sizeof(T);
      if (wanted > bytes) {
        data.reset();
        data.reset(static_cast<std::byte*>(::operator new(wanted, kAlignment)));
        bytes = wanted;
      }
      return reinterpret_cast<T*>(data.get());
    }
  };
  std::vector<Scratch> scratch_;  // by thread
  Scratch shared_;
};

}  // namespace megabyte::cpu
