// Writes that booster serves: under a write delegation alone, into the log.
#pragma once

#include "common/reason.h"
#include "preload/call.h"
#include "preload/file_table.h"

namespace booster::preload {

/// kNone: `result` is the call's, or -errno. Else why it is the kernel's. The caller holds
/// `sequential` for a call that moves the offset.
common::Reason boosted_write(Description& description, const Call& call, long& result);

/// fsync, or fdatasync, of a file that is written under a delegation: one request, which waits for
/// what was logged, and for the bricks' disks. FUSE's view stays as it is, since nobody else has
/// the file open. False: the kernel has to do it.
bool boosted_sync(Description& description, int fd, bool data_only);

/// Why writes through a description with these flags (F_GETFL) are always the kernel's, or kNone.
common::Reason reason_of(long flags);

/// The program has changed a limit of its own: it is looked at again before the next boosted write.
void note_limits_changed();

}  // namespace booster::preload
