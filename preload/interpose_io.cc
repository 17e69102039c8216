// Interposers of the read and write families, whose bytes booster carries.
#include <sys/types.h>
#include <sys/uio.h>

#include "preload/interpose.h"

using booster::preload::Direction;
using booster::preload::kSequential;
using booster::preload::transfer;

namespace {

/// Negative offsets are errors that the kernel reports, never "the descriptor's own offset".
bool moved(Direction direction, int fd, const void* buffer, size_t length, off_t offset,
           ssize_t& result) {
  return offset >= 0 && transfer(direction, fd, buffer, length, offset, result);
}
bool moved(Direction direction, int fd, const iovec* vectors, int count, off_t offset,
           ssize_t& result) {
  return offset >= 0 && transfer(direction, fd, vectors, count, offset, 0, result);
}
/// preadv2 and pwritev2, where -1 does mean the descriptor's own offset.
bool moved2(Direction direction, int fd, const iovec* vectors, int count, off_t offset, int flags,
            ssize_t& result) {
  return offset >= -1 && transfer(direction, fd, vectors, count, offset, flags, result);
}

}  // namespace

BOOSTER_NEXT(ssize_t, read, (int, void*, size_t))
BOOSTER_NEXT(ssize_t, write, (int, const void*, size_t))
BOOSTER_NEXT(ssize_t, pread, (int, void*, size_t, off_t))
BOOSTER_NEXT(ssize_t, pwrite, (int, const void*, size_t, off_t))
BOOSTER_NEXT(ssize_t, readv, (int, const iovec*, int))
BOOSTER_NEXT(ssize_t, writev, (int, const iovec*, int))
BOOSTER_NEXT(ssize_t, preadv, (int, const iovec*, int, off_t))
BOOSTER_NEXT(ssize_t, pwritev, (int, const iovec*, int, off_t))
BOOSTER_NEXT(ssize_t, preadv2, (int, const iovec*, int, off_t, int))
BOOSTER_NEXT(ssize_t, pwritev2, (int, const iovec*, int, off_t, int))
BOOSTER_NEXT(ssize_t, __read_chk, (int, void*, size_t, size_t))
BOOSTER_NEXT(ssize_t, __pread_chk, (int, void*, size_t, off_t, size_t))

BOOSTER_EXPORT ssize_t read(int fd, void* buffer, size_t length) {
  ssize_t result;
  if (transfer(Direction::kRead, fd, buffer, length, kSequential, result)) return result;
  return next_read()(fd, buffer, length);
}
BOOSTER_EXPORT ssize_t __read(int fd, void* buffer, size_t length) {
  return read(fd, buffer, length);
}
BOOSTER_EXPORT ssize_t __read_chk(int fd, void* buffer, size_t length, size_t room) {
  if (length > room) return next___read_chk()(fd, buffer, length, room);  // ends the program
  return read(fd, buffer, length);
}

BOOSTER_EXPORT ssize_t write(int fd, const void* buffer, size_t length) {
  ssize_t result;
  if (transfer(Direction::kWrite, fd, buffer, length, kSequential, result)) return result;
  return next_write()(fd, buffer, length);
}
BOOSTER_EXPORT ssize_t __write(int fd, const void* buffer, size_t length) {
  return write(fd, buffer, length);
}

BOOSTER_EXPORT ssize_t pread(int fd, void* buffer, size_t length, off_t offset) {
  ssize_t result;
  if (moved(Direction::kRead, fd, buffer, length, offset, result)) return result;
  return next_pread()(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t pread64(int fd, void* buffer, size_t length, off_t offset) {
  return pread(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t __pread64(int fd, void* buffer, size_t length, off_t offset) {
  return pread(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t __pread_chk(int fd, void* buffer, size_t length, off_t offset, size_t room) {
  if (length > room) return next___pread_chk()(fd, buffer, length, offset, room);
  return pread(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t __pread64_chk(int fd, void* buffer, size_t length, off_t offset,
                                     size_t room) {
  return __pread_chk(fd, buffer, length, offset, room);
}

BOOSTER_EXPORT ssize_t pwrite(int fd, const void* buffer, size_t length, off_t offset) {
  ssize_t result;
  if (moved(Direction::kWrite, fd, buffer, length, offset, result)) return result;
  return next_pwrite()(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t pwrite64(int fd, const void* buffer, size_t length, off_t offset) {
  return pwrite(fd, buffer, length, offset);
}
BOOSTER_EXPORT ssize_t __pwrite64(int fd, const void* buffer, size_t length, off_t offset) {
  return pwrite(fd, buffer, length, offset);
}

BOOSTER_EXPORT ssize_t readv(int fd, const iovec* vectors, int count) {
  ssize_t result;
  if (transfer(Direction::kRead, fd, vectors, count, kSequential, 0, result)) return result;
  return next_readv()(fd, vectors, count);
}
BOOSTER_EXPORT ssize_t writev(int fd, const iovec* vectors, int count) {
  ssize_t result;
  if (transfer(Direction::kWrite, fd, vectors, count, kSequential, 0, result)) return result;
  return next_writev()(fd, vectors, count);
}

BOOSTER_EXPORT ssize_t preadv(int fd, const iovec* vectors, int count, off_t offset) {
  ssize_t result;
  if (moved(Direction::kRead, fd, vectors, count, offset, result)) return result;
  return next_preadv()(fd, vectors, count, offset);
}
BOOSTER_EXPORT ssize_t preadv64(int fd, const iovec* vectors, int count, off_t offset) {
  return preadv(fd, vectors, count, offset);
}
BOOSTER_EXPORT ssize_t pwritev(int fd, const iovec* vectors, int count, off_t offset) {
  ssize_t result;
  if (moved(Direction::kWrite, fd, vectors, count, offset, result)) return result;
  return next_pwritev()(fd, vectors, count, offset);
}
BOOSTER_EXPORT ssize_t pwritev64(int fd, const iovec* vectors, int count, off_t offset) {
  return pwritev(fd, vectors, count, offset);
}

BOOSTER_EXPORT ssize_t preadv2(int fd, const iovec* vectors, int count, off_t offset, int flags) {
  ssize_t result;
  if (moved2(Direction::kRead, fd, vectors, count, offset, flags, result)) return result;
  return next_preadv2()(fd, vectors, count, offset, flags);
}
BOOSTER_EXPORT ssize_t preadv64v2(int fd, const iovec* vectors, int count, off_t offset,
                                  int flags) {
  return preadv2(fd, vectors, count, offset, flags);
}
BOOSTER_EXPORT ssize_t pwritev2(int fd, const iovec* vectors, int count, off_t offset, int flags) {
  ssize_t result;
  if (moved2(Direction::kWrite, fd, vectors, count, offset, flags, result)) return result;
  return next_pwritev2()(fd, vectors, count, offset, flags);
}
BOOSTER_EXPORT ssize_t pwritev64v2(int fd, const iovec* vectors, int count, off_t offset,
                                   int flags) {
  return pwritev2(fd, vectors, count, offset, flags);
}
