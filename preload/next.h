// The next definition of a libc function after ours: libc's, or another preloaded library's.
// Looked up at the first call of each, since resolving all of them at start is what a short program
// would notice most.
#pragma once

#include <dlfcn.h>
#include <errno.h>

#include <atomic>

namespace booster::preload {

inline long missing_function() {
  errno = ENOSYS;
  return -1;
}

template <typename Function>
class Next {
 public:
  explicit constexpr Next(const char* name) : name_(name) {}
  Function* get() {
    // Relaxed: the pointer is all there is, and finding it twice does no harm.
    Function* found = found_.load(std::memory_order_relaxed);
    if (found != nullptr) [[likely]]
      return found;
    found = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name_));
    // Only for a function that this libc does not have; nobody can have linked against it.
    if (found == nullptr)
      found = reinterpret_cast<Function*>(reinterpret_cast<void*>(&missing_function));
    found_.store(found, std::memory_order_relaxed);
    return found;
  }

 private:
  const char* name_;
  std::atomic<Function*> found_{nullptr};
};

}  // namespace booster::preload

/// `next_NAME()` is the next NAME: BOOSTER_NEXT(ssize_t, read, (int, void*, size_t));
// NOLINTBEGIN(bugprone-macro-parentheses): types take none.
#define BOOSTER_NEXT(result, name, parameters)                                \
  static auto next_##name()->result(*) parameters {                           \
    static constinit ::booster::preload::Next<result parameters> next{#name}; \
    return next.get();                                                        \
  }

/// Visible to programs; must also stand in exports.txt, which a test compares.
#define BOOSTER_EXPORT extern "C" __attribute__((visibility("default")))
// NOLINTEND(bugprone-macro-parentheses)
