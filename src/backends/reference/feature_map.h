// The feature map of linear attention, elu(x) + 1 (Katharopoulos et al. 2020, eq. 7).
#pragma once

#include <cmath>

namespace megabyte::reference {

inline double feature(double x) { return x > 0 ? x + 1 : std::exp(x); }
inline double feature_slope(double x) { return x > 0 ? 1 : std::exp(x); }

}  // namespace megabyte::reference
