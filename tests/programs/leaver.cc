// Ends in a given way while four threads write (leavings.h):
//
//   leaver HOW BOARD DIR    HOW is that of leave(), or "stay", to be killed by somebody
//
// What a write has accepted is on the board as soon as the call has returned.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>

#include "tests/programs/bytes.h"
#include "tests/programs/leavings.h"
#include "tests/programs/shared_page.h"

namespace {

using booster::test::bytes_at;
using booster::test::kLeavers;
using booster::test::kMostLeft;
using booster::test::leaver_file;
using booster::test::leaver_seed;
using booster::test::Leavings;

[[noreturn]] void fail(const std::string& what) {
  fprintf(stderr, "%s: %s\n", what.c_str(), strerrorname_np(errno));
  _exit(1);
}

/// Two of the threads say where, the others go on where they are. Whole stripes of any volume.
void write_without_end(Leavings& board, const std::string& dir, size_t thread) {
  constexpr size_t kStripe = 2048;
  constexpr size_t kMostStripes = 6;
  // Made before, so that it is the writes that the end falls into.
  constexpr size_t kPeriod = 1 << 20;
  const std::string path = leaver_file(dir, thread);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail(path);
  uint64_t end = 0;
  for (uint64_t from = 0; end < kMostLeft; from += kPeriod) {
    const std::string bytes = bytes_at(from, kPeriod, leaver_seed(thread));
    for (size_t i = 0; end < from + kPeriod; ++i) {
      const size_t place = end - from;
      const size_t length = std::min(kPeriod - place, (1 + i % kMostStripes) * kStripe);
      const ssize_t written =
          thread % 2 == 0 ? write(fd, bytes.data() + place, length)
                          : pwrite(fd, bytes.data() + place, length, static_cast<off_t>(end));
      if (written <= 0) fail("write");
      end += static_cast<size_t>(written);
      board.acknowledged[thread].store(end, std::memory_order_release);
    }
  }
}

void await_leave(const Leavings& board) {
  while (board.leave.load(std::memory_order_acquire) == 0) usleep(50);
}

/// "return" is left to main().
void leave(const std::string& how, const Leavings& board) {
  if (how == "exit") exit(0);
  if (how == "_exit") _exit(0);
  if (how == "_Exit") _Exit(0);
  if (how == "quick_exit") quick_exit(0);
  if (how == "exit_group") syscall(SYS_exit_group, 0);
  if (how == "abort") abort();
  if (how == "raise") raise(SIGTERM);
  if (how == "exec") {
    execl("/bin/true", "true", static_cast<char*>(nullptr));
    fail("exec");
  }
  if (how == "pthread_exit") {
    // The first thread goes, the others write on, and one of them ends the program.
    std::thread([&board] {
      while (board.leave.load(std::memory_order_acquire) == 1) usleep(50);
      exit(0);
    }).detach();
    pthread_exit(nullptr);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: leaver HOW BOARD DIR\n");
    return 2;
  }
  const std::string how = argv[1];
  const std::string dir = argv[3];
  auto* board = booster::test::map_shared<Leavings>(argv[2]);
  if (board == nullptr) fail(argv[2]);
  for (size_t thread = 0; thread < kLeavers; ++thread) {
    std::thread([board, dir, thread] { write_without_end(*board, dir, thread); }).detach();
  }
  await_leave(*board);
  leave(how, *board);
  while (how == "stay") pause();
  return 0;
}
