// System calls that bypass libc: no errno, no cancellation point, no interposition. The shim uses
// them for its own needs, so that it never calls into itself or into another preloaded library.
#pragma once

#include <sys/syscall.h>

namespace booster::common {

#if defined(__x86_64__)
/// Returns the kernel's word: a result, or -errno in [-4095, -1]. Async-signal-safe.
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                        long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
/// Returns the kernel's word: a result, or -errno in [-4095, -1]. Async-signal-safe.
inline long raw_syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                        long f = 0) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
}
#else
#error "booster knows the system call instructions of x86_64 and aarch64 only"
#endif

/// The kernel marks errors with the last page of numbers.
inline bool is_error(long result) {
  return result < 0 && result >= -4095;
}

}  // namespace booster::common
