// Reads that booster serves: out of the page cache under a read delegation, which is what a valid
// cache is (common/page_cache.h); and from the bricks under a write delegation.
#pragma once

#include "common/reason.h"
#include "preload/call.h"
#include "preload/file_table.h"

namespace booster::preload {

/// kNone: `result` is the call's, or -errno. Else why it is the kernel's. The caller holds
/// `sequential` for a call that moves the offset.
common::Reason boosted_read(Description& description, const Call& call, long& result);

/// Tells the daemon that about so much has come from the bricks for the kernel, since there was no
/// room in the page cache: what is in there gets older by that. Does not wait; false:
/// not now.
bool tell_passed(Description& description, uint64_t bytes);

/// Before the kernel reads: FUSE may hold older bytes of another host than what has been read out
/// of a page cache a moment ago. It is made to look.
void catch_up(const Inode& inode, int fd);

}  // namespace booster::preload
