// A program ends, in every way there is, while four of its threads write: when its parent has been
// told of its end, others see everything that was acknowledged.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <ostream>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/shared_board.h"
#include "tests/programs/bytes.h"
#include "tests/programs/leavings.h"

namespace booster::test {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

struct Way {
  const char* name;
  int status;           // what the parent is told
  int signal = 0;       // sent by the test; else the program does it
  bool says_so = true;  // to the shim, so that `stat` by name is right at once, too
};

void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

constexpr Way kWays[] = {
    {"exit", 0},
    {"return", 0},
    {"_exit", 0},
    {"_Exit", 0},
    {"quick_exit", 0},
    {"exit_group", 0},
    {"pthread_exit", 0},
    {"exec", 0},
    {"abort", 128 + SIGABRT},
    {"raise", 128 + SIGTERM},
    {"SIGKILL", 128 + SIGKILL, SIGKILL, false},
    {"SIGTERM", 128 + SIGTERM, SIGTERM, false},
};

/// What is missing of a file up to `end`, for somebody without booster who opens it now; "" if
/// nothing is.
std::string missing(const std::string& path, uint64_t end, uint64_t seed) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "open: " + std::string(strerrorname_np(errno));
  struct stat status {};
  ::fstat(fd, &status);
  const std::string bytes = bytes_of(fd, end);
  ::close(fd);
  const std::string of = " of " + std::to_string(end);
  if (static_cast<uint64_t>(status.st_size) < end) {
    return "size " + std::to_string(status.st_size) + of;
  }
  if (bytes.size() < end) return "a read of " + std::to_string(bytes.size()) + of;
  const size_t right = first_wrong(bytes.data(), end, 0, seed);
  return right == end ? "" : "wrong from " + std::to_string(right) + " on" + of;
}

class Exits : public testing::TestWithParam<Way> {
 protected:
  /// Of one view of the files after an end.
  struct Unseen {
    int files = 0;
    milliseconds latest{0};  // until it was seen
    bool lasting = false;    // one of them was more than late
    std::string first;

    /// `look` says what is missing.
    template <typename Look>
    void count(int round, size_t thread, const Look& look) {
      const std::string wrong = look();
      if (wrong.empty()) return;
      if (files++ == 0) {
        first =
            "round " + std::to_string(round) + ", file " + std::to_string(thread) + ": " + wrong;
      }
      const auto start = steady_clock::now();
      bool right = false;
      while (!right && steady_clock::now() - start < seconds(5)) right = look().empty();
      lasting = lasting || !right || wrong.starts_with("open");
      latest = std::max(latest, duration_cast<milliseconds>(steady_clock::now() - start));
    }
    std::string text(const char* view) const {
      return std::string(view) + ": " + std::to_string(files) + " files, for up to " +
             std::to_string(latest.count()) + " ms; " + first + "\n";
    }
  };

  enum View { kByOpen, kByName };

  /// One end of a program, and what others see right after that. Once more if who opens the files
  /// was let go too early, and saw late what was there; or if it had nothing more to write before
  /// it was boosted.
  void leave(int round, View view, const RunOptions& options) {
    int idle = 0;
    for (int attempt = 1; !HasFatalFailure(); ++attempt) {
      const Unseen before = by_open_;
      const int let_in = daemon_.let_in_early();
      if (!leave_once(round, view, options)) {
        if (++idle == 5) end_with_too_little("not boosted before all was written");
        --attempt;
        continue;
      }
      if (attempt == 3 || by_open_.files == before.files || by_open_.lasting) return;
      if (daemon_.let_in_early() == let_in) return;
      by_open_ = before;
    }
  }

  /// They look at it in one way: what one look waits for would be there for the next. False if it
  /// has written all that it writes without being boosted.
  bool leave_once(int round, View view, const RunOptions& options) {
    const Way& way = GetParam();
    const ScratchDir dir;
    const uint64_t boosted_before = daemon_.boosted_write_bytes();
    const SharedBoard<Leavings> board(Lab::get().dir + "/leavings-" + std::to_string(::getpid()));
    Child leaver(
        {BOOSTER_TEST_LEAVER, way.signal != 0 ? "stay" : way.name, board.path(), dir.path()},
        options);
    if (!await_writers(board, options.preload)) return false;
    for (size_t thread = 0; thread < kLeavers; ++thread) {
      file_size(leaver_file(dir.path(), thread));  // FUSE keeps what it has now for a second
    }
    pause();
    board->leave.store(1, std::memory_order_release);
    if (way.signal != 0) leaver.signal(way.signal);
    if (way.name == std::string("pthread_exit")) {
      pause();
      board->leave.store(2, std::memory_order_release);
    }
    // Child::wait() looks only now and then, and what is a little late must be found.
    siginfo_t info{};
    EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(leaver.pid()), &info, WEXITED | WNOWAIT), 0);
    uint64_t written = 0;
    for (size_t thread = 0; thread < kLeavers; ++thread) {
      const std::string path = leaver_file(dir.path(), thread);
      const uint64_t end = board->acknowledged[thread].load(std::memory_order_acquire);
      written += end;
      if (end < kMostLeft) ++unfinished_;
      if (view == kByOpen) {
        by_open_.count(round, thread, [&] { return missing(path, end, leaver_seed(thread)); });
      } else {
        by_name_.count(round, thread, [&] {
          const uint64_t size = file_size(path);
          return size >= end ? "" : "size " + std::to_string(size) + " of " + std::to_string(end);
        });
      }
    }
    const RunResult result = leaver.wait();
    EXPECT_EQ(result.status, way.status) << result.err;
    EXPECT_EQ(result.err, "");
    // Others write through FUSE for as long as their files are not granted.
    if (!options.preload || !options.eager) return true;
    const auto boosted = [&] { return daemon_.boosted_write_bytes() - boosted_before; };
    comes_true([&] { return boosted() > written / 2; }, seconds(5));
    acknowledged_ += written;
    boosted_ += boosted();
    return true;
  }

  void expect_all_seen(const std::string& whose) const {
    EXPECT_EQ(by_open_.files, 0) << whose << ", " << by_open_.text("who opens it");
    EXPECT_EQ(by_name_.files, 0) << whose << ", " << by_name_.text("who asks by name");
  }

  Daemon daemon_;
  Unseen by_open_;
  Unseen by_name_;
  uint64_t acknowledged_ = 0;  // what eager programs have written
  uint64_t boosted_ = 0;       // of that
  uint64_t unfinished_ = 0;    // files that were being written to the end

 private:
  /// Until all write, and what they write goes past FUSE, if it is to. False if all have written so
  /// much that they stop before that.
  bool await_writers(const SharedBoard<Leavings>& board, bool boosted) const {
    constexpr uint64_t kEnough = 1 << 20;
    const uint64_t before = daemon_.boosted_write_bytes();
    const auto all_have = [&](uint64_t bytes) {
      return std::all_of(board->acknowledged.begin(), board->acknowledged.end(),
                         [bytes](const auto& count) { return count.load() >= bytes; });
    };
    bool good = false;
    const bool known = comes_true(
        [&] {
          good = all_have(1) && (!boosted || daemon_.boosted_write_bytes() >= before + kEnough);
          return good || all_have(kMostLeft);
        },
        seconds(120));
    if (!known) throw std::runtime_error("they do not write");
    return good;
  }

  void pause() { std::this_thread::sleep_for(std::chrono::microseconds(random_() % 5000)); }

  std::mt19937 random_{1};
};

INSTANTIATE_TEST_SUITE_P(, Exits, testing::ValuesIn(kWays),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Exits, WhatWasAcknowledgedIsSeenAfterWait) {
  leave(0, kByOpen, kPlain);
  expect_all_seen("without booster");
  ASSERT_FALSE(HasFailure());
  const int count = rounds();
  unfinished_ = 0;
  for (int round = 0; round < count && !HasFatalFailure(); ++round) {
    leave(round, kByOpen, {.eager = round % 2 == 0});
    if (GetParam().says_so) leave(round, kByName, {.eager = round % 2 == 0});
  }
  expect_all_seen("of " + std::to_string(count) + " rounds with " + std::to_string(kLeavers) +
                  " files");
  EXPECT_GT(boosted_, acknowledged_ / 2) << kTooLittle;
  EXPECT_GT(unfinished_, 0U) << "all had stopped writing before the end" << kTooLittle;
}

}  // namespace
}  // namespace booster::test
