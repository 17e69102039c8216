// Copies between a program's buffers and shared memory.
#pragma once

#include <string.h>

#include <cstddef>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace booster::common {

/// Copies `length` bytes; the two do not overlap. Any thread, also in signal handlers.
///
/// memcpy() of libc copies pages with `rep movsb`, which AMD's Zen processors do at a sixth of
/// their speed (measured: 2.2 GB/s in place of 12) where the destination's place in its page lies a
/// little behind the source's. That is how malloc() lays out large buffers, 16 bytes behind the
/// beginning of a page, and pages of files begin at that of theirs.
inline void copy_bytes(void* to, const void* from, size_t length) {
#ifdef __SSE2__
  constexpr size_t kWorthIt = 512;
  constexpr size_t kStep = 64;
  if (length >= kWorthIt) {
    auto* target = static_cast<std::byte*>(to);
    const auto* source = static_cast<const std::byte*>(from);
    for (; length >= kStep; length -= kStep, target += kStep, source += kStep) {
      __m128i words[4];
      for (int i = 0; i < 4; ++i) {
        words[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source) + i);
      }
      for (int i = 0; i < 4; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target) + i, words[i]);
      }
    }
    to = target;
    from = source;
  }
#endif
  memcpy(to, from, length);
}

}  // namespace booster::common
