// Interposers of what reads and writes files from inside libc, where read and write are not seen:
// asynchronous I/O, which a thread of libc does, and formatted output to a descriptor.
#include <aio.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include <optional>

#include "preload/interpose.h"
#include "preload/stdio_tables.h"

using namespace booster::preload;

#define BOOSTER_AIO(name, type)                          \
  BOOSTER_NEXT(int, name, (struct type*))                \
  BOOSTER_EXPORT int name(struct type* block) {          \
    if (block != nullptr) note_async(block->aio_fildes); \
    return next_##name()(block);                         \
  }
BOOSTER_AIO(aio_read, aiocb)
BOOSTER_AIO(aio_read64, aiocb64)
BOOSTER_AIO(aio_write, aiocb)
BOOSTER_AIO(aio_write64, aiocb64)

#define BOOSTER_AIO_FSYNC(name, type)                                        \
  BOOSTER_NEXT(int, name, (int, struct type*))                               \
  BOOSTER_EXPORT int name(int operation, struct type* block) {               \
    /* libc does not look at the block of another one. */                    \
    if (block != nullptr && (operation == O_SYNC || operation == O_DSYNC)) { \
      note_async(block->aio_fildes);                                         \
    }                                                                        \
    return next_##name()(operation, block);                                  \
  }
BOOSTER_AIO_FSYNC(aio_fsync, aiocb)
BOOSTER_AIO_FSYNC(aio_fsync64, aiocb64)

#define BOOSTER_LIO_LISTIO(name, type)                                       \
  BOOSTER_NEXT(int, name, (int, struct type* const*, int, struct sigevent*)) \
  BOOSTER_EXPORT int name(int mode, struct type* const* blocks, int count,   \
                          struct sigevent* event) {                          \
    /* Nor at the list with another mode. */                                 \
    const bool looked_at = mode == LIO_WAIT || mode == LIO_NOWAIT;           \
    for (int i = 0; looked_at && i < count; ++i) {                           \
      if (blocks[i] != nullptr) note_async(blocks[i]->aio_fildes);           \
    }                                                                        \
    return next_##name()(mode, blocks, count, event);                        \
  }
BOOSTER_LIO_LISTIO(lio_listio, aiocb)
BOOSTER_LIO_LISTIO(lio_listio64, aiocb64)

BOOSTER_NEXT(int, vdprintf, (int, const char*, va_list))
BOOSTER_NEXT(int, __vdprintf_chk, (int, int, const char*, va_list))

namespace {

/// libc makes a stream for it, which takes the shim's own calls, or else writes unseen.
class FormattedWrite {
 public:
  explicit FormattedWrite(int fd) {
    if (!is_stream_seen(fd)) change_.emplace(fd);
  }

 private:
  std::optional<FileChange> change_;
};

}  // namespace

BOOSTER_EXPORT int vdprintf(int fd, const char* format, va_list arguments) {
  const FormattedWrite write(fd);
  return next_vdprintf()(fd, format, arguments);
}
BOOSTER_EXPORT int __vdprintf_chk(int fd, int flag, const char* format, va_list arguments) {
  const FormattedWrite write(fd);
  return next___vdprintf_chk()(fd, flag, format, arguments);
}
BOOSTER_EXPORT int dprintf(int fd, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int result = vdprintf(fd, format, arguments);
  va_end(arguments);
  return result;
}
BOOSTER_EXPORT int __dprintf_chk(int fd, int flag, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int result = __vdprintf_chk(fd, flag, format, arguments);
  va_end(arguments);
  return result;
}
