// The floating-point unit as the exact numbers want it: rounding to nearest even, and numbers below
// the normal ones kept. Whoever embeds the library may have set it otherwise, in any thread.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace megabyte::exact {

class StandardFloatingPoint {
 public:
  StandardFloatingPoint() : before_(get()) {
    if (before_ != wanted()) set(wanted());
  }
  ~StandardFloatingPoint() {
    if (before_ != wanted()) set(before_);
  }
  StandardFloatingPoint(const StandardFloatingPoint&) = delete;
  StandardFloatingPoint& operator=(const StandardFloatingPoint&) = delete;

 private:
#if defined(__x86_64__)
  using Word = unsigned;
  static constexpr Word kFlags = 0x3f;  // what has happened; of no account
  static Word get() { return _mm_getcsr() & ~kFlags; }
  static void set(Word word) { _mm_setcsr(word); }
  static Word wanted() { return 0x1f80; }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static Word get() {
    Word word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void set(Word word) { __asm__ volatile("msr fpcr, %0" : : "r"(word)); }
  static Word wanted() { return 0; }
#else
#error "megabyte's exact numbers need to know how this processor's floating-point unit is set"
#endif
  Word before_;
};

}  // namespace megabyte::exact
