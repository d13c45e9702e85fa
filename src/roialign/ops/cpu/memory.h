// Memory of the kernels: aligned vectors, and large pages for large results.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace roialign {

template <typename T>
struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* values, size_t) { ::operator delete(values, std::align_val_t{64}); }
  bool operator==(const Aligned&) const { return true; }
};

// A vector whose values start at a cache line.
template <typename T>
using AlignedVector = std::vector<T, Aligned<T>>;

constexpr int64_t kLargeBytes = 4 << 20;

// Asks for large pages under a large result that is about to be written. Most such results are fresh
// from the system, and getting them by pages of 4 KB costs as much as computing what is in them.
inline void prefer_large_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  if (bytes >= kLargeBytes) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: refused is fine
  }
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace roialign
