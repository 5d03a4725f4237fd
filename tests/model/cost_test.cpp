// Counts against numbers worked out by hand.
#include "model/cost.h"

#include <gtest/gtest.h>

#include <vector>

#include "backends/reference/backend.h"
#include "base/error.h"
#include "model/hierarchy.h"
#include "model/parameters.h"
#include "support/configs.h"
#include "train/trainer.h"

namespace megabyte {
namespace {

// Context 16: 4 patches of 4 bytes.
Config two_stages() {
  return {.stages = {{4, 16, 2, 2, 32, Positions::none}, {4, 8, 1, 2, 16, Positions::none}}};
}

TEST(Cost, ParametersByStage) {
  const Cost cost = count_cost(two_stages(), 16);
  // A block: 4 D^2 + 2 D F multiply; 9 D + F are norms and biases.
  EXPECT_EQ(cost.stages[0].matrix_parameters, 2 * (4 * 16 * 16 + 2 * 16 * 32));
  EXPECT_EQ(cost.stages[0].parameters, 256 * 4 + 16 + 2 * (2048 + 9 * 16 + 32) + 32);
  EXPECT_EQ(cost.stages[1].matrix_parameters, 8 * 4 + 512);
  EXPECT_EQ(cost.stages[1].parameters, 256 * 8 + 8 + 32 + (512 + 9 * 8 + 16) + 16);
  EXPECT_EQ(cost.parameters, 5520 + 2704);
  EXPECT_EQ(cost.head_parameters, 0);
}

TEST(Cost, ExactOperationsOfTwoStages) {
  const Cost cost = count_cost(two_stages(), 16);
  // One global position in four bytes, 2 FLOPs a parameter that multiplies.
  EXPECT_DOUBLE_EQ(cost.stages[0].products, 2.0 * 4096 / 4);
  EXPECT_DOUBLE_EQ(cost.stages[1].products, 2.0 * 544);
  // 1 + 2 + 3 + 4 pairs a layer, 4 D FLOPs each, over 16 bytes.
  EXPECT_DOUBLE_EQ(cost.stages[0].attention, 2 * 10 * 4.0 * 16 / 16);
  EXPECT_DOUBLE_EQ(cost.stages[1].attention, 4 * 10 * 4.0 * 8 / 16);
  EXPECT_DOUBLE_EQ(cost.head, 2.0 * 8 * 256);
  EXPECT_DOUBLE_EQ(cost.forward(), 2048 + 1088 + 80 + 80 + 4096);
  EXPECT_DOUBLE_EQ(cost.training(false), 3.0 * (2048 + 1088 + 4096) + 3.5 * 160);
  // Checkpointing runs the blocks again but for their last product (D F parameters), and not the
  // projection from the parent or the head.
  EXPECT_DOUBLE_EQ(cost.training(true) - cost.training(false),
                   2048 - 2 * 2.0 * 512 / 4 + 80 + 1024 - 2.0 * 128 + 80);
}

TEST(Cost, PaperCountOfTwoStages) {
  const Cost cost = count_cost(two_stages(), 16);
  // 2 (m_global / P + m_local) and, a layer and position, 2 n D for attention.
  EXPECT_DOUBLE_EQ(cost.paper_forward(),
                   2.0 * (4096.0 / 4 + 544) + 2 * (2 * 4 * 16) / 4.0 + 2 * 4 * 8);
  EXPECT_DOUBLE_EQ(cost.paper_training(), 3 * cost.paper_forward());
}

TEST(Cost, LinearAttentionIsNineWidthsByThePaper) {
  Config config{.stages = {{64, 16, 2, 2, 32, Positions::none, AttentionKind::linear}}};
  const Cost cost = count_cost(config, 64);
  EXPECT_DOUBLE_EQ(cost.paper_forward(), 2.0 * 4096 + 2 * 9 * 16);
}

TEST(Cost, LinearAttentionIsAStateWhereThatIsLessThanAllPairs) {
  // A head of width 8: a position adds to an 8 x 8 state and asks it.
  Config config{.stages = {{64, 16, 2, 2, 32, Positions::none, AttentionKind::linear}}};
  EXPECT_DOUBLE_EQ(count_cost(config, 64).stages[0].attention, 2 * 4.0 * 16 * 8);
  // Four positions have ten pairs, a state takes 32.
  EXPECT_DOUBLE_EQ(count_cost(config, 4).stages[0].attention, 2 * 4.0 * 16 * 10 / 4);
  // Only the positions that go on ask.
  config.latents = 16;
  EXPECT_DOUBLE_EQ(count_cost(config, 64).stages[0].attention, 4.0 * 16 * 8 * (40 + 16) / 16);
}

TEST(Cost, CrossPatchSeesOnlyWhatTheRowHas) {
  Config config = two_stages();
  config.stages[1].cross_patch = 6;
  const Cost cost = count_cost(config, 16);
  // Beside its own 10 pairs, each of a patch's 4 positions sees 0, 4, 6 and 6 earlier ones.
  EXPECT_DOUBLE_EQ(cost.stages[1].attention, (40 + 4 * 16) * 4.0 * 8 / 16);
}

TEST(Cost, PerceiverCountsItsLatents) {
  Config config{.latents = 4, .stages = {{16, 16, 2, 2, 32, Positions::none}}};
  const Cost cost = count_cost(config, 16);
  EXPECT_EQ(cost.predicted, 4);
  // The last 4 of 16 positions see 13 to 16 keys; in the second block 1 to 4.
  EXPECT_DOUBLE_EQ(cost.stages[0].attention, (58 + 10) * 4.0 * 16 / 4);
  // First block: q, k, v of all 16, the rest of 4; second block: 4 positions.
  EXPECT_DOUBLE_EQ(cost.stages[0].products, 2.0 * (16 * 768 + 4 * (256 + 1024) + 4 * 2048) / 4);
  // By the paper the silent positions give keys and values only.
  EXPECT_DOUBLE_EQ(cost.paper_forward(),
                   2.0 * 4096 + 2.0 * 12 * 512 / 4 + (12 + 2) * 4.0 * 16 + 2 * 4.0 * 16);
  // More latents than bytes: every byte is predicted.
  EXPECT_EQ(count_cost(config, 3).predicted, 3);
}

TEST(Cost, RaggedLengthsPayForTheWholePatch) {
  const Cost whole = count_cost(two_stages(), 16), ragged = count_cost(two_stages(), 13);
  EXPECT_DOUBLE_EQ(ragged.forward() * 13, whole.forward() * 16);
  EXPECT_THROW(count_cost(two_stages(), 0), Error);
  EXPECT_THROW(count_cost(two_stages(), 17), Error);
}

TEST(Cost, SerialStepsOfAPatch) {
  const Cost cost = count_cost(two_stages(), 16);
  EXPECT_EQ(cost.stages[0].steps, 1);
  EXPECT_EQ(cost.stages[1].steps, 4);
  EXPECT_EQ(cost.serial_layers(), 2 + 4 * 1);
}

TEST(Cost, Memory) {
  const TrainingMemory f32 = training_memory(two_stages(), DType::f32);
  EXPECT_EQ(f32.weights, 4 * 8224);
  EXPECT_EQ(f32.gradients, 4 * 8224);
  EXPECT_EQ(f32.moments, 8 * 8224);
  EXPECT_EQ(training_memory(two_stages(), DType::bf16).weights, 6 * 8224);
  // Keys and values: 2 layers of 4 positions of 16, 1 layer of 4 positions of 8.
  EXPECT_EQ(generation_memory(two_stages(), DType::f32, 3).caches,
            3 * 4 * (2 * 2 * 4 * 16 + 2 * 4 * 8));
  // A running sum of 2 heads of width 4, and the 6 rows of q, k, v that a patch's sum begins with.
  Config linear = two_stages();
  linear.stages[1].attention = AttentionKind::linear;
  linear.stages[1].positions = Positions::rotary;
  linear.stages[1].cross_patch = 6;
  EXPECT_EQ(generation_memory(linear, DType::f32, 3).caches,
            3 * 4 * (2 * 2 * 4 * 16 + (4 + 1) * 8 + 6 * 3 * 8));
}

// Counts what is allocated through it, bytes.
class CountingBackend final : public reference::ReferenceBackend {
 public:
  Buffer allocate(size_t bytes) override {
    allocated += bytes;
    return ReferenceBackend::allocate(bytes);
  }
  size_t allocated = 0;
};

TEST(Cost, TrainingTakesTheMemoryThatIsPredicted) {
  for (const auto& [name, config] : test::small_configs())
    for (const bool checkpoint : {false, true}) {
      SCOPED_TRACE(name);
      CountingBackend backend;
      Hierarchy model(config, backend, DType::f32, true);
      const TrainSettings settings{.batch = 2, .steps = 1, .checkpoint_activations = checkpoint};
      Trainer trainer(model, settings);
      const std::vector<uint16_t> tokens(static_cast<size_t>(2 * config.context()), 1);
      trainer.step(tokens.data(), 0, 1e-3);
      const TrainingMemory memory = training_memory(config, DType::f32);
      const size_t activations = Hierarchy::activation_bytes(
          config, backend, DType::f32,
          {.batch = 2, .length = config.context(), .training = true, .checkpoint = checkpoint});
      const size_t predicted =
          static_cast<size_t>(memory.weights + memory.gradients + memory.moments) + activations;
      // Parameters lie at multiples of 64 elements, four times over.
      const size_t alignment = 4 * 4 * 64 * (model.parameters().specs().size() + 1);
      EXPECT_GE(backend.allocated, predicted);
      EXPECT_LE(backend.allocated, predicted + alignment);
    }
}

TEST(Cost, EveryModelOfTheFamily) {
  for (const auto& [name, config] : test::small_configs()) {
    SCOPED_TRACE(name);
    const Cost cost = count_cost(config, config.context());
    EXPECT_EQ(cost.parameters, parameter_count(config));
    int64_t sum = cost.head_parameters;
    for (const StageCost& stage : cost.stages) sum += stage.parameters;
    EXPECT_EQ(sum, cost.parameters);
    EXPECT_GT(cost.forward(), 0);
    EXPECT_GT(cost.training(true), cost.training(false));
  }
}

TEST(Cost, SweepIsThePapersPicture) {
  const Sweep sweep = sweep_lengths();
  ASSERT_EQ(sweep.lengths.front(), 1024);
  ASSERT_EQ(sweep.lengths.back(), 1 << 20);
  ASSERT_EQ(sweep.models.size(), 9u);
  // 452M + 151M, 5.8B + 604M, 170B + 3.2B parameters.
  EXPECT_NEAR(static_cast<double>(sweep.models[2].parameters), 603e6, 6e6);
  EXPECT_NEAR(static_cast<double>(sweep.models[5].parameters), 6.4e9, 6.4e7);
  EXPECT_NEAR(static_cast<double>(sweep.models[8].parameters), 173.2e9, 1.7e9);
  for (size_t size = 0; size < 9; size += 3)
    for (size_t i = 0; i < sweep.lengths.size(); ++i) {
      const double plain = sweep.models[size].flops_per_byte[i];
      const double linear = sweep.models[size + 1].flops_per_byte[i];
      const double megabyte = sweep.models[size + 2].flops_per_byte[i];
      EXPECT_LT(megabyte, plain) << sweep.models[size + 2].name << " at " << sweep.lengths[i];
      EXPECT_LT(linear, plain);
      // Attention between patches overtakes the small model's products towards a million bytes.
      if (sweep.lengths[i] <= 1 << 18) {
        EXPECT_LT(megabyte, linear);
      }
    }
}

}  // namespace
}  // namespace megabyte
