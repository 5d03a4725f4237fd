#include "base/dtype.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"

namespace megabyte {
namespace {

float through_bf16(float x) { return static_cast<float>(bf16(x)); }

TEST(Bf16, KeepsWhatItCanHold) {
  for (const float x : {0.0f, 1.0f, -2.5f, 0.15625f, 3.0e38f * 0}) EXPECT_EQ(through_bf16(x), x);
  EXPECT_TRUE(std::signbit(through_bf16(-0.0f)));
}

TEST(Bf16, RoundsToNearestAndTiesToEven) {
  const float step = 0x1p-7f;  // between numbers from 1 to 2
  EXPECT_EQ(through_bf16(1 + 0.4f * step), 1);
  EXPECT_EQ(through_bf16(1 + 0.6f * step), 1 + step);
  EXPECT_EQ(through_bf16(1 + 0.5f * step), 1);             // even below
  EXPECT_EQ(through_bf16(1 + 1.5f * step), 1 + 2 * step);  // even above
  EXPECT_EQ(through_bf16(-1 - 1.5f * step), -1 - 2 * step);
}

TEST(Bf16, KeepsNanAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(through_bf16(inf), inf);
  EXPECT_EQ(through_bf16(-inf), -inf);
  EXPECT_EQ(through_bf16(std::numeric_limits<float>::max()), inf);  // nearer than the largest
  // A NaN whose upper half alone would read as infinity.
  EXPECT_TRUE(std::isnan(through_bf16(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::isnan(through_bf16(std::bit_cast<float>(0xffffffffu))));
}

TEST(DType, NamesAndSizes) {
  for (const DType t : {DType::f64, DType::f32, DType::bf16, DType::u16, DType::u8})
    EXPECT_EQ(dtype_from_name(name_of(t)), t);
  EXPECT_EQ(size_of(DType::f64), 8u);
  EXPECT_EQ(size_of(DType::bf16), 2u);
  EXPECT_EQ(size_of(DType::u8), 1u);
  EXPECT_THROW(dtype_from_name("f16"), Error);
}

}  // namespace
}  // namespace megabyte
