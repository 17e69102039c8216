#include "preload/settle.h"

#include <errno.h>
#include <fcntl.h>

#include "preload/log.h"

namespace booster::preload {

constinit std::atomic<bool> g_maybe_dirty{false};

namespace {

constexpr int kFenceAttempts = 3;
/// What others wrote through FUSE is seen within this time (DESIGN section 6).
constexpr uint64_t kDrainEveryMs = 1000;
/// A claim in progress is one write; a stuck brick must not stop a fork for ever.
constexpr uint32_t kShareWaitMs = 2000;

/// Drops the kernel's pages of the file. What some program has mapped, fadvise passes over; that is
/// dropped by the FUSE client's notification of the fallocate, from a thread of its own and a
/// little later, so this waits for it (seen: 2 ms on a busy machine). A kernel that does not tell
/// what it holds is believed to hold nothing.
bool drop_pages(int fd) {
  constexpr int kLooks = 500;
  constexpr uint64_t kLookEveryUs = 200;
  for (int look = 0; look < kLooks; ++look) {
    raw::raw_syscall(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED);
    if (raw::page_cache(fd, 0, 0) <= 0) return true;
    raw::sleep_us(kLookEveryUs);
  }
  return false;
}

bool same_time(const statx_timestamp& a, const statx_timestamp& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/// Files up to this size the client may keep whole (quick-read, its default limit).
constexpr uint64_t kKeptWhole = 64 << 10;

/// Changes the times of the file in a way of which the client's caches take notice. A full volume
/// refuses the fallocate even where nothing is to be allocated; setting the time does it too, but
/// for what quick-read keeps.
long touch_file(int fd, uint64_t offset) {
  const long result =
      raw::raw_syscall(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, static_cast<long>(offset), 1);
  if (result != -ENOSPC && result != -EDQUOT) return result;
  struct statx status;
  if (!raw::attributes(fd, AT_STATX_FORCE_SYNC, status) || status.stx_size <= kKeptWhole) {
    return result;
  }
  const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  return raw::raw_syscall(SYS_utimensat, fd, 0, raw::word(times), 0);
}

/// The calls after which FUSE serves nothing that is older than the bricks. The fallocate changes
/// the file's times, by which the client's caches and the kernel find out that they are stale; the
/// fadvise drops the kernel's pages; the statx brings size and times.
///
/// Two things are checked, because each was seen to fail now and then:
/// - What statx told must be what the kernel kept. The client tells the kernel of the fallocate by a
///   notification of its own; when that arrives while the statx is under way, the kernel hands out
///   the fresh answer but does not keep it (fi->attr_version in fuse_change_attributes). stat and
///   read would ask again; a page fault in somebody's mapping would not, and die of the old size.
/// - The modification time must have changed. A client's cache that answers from before the change,
///   or a file system that stamps two changes within one tick alike, leaves everybody believing
///   that nothing has happened.
long fence_once(int fd, uint64_t offset) {
  constexpr int kAttempts = 8;
  constexpr uint64_t kTickMs = 5;  // longer than a tick of the clock that stamps files
  struct statx before;
  if (!raw::attributes(fd, AT_STATX_DONT_SYNC, before)) return -EIO;
  bool touch = true;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (touch) {
      const long result = touch_file(fd, offset);
      if (raw::is_error(result)) return result;
      touch = false;
    }
    struct statx told;
    struct statx kept;
    if (!raw::attributes(fd, AT_STATX_FORCE_SYNC, told) ||
        !raw::attributes(fd, AT_STATX_DONT_SYNC, kept)) {
      return -EIO;
    }
    if (told.stx_size != kept.stx_size || !same_time(told.stx_mtime, kept.stx_mtime)) continue;
    if (!same_time(told.stx_mtime, before.stx_mtime)) return drop_pages(fd) ? 0 : -EBUSY;
    raw::sleep_ms(kTickMs);
    touch = true;
  }
  return -EIO;
}

bool names(int fd, const Inode& inode) {
  raw::FileId id;
  return fd >= 0 && raw::identify(fd, id) && id == inode.id;
}

/// Another writable descriptor of the inode, when the one that wrote is gone (closed unseen).
int other_writable(const Inode& inode) {
  int found = -1;
  g_files.for_each_tracked(0, ~0U, [&](int fd, Description& description) {
    if (found >= 0 || description.inode != &inode) return;
    const long flags = raw::status_flags(fd);
    if (!raw::is_error(flags) && (flags & O_ACCMODE) != O_RDONLY && names(fd, inode)) found = fd;
  });
  return found;
}

}  // namespace

void note_boosted_write(Inode& inode, int fd, uint64_t offset) {
  inode.fence_fd.store(fd, std::memory_order_relaxed);
  inode.fence_offset.store(offset, std::memory_order_relaxed);
  // Release: partner of the acquire in boost_dirty() and settle_all().
  inode.boosted.fetch_add(1, std::memory_order_release);
  g_maybe_dirty.store(true, std::memory_order_release);
}

void settle(Inode& inode) {
  if (!inode.boost_dirty()) return;
  LockGuard guard(inode.settle_lock);
  const uint32_t boosted = inode.boosted.load(std::memory_order_acquire);
  if (boosted == inode.fenced.load(std::memory_order_relaxed)) return;
  long result = -EBADF;
  for (int attempt = 0; attempt < kFenceAttempts && result != 0; ++attempt) {
    int fd = inode.fence_fd.load(std::memory_order_relaxed);
    if (!names(fd, inode)) fd = other_writable(inode);
    if (fd < 0) break;
    result = fence_once(fd, inode.fence_offset.load(std::memory_order_relaxed));
  }
  if (result != 0 && inode.never.exchange(common::Reason::kFenceFailed,
                                          std::memory_order_relaxed) == common::Reason::kNone) {
    log_line(
        "FUSE's caches could not be refreshed after a boosted write: other programs may see "
        "up to one second old data of one file, which is not boosted any more");
  }
  // Release: partner of the acquire in boost_dirty(): whoever sees it equal may ask FUSE.
  inode.fenced.store(boosted, std::memory_order_release);
}

void settle_all_slowly() {
  g_maybe_dirty.store(false, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  g_files.for_each_inode([](Inode& inode) {
    if (!inode.boost_dirty() || !g_files.hold_inode(&inode)) return;
    settle(inode);
    g_files.release_inode(&inode);
  });
}

void settle_descriptor(int fd) {
  if (Description* description = g_files.acquire_known(fd)) {
    settle(*description->inode);
    g_files.release(description);
  }
}

bool settle_identity(const raw::FileId& id) {
  Inode* inode = g_files.find_inode(id);
  if (inode == nullptr) return false;
  const bool dirty = inode->boost_dirty();
  settle(*inode);
  g_files.release_inode(inode);
  return dirty;
}

bool drain(Inode& inode, int fd, bool for_writing) {
  const uint32_t writes = inode.kernel_writes.load(std::memory_order_acquire);
  const uint64_t now = raw::coarse_now_ms();
  const bool first = inode.drained_at_ms.load(std::memory_order_relaxed) == 0;
  if (writes == inode.drained.load(std::memory_order_relaxed) &&
      now - inode.drained_at_ms.load(std::memory_order_relaxed) < kDrainEveryMs) {
    return true;
  }
  // On a replicated volume a flush hands the file's lock over at once instead of after a second.
  // Closing any descriptor of a file drops the process's POSIX locks on it: not if it has any.
  if (first && for_writing && !inode.posix_locked.load(std::memory_order_relaxed)) {
    const long copy = raw::raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
    if (!raw::is_error(copy)) raw::close(static_cast<int>(copy));
  }
  if (!raw::sync_attributes(fd)) return false;
  inode.drained.store(writes, std::memory_order_relaxed);
  inode.drained_at_ms.store(now, std::memory_order_relaxed);
  return true;
}

void prepare_to_share() {
  settle_all();
  g_files.share_opened();
  g_files.for_each_description([](Description& description) {
    if (description.refs.load(std::memory_order_acquire) == 0) return;
    if (!description.own || description.shared.load(std::memory_order_relaxed)) return;
    // The lock waits for a claim whose bytes are still on their way.
    const bool locked = description.sequential.lock_for(kShareWaitMs);
    description.shared.store(true, std::memory_order_release);
    if (locked) description.sequential.unlock();
  });
}

void settle_after_fork() {
  g_maybe_dirty.store(false, std::memory_order_relaxed);
}

}  // namespace booster::preload
