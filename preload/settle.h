// Settling: making FUSE's client forget what booster has changed (the fence), so that what the
// kernel serves next is true. Follows boosted writes only. A fence that fails three times releases
// the inode: it is not boosted again in this process.
#pragma once

#include <atomic>

#include "preload/file_table.h"

namespace booster::preload {

/// Boosted writes of this process, and up to which of them all have been settled; changed in
/// settle.cc alone.
struct alignas(64) WriteCounts {
  std::atomic<uint32_t> boosted{0};
  std::atomic<uint32_t> settled{0};
};
extern WriteCounts g_writes;
/// Lock calls of this process: once there was one, a close settles all files.
extern std::atomic<uint32_t> g_lock_calls;
/// Writes through the kernel by signal handlers that interrupted the shim: they could give no
/// delegation back, so each is void after them.
extern std::atomic<uint32_t> g_handler_writes;
/// When a lock call last returned, or a file was cut by its name (raw::next_ms): what is read out
/// of a page cache was compared with the bricks since then.
extern std::atomic<uint64_t> g_fresh_since_ms;

/// Whether some inode of this process may be boost-dirty: all that unrelated calls pay.
inline bool maybe_dirty() {
  // Acquire: partners of the releases in note_boosted_write() and settle_all_slowly(). An inode
  // that another thread is fencing right now counts as dirty until it has been fenced.
  return g_writes.boosted.load(std::memory_order_acquire) !=
         g_writes.settled.load(std::memory_order_acquire);
}

/// Notes a boosted write of `inode`, answered or lost, through `fd` at `offset`. Whoever makes one
/// has called Session::add_unsettled() before it.
void note_boosted_write(Inode& inode, int fd, uint64_t offset);
/// Moves `since` on to `now_ms`, never back: two threads may come in either order.
inline void note_fresh(std::atomic<uint64_t>& since, uint64_t now_ms) {
  uint64_t seen = since.load(std::memory_order_relaxed);
  // Release: partner of the acquire in boosted_read(), on a thread that was told what happened.
  while (seen < now_ms && !since.compare_exchange_weak(seen, now_ms, std::memory_order_release,
                                                       std::memory_order_relaxed)) {
  }
}
/// What the program has changed itself it sees at once, whatever the daemon knows of it: page
/// caches of the file count again when they have been compared with the bricks after this.
inline void note_own_change(Inode& inode) {
  constexpr uint64_t kTick = 11;  // ms that the coarse clock may be behind, and one
  note_fresh(inode.fresh_since_ms, raw::coarse_now_ms() + kTick);
}

/// A descriptor of the file that can be written; -1 if there is none.
int writable_descriptor(const Inode& inode);

/// Fences `inode` if it is boost-dirty, when what is in the log is on the bricks; where the daemon
/// is taking the delegation back it does that, and is waited for. On return FUSE shows what was
/// written before the call.
void settle(Inode& inode);
/// Settles every dirty inode of the process.
void settle_all_slowly();
inline void settle_all() {
  if (maybe_dirty()) [[unlikely]]
    settle_all_slowly();
}
/// What was written of every file is on the bricks, so that who gets a lock on another host sees
/// it. FUSE is made to forget only what is not delegated any more: of the rest nobody else on this
/// host has anything open.
void drain_all_slowly();
inline void drain_all() {
  if (maybe_dirty()) [[unlikely]]
    drain_all_slowly();
}
/// Settles what other descriptors of this process wrote to the file that `id` names; true if they
/// have ever written, so that what FUSE told a moment ago may be old.
bool settle_identity(const raw::FileId& id);

/// One less of those that are in such a call; in a forked child the count has been forgotten.
inline void count_down(std::atomic<uint32_t>& count) {
  uint32_t seen = count.load(std::memory_order_relaxed);
  while (seen != 0 && !count.compare_exchange_weak(seen, seen - 1, std::memory_order_release,
                                                   std::memory_order_relaxed)) {
  }
}

/// Around a call that multiplies the process (fork, spawn) or hands out descriptors: settles all,
/// gives every write delegation back, and marks every description as shared, so that none is asked
/// for again; none of what other threads open meanwhile is taken up until the call is over. Waits
/// for what is logged as long as the bricks take, and for a write in progress at most two seconds.
void begin_to_share();
void end_to_share();
/// What the process does with its descriptors is not seen any more (io_uring): within a call of
/// begin_to_share(), which is never over then.
void share_for_good();
/// A call of these is under way.
bool is_sharing();

/// This process has asked for a write delegation.
extern std::atomic<bool> g_has_asked;
/// Before the process becomes another program: no helper of the daemon may hold on to what that
/// will find closed.
void give_back_what_was_asked();

void settle_after_fork();

}  // namespace booster::preload
