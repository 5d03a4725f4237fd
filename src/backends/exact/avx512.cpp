// The kernels for AVX-512 with VNNI (compiled with those options).
#include "backends/exact/kernels-inl.h"

MEGABYTE_EXACT_KERNELS(avx512)
