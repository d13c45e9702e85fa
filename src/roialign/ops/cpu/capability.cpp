#include "capability.h"

#include <cstdlib>
#include <cstring>
#include <vector>

namespace roialign {
namespace {

std::vector<const Kernels*> runnable_kernels() {
  std::vector<const Kernels*> runnable = {&baseline_kernels};
#if defined(__x86_64__)
  // F16C, which the files for AVX2 use too, came before AVX2; compilers differ in how to ask for it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    runnable.push_back(&avx2_kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      runnable.push_back(&avx512_kernels);
    }
  }
#endif
  return runnable;
}

const Kernels& choose_kernels() {
  const std::vector<const Kernels*> runnable = runnable_kernels();
  if (const char* name = std::getenv("ROIALIGN_CPU_CAPABILITY")) {
    for (const Kernels* kernels : runnable) {
      if (std::strcmp(kernels->name, name) == 0) {
        return *kernels;
      }
    }
  }
  return *runnable.back();
}

}  // namespace

const Kernels& best_kernels() {
  static const Kernels& best = choose_kernels();
  return best;
}

}  // namespace roialign

// For `roialign env`, which asks through ctypes.
extern "C" __attribute__((visibility("default"))) const char* roialign_cpu_capability() {
  return roialign::best_kernels().name;
}
