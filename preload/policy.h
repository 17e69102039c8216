// What happens to a call of the read and write families: boosted, or settled and left to the
// kernel, and why. Knows nothing of libc's names and nothing of packets.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "common/abi.h"
#include "preload/call.h"

namespace booster::preload {

/// Does the call if `fd` is a file on GlusterFS: `result` and errno are then those of the call, and
/// the answer is true. False: not ours, the caller asks libc. `rwf_flags` are preadv2's. Safe from
/// any thread; from a signal handler that interrupted the shim it answers false, but for a write,
/// which the kernel does then. `cancellable`: it is a cancellation point, as read and write are.
bool transfer(Direction direction, int fd, const iovec* vectors, int count, int64_t offset,
              int rwf_flags, ssize_t& result, bool cancellable = true);

/// The same for one buffer.
bool transfer(Direction direction, int fd, const void* buffer, size_t length, int64_t offset,
              ssize_t& result, bool cancellable = true);

}  // namespace booster::preload
