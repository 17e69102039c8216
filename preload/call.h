// One call of the read and write families, and how the kernel does it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "common/abi.h"
#include "preload/session.h"

namespace booster::preload {

/// Offset of a call that uses, and moves, the descriptor's own offset.
inline constexpr int64_t kSequential = -1;

enum class Direction { kRead, kWrite };

struct Call {
  Direction direction;
  int fd;
  const iovec* vectors;
  int count;
  int64_t offset;  // kSequential, or >= 0
  int rwf_flags;   // preadv2's
  size_t length;   // of all vectors, at most what the kernel moves in one call
  /// Made as read, write or their like with an offset: the one vector is the shim's. The kernel
  /// checks such a call in another order.
  bool one_buffer = false;
  /// False where no address of the program's may be: the kernel has to say what it thinks of that,
  /// before anything is moved.
  bool in_user_space = true;

  /// All that the call is about.
  IoCursor whole() const {
    IoCursor cursor{vectors, count};
    cursor.advance(0);
    return cursor;
  }
};

/// Sums the vectors into `length`, and looks at where they are; false for what the kernel would
/// refuse.
bool measure(Call& call);

/// The call as the program made it, by the kernel: bytes done or -errno.
long kernel_call(const Call& call);

/// `length` bytes of the call, from `cursor` on, by the kernel at `offset`: bytes done or -errno.
long kernel_rest(const Call& call, IoCursor cursor, size_t length, uint64_t offset);

}  // namespace booster::preload
