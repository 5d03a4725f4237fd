#include "generate/prefill.h"

#include <algorithm>

namespace megabyte {

Prefill::Prefill(const Hierarchy& model, const std::vector<StageDecoder>& stages, int64_t batch,
                 int64_t patches)
    : model_(model),
      patches_(patches),
      // Down to the finest one that remembers earlier patches. They run over one more patch than is
      // complete: the shifted vectors there are the ones that decoding goes on with.
      stage_count_(1),
      plan_{.batch = batch, .length = (patches + 1) * model.config().patch_bytes(0)} {
  check(patches > 0, "a forward over patches");
  for (size_t s = 1; s < stages.size(); ++s)
    if (stages[s].sees_earlier_patches()) stage_count_ = s + 1;
  Arena measure;
  plan(measure);
  buffer_ = model.backend().allocate(measure.peak());
  Arena arena(buffer_.data());
  plan(arena);
}

void Prefill::plan(Arena& arena) {
  const DType compute = model_.compute();
  shapes_.clear();
  stages_.clear();
  tokens_ = arena.make({plan_.batch * plan_.length}, DType::u16);
  for (size_t s = 0; s < stage_count_; ++s) {
    shapes_.push_back(make_stage_shape(model_.config(), static_cast<int>(s), plan_, compute,
                                       model_.backend().residual_dtype(compute)));
    stages_.push_back(plan_stage(arena, arena, shapes_.back(), plan_));
  }
}

void Prefill::run(std::vector<StageDecoder>& decoders, const uint16_t* tokens) const {
  Backend& backend = model_.backend();
  backend.from_host(tokens_, tokens);
  std::vector<StageRun> runs;
  for (size_t s = 0; s < stage_count_; ++s)
    runs.push_back(
        {.backend = backend,
         .shape = shapes_[s],
         .weights = model_.stages()[s],
         .activations = stages_[s],
         .dropout = {},
         .observer = [this, &decoders, s](bool encoder, size_t block,
                                          const BlockActivations& activations, const Pending& out) {
           decoders[s].absorb_block(shapes_[s], patches_, encoder, block, activations, out);
         }});
  for (size_t s = stage_count_; s-- > 0;) {
    const StageShape& shape = shapes_[s];
    stage_up(runs[s], tokens_,
             shape.pooled ? stages_[s + 1].pooled.view({shape.positions(), shape.dim}) : Tensor{});
  }
  for (size_t s = 0; s < stage_count_; ++s) {
    const StageShape& shape = shapes_[s];
    stage_down(runs[s], s == 0 ? Tensor{}
                               : stages_[s - 1].out.view({shape.positions(), shape.parent_slice}));
    decoders[s].absorb_stage(shape, patches_, stages_[s]);
  }
  for (size_t s = stage_count_; s < decoders.size(); ++s) decoders[s].skip(patches_);
  backend.synchronize();  // before the memory goes
}

}  // namespace megabyte
