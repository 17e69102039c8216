#include "preload/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "preload/process.h"
#include "preload/raw.h"

namespace booster::preload {

namespace {

struct Line {
  char text[512];
  size_t length = 0;
  void add(const char* part) {
    for (; *part != '\0' && length < sizeof(text); ++part) text[length++] = *part;
  }
  void add(unsigned long number) {
    char digits[24];
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
    } while ((number /= 10) != 0);
    while (count > 0 && length < sizeof(text)) text[length++] = digits[--count];
  }
};

/// A daemon may have closed descriptor 2 and got the number for its data.
bool stderr_is_for_people() {
  raw::FileId id;
  if (!raw::identify(2, id)) return false;
  const long flags = raw::status_flags(2);
  const bool only_written = !raw::is_error(flags) && (flags & O_ACCMODE) == O_WRONLY;
  return (id.mode & S_IFMT) != S_IFREG || only_written;
}

/// A pipe whose reader has gone must not end a program that never writes there itself.
void write_without_signal(int fd, const char* text, size_t length) {
  constexpr uint64_t kPipe = 1ULL << (SIGPIPE - 1);
  uint64_t mask = kPipe;
  uint64_t before = 0;
  uint64_t pending = 0;
  raw::raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, raw::word(&mask), raw::word(&before),
                   sizeof mask);
  raw::raw_syscall(SYS_rt_sigpending, raw::word(&pending), sizeof pending);
  const long result = raw::raw_syscall(SYS_write, fd, raw::word(text), static_cast<long>(length));
  if (result == -EPIPE && (pending & kPipe) == 0) {
    const timespec now{};
    raw::raw_syscall(SYS_rt_sigtimedwait, raw::word(&mask), 0, raw::word(&now), sizeof mask);
  }
  raw::raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw::word(&before), 0, sizeof before);
}

}  // namespace

void log_line(const char* text) {
  const char* path = settings().log_path;
  if (strcmp(path, "/dev/stderr") == 0 && !stderr_is_for_people()) return;
  // Never waits: a full pipe loses the line.
  const long fd =
      raw::raw_syscall(SYS_openat, AT_FDCWD, raw::word(path),
                       O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
  if (raw::is_error(fd)) return;
  Line line;
  line.add("booster[");
  line.add(static_cast<unsigned long>(raw::raw_syscall(SYS_getpid)));
  line.add("]: ");
  line.add(text);
  line.add("\n");
  write_without_signal(static_cast<int>(fd), line.text, line.length);
  raw::close(static_cast<int>(fd));
}

}  // namespace booster::preload
