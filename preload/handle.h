// The handle of a description: asking the daemon for one, and what has become of it.
#pragma once

#include <cstdint>

#include "common/reason.h"
#include "preload/file_table.h"
#include "preload/session.h"

namespace booster::preload {

/// How long this process waits for an answer: not at all if it is not eager, nor once it has waited
/// so long in vain.
uint32_t eager_wait_ms();
void note_waited_in_vain();

/// A copy of a ready handle of `session`; false if there is none. Lock-free.
bool copy_handle(Description& description, const Session& session, HandleRef& handle);

/// Under `engaging`: asks for a handle, or takes up what was answered, and the page cache that came
/// with it. kNone: it is ready. kPending: there is no answer yet; with GLFS_BOOSTER_ENGAGE=eager
/// that is waited for.
common::Reason advance_handle(Session& session, Description& description, int fd);

/// Whether the number still is one of that file. If not, somebody who could not wait for the call
/// has taken it away.
bool still_names(int fd, const Inode& inode);

}  // namespace booster::preload
