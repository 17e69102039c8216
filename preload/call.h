// One call of the read and write families on its way through policy.cc and cached_read.cc.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "common/abi.h"
#include "preload/file_table.h"
#include "preload/session.h"

namespace booster::preload {

struct Call {
  common::Op op;
  int fd;
  const iovec* vectors;
  int count;
  int64_t offset;  // kSequential, or >= 0
  int rwf_flags;
  size_t length;            // of all vectors, at most what the kernel moves in one call
  uint32_t delegation = 0;  // under which it goes into the write log; 0: it does not
};

/// What is left of a call, by the kernel, at `offset`. Returns bytes done or -errno.
long kernel_rest(const Call& call, IoCursor cursor, size_t length, uint64_t offset);

/// Moves `length` bytes at `offset` through booster; the kernel completes what comes up short.
/// `cursor` is where they are in the program. Returns bytes done or -errno.
long transfer_at(Session& session, const HandleRef& handle, Inode& inode, const Call& call,
                 IoCursor cursor, uint64_t offset, size_t length);

/// Whether the number still is one of that file. If not, somebody who could not wait for the call
/// has taken it away.
bool still_names(int fd, const Inode& inode);

/// This read is best left to the kernel, and so are others for a moment. Counts it, if there is a
/// session.
void leave_to_kernel(Session* session, Description& description, common::Reason reason,
                     uint64_t bytes);

/// A copy of a ready handle of `session`; false if there is none.
bool copy_handle(Description& description, const Session& session, HandleRef& handle);

/// kNone: `handle` is one of `description` in `session` that allows this call.
common::Reason handle_for(Session& session, Description& description, const Call& call, long flags,
                          HandleRef& handle);

/// Serves a read from the page cache, if this process has it and it is valid; true: `result` is the
/// call's, or -errno. The caller holds `sequential` for a call that moves the offset.
bool cached_read(Description& description, const Call& call, long& result);

/// `handle` of `description` has become ready: takes the page cache that came with it.
void adopt_cache(Session& session, Description& description, const HandleRef& handle);

}  // namespace booster::preload
