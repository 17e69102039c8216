// The fence: makes the FUSE client and the kernel forget what they hold of a file that booster has
// changed (docs/architecture.md, "One owner per file: delegations"). Used by the shim, and by
// the daemon for programs that were killed. Bare system calls: async-signal-safe, errno is left
// alone.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

#include "common/raw_syscall.h"

namespace booster::common {

template <typename T>
long word(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

/// Attributes of an open file; `sync` is AT_STATX_FORCE_SYNC or AT_STATX_DONT_SYNC.
inline bool attributes(int fd, int sync, struct statx& st) {
  return !is_error(
      raw_syscall(SYS_statx, fd, word(""), AT_EMPTY_PATH | sync, STATX_BASIC_STATS, word(&st)));
}

/// What the kernel's page cache holds of a range of an open file, in pages; `length` 0: to the end.
/// -errno where it does not tell: -ENOSYS before Linux 6.5, -EPERM to a caller who neither owns the
/// file nor has it open for writing.
inline long page_cache(int fd, uint64_t offset, uint64_t length) {
  struct {
    uint64_t offset, length;
  } range{offset, length};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } found{};
  constexpr long kCachestat = 451;  // glibc 2.36 has no name for it
  const long result = raw_syscall(kCachestat, fd, word(&range), word(&found), 0);
  return is_error(result) ? result : static_cast<long>(found.cached);
}

inline void sleep_us(uint64_t us) {
  timespec left{static_cast<time_t>(us / 1'000'000), static_cast<long>(us % 1'000'000) * 1000};
  while (raw_syscall(SYS_nanosleep, word(&left), word(&left)) == -4 /* EINTR */) {
  }
}
inline void sleep_ms(uint64_t ms) {
  sleep_us(ms * 1000);
}

/// Drops the kernel's pages of the file. What some program has mapped, fadvise passes over; that is
/// dropped by the FUSE client's notification of the fallocate, from a thread of its own and a
/// little later, so this waits for it (seen: 2 ms on a busy machine). A kernel that does not tell
/// what it holds is believed to hold nothing.
inline bool drop_pages(int fd) {
  constexpr int kLooks = 500;
  constexpr uint64_t kLookEveryUs = 200;
  for (int look = 0; look < kLooks; ++look) {
    raw_syscall(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED);
    if (page_cache(fd, 0, 0) <= 0) return true;
    sleep_us(kLookEveryUs);
  }
  return false;
}

inline bool same_time(const statx_timestamp& a, const statx_timestamp& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/// Files up to this size the client may keep whole (quick-read, its default limit).
inline constexpr uint64_t kKeptWhole = 64 << 10;

/// Changes the times of the file in a way of which the client's caches take notice. A full volume
/// refuses the fallocate even where nothing is to be allocated, and bricks may be on a file system
/// that has none; setting the time does it too, but for what quick-read keeps.
inline long touch_file(int fd, uint64_t offset) {
  const long result =
      raw_syscall(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, static_cast<long>(offset), 1);
  if (result != -ENOSPC && result != -EDQUOT && result != -EOPNOTSUPP) return result;
  struct statx status;
  if (offset <= kKeptWhole &&
      (!attributes(fd, AT_STATX_FORCE_SYNC, status) || status.stx_size <= kKeptWhole)) {
    return result;
  }
  // Both times, to now: that takes no more than the right to write (utimensat(2)).
  return raw_syscall(SYS_utimensat, fd, 0, 0, 0);
}

/// The attributes that the bricks have, whatever the client's caches hold: a change of owner that
/// names no new one changes nothing but the ctime, goes to the bricks, and the kernel keeps their
/// answer. It takes no right but the descriptor.
inline bool attributes_of_bricks(int fd, struct statx& st) {
  return !is_error(raw_syscall(SYS_fchownat, fd, word(""), -1, -1, AT_EMPTY_PATH)) &&
         attributes(fd, AT_STATX_DONT_SYNC, st);
}

/// A modification time that is moved on by less is as good as the one before: FUSE's write-behind
/// does that, too.
inline constexpr int64_t kSameMomentNs = 100'000'000;

inline bool same_moment(const statx_timestamp& a, const statx_timestamp& b) {
  constexpr int64_t kSecondNs = 1'000'000'000;
  const int64_t seconds = a.tv_sec - b.tv_sec;
  if (seconds > 1 || seconds < -1) return false;
  const int64_t between =
      seconds * kSecondNs + static_cast<int64_t>(a.tv_nsec) - static_cast<int64_t>(b.tv_nsec);
  return between < kSameMomentNs && between > -kSameMomentNs;
}

/// The file has been touched, from which it has the times of `touched`: puts those of `before`
/// back, unless they were of the same moment, or somebody has set others since; whoever neither
/// owns the file nor is root cannot. `quiet` says whether no boosted write has come to the bricks
/// since `before`: a write that is not seen in the times would be worse than times that are too
/// young.
template <typename Quiet>
void put_times_back(int fd, uint64_t offset, const struct statx& before,
                    const struct statx& touched, Quiet quiet) {
  if (same_moment(before.stx_mtime, touched.stx_mtime) || !quiet()) return;
  // The client stamps no ctime for a fallocate; bricks that keep times of their own stamp both.
  if (!same_time(touched.stx_ctime, before.stx_ctime) &&
      !same_time(touched.stx_ctime, touched.stx_mtime)) {
    return;
  }
  // Whoever has written or set times since then, here or on another host, is the last.
  struct statx now;
  if (!attributes_of_bricks(fd, now) || !same_time(now.stx_mtime, touched.stx_mtime) ||
      now.stx_size != touched.stx_size) {
    return;
  }
  const timespec times[2] = {{before.stx_atime.tv_sec, before.stx_atime.tv_nsec},
                             {before.stx_mtime.tv_sec, before.stx_mtime.tv_nsec}};
  raw_syscall(SYS_utimensat, fd, 0, word(&times), 0);
  if (!quiet()) touch_file(fd, offset);
}

/// The fence: after it FUSE serves nothing of the file that is older than the bricks. `fd` is open
/// for writing, `offset` within what was written. 0 or -errno; may be tried again. Where it fails,
/// the kernel's own pages and attributes are fresh all the same, if FUSE answers at all. The
/// fallocate changes the file's times, by which the client's caches and the kernel find out that
/// they are stale; the fadvise drops the kernel's pages; the statx brings size and times. After
/// that the file has the times again that it had, of its last write or whoever has set them since:
/// see put_times_back(), also for `quiet`. (Without the fallocate, with only a change of the ctime,
/// 359 of 4000 looks at files of up to 64 KiB were stale, out of what quick-read keeps.)
///
/// Two things are checked, because each was seen to fail now and then:
/// - What statx told must be what the kernel kept. The client tells the kernel of the fallocate by
/// a
///   notification of its own; when that arrives while the statx is under way, the kernel hands out
///   the fresh answer but does not keep it (fi->attr_version in fuse_change_attributes). stat and
///   read would ask again; a page fault in somebody's mapping would not, and die of the old size.
/// - The modification time must have changed. A client's cache that answers from before the change,
///   or a file system that stamps two changes within one tick alike, leaves everybody believing
///   that nothing has happened.
template <typename Quiet>
long fence(int fd, uint64_t offset, Quiet quiet) {
  constexpr int kAttempts = 8;
  constexpr uint64_t kTickMs = 5;  // longer than a tick of the clock that stamps files
  struct statx before;
  if (!attributes(fd, AT_STATX_DONT_SYNC, before)) return -EIO;
  struct statx true_before;
  // Of a file with set-id bits it would take those away, and a write of root's does not.
  const bool knows_times =
      (before.stx_mode & (S_ISUID | S_ISGID)) == 0 && attributes_of_bricks(fd, true_before);
  bool touch = true;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (touch) {
      const long result = touch_file(fd, offset);
      if (is_error(result)) {
        attributes(fd, AT_STATX_FORCE_SYNC, before);
        drop_pages(fd);
        return result;
      }
      touch = false;
    }
    struct statx told;
    struct statx kept;
    if (!attributes(fd, AT_STATX_FORCE_SYNC, told) || !attributes(fd, AT_STATX_DONT_SYNC, kept)) {
      return -EIO;
    }
    if (told.stx_size != kept.stx_size || !same_time(told.stx_mtime, kept.stx_mtime)) continue;
    if (!same_time(told.stx_mtime, before.stx_mtime)) {
      if (!drop_pages(fd)) return -EBUSY;
      if (knows_times) put_times_back(fd, offset, true_before, told, quiet);
      return 0;
    }
    sleep_ms(kTickMs);
    touch = true;
  }
  return -EIO;
}

}  // namespace booster::common
