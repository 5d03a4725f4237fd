// Decodes a batch of rows byte by byte with cached keys and values in every stage: a stage runs
// once for each of its positions, so a byte costs the finest stage's step and, where a patch
// begins, its parents'. All memory is planned once; no byte allocates any.
//
// The rows go in step: they have the same length, and each accept() adds a byte to all of them.
// Past the context the rows slide: kept_when_full() last bytes are kept and go in as a new prompt.
#pragma once

#include <cstdint>
#include <vector>

#include "generate/stage_decoder.h"
#include "model/hierarchy.h"

namespace megabyte {

class Decoder {
 public:
  Decoder(const Hierarchy& model, int64_t batch);

  int64_t batch() const { return batch_; }
  int64_t length() const { return length_; }  // bytes in a row
  // Half of the context, in whole patches of the coarsest stage where it has several.
  static int64_t kept_when_full(const Config& config);

  // Starts the rows anew with tokens (B, count) of the host; of more than a context's, the end (as
  // if all had come byte by byte and slid).
  void prompt(const uint16_t* tokens, int64_t count);
  // Logits (B, V, master dtype) of the byte that comes next.
  const Tensor& advance();
  // Adds tokens (B) u16 on the backend, after advance().
  void accept(const Tensor& tokens);

 private:
  void plan(Arena& arena);
  void reset();
  void run(size_t stage);    // at its next position, its parents first where a sequence begins
  void complete();           // the positions that end with the last byte, finest first
  void feed(int64_t count);  // the first `count` tokens of prompt_
  void slide();

  const Hierarchy& model_;
  Backend& backend_;
  int64_t batch_, context_, length_ = 0;
  bool advanced_ = false;  // the next position has run
  Buffer buffer_;
  std::vector<StageDecoder> stages_;
  Tensor row_;     // (B * context) u16: the bytes so far
  Tensor prompt_;  // (B * context) u16: bytes to come
  Tensor bytes_;   // (B * P_0) u16: those under one position
  Tensor token_;   // (B) u16
  Tensor logits_;  // (B, V) master dtype
  std::vector<uint16_t> staging_;
};

}  // namespace megabyte
