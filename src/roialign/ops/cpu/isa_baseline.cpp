#include "isa.h"

namespace roialign {
extern const Kernels baseline_kernels = kernels_named("baseline");
}
