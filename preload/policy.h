// What happens to a call of the read and write families: boosted, or settled and left to the
// kernel, and why. Knows nothing of libc's names and nothing of packets.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "common/abi.h"

namespace booster::preload {

/// Offset of a call that uses, and moves, the descriptor's own offset.
inline constexpr int64_t kSequential = -1;

/// Does the call if `fd` is a file on GlusterFS: `result` and errno are then those of the call, and
/// the answer is true. False: not ours, the caller asks libc. `rwf_flags` are preadv2's. Safe from
/// any thread; from a signal handler that interrupted the shim it answers false.
bool transfer(common::Op op, int fd, const iovec* vectors, int count, int64_t offset, int rwf_flags,
              ssize_t& result);

/// The same for one buffer.
inline bool transfer(common::Op op, int fd, const void* buffer, size_t length, int64_t offset,
                     ssize_t& result) {
  const iovec vector{const_cast<void*>(buffer), length};
  return transfer(op, fd, &vector, 1, offset, 0, result);
}

/// The file of `fd` is about to be mapped: it is settled and never boosted again here.
void note_mapping(int fd);
/// A stdio stream has, or had, the file of `fd`: it is settled and not boosted while one has it.
void note_stream(int fd);
/// The process does asynchronous I/O (aio_read and its kin) on the file of `fd`, which a thread of
/// libc does, unseen: it is settled and never boosted again here.
void note_async(int fd);
/// The process takes or drops a lock on the file of `fd`: what is boosted is settled first...
void before_lock(int fd, bool posix);
/// ...and what others wrote before they unlocked is drained before the next boosted call.
void after_lock();
/// After a file was changed by its name.
void after_path_change();
/// Around a call that changes the bytes of the file at `path` without opening it: opens a file on
/// GlusterFS for writing, so that page caches on this host hear of it. -1 when there is nothing to
/// hold.
int hold_for_writing(const char* path);
void let_go(int fd);
/// The process sets the status flags of `fd` (F_SETFL).
void note_status_flags(int fd, int flags);
/// The kernel is about to change the file of `fd` (truncate, fallocate, sendfile...), or has.
void before_kernel_change(int fd);
void after_kernel_change(int fd);
/// The kernel is about to take the number `fd` away from its file (close, dup2 onto it): nobody
/// begins a call on it any more, those that have begun are waited for, and what was boosted is
/// settled. FileTable::closed() or an open of the number ends this. Returns the error of an
/// accepted write that nobody was told of, as -errno, for a close to return; 0: none.
long before_number_ends(int fd);
/// The same for a call that has settled the file without ending anything.
long deferred_error(int fd);
/// The same for [first, last] without `keep`, and what follows the kernel's call.
void before_range_ends(unsigned first, unsigned last, int keep);
void after_range_ended(unsigned first, unsigned last, int keep);

}  // namespace booster::preload
