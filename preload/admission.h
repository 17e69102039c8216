// When a file is worth asking the daemon for: judged by what its reads and writes through the
// kernel have just cost, never by a question to the kernel. A trip to the bricks takes many times
// as long as a copy out of memory, so a clock tells them apart. What asking costs a program (under
// a millisecond) is spent only when as much has been lost already. GLFS_BOOSTER_ENGAGE=eager asks
// at the first call, before the kernel does it; that is the only difference.
#pragma once

#include <cstdint>

#include "common/reason.h"
#include "preload/call.h"
#include "preload/file_table.h"

namespace booster::preload {

/// Whether a read of so many bytes by the kernel that took so long has waited for the bricks.
bool is_trip(uint64_t bytes, uint64_t us);

/// The kernel has done a call of `description`, moved `result` bytes, or -errno, and took `us`,
/// until `now_us`. The caller of the first holds `sequential` for a call that moves the offset.
void note_kernel_read(Description& description, const Call& call, long result, uint64_t us,
                      uint64_t now_us);
void note_kernel_write(Description& description, long result, uint64_t us);

/// Asks for the delegation that would serve such calls, if that pays by now. kNone: the next call
/// is booster's. Else `reason`, why this one was not boosted, or a better one. A question about
/// writes waits some milliseconds at most for its answer, and must not be asked within a
/// KernelChange.
common::Reason ask_to_read(Description& description, const Call& call, common::Reason reason);
common::Reason ask_to_write(Description& description, const Call& call, common::Reason reason);

/// Why no delegation serves a call such as this one: what the file is, or what the call asks for.
/// kNone if nothing speaks against it. Async-signal-safe.
common::Reason refusal(const Inode& inode, const Call& call);

}  // namespace booster::preload
