#include "preload/settle.h"

#include <errno.h>
#include <fcntl.h>

#include "common/fence.h"
#include "preload/log.h"

namespace booster::preload {

constinit std::atomic<bool> g_maybe_dirty{false};

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
}

void settle_all_slowly() {
  g_maybe_dirty.store(false, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  g_files.for_each_inode([](Inode& inode) {
    if (!inode.boost_dirty() || !g_files.hold_inode(&inode)) return;
    settle(inode);
    g_files.release_inode(&inode);
  });
  // A write that is under way says so again when it is done.
  if (g_maybe_dirty.load(std::memory_order_acquire)) return;
  if (SessionRef live = current_session()) live->set_unsettled(false);
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
