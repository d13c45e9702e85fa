// Vectors of the instruction set that a file is compiled for, on the vector types of GCC and clang.
//
// Included by files that are compiled once for each instruction set. All is in an unnamed namespace,
// and no header with inline functions is included: the linker keeps one of several equal inline
// functions, and it must not keep the one that an older processor cannot run.
#pragma once

#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "types.h"

namespace roialign {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T, int L>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
};

template <typename T, int L>
using Vector = typename VectorOf<T, L>::type;

// float16 bits to float, for all values.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits;
  if (magnitude >= 0x7c00u) {
    bits = (magnitude << 13) | 0x7f800000u;  // infinite or NaN
  } else if (magnitude >= 0x0400u) {
    bits = (magnitude << 13) + 0x38000000u;
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    __builtin_memcpy(&bits, &subnormal, sizeof bits);
  }
  bits |= sign;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// float to float16 bits, to the nearest, ties to even.
inline uint16_t float_to_half(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return sign | 0x7e00u;
  }
  if (magnitude >= 0x477ff000u) {
    return sign | 0x7c00u;  // rounds to 2^16 or more
  }
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the spacing is 2^-24, that of floats in [1/2, 1).
    float shifted;
    __builtin_memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5f;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    return sign | static_cast<uint16_t>(bits - 0x3f000000u);
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

template <typename T>
inline T widen(T value) {
  return value;
}
inline float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}
inline float widen(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  return half_to_float(value.bits);
#endif
}

inline void narrow(float value, float* to) { *to = value; }
inline void narrow(double value, double* to) { *to = value; }
inline void narrow(float value, BFloat16* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  to->bits = value != value ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void narrow(float value, Half* to) {
#if defined(__F16C__)
  to->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  to->bits = float_to_half(value);
#endif
}

template <int L>
inline Vector<double, L> load(const double* from) {
  Vector<double, L> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
template <int L>
inline Vector<float, L> load(const float* from) {
  Vector<float, L> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
template <int L>
inline Vector<float, L> load(const BFloat16* from) {
  Vector<uint16_t, L> bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return (Vector<float, L>)(__builtin_convertvector(bits, Vector<uint32_t, L>) << 16);
}
template <int L>
inline Vector<float, L> load(const Half* from) {
#if defined(__AVX512F__)
  if constexpr (L == 16) {
    return (Vector<float, L>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
#endif
#if defined(__F16C__)
  if constexpr (L == 8) {
    return (Vector<float, L>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
#endif
  Vector<float, L> value;
  for (int lane = 0; lane < L; ++lane) {
    value[lane] = widen(from[lane]);
  }
  return value;
}

// The first `count` lanes; zeros in the others.
template <int L, typename scalar_t>
inline auto load_first(const scalar_t* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(scalar_t) * L == 64 && sizeof(scalar_t) == 4) {
    return (Vector<scalar_t, L>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), from);
  }
#endif
  scalar_t first[L] = {};
  for (int64_t lane = 0; lane < count; ++lane) {
    first[lane] = from[lane];
  }
  return load<L>(first);
}

template <int L>
inline void store(double* to, Vector<double, L> value) {
  __builtin_memcpy(to, &value, sizeof value);
}
template <int L>
inline void store(float* to, Vector<float, L> value) {
  __builtin_memcpy(to, &value, sizeof value);
}
template <int L>
inline void store(BFloat16* to, Vector<float, L> value) {
  const auto bits = (Vector<uint32_t, L>)value;
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const auto chosen = value == value ? (Vector<int32_t, L>)rounded : (Vector<int32_t, L>){} + 0x7fc0;
  const auto narrowed = __builtin_convertvector((Vector<uint32_t, L>)chosen, Vector<uint16_t, L>);
  __builtin_memcpy(to, &narrowed, sizeof narrowed);
}
template <int L>
inline void store(Half* to, Vector<float, L> value) {
#if defined(__AVX512F__)
  if constexpr (L == 16) {
    const __m256i bits = _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
    return;
  }
#endif
#if defined(__F16C__)
  if constexpr (L == 8) {
    const __m128i bits = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits);
    return;
  }
#endif
  for (int lane = 0; lane < L; ++lane) {
    narrow(value[lane], to + lane);
  }
}

// The first `count` lanes.
template <int L, typename scalar_t, typename V>
inline void store_first(scalar_t* to, V value, int64_t count) {
#if defined(__AVX512VL__)
  if constexpr (sizeof(V) == 64 && sizeof(scalar_t) == 4) {
    return _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), (__m512)value);
  } else if constexpr (sizeof(V) == 32 && sizeof(scalar_t) == 4) {
    return _mm256_mask_storeu_ps(to, static_cast<__mmask8>((1u << count) - 1u), (__m256)value);
  }
#endif
  scalar_t all[L];
  store<L>(all, value);
  for (int64_t lane = 0; lane < count; ++lane) {
    to[lane] = all[lane];
  }
}

template <typename V>
inline bool any_nan(V value) {
#if defined(__AVX512VL__)
  if constexpr (sizeof(V) == 64 && sizeof(value[0]) == 4) {
    return _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q) != 0;
  } else if constexpr (sizeof(V) == 32 && sizeof(value[0]) == 4) {
    return _mm256_cmp_ps_mask((__m256)value, (__m256)value, _CMP_UNORD_Q) != 0;
  }
#endif
  const auto unordered = value != value;
  bool any = false;
  for (unsigned lane = 0; lane < sizeof(V) / sizeof(value[0]); ++lane) {
    any |= unordered[lane] != 0;
  }
  return any;
}

}  // namespace
}  // namespace roialign
