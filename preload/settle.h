// Settling: making FUSE's client forget what booster has changed (the fence), and making FUSE's
// write-behind give up what it holds (the drain), so that the two ways to a file agree.
//
// The fence needs a writable descriptor and therefore follows boosted writes only. A fence that
// fails three times releases the inode: it is not boosted again in this process.
#pragma once

#include <atomic>

#include "preload/file_table.h"

namespace booster::preload {

/// Set when some inode of this process may be boost-dirty; the one load that unrelated calls pay.
extern std::atomic<bool> g_maybe_dirty;

/// Notes an answered boosted write of `inode` through `fd` at `offset`.
void note_boosted_write(Inode& inode, int fd, uint64_t offset);
/// Notes a write that the kernel did.
inline void note_kernel_write(Inode& inode) {
  // Release: partner of the acquire in drain(); the write comes before the statx there.
  inode.kernel_writes.fetch_add(1, std::memory_order_release);
}

/// Fences `inode` if it is boost-dirty. On return FUSE shows what was written before the call.
void settle(Inode& inode);
/// Settles every dirty inode of the process.
void settle_all_slowly();
inline void settle_all() {
  // Acquire: partner of the release in note_boosted_write(), for another thread's write.
  if (g_maybe_dirty.load(std::memory_order_acquire)) [[unlikely]]
    settle_all_slowly();
}
/// Settles the file of `fd`, if it is tracked.
void settle_descriptor(int fd);
/// Settles what other descriptors of this process wrote to the file that `id` names; true if there
/// was something to settle.
bool settle_identity(const raw::FileId& id);

/// Makes the bricks have every write that FUSE has accepted for the inode of `fd`: at the first
/// boosted call, after each write of ours through the kernel, and once a second for those of
/// others. False when FUSE does not answer as it should: the call then goes to the kernel.
bool drain(Inode& inode, int fd, bool for_writing);

/// Before the process multiplies (fork, spawn) or hands out descriptors: settles all, and marks
/// every description as shared, so that no offset is claimed for writing any more. Waits for a
/// claim in progress, at most two seconds.
void prepare_to_share();

void settle_after_fork();

}  // namespace booster::preload
