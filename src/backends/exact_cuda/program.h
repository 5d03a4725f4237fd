// Operations on rows that know nothing of each other, one after another in one kernel: each of its
// blocks takes some rows through all of them, and waits only for itself. Where the operations are
// small, as those of a byte below the coarsest stage are, launching them one by one costs more than
// what they compute.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/exact_cuda/kernels.h"

namespace megabyte::exact_cuda {

// A norm, a product or both: x (rows, K) is norm.x and what is added to it, normed where `norms`; y
// (rows, K) = x, or, where there are weights, y (rows, N) = act(x in 8 bits . w^T + bias).
struct LinearStep {
  Norm norm;
  DeviceMatrix w;  // N = 0: none
  const float* bias;
  float* y;
  exact::Act act;
  bool norms;
};
// Rows of one position.
struct RotaryStep {
  float* qkv;
  const float2* turns;  // (half)
  int heads, half;
};
struct AttentionStep {
  Cached queries;
  float scale;
};
// out (rows, patch * dim): rows of `table` (vocab, dim) by tokens (rows, patch), and `positions`
// (patch, dim) where there are any.
struct EmbedStep {
  const uint16_t* tokens;
  const float *table, *positions;
  float* out;
  int patch, dim, vocab;
};
// `width` elements of each row; of 2 or 4 bytes. Strides in elements.
struct CopyStep {
  const void* from;
  void* to;
  int64_t from_stride, to_stride;
  int width, element;
};
struct DecodeStep {
  const float* logits;
  RangeDecoder* decoders;
  uint16_t* bytes;
  int vocab;
};

struct alignas(16) Step {
  enum class Kind : int { linear, rotary, attention, embed, copy, decode } kind;
  int rows;  // for each of the program's rows
  int next;  // of products and attention: the next of the same kind, or the number of all
  union {
    LinearStep linear;
    RotaryStep rotary;
    AttentionStep attention;
    EmbedStep embed;
    CopyStep copy;
    DecodeStep decode;
  };
  Step() : kind(Kind::copy), rows(0), next(0), copy{} {}
  Step(const LinearStep& s) : kind(Kind::linear), rows(0), next(0), linear(s) {}           // NOLINT
  Step(const RotaryStep& s) : kind(Kind::rotary), rows(0), next(0), rotary(s) {}           // NOLINT
  Step(const AttentionStep& s) : kind(Kind::attention), rows(0), next(0), attention(s) {}  // NOLINT
  Step(const EmbedStep& s) : kind(Kind::embed), rows(0), next(0), embed(s) {}              // NOLINT
  Step(const CopyStep& s) : kind(Kind::copy), rows(0), next(0), copy(s) {}                 // NOLINT
  Step(const DecodeStep& s) : kind(Kind::decode), rows(0), next(0), decode(s) {}           // NOLINT
};

class Program {
 public:
  explicit Program(cuda::Context& context) : context_(context) {}

  // While it lives, take() collects steps of `rows` rows that know nothing of each other. Whatever
  // else is enqueued comes after what was collected before it; at the end, launch().
  class Collecting {
   public:
    Collecting(Program& program, int64_t rows) : program_(program) { program_.rows_ = rows; }
    ~Collecting() {
      program_.rows_ = 0;
      program_.steps_.clear();
    }
    Collecting(const Collecting&) = delete;
    Collecting& operator=(const Collecting&) = delete;

   private:
    Program& program_;
  };
  // Takes a step on `rows` rows, or refuses: it does not collect, the rows are no multiple of its
  // own, or the step is of another size than those that the kernel is made for. Then the caller
  // enqueues it.
  bool take(Step step, int64_t rows);
  void launch();  // what is collected, if anything is

 private:
  bool fits(const Step& step) const;

  cuda::Context& context_;
  int64_t rows_ = 0;  // 0: it does not collect
  std::vector<Step> steps_;
};

}  // namespace megabyte::exact_cuda
