#if defined(__x86_64__)
#include "isa.h"

namespace roialign {
extern const Kernels avx2_kernels = kernels_named("avx2");
}
#endif
