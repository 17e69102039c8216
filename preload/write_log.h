// Writing into the session's log, under a write delegation: what of a file is still there, and
// doing it by hand when the daemon has died.
#pragma once

#include <cstdint>

#include "preload/call.h"
#include "preload/file_table.h"
#include "preload/session.h"

namespace booster::preload {

/// What begins or ends behind this is written without the log, so that the kernel's own answer
/// tells of a limit of the bricks' file system (ext4 has 16 TiB).
inline constexpr uint64_t kMaxLoggedEnd = uint64_t{8} << 40;

/// Logs [offset, offset + length) for a write to `fd`. Bytes that are logged, or written; fewer
/// than `length` when the daemon is gone, or takes the delegation back (Session::log_write).
size_t log_write(Session& session, const HandleRef& handle, Inode& inode, int fd,
                 uint32_t delegation, IoCursor& cursor, uint64_t offset, size_t length);

/// Waits until what the process has logged of the file is on the bricks.
void drain_log(Inode& inode);

/// Keeps the error (errno) of an accepted write for the next write, fsync or close.
void defer_error(Inode& inode, int error);
/// The error of an earlier write that was not told yet, once, as -errno; 0: none.
long take_deferred_error(Inode& inode);

}  // namespace booster::preload
