// System calls that no preloaded library sees.
#pragma once

#include <dlfcn.h>
#include <stdlib.h>

namespace booster::test {

/// libc's own syscall(2).
inline long bare_call(long number, long a, long b = 0, long c = 0, long d = 0) {
  void* libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  auto* call = reinterpret_cast<long (*)(long, ...)>(dlsym(libc, "syscall"));
  if (call == nullptr) abort();
  return call(number, a, b, c, d);
}

}  // namespace booster::test
