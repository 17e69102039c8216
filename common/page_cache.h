// The page cache of one inode, as preloaded programs map it: made and written by the daemon, read
// by every program that holds the file open for reading, through a descriptor that cannot be opened
// for writing by anybody.
//
// One sparse file holds all of it: a header, a word for each page, and the pages at the file's own
// offsets:
//
//   0            CacheHeader
//   kWordsStart  PageWord[kMaxPages]
//   kDataStart   the bytes of the file
//
// A page is read like this, without asking anybody:
//
//   client                                      daemon
//   ------                                      ------
//   valid_until > now      (acquire)  <-----    valid_until = …             (seq_cst)
//   floor = load           (relaxed)            floor = the last number     (relaxed)
//   word = load            (acquire)  <-----    bytes, then word = number   (release)
//   word > floor
//   copy the page
//   fence                  (acquire)            word = kInTransit | …       (relaxed), or floor
//   word, floor == loads   (relaxed)  <-----    fence (release), then the page goes
//
// A word takes a number that this file has not used before whenever its page is filled, so an equal
// word means an unchanged page. What was filled up to some moment becomes invalid all at once by
// the floor; its memory goes afterwards, piece by piece, or is filled again.
//
// What is valid: the daemon makes `valid_until` 0 before it lets anybody on this host open the file
// for writing, but for one session that has it alone and writes through the daemon; and lets it
// pass by itself when it has not compared the file with the bricks for a second. A reader who must
// see what another host did before some moment (an open, a lock) also looks at when that comparison
// was begun. And nothing is valid unless somebody holds WatchWord (below): from the moment on at
// which a dying daemon can no longer hold up who opens a file, its caches are empty.
#pragma once

#include <linux/futex.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace booster::common {

inline constexpr uint64_t kPageSize = 4096;
/// What of a file can be cached, from its start: 1 TiB.
inline constexpr uint64_t kMaxCachedBytes = uint64_t{1} << 40;
inline constexpr uint64_t kMaxPages = kMaxCachedBytes / kPageSize;

/// "BOOSTERC"
inline constexpr uint64_t kCacheMagic = 0x43524554534f4f42;

/// Daemon-written.
struct alignas(64) CacheHeader {
  uint64_t magic;
  /// CLOCK_MONOTONIC in milliseconds; 0: nothing is valid.
  std::atomic<uint64_t> valid_until_ms;
  /// Of the file, in bytes. Stored before `valid_until_ms`.
  std::atomic<uint64_t> size;
  /// CLOCK_MONOTONIC in milliseconds: what the bricks had then is what is valid. Stored before
  /// `valid_until_ms`.
  std::atomic<uint64_t> compared_ms;
  /// The same: when a comparison last found other bytes than before. What FUSE holds may be older
  /// for a while. Stored before `valid_until_ms`.
  std::atomic<uint64_t> changed_ms;
  /// Pages whose words are not above it are not valid.
  std::atomic<uint32_t> floor;
  /// 1: there is no room for more of the file, and what is not there is the kernel's, which has the
  /// rest of the host's memory. Relaxed: a hint.
  std::atomic<uint32_t> full;
};
static_assert(sizeof(CacheHeader) == 64);

/// Written by the daemon, and by the kernel when it ends; programs map it as they map caches. The
/// first word of a robust mutex (set_robust_list(2)), which has the number of the thread that holds
/// it: the one that the kernel tells of whoever is about to open a cached file for writing, and
/// that has the leases by which he waits in a table of descriptors of its own. When it ends,
/// however it does, the kernel first takes its number out of the word and closes its descriptors
/// after that (exit_mm() comes before exit_files() in do_exit()): with a number in it, openers are
/// held up now.
struct alignas(64) WatchWord {
  std::atomic<uint32_t> holder;
  std::byte rest[60];  // of the mutex

  /// Any thread, also in signal handlers.
  bool held() const {
    // Acquire: partner of the store by the holder, who watches by then.
    return (holder.load(std::memory_order_acquire) & FUTEX_TID_MASK) != 0;
  }
};
static_assert(sizeof(WatchWord) == 64);

/// 0: never filled. Odd: in transit. Else the number of the fill, times two.
using PageWord = std::atomic<uint32_t>;
inline constexpr uint32_t kInTransit = 1;

/// `floor`: the header's.
constexpr bool is_valid(uint32_t word, uint32_t floor) {
  return word > floor && (word & kInTransit) == 0;
}

inline constexpr uint64_t kWordsStart = kPageSize;
inline constexpr uint64_t kDataStart = uint64_t{2} << 30;
static_assert(kWordsStart + kMaxPages * sizeof(PageWord) <= kDataStart);
inline constexpr uint64_t kCacheFileBytes = kDataStart + kMaxCachedBytes;

}  // namespace booster::common
