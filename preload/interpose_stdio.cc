// Interposers of what makes and ends stdio streams. Streams take the shim's own calls
// (stdio_tables.h). Where that cannot be, a stream reads and writes unseen: while one has a file
// open in this process, the file is not boosted here, and is given back before.
#include <errno.h>
#include <stdio.h>

#include <optional>

#include "preload/interpose.h"
#include "preload/stdio_tables.h"

using namespace booster::preload;

BOOSTER_NEXT(FILE*, fopen, (const char*, const char*))
BOOSTER_NEXT(FILE*, fopen64, (const char*, const char*))
BOOSTER_NEXT(FILE*, fdopen, (int, const char*))
BOOSTER_NEXT(FILE*, freopen, (const char*, const char*, FILE*))
BOOSTER_NEXT(FILE*, freopen64, (const char*, const char*, FILE*))
BOOSTER_NEXT(int, fclose, (FILE*))
BOOSTER_NEXT(int, fcloseall, (void))

namespace {

/// Whether the mode asks for the file to be mapped (the GNU C library's 'm').
bool maps(const char* mode) {
  for (; mode != nullptr && *mode != '\0' && *mode != ','; ++mode) {
    if (*mode == 'm') return true;
  }
  return false;
}

/// A stream has, or had, the file of `fd`.
void made(int fd, const char* mode) {
  if (fd < 0 || t_thread.vfork_child) return;
  if (maps(mode)) note_mapping(fd);
  if (!is_stream_seen(fd)) note_stream(fd);
}

FILE* opened(FILE* stream, const char* mode) {
  const int fd = stream == nullptr ? -1 : fileno(stream);
  if (fd >= 0 && !t_thread.vfork_child) note_opened(fd);
  made(fd, mode);
  return stream;
}

/// Holds on to the description while libc flushes the stream and closes its descriptor.
class Ending {
 public:
  explicit Ending(FILE* stream) {
    if (stream == nullptr || t_thread.vfork_child) return;
    fd_ = fileno(stream);
    if (fd_ < 0) return;
    if (g_files.kind(fd_) == FileTable::kTracked) {
      uninterrupted_.emplace();
      Entry entry;
      if (entry) description_ = g_files.acquire_known(fd_);
    }
    error_ = before_close(fd_);
  }
  ~Ending() {
    if (fd_ < 0) return;
    after_close(fd_);
    if (description_ == nullptr) return;
    Entry entry;
    // What the stream wrote went through FUSE.
    if (!entry) return;
    { const KernelChange change(*description_->inode); }
    g_files.release(description_);
  }
  /// An error of a write that was accepted, as -errno; 0: none.
  long error() const { return error_; }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;

 private:
  std::optional<Uninterrupted> uninterrupted_;  // the last to go
  int fd_ = -1;
  long error_ = 0;
  Description* description_ = nullptr;
};

/// Closes it while it is not seen what it does itself. What was written to its file before is told.
int close_unseen(FILE* stream) {
  int result = 0;
  long error = 0;
  {
    const Ending ending(stream);
    error = ending.error();
    result = next_fclose()(stream);
  }
  if (error == 0 || result != 0) return result;
  errno = static_cast<int>(-error);
  return EOF;
}

}  // namespace

BOOSTER_EXPORT FILE* fopen(const char* path, const char* mode) {
  return opened(next_fopen()(path, mode), mode);
}
BOOSTER_EXPORT FILE* fopen64(const char* path, const char* mode) {
  return opened(next_fopen64()(path, mode), mode);
}
BOOSTER_EXPORT FILE* fdopen(int fd, const char* mode) {
  made(fd, mode);
  return next_fdopen()(fd, mode);
}
BOOSTER_EXPORT FILE* freopen(const char* path, const char* mode, FILE* stream) {
  if (stream != nullptr) fflush(stream);  // while its number still is the file's
  Ending ending(stream);
  return opened(next_freopen()(path, mode, stream), mode);
}
BOOSTER_EXPORT FILE* freopen64(const char* path, const char* mode, FILE* stream) {
  if (stream != nullptr) fflush(stream);
  Ending ending(stream);
  return opened(next_freopen64()(path, mode, stream), mode);
}
BOOSTER_EXPORT int fclose(FILE* stream) {
  // One that maps its file has tables of its own (_IO_FLAGS2_MMAP).
  const bool maps = (stream->_flags2 & 1) != 0;
  return streams_hooked() && !maps ? next_fclose()(stream) : close_unseen(stream);
}
BOOSTER_EXPORT int fcloseall(void) {
  settle_process();
  return next_fcloseall()();
}
