#include "preload/call.h"

#include <limits.h>
#include <sys/syscall.h>

#include "preload/raw.h"
#include "preload/signals.h"

namespace booster::preload {

namespace {

/// The kernel moves no more than this in one call (MAX_RW_COUNT).
constexpr size_t kMaxCall = 0x7ffff000;

#if defined(__x86_64__)
/// Where addresses end that a program has without asking for higher ones.
constexpr uint64_t kUserEnd = (uint64_t{1} << 47) - 4096;
#else
constexpr uint64_t kUserEnd = INT64_MAX;
#endif

bool is_in_user_space(const void* start, size_t length) {
  const auto begin = reinterpret_cast<uintptr_t>(start);
  return begin <= kUserEnd && length <= kUserEnd - begin;
}

}  // namespace

bool measure(Call& call) {
  if (call.count < 0 || call.count > IOV_MAX) return false;
  uint64_t total = 0;
  const auto look = [&] {
    for (int i = 0; i < call.count; ++i) {
      const iovec vector = call.vectors[i];
      // Before they are added: the sum of what the kernel refuses may be small again.
      if (vector.iov_len > SSIZE_MAX - total) return false;
      total += vector.iov_len;
      // As the kernel does it: all of the range, however little of it would be moved; of a single
      // vector no more than that.
      const bool cut = call.count == 1 && !call.one_buffer && total > kMaxCall;
      if (!is_in_user_space(vector.iov_base, cut ? kMaxCall : vector.iov_len)) {
        call.in_user_space = false;
      }
    }
    return true;
  };
  // A single buffer is in a vector of the shim.
  if (call.one_buffer ? !look() : !guarded(look)) return false;
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
  if (call.one_buffer) {
    void* buffer = call.vectors->iov_base;
    const auto length = static_cast<long>(call.vectors->iov_len);
    if (call.offset == kSequential) {
      return raw::raw_syscall(reads ? SYS_read : SYS_write, call.fd, raw::word(buffer), length);
    }
    return raw::raw_syscall(reads ? SYS_pread64 : SYS_pwrite64, call.fd, raw::word(buffer), length,
                            call.offset);
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
