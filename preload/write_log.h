// Writing into the session's log: which descriptors may, what of a file is still there, and doing
// it by hand when the daemon has died.
#pragma once

#include <cstdint>

#include "preload/call.h"
#include "preload/file_table.h"
#include "preload/session.h"

namespace booster::preload {

/// What begins or ends behind this is written without the log, so that the kernel's own answer
/// tells of a limit of the bricks' file system (ext4 has 16 TiB).
inline constexpr uint64_t kMaxLoggedEnd = uint64_t{8} << 40;

/// The delegation under which this write may go into the log (HandleSlot::delegation), with a ready
/// handle; 0 if it may not, or not yet: then what can be done for it without waiting has been
/// begun.
uint32_t delegation_for(Session& session, Description& description, const Call& call, long flags,
                        HandleRef& handle);

/// Logs [offset, offset + length) for a write to `fd`. Bytes that are logged, or written; fewer
/// than `length` when the daemon is gone.
size_t log_write(Session& session, const HandleRef& handle, Inode& inode, int fd,
                 uint32_t delegation, IoCursor& cursor, uint64_t offset, size_t length);

/// What of a file's records a fence covers.
struct LogMark {
  uint32_t slot = 0;
  uint32_t number = 0;
};
/// Waits until what the process has logged of the file is on the bricks. True if it ever logged
/// something of it in this session: `mark` is what the wait was for.
bool drain_log(Inode& inode, LogMark& mark);
inline void drain_log(Inode& inode) {
  LogMark mark;
  drain_log(inode, mark);
}
/// The file has been fenced after drain_log() had told `mark`.
void note_log_settled(Inode& inode, const LogMark& mark);

/// The error of an earlier write that was not told yet, once, as -errno; 0: none.
long take_deferred_error(Inode& inode);

}  // namespace booster::preload
