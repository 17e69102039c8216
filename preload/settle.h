// Settling: making FUSE's client forget what booster has changed (the fence), and making FUSE's
// write-behind give up what it holds (the drain), so that the two ways to a file agree.
//
// The fence needs a writable descriptor and therefore follows boosted writes only. A fence that
// fails three times releases the inode: it is not boosted again in this process.
#pragma once

#include <atomic>

#include "preload/file_table.h"

namespace booster::preload {

/// Boosted writes of this process, and up to which of them all have been settled; changed in
/// settle.cc alone.
extern std::atomic<uint32_t> g_boosted_writes;
extern std::atomic<uint32_t> g_settled_writes;
/// Lock calls of this process: after each, what others wrote before they unlocked is drained.
extern std::atomic<uint32_t> g_lock_calls;
/// When the last of them returned, or a file was cut by its name (raw::next_ms): what is read out
/// of a page cache was compared with the bricks since then.
extern std::atomic<uint64_t> g_fresh_since_ms;

/// Whether some inode of this process may be boost-dirty: all that unrelated calls pay.
inline bool maybe_dirty() {
  // Acquire: partners of the releases in note_boosted_write() and settle_all_slowly(). An inode
  // that another thread is fencing right now counts as dirty until it has been fenced.
  return g_boosted_writes.load(std::memory_order_acquire) !=
         g_settled_writes.load(std::memory_order_acquire);
}

/// Around each boosted write: what the daemon would have to fence if the program were killed now.
/// note_boosted_write() comes between the two, if bytes may have been written.
void begin_boosted_write(Session& session);
void end_boosted_write(Session& session, Inode& inode);
/// Notes an answered boosted write of `inode` through `fd` at `offset`.
void note_boosted_write(Inode& inode, int fd, uint64_t offset);
/// What the program has changed itself it sees at once, whatever the daemon knows of it: page
/// caches of the file count again when they have been compared with the bricks after this.
inline void note_own_change(Inode& inode) {
  constexpr uint64_t kTick = 11;  // ms that the coarse clock may be behind, and one
  // Release: partner of the acquire in cached_read(), on a thread that the writer has told.
  inode.fresh_since_ms.store(raw::coarse_now_ms() + kTick, std::memory_order_release);
}
/// Notes a write that the kernel did.
inline void note_kernel_write(Inode& inode) {
  note_own_change(inode);
  // Release: partner of the acquire in drain(); the write comes before the statx there.
  inode.kernel_writes.fetch_add(1, std::memory_order_release);
}

/// A descriptor of the file that can be written; -1 if there is none.
int writable_descriptor(const Inode& inode);

/// Fences `inode` if it is boost-dirty, when what is in the log is on the bricks. On return FUSE
/// shows what was written before the call.
void settle(Inode& inode);
/// Settles every dirty inode of the process.
void settle_all_slowly();
inline void settle_all() {
  if (maybe_dirty()) [[unlikely]]
    settle_all_slowly();
}
/// Settles the file of `fd`, if it is tracked.
void settle_descriptor(int fd);
/// Settles what other descriptors of this process wrote to the file that `id` names; true if they
/// have ever written, so that what FUSE told a moment ago may be old.
bool settle_identity(const raw::FileId& id);

/// Makes the bricks have every write that FUSE has accepted for the inode of `fd`: at the first
/// boosted call, after each write of ours through the kernel and each lock, and once a second for
/// those of others. kNotNow when FUSE does not answer as it should: the call then goes to the
/// kernel. Or the -errno of an earlier write, which FUSE had accepted and could not keep: FUSE
/// tells it once, so the call must return it. `may_flush`: before writing, through a description
/// that this process has opened. One that it has inherited may carry POSIX locks which this program
/// was started with, and a flush would drop them.
inline constexpr long kDrained = 0;
inline constexpr long kNotNow = 1;
long drain(Inode& inode, int fd, bool may_flush);

/// Before the process multiplies (fork, spawn) or hands out descriptors: settles all, and marks
/// every description as shared, so that no offset is claimed for writing any more. Waits for a
/// claim in progress, at most two seconds.
void prepare_to_share();

void settle_after_fork();

}  // namespace booster::preload
