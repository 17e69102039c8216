#include "preload/call.h"

#include <limits.h>
#include <sys/syscall.h>

#include "preload/raw.h"
#include "preload/signals.h"

namespace booster::preload {

namespace {

/// The kernel moves no more than this in one call (MAX_RW_COUNT).
constexpr size_t kMaxCall = 0x7ffff000;

}  // namespace

bool measure(Call& call) {
  if (call.count < 0 || call.count > IOV_MAX) return false;
  uint64_t total = 0;
  if (!sum_guarded(call.vectors, call.count, total)) return false;
  call.length = total < kMaxCall ? static_cast<size_t>(total) : kMaxCall;
  return true;
}

long kernel_call(const Call& call) {
  const bool reads = call.direction == Direction::kRead;
  if (call.rwf_flags != 0) {
    // The kernel takes the offset in two words and splits nothing on 64-bit machines.
    return raw::raw_syscall(reads ? SYS_preadv2 : SYS_pwritev2, call.fd, raw::word(call.vectors),
                            call.count, call.offset, 0, call.rwf_flags);
  }
  if (call.offset == kSequential) {
    return raw::raw_syscall(reads ? SYS_readv : SYS_writev, call.fd, raw::word(call.vectors),
                            call.count);
  }
  return raw::raw_syscall(reads ? SYS_preadv : SYS_pwritev, call.fd, raw::word(call.vectors),
                          call.count, call.offset);
}

long kernel_rest(const Call& call, IoCursor cursor, size_t length, uint64_t offset) {
  long total = 0;
  while (length > 0 && cursor.count > 0) {
    auto* base = static_cast<char*>(cursor.vectors->iov_base) + cursor.skip;
    size_t part = cursor.vectors->iov_len - cursor.skip;
    if (part > length) part = length;
    const auto at = static_cast<int64_t>(offset);
    const long got = call.direction == Direction::kRead ? raw::pread(call.fd, base, part, at)
                                                        : raw::pwrite(call.fd, base, part, at);
    if (raw::is_error(got)) return total > 0 ? total : got;
    total += got;
    offset += static_cast<uint64_t>(got);
    length -= static_cast<size_t>(got);
    cursor.advance(static_cast<size_t>(got));
    if (static_cast<size_t>(got) < part) break;
  }
  return total;
}

}  // namespace booster::preload
