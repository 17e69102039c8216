// A file's page cache as this process sees it (common/page_cache.h): mapped for reading, read
// without asking anybody. Never waits, allocates nothing, and knows nothing of descriptors.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "common/page_cache.h"
#include "preload/session.h"

namespace booster::preload {

/// How many of them this process has.
extern std::atomic<uint32_t> g_view_count;
/// Raised when one becomes that of a file.
extern std::atomic<uint32_t> g_views_made;

struct CacheView {
  uint32_t index = 0;
  CacheView* next = nullptr;   // free list
  CacheView* older = nullptr;  // of the same inode: somebody may still be reading from it

  const common::CacheHeader* header = nullptr;
  const common::PageWord* words = nullptr;
  const std::byte* data = nullptr;
  uint64_t bytes = 0;          // of the file that are mapped
  uint64_t identity = 0;       // inode number of the cache itself
  Session* session = nullptr;  // once taken, referenced: what is read is counted in its memory
  uint32_t slot = 0;
  bool dropped = false;  // see drop_views_of(), under whose lock
  /// Up to where long reads have had their pages mapped; a hint.
  mutable std::atomic<uint64_t> mapped_until{0};

  /// Whether anything is valid at `now_ms` (raw::coarse_now_ms), and shows what the bricks had at
  /// `since_ms` or later.
  bool valid(uint64_t now_ms, uint64_t since_ms) const {
    // Acquire: partner of the daemon's store; the size, and all that was valid then, are there.
    return header->valid_until_ms.load(std::memory_order_acquire) > now_ms &&
           header->compared_ms.load(std::memory_order_relaxed) >= since_ms && session->watched();
  }
  /// Whether FUSE may still hold older bytes than what has been read out of this cache.
  bool fuse_may_be_older(uint64_t now_ms) const {
    constexpr uint64_t kFuseBelieves = 2000;  // a second in the kernel, one in FUSE's own caches
    return now_ms < header->changed_ms.load(std::memory_order_relaxed) + kFuseBelieves;
  }
  /// Whether what is not there has to be left to the kernel.
  bool full() const { return header->full.load(std::memory_order_relaxed) != 0; }
  /// Of the file, while valid.
  uint64_t size() const { return header->size.load(std::memory_order_relaxed); }

  /// Whether every page of [offset, offset + length) is there. Only a hint.
  bool has_all(uint64_t offset, uint64_t length) const {
    if (length > bytes || offset > bytes - length) return false;
    const uint32_t floor = header->floor.load(std::memory_order_relaxed);
    for (uint64_t at = offset / common::kPageSize; at * common::kPageSize < offset + length; ++at) {
      if (!common::is_valid(words[at].load(std::memory_order_relaxed), floor)) return false;
    }
    return true;
  }

  /// Copies up to `length` bytes, which lie within the size, from `offset` to `cursor` and advances
  /// it. Returns how many were there; the buffers behind them may have been overwritten.
  size_t read(IoCursor& cursor, uint64_t offset, size_t length) const;
  /// Maps the pages of [offset, offset + length) that are valid from its beginning on, in one go.
  /// (One by one, or sixteen by sixteen as the kernel has it, they take four times as long: 0.56 us
  /// each in place of 0.13.) Not those behind: what is touched takes memory.
  void map_pages_of(uint64_t offset, size_t length) const;

  /// Counts a read that was served.
  void count(uint32_t slot_of_reader, uint64_t offset, size_t length, uint64_t now_ms) const;
};

/// Maps `bytes` of the file whose cache `fd` is, for the handle in `slot`, or null.
CacheView* map_view(int fd, uint64_t bytes, uint32_t slot);
/// Nobody reads from it any more. Gives the session's reference back, if it has one: then not under
/// the connector's lock.
void unmap_view(CacheView* view);
/// The daemon of that session is gone, and what it had cached need not stay in memory: the views
/// are nowhere valid from now on, whoever looks at them.
void drop_views_of(const Session* session);
/// In a forked child, where none of it is mapped.
void views_after_fork();

}  // namespace booster::preload
