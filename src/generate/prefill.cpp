#include "generate/prefill.h"

#include <algorithm>

namespace megabyte {
namespace {

struct Memory {
  std::vector<StageShape> shapes;
  std::vector<StageActivations> stages;

  Memory(const Hierarchy& model, size_t stage_count, const BatchPlan& plan, Arena& arena) {
    const DType compute = model.compute();
    for (size_t s = 0; s < stage_count; ++s) {
      shapes.push_back(make_stage_shape(model.config(), static_cast<int>(s), plan, compute,
                                        model.backend().residual_dtype(compute)));
      stages.push_back(plan_stage(arena, arena, shapes.back(), plan));
    }
  }
};

}  // namespace

void prefill(const Hierarchy& model, std::vector<StageDecoder>& decoders, int64_t batch,
             int64_t patches, const Tensor& tokens) {
  Backend& backend = model.backend();
  // The stages down to the finest one that remembers earlier patches. They run over one more patch
  // than is complete: the shifted vectors there are the ones that decoding goes on with.
  size_t count = 1;
  for (size_t s = 1; s < decoders.size(); ++s)
    if (decoders[s].sees_earlier_patches()) count = s + 1;
  const BatchPlan plan{.batch = batch, .length = (patches + 1) * model.config().patch_bytes(0)};
  Arena measure;
  const Memory sizes(model, count, plan, measure);
  const Buffer buffer = backend.allocate(measure.peak());
  Arena arena(buffer.data());
  const Memory memory(model, count, plan, arena);

  std::vector<StageRun> runs;
  for (size_t s = 0; s < count; ++s)
    runs.push_back({.backend = backend,
                    .shape = memory.shapes[s],
                    .weights = model.stages()[s],
                    .activations = memory.stages[s],
                    .dropout = {},
                    .observer = [&decoders, &memory, patches, s](
                                    bool encoder, size_t block, const BlockActivations& activations,
                                    const Pending& out) {
                      decoders[s].absorb_block(memory.shapes[s], patches, encoder, block,
                                               activations, out);
                    }});
  for (size_t s = count; s-- > 0;) {
    const StageShape& shape = memory.shapes[s];
    stage_up(
        runs[s], tokens,
        shape.pooled ? memory.stages[s + 1].pooled.view({shape.positions(), shape.dim}) : Tensor{});
  }
  for (size_t s = 0; s < count; ++s) {
    const StageShape& shape = memory.shapes[s];
    stage_down(
        runs[s],
        s == 0 ? Tensor{} : memory.stages[s - 1].out.view({shape.positions(), shape.parent_slice}));
    decoders[s].absorb_stage(shape, patches, memory.stages[s]);
  }
  for (size_t s = count; s < decoders.size(); ++s) decoders[s].skip(patches);
  backend.synchronize();  // before the memory goes
}

}  // namespace megabyte
