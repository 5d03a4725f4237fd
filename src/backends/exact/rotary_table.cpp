#include "backends/exact/rotary_table.h"

#include <algorithm>
#include <cmath>

#include "backends/exact/floating_point.h"

namespace megabyte::exact {
namespace {

double nearest(double x) {  // to even
  constexpr double kRounder = 0x1.8p52;
  return (x + kRounder) - kRounder;
}

// 10000^(-2 pair / head_dim) as a power of 2: a whole one times e^z, z within ln(2) / 2.
double frequency(int64_t pair, int64_t head_dim) {
  const double power = static_cast<double>(2 * pair) / static_cast<double>(head_dim) *
                       0x1.a934f0979a371p+3;                                        // log2(10000)
  const double whole = nearest(power), z = (whole - power) * 0x1.62e42fefa39efp-1;  // ln(2)
  double e = 1;
  for (int k = 17; k >= 1; --k) e = std::fma(e, z / k, 1);
  return std::ldexp(e, -static_cast<int>(whole));
}

}  // namespace

Turn rotary_turn(int64_t position, int64_t pair, int64_t head_dim) {
  const double angle = static_cast<double>(position) * frequency(pair, head_dim);
  const double quarters = nearest(angle * 0x1.45f306dc9c883p-1);  // 2 / pi
  double r = std::fma(-quarters, 0x1.921fb54442d18p+0, angle);    // pi / 2 in two parts
  r = std::fma(-quarters, 0x1.1a62633145c07p-54, r);
  const double square = r * r;
  double cosine = 1, sine = 1;
  for (int j = 9; j >= 1; --j) {
    cosine = std::fma(-cosine, square / (2 * j * (2 * j - 1)), 1);
    sine = std::fma(-sine, square / (2 * j * (2 * j + 1)), 1);
  }
  const auto c = static_cast<float>(cosine), s = static_cast<float>(r * sine);
  switch (static_cast<int64_t>(quarters) & 3) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

std::shared_ptr<const RotaryTable> RotaryTables::up_to(int64_t positions, int64_t head_dim) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<const RotaryTable>& table = tables_[head_dim];
  if (table && table->positions >= positions) return table;
  const StandardFloatingPoint standard;
  const int64_t half = head_dim / 2;
  auto grown = table ? std::make_shared<RotaryTable>(*table) : std::make_shared<RotaryTable>();
  // Decoding asks for one more each time.
  positions = std::max(positions, 2 * grown->positions);
  for (int64_t p = grown->positions; p < positions; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const Turn turn = rotary_turn(p, i, head_dim);
      grown->cosines.push_back(turn.cosine);
      grown->sines.push_back(turn.sine);
    }
  grown->positions = positions;
  table = grown;
  return table;
}

}  // namespace megabyte::exact
