#include "base/tensor.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/arena.h"

namespace megabyte {
namespace {

TEST(Shape, ExtentsFromBothEnds) {
  const Shape s{2, 3, 5};
  EXPECT_EQ(s.rank(), 3);
  EXPECT_EQ(s[0], 2);
  EXPECT_EQ(s[-1], 5);
  EXPECT_EQ(s.size(), 30);
  EXPECT_EQ(s.to_string(), "(2, 3, 5)");
  EXPECT_EQ(s, Shape(std::vector<int64_t>{2, 3, 5}));
  EXPECT_NE(s, (Shape{2, 3}));
  EXPECT_EQ(Shape().size(), 1);
  EXPECT_EQ((Shape{4, 0}).size(), 0);
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), Error);
}

TEST(Tensor, ViewsAndSlicesShareElements) {
  std::vector<float> data(24);
  const Tensor t{data.data(), DType::f32, {4, 2, 3}};
  EXPECT_EQ(t.bytes(), 96u);
  EXPECT_EQ(t.view({6, 4}).data, t.data);
  EXPECT_THROW(t.view({5, 5}), Error);

  const Tensor part = t.slice(1, 2);
  EXPECT_EQ(part.shape, (Shape{2, 2, 3}));
  EXPECT_EQ(part.as<float>(), data.data() + 6);
  EXPECT_EQ(t.slice(4, 0).size(), 0);
  EXPECT_THROW(t.slice(3, 2), Error);
  EXPECT_THROW(t.slice(-1, 2), Error);
  EXPECT_THROW(t.slice(0, -1), Error);
  EXPECT_THROW((Tensor{data.data(), DType::f32, {}}.slice(0, 1)), Error);
}

TEST(Tensor, IsReadAsItsOwnTypeOnly) {
  float x = 1;
  const Tensor t{&x, DType::f32, {1}};
  EXPECT_EQ(t.as<float>(), &x);
  EXPECT_THROW(t.as<double>(), Error);
  EXPECT_TRUE(t);
  EXPECT_FALSE(Tensor{});
}

// The same plan on a measuring arena and on memory of the measured size.
TEST(Arena, MeasuresThenCarvesAlignedTensors) {
  const auto plan = [](Arena& arena) {
    std::vector<Tensor> made{arena.make({3}, DType::f32), arena.make({300}, DType::f64)};
    const size_t scratch = arena.position();
    made.push_back(arena.make({1000}, DType::u8));
    arena.rewind(scratch);
    made.push_back(arena.make({10}, DType::u8));
    return made;
  };
  Arena measuring;
  for (const Tensor& t : plan(measuring)) EXPECT_FALSE(t);
  std::vector<std::byte> memory(measuring.peak());
  Arena arena(memory.data());
  const std::vector<Tensor> made = plan(arena);
  EXPECT_EQ(arena.peak(), measuring.peak());
  for (const Tensor& t : made) {
    const auto at = static_cast<size_t>(static_cast<std::byte*>(t.data) - memory.data());
    EXPECT_EQ(at % Arena::kAlignment, 0u);
    EXPECT_LE(at + t.bytes(), memory.size());
  }
  EXPECT_EQ(made[2].data, made[3].data);  // scratch is used again
  EXPECT_GE(static_cast<std::byte*>(made[1].data) - memory.data(), 12);
}

TEST(Arena, APartHasABorderOfItsOwn) {
  std::vector<std::byte> memory(4096);
  Arena arena(memory.data());
  Arena part = arena.part(600);
  const Tensor inside = part.make({600}, DType::u8), after = arena.make({1}, DType::u8);
  EXPECT_EQ(inside.data, memory.data());
  EXPECT_GE(static_cast<std::byte*>(after.data), memory.data() + 600);
}

}  // namespace
}  // namespace megabyte
