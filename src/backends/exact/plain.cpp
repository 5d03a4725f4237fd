// The kernels for any processor.
#include "backends/exact/kernels-inl.h"

MEGABYTE_EXACT_KERNELS(plain)
