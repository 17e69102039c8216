#include "preload/settle.h"

#include <errno.h>
#include <fcntl.h>

#include "common/fence.h"
#include "preload/log.h"
#include "preload/offset.h"
#include "preload/write_delegation.h"
#include "preload/write_log.h"

namespace booster::preload {

BOOSTER_AT_HAND constinit WriteCounts g_writes;
BOOSTER_AT_HAND constinit std::atomic<uint32_t> g_lock_calls{0};
constinit std::atomic<uint32_t> g_handler_writes{0};
BOOSTER_AT_HAND constinit std::atomic<uint64_t> g_fresh_since_ms{0};
BOOSTER_AT_HAND constinit std::atomic<bool> g_has_asked{false};

namespace {

/// Threads that are in a call by which descriptors reach another process.
constinit std::atomic<uint32_t> g_sharing{0};

constexpr int kFenceAttempts = 3;
/// For a claim of an offset whose bytes are still on their way.
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

/// What was written last was written under a delegation that still stands.
bool is_delegated(Inode& inode) {
  LockGuard guard(inode.settle_lock);
  const SessionRef live = current_session();
  return live && live->id() == inode.written_by.session && live->alive_lately() &&
         live->delegation(inode.written_by) == inode.written_under;
}

/// `live`: the session in which what is fenced was written, if it still is. `owed`: how many writes
/// of it that are.
void fence(Inode& inode, const Session* live, uint32_t owed) {
  // Of the threads of this process; nobody else writes before this is done.
  const uint32_t boosted = inode.boosted.load(std::memory_order_relaxed);
  const auto quiet = [&] {
    // Who locks files shares them with other hosts: there a time that is too young harms less than
    // one by which a write is not noticed.
    if (g_lock_calls.load(std::memory_order_relaxed) != 0) return false;
    return live != nullptr ? live->unsettled(inode.written_by.slot) == owed
                           : inode.boosted.load(std::memory_order_acquire) == boosted;
  };
  long result = -EBADF;
  for (int attempt = 0; attempt < kFenceAttempts && result != 0; ++attempt) {
    const int fd = writable_descriptor(inode);
    if (fd < 0) break;
    result = common::fence(fd, inode.fence_offset.load(std::memory_order_relaxed), quiet);
  }
  if (result != 0 && inode.never.exchange(common::Reason::kFenceFailed,
                                          std::memory_order_relaxed) == common::Reason::kNone) {
    log_line(
        "FUSE's caches could not be refreshed after a boosted write: other programs may see "
        "up to one second old data of one file, which is not boosted any more");
  }
}

}  // namespace

int writable_descriptor(const Inode& inode) {
  const int fd = inode.fence_fd.load(std::memory_order_relaxed);
  return names(fd, inode) && is_writable(fd) ? fd : other_writable(inode);
}

void note_boosted_write(Inode& inode, int fd, uint64_t offset) {
  note_own_change(inode);
  inode.fence_fd.store(fd, std::memory_order_relaxed);
  inode.fence_offset.store(offset, std::memory_order_relaxed);
  // Release: partner of the acquire in boost_dirty(), which whoever sees the count below asks next.
  inode.boosted.fetch_add(1, std::memory_order_release);
  g_writes.boosted.fetch_add(1, std::memory_order_release);
}

void settle(Inode& inode) {
  if (!inode.boost_dirty()) return;
  LockGuard guard(inode.settle_lock);
  const uint32_t boosted = inode.boosted.load(std::memory_order_acquire);
  const uint32_t fenced = inode.fenced.load(std::memory_order_relaxed);
  if (boosted == fenced) return;
  const SessionRef live = current_session();
  const bool same = live && live->id() == inode.written_by.session;
  drain_log(inode);
  const bool fenced_by_daemon =
      same && live->await_recall(inode.written_by, inode.written_under) == Session::Recall::kDone;
  // Acquire: partner of the release in Session::log_write(). Whoever sets it after this settles
  // after this.
  const bool recalled = !inode.late.exchange(false, std::memory_order_acquire) && fenced_by_daemon;
  if (!recalled) fence(inode, same ? &*live : nullptr, boosted - fenced);
  // Release: partner of the acquire in boost_dirty(): whoever sees it equal may ask FUSE.
  inode.fenced.store(boosted, std::memory_order_release);
  if (!same) return;
  live->add_unsettled(inode.written_by.slot, -static_cast<int>(boosted - fenced));
  // Not a fence after the program has set times.
  if (!recalled) live->await_recall(inode.written_by, inode.written_under);
}

void settle_all_slowly() {
  // Counted before the look: what comes later is not covered, and keeps the two apart.
  const uint32_t seen = g_writes.boosted.load(std::memory_order_acquire);
  g_files.for_each_inode([](Inode& inode) {
    if (!inode.boost_dirty() || !g_files.hold_inode(&inode)) return;
    settle(inode);
    g_files.release_inode(&inode);
  });
  // Release: partner of the acquire in maybe_dirty(). Two threads may store in either order: an
  // older number makes somebody look again for nothing.
  g_writes.settled.store(seen, std::memory_order_release);
}

void drain_all_slowly() {
  g_files.for_each_inode([](Inode& inode) {
    if (!inode.boost_dirty() || !g_files.hold_inode(&inode)) return;
    drain_log(inode);
    if (!is_delegated(inode)) settle(inode);
    g_files.release_inode(&inode);
  });
}

bool settle_identity(const raw::FileId& id) {
  Inode* inode = g_files.find_inode(id);
  if (inode == nullptr) return false;
  settle(*inode);
  const bool written = inode->boosted.load(std::memory_order_relaxed) != 0;
  g_files.release_inode(inode);
  return written;
}

void begin_to_share() {
  // seq_cst: partner of the look in take_up(). Either it is seen there, or what is held is seen
  // here.
  g_sharing.fetch_add(1, std::memory_order_seq_cst);
  settle_all();
  g_files.share_opened();
  g_files.for_each_description([](Description& description) {
    if (!FileTable::hold(description)) return;
    // The lock waits for a claim whose bytes are still on their way.
    const bool locked = description.sequential.lock_for(kShareWaitMs);
    description.shared.store(true, std::memory_order_release);
    if (locked) description.sequential.unlock();
    give_back_delegation(description);
    g_files.release(&description);
  });
  give_back_offsets();
  // What other threads have written meanwhile.
  settle_all();
}

void end_to_share() {
  // What was opened meanwhile may have reached the other process, too.
  g_files.share_opened();
  g_files.for_each_description([](Description& description) {
    if (!FileTable::hold(description)) return;
    description.shared.store(true, std::memory_order_release);
    g_files.release(&description);
  });
  count_down(g_sharing);
}

void share_for_good() {
  g_sharing.fetch_add(1, std::memory_order_seq_cst);
}

bool is_sharing() {
  return g_sharing.load(std::memory_order_seq_cst) != 0;
}

void give_back_what_was_asked() {
  g_files.for_each_description([](Description& description) {
    // relaxed: what another thread asks for at this moment may come after this.
    if (!std::atomic_ref(description.writing.asked).load(std::memory_order_relaxed)) return;
    if (!FileTable::hold(description)) return;
    give_back_delegation(description);
    g_files.release(&description);
  });
}

void settle_after_fork() {
  g_has_borrowed.store(false, std::memory_order_relaxed);
  g_sharing.store(0, std::memory_order_relaxed);
  g_writes.boosted.store(0, std::memory_order_relaxed);
  g_writes.settled.store(0, std::memory_order_relaxed);
}

}  // namespace booster::preload
