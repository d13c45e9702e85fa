// Which kernels this processor can run.
#pragma once

#include "kernels.h"

namespace roialign {

// The best that the processor can run, or what ROIALIGN_CPU_CAPABILITY names, if it can run that.
const Kernels& best_kernels();

}  // namespace roialign
