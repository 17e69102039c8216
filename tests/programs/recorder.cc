// Writes numbered records, and opens files while they are being written (records.h):
//
//   recorder write BOARD DIR   writes what the board says, until it says that it is enough; another
//                              thread opens the same files, when the board says so
//   recorder open BOARD DIR    reads orders "HOW FILE COUNT" from standard input: COUNT threads
//   open
//                              the file at once and look; answers "all right, slowest N us", or
//                              what one of them saw
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <iostream>
#include <latch>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/records.h"
#include "tests/programs/shared_page.h"

namespace {

using booster::test::Board;
using booster::test::kRecordBytes;
using booster::test::kSlots;
using booster::test::record;
using booster::test::record_file;
using booster::test::slot_of;
using std::chrono::microseconds;
using std::chrono::steady_clock;

[[noreturn]] void fail(const std::string& what) {
  printf("%s: %s\n", what.c_str(), strerrorname_np(errno));
  exit(1);
}

Board& board_at(const char* path) {
  auto* board = booster::test::map_shared<Board>(path);
  if (board == nullptr) fail(path);
  return *board;
}

off_t place_of(uint64_t number) {
  return static_cast<off_t>(slot_of(number) * kRecordBytes);
}

// --- who opens ---------------------------------------------------------------------------------

struct Sight {
  std::string wrong;  // "" if nothing is
  microseconds waited{0};
};

/// What is wrong with the record that must be there, in a descriptor opened after it had been
/// acknowledged; "" if nothing is.
std::string judge(int fd, uint64_t number, const Board::File& file) {
  std::string bytes(kRecordBytes, '\0');
  const ssize_t got = pread(fd, bytes.data(), bytes.size(), place_of(number));
  if (got != static_cast<ssize_t>(bytes.size())) return "a read of " + std::to_string(got);
  const uint64_t begun = file.begun.load(std::memory_order_acquire);
  uint64_t found = 0;
  memcpy(&found, bytes.data(), sizeof(found));
  if (begun < number + kSlots) {
    if (bytes == record(number)) return "";
    return "record " + std::to_string(found) + " in place of " + std::to_string(number) +
           (found == number ? ", mixed with another" : "");
  }
  // The next one may be on its way into the slot, but no older one can be there.
  if (found >= number && found <= begun && slot_of(found) == slot_of(number)) return "";
  return "record " + std::to_string(found) + " in place of " + std::to_string(number) +
         " or one of those after it";
}

Sight open_and_look(const std::string& path, int flags, const Board::File& file) {
  Sight sight;
  const uint64_t number = file.acknowledged.load(std::memory_order_acquire);
  const auto start = steady_clock::now();
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  sight.waited = std::chrono::duration_cast<microseconds>(steady_clock::now() - start);
  if (fd < 0) {
    sight.wrong = std::string("open: ") + strerrorname_np(errno);
    return sight;
  }
  struct stat status {};
  const uint64_t size = std::min(number, kSlots) * kRecordBytes;
  if (fstat(fd, &status) != 0 || static_cast<uint64_t>(status.st_size) < size) {
    sight.wrong =
        "size " + std::to_string(status.st_size) + " after record " + std::to_string(number);
  } else if (number > 0 && (flags & O_ACCMODE) != O_WRONLY) {
    sight.wrong = judge(fd, number, file);
  }
  close(fd);
  return sight;
}

int flags_of(const std::string& how) {
  int flags = how.starts_with("rw") ? O_RDWR : how[0] == 'w' ? O_WRONLY : O_RDONLY;
  if (how.find("+nonblock") != std::string::npos) flags |= O_NONBLOCK;
  return flags;
}

/// The slowest, and what one of them saw if that was wrong.
Sight crowd(const std::string& path, int flags, const Board::File& file, int count) {
  std::latch all_there(count);
  std::mutex mutex;
  Sight worst;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      all_there.arrive_and_wait();
      const Sight sight = open_and_look(path, flags, file);
      const std::lock_guard lock(mutex);
      if (worst.wrong.empty()) worst.wrong = sight.wrong;
      worst.waited = std::max(worst.waited, sight.waited);
    });
  }
  for (auto& thread : threads) thread.join();
  return worst;
}

int obey(Board& board, const std::string& dir) {
  std::string how;
  uint64_t number = 0;
  int count = 0;
  printf("ready\n");
  fflush(stdout);
  while (std::cin >> how >> number >> count) {
    const std::string path = record_file(dir, number);
    const Sight sight = crowd(path, flags_of(how), board.files[number], count);
    printf("%s, slowest %ld us\n", sight.wrong.empty() ? "all right" : sight.wrong.c_str(),
           static_cast<long>(sight.waited.count()));
    fflush(stdout);
  }
  return 0;
}

// --- the recorder ------------------------------------------------------------------------------

class Recorder {
 public:
  Recorder(Board& board, std::string dir) : board_(board), dir_(std::move(dir)) {}

  int run() {
    for (uint64_t number = 1; await(number); ++number) write_file(number);
    return 0;
  }

  /// Opens the file that is being written, and ends the program if it sees what it must not.
  void open_own_files() {
    const std::array<const char*, 3> ways = {"r", "rw", "w"};
    for (uint64_t i = 0;; ++i) {
      while (board_.own_opens_wanted.load(std::memory_order_acquire) <= i) usleep(100);
      const uint64_t number = wanted();
      const Sight sight = open_and_look(record_file(dir_, number), flags_of(ways[i % ways.size()]),
                                        board_.files[number]);
      if (!sight.wrong.empty()) {
        printf("file %lu, opened by the recorder itself: %s\n", number, sight.wrong.c_str());
        fflush(stdout);
        _exit(1);
      }
      board_.own_opens.store(i + 1, std::memory_order_release);
    }
  }

 private:
  uint64_t wanted() const { return board_.wanted.load(std::memory_order_acquire); }

  /// False when it is enough.
  bool await(uint64_t number) const {
    while (wanted() < number) usleep(100);
    return wanted() != Board::kEnough;
  }

  void write_file(uint64_t number) {
    Board::File& file = board_.files[number];
    const int fd = open(record_file(dir_, number).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) fail("open");
    for (uint64_t next = 1; wanted() == number; ++next) {
      const std::string bytes = record(next);
      if (slot_of(next) == 0 && lseek(fd, 0, SEEK_SET) != 0) fail("lseek");
      file.begun.store(next, std::memory_order_release);
      if (write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
        fail("write");
      }
      file.acknowledged.store(next, std::memory_order_release);
    }
    if (close(fd) != 0) fail("close");
    board_.closed.store(number, std::memory_order_release);
  }

  Board& board_;
  const std::string dir_;
};

int write_records(Board& board, const std::string& dir) {
  Recorder recorder(board, dir);
  std::thread([&] { recorder.open_own_files(); }).detach();
  recorder.run();
  // What the other thread uses is destroyed by nobody.
  _exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: recorder write|open BOARD DIR\n");
    return 2;
  }
  Board& board = board_at(argv[2]);
  if (std::string(argv[1]) == "open") return obey(board, argv[3]);
  return write_records(board, argv[3]);
}
