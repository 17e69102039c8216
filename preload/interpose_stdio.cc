// Interposers of what makes and ends stdio streams. A stream reads and writes inside libc, unseen:
// while one has a file open in this process, the file is not boosted here, and is settled before.
#include <stdio.h>

#include "preload/interpose.h"

using namespace booster::preload;

BOOSTER_NEXT(FILE*, fopen, (const char*, const char*))
BOOSTER_NEXT(FILE*, fopen64, (const char*, const char*))
BOOSTER_NEXT(FILE*, fdopen, (int, const char*))
BOOSTER_NEXT(FILE*, freopen, (const char*, const char*, FILE*))
BOOSTER_NEXT(FILE*, freopen64, (const char*, const char*, FILE*))
BOOSTER_NEXT(int, fclose, (FILE*))
BOOSTER_NEXT(int, fcloseall, (void))

namespace {

FILE* opened(FILE* stream) {
  const int fd = stream == nullptr ? -1 : fileno(stream);
  if (fd >= 0 && !t_thread.vfork_child) {
    note_opened(fd);
    note_stream(fd);
  }
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
      Entry entry;
      if (entry) description_ = g_files.acquire_known(fd_);
    }
    before_close(fd_);
  }
  ~Ending() {
    if (fd_ < 0) return;
    after_close(fd_);
    if (description_ == nullptr) return;
    Entry entry;
    // What the stream wrote went through FUSE.
    note_kernel_write(*description_->inode);
    if (entry) g_files.release(description_);
  }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;

 private:
  int fd_ = -1;
  Description* description_ = nullptr;
};

}  // namespace

BOOSTER_EXPORT FILE* fopen(const char* path, const char* mode) {
  return opened(next_fopen()(path, mode));
}
BOOSTER_EXPORT FILE* fopen64(const char* path, const char* mode) {
  return opened(next_fopen64()(path, mode));
}
BOOSTER_EXPORT FILE* fdopen(int fd, const char* mode) {
  if (!t_thread.vfork_child) note_stream(fd);
  return next_fdopen()(fd, mode);
}
BOOSTER_EXPORT FILE* freopen(const char* path, const char* mode, FILE* stream) {
  Ending ending(stream);
  return opened(next_freopen()(path, mode, stream));
}
BOOSTER_EXPORT FILE* freopen64(const char* path, const char* mode, FILE* stream) {
  Ending ending(stream);
  return opened(next_freopen64()(path, mode, stream));
}
BOOSTER_EXPORT int fclose(FILE* stream) {
  Ending ending(stream);
  return next_fclose()(stream);
}
BOOSTER_EXPORT int fcloseall(void) {
  settle_process();
  return next_fcloseall()();
}
