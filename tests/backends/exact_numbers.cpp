// Prints a hash of what every kernel of the exact backend makes of the same inputs, for each set
// of kernels that the machine runs. exact_numbers_test.sh builds it with every compiler that it
// finds, also for other processors, and expects one hash everywhere.
#include <cstdio>
#include <cstring>
#include <vector>

#include "backends/exact/frequencies.h"
#include "backends/exact/kernels.h"
#include "backends/exact/rotary_table.h"

namespace megabyte::exact {
namespace {

class Inputs {
 public:
  // In [-1, 1), with 20 bits.
  float next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 44) - (1 << 19)) * 0x1p-19f;
  }
  std::vector<float> floats(int64_t count, float scale = 1) {
    std::vector<float> all(static_cast<size_t>(count));
    for (float& x : all) x = scale * next();
    return all;
  }

 private:
  uint64_t state_ = 1;
};

class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    for (const T& value : values) {
      uint32_t bits;
      static_assert(sizeof(bits) == sizeof(value));
      std::memcpy(&bits, &value, sizeof(bits));
      state_ = (state_ ^ bits) * 0x100000001b3;
    }
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0xcbf29ce484222325;
};

uint64_t hash_of(const Kernels& kernels) {
  Inputs inputs;
  Hash hash;
  // As whole vectors, parts of one, and both.
  for (const int64_t width : {7, 16, 64, 88, 300}) {
    const int64_t rows = 11, outs = width + 5;
    const auto x = inputs.floats(rows * width, 3), delta = inputs.floats(rows * width, 2);
    const auto weight = inputs.floats(width), bias = inputs.floats(outs);
    std::vector<float> y(x.size()), sum(x.size());
    kernels.exponentials(delta.data(), rows * width, y.data());
    hash.add(y);
    kernels.norm({.x = x.data(),
                  .delta = delta.data(),
                  .weight = weight.data(),
                  .bias = bias.data(),
                  .eps = 1e-5f,
                  .sum = sum.data(),
                  .y = y.data(),
                  .dim = width},
                 0, rows);
    hash.add(sum);
    hash.add(y);

    std::vector<int8_t> w(static_cast<size_t>(outs * width));
    for (int8_t& q : w) q = static_cast<int8_t>(127 * inputs.next());
    std::vector<float> scales = inputs.floats((outs + 15) / 16 * 16),
                       out(static_cast<size_t>(rows * outs));
    std::vector<std::byte> packed(kernels.packed_bytes(outs, width)),
        scratch(kernels.linear_scratch(rows, width));
    kernels.pack(w.data(), outs, width, packed.data());
    for (const Act act : {Act::none, Act::relu, Act::gelu}) {
      kernels.linear({.x = y.data(),
                      .w = {packed.data(), scales.data(), outs, width},
                      .bias = bias.data(),
                      .act = act,
                      .y = out.data()},
                     0, rows, 0, (outs + kernels.block - 1) / kernels.block, scratch.data());
      hash.add(out);
    }

    std::vector<float> one(static_cast<size_t>(width)), work(static_cast<size_t>(2 * width + 64));
    for (const bool linear : {false, true}) {
      kernels.attend({.q = x.data(),
                      .k = delta.data(),
                      .v = y.data(),
                      .heads = 1,
                      .dim = width,
                      .stride = width,
                      .head_stride = 0,
                      .slot = 8,
                      .capacity = rows,
                      .visible = 9,
                      .scale = 0.125f,
                      .linear = linear,
                      .out = one.data()},
                     work.data());
      hash.add(one);
    }
    std::vector<float> state(static_cast<size_t>((width + 1) * width));
    for (int64_t t = 0; t < 3; ++t) {
      kernels.attend_running(x.data(), delta.data() + t * width, y.data(), width, state.data(),
                             one.data(), work.data());
      hash.add(one);
    }
    hash.add(state);

    std::vector<float> cosines, sines;
    for (int64_t i = 0; i < width / 2; ++i) {
      const Turn turn = rotary_turn(1000 + width, i, width);
      cosines.push_back(turn.cosine);
      sines.push_back(turn.sine);
    }
    kernels.rotate(y.data(), y.data() + width / 2, cosines.data(), sines.data(), width / 2);
    hash.add(y);
    std::vector<uint32_t> frequency(static_cast<size_t>(width));
    kernels.frequencies(x.data(), width, frequency.data());
    hash.add(frequency);
  }
  return hash.value();
}

}  // namespace
}  // namespace megabyte::exact

int main() {
  for (const auto* kernels : megabyte::exact::available_kernels())
    std::printf("%s %016llx\n", kernels->name,
                static_cast<unsigned long long>(megabyte::exact::hash_of(*kernels)));
}
