// Decodes a batch of rows byte by byte with cached keys and values in every stage: a stage runs
// once for each of its positions, so a byte costs the finest stage's step and, where a patch
// begins, its parents'. All memory is planned once; no byte allocates any.
//
// The rows go in step: they have the same length, and each byte is added to all of them. Past the
// context the rows slide: some of the last bytes are kept and go in as a new prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "generate/prefill.h"
#include "generate/stage_decoder.h"
#include "model/hierarchy.h"

namespace megabyte {

class Decoder {
 public:
  // Bytes that draw() draws together: `count` from place `first` on of a run of run_length().
  struct Run {
    int64_t first, count;
  };
  // Chooses tokens (B) u16 for logits (B, V, master dtype) at place i of a run, by operations of
  // the backend: the same ones whenever it is called for i.
  using Choose = std::function<void(int64_t i, const Tensor& logits, const Tensor& tokens)>;

  // `kept`: bytes that a full row keeps, less than the context; by default half_context().
  Decoder(const Hierarchy& model, int64_t batch, Choose choose = {},
          std::optional<int64_t> kept = {});

  // Bytes that a batch takes, beside what a slide or a prompt needs while it runs.
  static size_t memory(const Hierarchy& model, int64_t batch);

  int64_t batch() const { return batch_; }
  int64_t length() const { return length_; }  // bytes in a row
  // In whole patches of the coarsest stage where it has several.
  static int64_t half_context(const Config& config);

  // Starts the rows anew with tokens (B, count) of the host; of more than a context's, the end (as
  // if all had come byte by byte and slid).
  void prompt(const uint16_t* tokens, int64_t count);

  // One byte at a time: logits (B, V, master dtype) of the byte that comes next, then its tokens
  // (B) of the host.
  const Tensor& advance();
  void accept(const uint16_t* tokens);

  // Several bytes with one wait for the backend: at most `most`, within one patch of the coarsest
  // stage. A whole patch is recorded and replayed where the backend allows it. Gives their tokens
  // (run.count, B).
  int64_t run_length() const { return run_length_; }
  Run next_run(int64_t most);
  const std::vector<uint16_t>& draw(const Run& run);

 private:
  void plan(Arena& arena);
  void reset();
  void start(const std::vector<uint16_t>& rows);  // (B, length)
  void slide();
  bool full() const { return length_ == context_; }
  Tensor token(int64_t i) const { return tokens_.slice(i, 1).view({batch_}); }

  // Of the stages from `coarsest` on, whose parent, if any, has run: one at its next position,
  // after its parents where a sequence begins; all of them, and the head; the positions that end
  // with the last byte.
  void run_stage(size_t stage, size_t coarsest);
  void step(size_t coarsest);
  void complete(size_t coarsest);
  void complete_stage(size_t stage);
  void draw_each(const Run& run, size_t coarsest);  // bytes, of the stages from `coarsest` on
  void draw_patch(const Run& run);

  const Hierarchy& model_;
  Backend& backend_;
  int64_t batch_, context_, patch_, run_length_, kept_, length_ = 0;
  Choose choose_;
  bool advanced_ = false;        // the next position has run
  bool coarsest_ahead_ = false;  // the coarsest stage's next position has run
  std::vector<uint16_t> rows_;   // (context, B): the bytes so far
  std::vector<uint16_t> drawn_;
  Buffer buffer_;
  std::vector<StageDecoder> stages_;
  std::optional<Prefill> slide_;  // of the bytes kept
  Tensor tokens_;                 // (run_length, B) u16: of the run in which the next byte lies
  Tensor bytes_;                  // (B * patch) u16: those under one position
  Tensor logits_;                 // (B, V) master dtype

  // What runs below the coarsest stage, for each kind of patch whose operations are the same: a
  // row's first patch and all others; or, where a finer stage sees earlier patches, those at each
  // place of a row, which come again as rows slide. Empty: too many kinds to record.
  struct Patch {
    bool has_run = false;  // operation by operation
    std::unique_ptr<Recording> recording;
  };
  std::vector<Patch> patches_;
};

}  // namespace megabyte
