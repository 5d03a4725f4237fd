// The kernels for AVX2 and FMA (compiled with those options).
#include "backends/exact/kernels-inl.h"

MEGABYTE_EXACT_KERNELS(avx2)
