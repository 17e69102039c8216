#include "preload/log.h"

#include <fcntl.h>
#include <string.h>

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

}  // namespace

void log_line(const char* text) {
  const char* path = settings().log_path;
  const long fd = raw::raw_syscall(SYS_openat, AT_FDCWD, raw::word(path),
                                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  if (raw::is_error(fd)) return;
  Line line;
  line.add("booster[");
  line.add(static_cast<unsigned long>(raw::raw_syscall(SYS_getpid)));
  line.add("]: ");
  line.add(text);
  line.add("\n");
  raw::raw_syscall(SYS_write, fd, raw::word(line.text), static_cast<long>(line.length));
  raw::close(static_cast<int>(fd));
}

}  // namespace booster::preload
