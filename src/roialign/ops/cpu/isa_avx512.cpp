#if defined(__x86_64__)
#include "isa.h"

namespace roialign {
extern const Kernels avx512_kernels = kernels_named("avx512");
}
#endif
