#include "preload/settle.h"

#include <errno.h>
#include <fcntl.h>

#include "common/fence.h"
#include "preload/log.h"
#include "preload/write_log.h"

namespace booster::preload {

constinit std::atomic<uint32_t> g_boosted_writes{0};
constinit std::atomic<uint32_t> g_settled_writes{0};
constinit std::atomic<uint32_t> g_lock_calls{0};
constinit std::atomic<uint64_t> g_fresh_since_ms{0};

namespace {

constexpr int kFenceAttempts = 3;
/// What others wrote through FUSE is seen within this time (DESIGN section 6).
constexpr uint64_t kDrainEveryMs = 1000;
/// A claim in progress is one write; a stuck brick must not stop a fork for ever.
constexpr uint32_t kShareWaitMs = 2000;

bool names(int fd, const Inode& inode) {
  raw::FileId id;
  return fd >= 0 && raw::identify(fd, id) && id == inode.id;
}

bool is_writable(int fd) {
  const long flags = raw::status_flags(fd);
  return !raw::is_error(flags) && (flags & O_ACCMODE) != O_RDONLY && (flags & O_PATH) == 0;
}

/// Another writable descriptor of the inode, when the one that wrote is gone (closed unseen).
int other_writable(const Inode& inode) {
  int found = -1;
  g_files.for_each_tracked(0, ~0U, [&](int fd, Description& description) {
    if (found >= 0 || description.inode != &inode) return;
    if (is_writable(fd) && names(fd, inode)) found = fd;
  });
  return found;
}

}  // namespace

int writable_descriptor(const Inode& inode) {
  const int fd = inode.fence_fd.load(std::memory_order_relaxed);
  return names(fd, inode) && is_writable(fd) ? fd : other_writable(inode);
}

namespace {

/// Takes back the inode's count of what the daemon would have to fence. A count of the caller's own
/// bridges the moment in which it is not yet known whether a new write has made it dirty again, so
/// that the daemon finds too much at worst.
void note_settled(Inode& inode) {
  const SessionRef live = current_session();
  if (!live) return;
  live->add_unsettled(1);
  if (inode.unsettled_in.exchange(0, std::memory_order_acq_rel) == live->id()) {
    live->add_unsettled(-1);
  }
  if (inode.boost_dirty() &&
      inode.unsettled_in.exchange(live->id(), std::memory_order_acq_rel) != live->id()) {
    return;
  }
  live->add_unsettled(-1);
}

}  // namespace

void note_boosted_write(Inode& inode, int fd, uint64_t offset) {
  note_own_change(inode);
  inode.fence_fd.store(fd, std::memory_order_relaxed);
  inode.fence_offset.store(offset, std::memory_order_relaxed);
  // Release: partner of the acquire in boost_dirty(), which whoever sees the count below asks next.
  inode.boosted.fetch_add(1, std::memory_order_release);
  g_boosted_writes.fetch_add(1, std::memory_order_release);
}

void begin_boosted_write(Session& session) {
  session.add_unsettled(1);
}

void end_boosted_write(Session& session, Inode& inode) {
  // The write's own count becomes the inode's, unless that has one already.
  const bool dirty = inode.boost_dirty();
  // A count in an earlier session has gone with that.
  if (dirty &&
      inode.unsettled_in.exchange(session.id(), std::memory_order_acq_rel) != session.id()) {
    return;
  }
  session.add_unsettled(-1);
}

void settle(Inode& inode) {
  if (!inode.boost_dirty()) return;
  LockGuard guard(inode.settle_lock);
  const uint32_t boosted = inode.boosted.load(std::memory_order_acquire);
  if (boosted == inode.fenced.load(std::memory_order_relaxed)) return;
  LogMark mark;
  const bool logged = drain_log(inode, mark);
  long result = -EBADF;
  for (int attempt = 0; attempt < kFenceAttempts && result != 0; ++attempt) {
    const int fd = writable_descriptor(inode);
    if (fd < 0) break;
    result = common::fence(fd, inode.fence_offset.load(std::memory_order_relaxed));
  }
  if (result != 0 && inode.never.exchange(common::Reason::kFenceFailed,
                                          std::memory_order_relaxed) == common::Reason::kNone) {
    log_line(
        "FUSE's caches could not be refreshed after a boosted write: other programs may see "
        "up to one second old data of one file, which is not boosted any more");
  }
  // Release: partner of the acquire in boost_dirty(): whoever sees it equal may ask FUSE.
  inode.fenced.store(boosted, std::memory_order_release);
  note_settled(inode);
  if (logged && result == 0) note_log_settled(inode, mark);
}

void settle_all_slowly() {
  // Counted before the look: what comes later is not covered, and keeps the two apart.
  const uint32_t seen = g_boosted_writes.load(std::memory_order_acquire);
  g_files.for_each_inode([](Inode& inode) {
    if (!inode.boost_dirty() || !g_files.hold_inode(&inode)) return;
    settle(inode);
    g_files.release_inode(&inode);
  });
  // Release: partner of the acquire in maybe_dirty(). Two threads may store in either order: an
  // older number makes somebody look again for nothing.
  g_settled_writes.store(seen, std::memory_order_release);
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
  settle(*inode);
  const bool written = inode->boosted.load(std::memory_order_relaxed) != 0;
  g_files.release_inode(inode);
  return written;
}

namespace {

/// On a replicated volume a flush hands the file's lock over at once instead of after a second. It
/// also takes the error of a write that FUSE's write-behind had accepted (__wb_fulfill_request_err
/// in write-behind.c): nobody would hear of it again. Closing any descriptor of a file drops the
/// process's POSIX locks on it: not if it has any, and none is taken meanwhile (before_lock).
long flush(Inode& inode, int fd) {
  LockGuard guard(inode.settle_lock);
  if (inode.posix_locked.load(std::memory_order_relaxed)) return 0;
  const long copy = raw::raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, raw::high_number());
  if (raw::is_error(copy)) return 0;
  const long result = raw::raw_syscall(SYS_close, copy);
  return result == -EINTR ? 0 : result;
}

}  // namespace

long drain(Inode& inode, int fd, bool may_flush) {
  const uint32_t writes = inode.kernel_writes.load(std::memory_order_acquire);
  const uint32_t locks = g_lock_calls.load(std::memory_order_acquire);
  const uint64_t now = raw::coarse_now_ms();
  const bool first = inode.drained_at_ms.load(std::memory_order_relaxed) == 0;
  if (writes == inode.drained.load(std::memory_order_relaxed) &&
      locks == inode.drained_locks.load(std::memory_order_relaxed) &&
      now - inode.drained_at_ms.load(std::memory_order_relaxed) < kDrainEveryMs) {
    return kDrained;
  }
  if (first && may_flush) {
    const long flushed = flush(inode, fd);
    if (raw::is_error(flushed)) return flushed;
  }
  if (!raw::sync_attributes(fd)) return kNotNow;
  inode.drained.store(writes, std::memory_order_relaxed);
  inode.drained_locks.store(locks, std::memory_order_relaxed);
  inode.drained_at_ms.store(now, std::memory_order_relaxed);
  return kDrained;
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
  // What other threads have written meanwhile.
  settle_all();
}

void settle_after_fork() {
  g_boosted_writes.store(0, std::memory_order_relaxed);
  g_settled_writes.store(0, std::memory_order_relaxed);
}

}  // namespace booster::preload
