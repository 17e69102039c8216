// Objects that outlive every stale pointer to them: memory comes from mmap in chunks and is never
// given back, so a thread that loses a race may look at an object that has become another one, and
// notices by its reference count or generation, but never touches unmapped memory.
#pragma once

#include <linux/mman.h>
#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "preload/raw.h"

namespace booster::preload {

/// Zeroed private memory, or null when there is none. Never freed.
inline void* map_pages(size_t bytes) {
  long result = raw::raw_syscall(SYS_mmap, 0, static_cast<long>(bytes), PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return raw::is_error(result) ? nullptr : reinterpret_cast<void*>(result);
}

/// T needs `uint32_t index`, `T* next` and to be valid when zeroed. allocate() and release() under
/// the caller's lock; at() from anywhere, for an index that was once handed out.
template <typename T>
class Pool {
 public:
  static constexpr uint32_t kPerChunk = 256;
  static constexpr uint32_t kChunks = 4096;

  T* allocate() {
    if (free_ == nullptr && !grow()) return nullptr;
    T* object = free_;
    free_ = object->next;
    object->next = nullptr;
    return object;
  }

  void release(T* object) {
    object->next = free_;
    free_ = object;
  }

  T& at(uint32_t index) {
    return chunks_[index / kPerChunk].load(std::memory_order_acquire)[index % kPerChunk];
  }

  /// Visits every object that was ever handed out.
  template <typename Visit>
  void for_each(Visit visit) {
    for (uint32_t chunk = 0; chunk < used_.load(std::memory_order_acquire); ++chunk) {
      T* objects = chunks_[chunk].load(std::memory_order_acquire);
      for (uint32_t i = 0; i < kPerChunk; ++i) visit(objects[i]);
    }
  }

  /// In a forked child: makes every object free that `keep` does not keep; the memory stays.
  template <typename Keep>
  void reset(Keep keep) {
    free_ = nullptr;
    for_each([this, &keep](T& object) {
      if (keep(object)) return;
      const uint32_t index = object.index;
      new (&object) T{};
      object.index = index;
      release(&object);
    });
  }

 private:
  bool grow() {
    const uint32_t chunk = used_.load(std::memory_order_relaxed);
    if (chunk == kChunks) return false;
    T* objects = static_cast<T*>(map_pages(sizeof(T) * kPerChunk));
    if (objects == nullptr) return false;
    for (uint32_t i = kPerChunk; i-- > 0;) {
      new (&objects[i]) T{};
      objects[i].index = chunk * kPerChunk + i;
      release(&objects[i]);
    }
    // Release, partner of the acquire loads in at() and for_each().
    chunks_[chunk].store(objects, std::memory_order_release);
    used_.store(chunk + 1, std::memory_order_release);
    return true;
  }

  std::atomic<T*> chunks_[kChunks]{};
  std::atomic<uint32_t> used_{0};
  T* free_ = nullptr;
};

}  // namespace booster::preload
