#include "ops/quantised_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace megabyte {

float quantise_row(const float* row, int64_t count, int8_t* q) {
  float amax = 0;
  for (int64_t i = 0; i < count; ++i) {
    check(std::isfinite(row[i]), "weights are finite");
    amax = std::max(amax, std::abs(row[i]));
  }
  if (amax < 0x1p-100f) {  // nothing, or as good as nothing
    std::fill_n(q, count, int8_t{0});
    return 0;
  }
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(amax / 127) + 0xff) & ~0xffu);
  for (int64_t i = 0; i < count; ++i) {
    const float rounded = row[i] / scale + 0x1.8p23f;  // to nearest even, in the low bits
    q[i] = static_cast<int8_t>(std::bit_cast<uint32_t>(rounded) & 0xff);
  }
  return scale;
}

QuantisedRows quantise_rows(const float* values, int64_t rows, int64_t count) {
  QuantisedRows all{std::vector<int8_t>(static_cast<size_t>(rows * count)),
                    std::vector<float>(static_cast<size_t>(rows))};
  for (int64_t r = 0; r < rows; ++r)
    all.scales[static_cast<size_t>(r)] =
        quantise_row(values + r * count, count, all.q.data() + r * count);
  return all;
}

}  // namespace megabyte
