// Recalls under load: a program writes numbered records to one file after the other, boosted, while
// others open that file at any moment. Whoever opens it sees every record whose write had returned
// before, and waits for no program.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/integration/shared_board.h"
#include "tests/programs/bytes.h"
#include "tests/programs/records.h"

namespace booster::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

/// Nobody who opens a file waits so long: what has to be drained is bounded in time, and brick and
/// machine may be slow.
constexpr microseconds kTooLong = seconds(30);

constexpr std::array<const char*, 5> kWaysToOpen = {"r", "rw", "w", "r+nonblock", "w+nonblock"};

class Recall : public testing::Test {
 protected:
  void SetUp() override {
    recorder_ = start("write", kAsUsersDo);
    boosted_opener_ = start("open", kAsUsersDo);
    plain_opener_ = start("open", kPlain);
    EXPECT_EQ(boosted_opener_->read_line(), "ready");
    EXPECT_EQ(plain_opener_->read_line(), "ready");
  }

  void TearDown() override {
    board_->wanted.store(Board::kEnough, std::memory_order_release);
    const RunResult result = recorder_->wait();
    EXPECT_EQ(result.status, 0) << result.out << result.err;
    std::cout << opens_ << " opens, the slowest took " << slowest_.count() << " us, all together "
              << all_.count() << " us" << std::endl;
    EXPECT_LT(slowest_, kTooLong);
  }

  std::unique_ptr<Child> start(const char* what, const RunOptions& options) const {
    return std::make_unique<Child>(
        std::vector<std::string>{BOOSTER_TEST_RECORDER, what, board_.path(), dir_.path()}, options);
  }

  uint64_t acknowledged() const {
    return board_->files[file_].acknowledged.load(std::memory_order_acquire);
  }

  /// Waits until that is so. False if it does not come to be.
  template <typename Condition>
  static bool comes(const Condition& condition) {
    const auto end = steady_clock::now() + seconds(120);
    while (!condition()) {
      if (steady_clock::now() > end) return false;
      std::this_thread::sleep_for(microseconds(300));
    }
    return true;
  }

  /// The recorder goes on to the next file, and all of the one before must be there.
  void next_file() {
    const uint64_t last = file_++;
    board_->wanted.store(file_, std::memory_order_release);
    ASSERT_TRUE(comes([&] { return acknowledged() > 0; })) << "the recorder does not go on";
    ASSERT_EQ(board_->closed.load(std::memory_order_acquire), last);
    if (last > 0) expect_whole(last);
    let_in_ = daemon_.let_in_early();
  }

  /// At the end of a round: whether it has to be done again, since who opened the file was let go
  /// too early, and saw old bytes.
  bool again() {
    const bool again = std::exchange(saw_old_, false);
    repeats_ = again ? repeats_ + 1 : 0;
    return again;
  }

  /// Until the daemon has written something of the file. Ends the test if it does not.
  void await_boosted() {
    const uint64_t before = daemon_.boosted_write_bytes();
    if (comes([&] { return daemon_.boosted_write_bytes() > before; })) return;
    end_with_too_little("not boosted: " + daemon_.stats().ShortDebugString());
  }

  void expect_whole(uint64_t file) {
    const std::string path = record_file(dir_.path(), file);
    std::string bytes = read_file(path);
    const uint64_t count = board_->files[file].acknowledged.load(std::memory_order_acquire);
    ASSERT_EQ(bytes.size(), std::min(count, kSlots) * kRecordBytes) << path;
    const uint64_t first = count < kSlots ? 1 : count - kSlots + 1;
    const auto is_whole = [&] {
      for (uint64_t number = first; number <= count; ++number) {
        if (bytes.substr(slot_of(number) * kRecordBytes, kRecordBytes) != record(number)) {
          return false;
        }
      }
      return true;
    };
    // FUSE may show a page up to a second late that was read while a write of it was under way.
    comes_true_soon(milliseconds(1200), [&] {
      if (!is_whole()) bytes = read_file(path);
      return is_whole();
    });
    for (uint64_t number = first; number <= count; ++number) {
      const std::string there = bytes.substr(slot_of(number) * kRecordBytes, kRecordBytes);
      uint64_t found = 0;
      std::memcpy(&found, there.data(), sizeof(found));
      EXPECT_TRUE(there == record(number)) << path << ": record " << found << ", or a part of it, "
                                           << "in place of " << number << " of " << count;
    }
    ::unlink(path.c_str());
  }

  void order_open(Child& opener, const std::string& how, int count = 1) const {
    opener.write_line(how + " " + std::to_string(file_) + " " + std::to_string(count));
  }

  void expect_seen(Child& opener, const std::string& how, int count = 1) {
    const std::string answer = opener.read_line();
    const std::string good = "all right, slowest ";
    const bool may_be_old = (answer.starts_with("record") || answer.starts_with("size") ||
                             answer.starts_with("a read")) &&
                            answer.find("mixed") == std::string::npos;
    const bool excused = may_be_old && repeats_ < 2 && daemon_.let_in_early() > let_in_;
    saw_old_ = saw_old_ || excused;
    EXPECT_TRUE(answer.starts_with(good) || excused)
        << answer << ", file " << file_ << " opened as " << how << " by "
        << (&opener == plain_opener_.get() ? "a plain program" : "a preloaded program");
    const size_t at = answer.find("slowest ");
    if (at == std::string::npos) return;
    const microseconds waited(std::stol(answer.substr(at + 8)));
    slowest_ = std::max(slowest_, waited);
    all_ += waited;
    opens_ += count;
    EXPECT_LT(waited, kTooLong) << how;
  }

  /// Up to `bound`, at random.
  void pause(microseconds bound) {
    std::this_thread::sleep_for(microseconds(random_() % static_cast<uint64_t>(bound.count())));
  }

  ScratchDir dir_;
  // Of one recorder and of those who open its files.
  SharedBoard<Board> board_{Lab::get().dir + "/board-" + std::to_string(::getpid())};
  Daemon daemon_;
  std::unique_ptr<Child> recorder_;
  std::unique_ptr<Child> boosted_opener_;
  std::unique_ptr<Child> plain_opener_;
  uint64_t file_ = 0;
  int let_in_ = 0;        // too early, before this round
  bool saw_old_ = false;  // in this round, who was let in too early
  int repeats_ = 0;       // of it
  std::mt19937 random_{1};
  int opens_ = 0;
  microseconds slowest_{0};
  microseconds all_{0};
};

TEST_F(Recall, WhoOpensAFileUnderLoadSeesWhatWasAcknowledged) {
  for (int i = 0; i < rounds(); i += again() ? 0 : 1) {
    const auto way = static_cast<size_t>(i);
    next_file();
    await_boosted();
    pause(milliseconds(10));
    // One, or two of which the second comes while the first recalls.
    Child& first = i % 2 == 0 ? *plain_opener_ : *boosted_opener_;
    Child& second = i % 2 == 0 ? *boosted_opener_ : *plain_opener_;
    const std::string how = kWaysToOpen[way % kWaysToOpen.size()];
    const std::string also = kWaysToOpen[way / kWaysToOpen.size() % kWaysToOpen.size()];
    order_open(first, how);
    if (i % 4 >= 2) {
      pause(milliseconds(2));
      order_open(second, also);
      expect_seen(second, also);
    }
    expect_seen(first, how);
    ASSERT_FALSE(HasFailure()) << i;
  }
  next_file();
}

TEST_F(Recall, AStoppedWriterHoldsUpNobodyAndLosesNothing) {
  for (int i = 0; i < rounds(); i += again() ? 0 : 1) {
    next_file();
    await_boosted();
    pause(milliseconds(5));
    recorder_->signal(SIGSTOP);
    int status = 0;
    ASSERT_EQ(::waitpid(recorder_->pid(), &status, WUNTRACED), recorder_->pid());
    ASSERT_TRUE(WIFSTOPPED(status));
    const std::string how = kWaysToOpen[static_cast<size_t>(i) % kWaysToOpen.size()];
    for (Child* opener : {plain_opener_.get(), boosted_opener_.get()}) {
      order_open(*opener, how);
      expect_seen(*opener, how);
    }
    recorder_->signal(SIGCONT);
    const uint64_t then = acknowledged();
    ASSERT_TRUE(comes([&] { return acknowledged() > then + kSlots; })) << "does not go on";
    order_open(*plain_opener_, "r");
    expect_seen(*plain_opener_, "r");
    ASSERT_FALSE(HasFailure()) << i;
  }
  next_file();
}

TEST_F(Recall, TheWriterItselfOpensItsFile) {
  const auto own_opens = [&] { return board_->own_opens.load(std::memory_order_acquire); };
  for (int i = 0; i < rounds(); i += again() ? 0 : 1) {
    next_file();
    await_boosted();
    pause(milliseconds(5));
    const uint64_t before = own_opens();
    board_->own_opens_wanted.store(before + 3, std::memory_order_release);
    if (i % 2 == 0) {
      order_open(*plain_opener_, "rw");
      expect_seen(*plain_opener_, "rw");
    }
    ASSERT_TRUE(comes([&] { return own_opens() == before + 3; }))
        << "it has ended, or waits for itself";
    ASSERT_FALSE(HasFailure()) << i;
  }
  next_file();
}

TEST_F(Recall, ACrowdOpensAFileAtOnce) {
  const int crowd = rounds() / 2;
  for (size_t i = 0; i < 5; i += again() ? 0 : 1) {
    next_file();
    await_boosted();
    const std::string how = kWaysToOpen[i % kWaysToOpen.size()];
    order_open(*plain_opener_, how, crowd);
    order_open(*boosted_opener_, how, crowd);
    expect_seen(*plain_opener_, how, crowd);
    expect_seen(*boosted_opener_, how, crowd);
    ASSERT_FALSE(HasFailure()) << how;
  }
  next_file();
}

/// Who opens a file in the middle of one long write, and looks on, sees all of it when the write
/// has returned, through what he has opened then.
TEST(RecallInALongWrite, WhoHasOpenedTheFileMeanwhileSeesAllOfItAfterwards) {
  constexpr size_t kLong = 128 << 20;
  constexpr size_t kLast = 4096;
  const Daemon daemon;
  const ScratchDir dir;
  const std::string path = dir.file("f");
  Puppet writer(kAsUsersDo);
  ASSERT_EQ(writer.tell("open", "f", "rw+creat", path), "0");
  const auto boosted = [&] { return daemon.boosted_write_bytes(); };
  const auto write = [&](uint64_t seed) { writer.order("pwrite", "f", 0, kLong, seed); };
  const auto written = [&] { return writer.answer() == std::to_string(kLong); };
  // The end of the file is written last; a read of more makes FUSE notice by itself.
  const auto shows_end_of = [&](int fd, uint64_t seed) {
    std::array<char, kLast> bytes{};
    EXPECT_EQ(::pread(fd, bytes.data(), kLast, kLong - kLast), static_cast<ssize_t>(kLast));
    return first_wrong(bytes.data(), kLast, kLong - kLast, seed) == kLast;
  };
  std::mt19937 random(1);
  int in_the_middle = 0;
  for (int i = 0; i < rounds() && !HasFailure(); ++i) {
    const uint64_t seed = 2 * static_cast<uint64_t>(i) + 1;
    until_counted(daemon, boosted, [&] {
      write(seed);
      ASSERT_TRUE(written());
    });
    ASSERT_EQ(writer.tell("fsync", "f"), "0");
    const uint64_t before = boosted();
    write(seed + 1);
    comes_true([&] { return boosted() > before; }, seconds(1));
    std::this_thread::sleep_for(microseconds(random() % 20'000));
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    if (shows_end_of(fd, seed)) ++in_the_middle;
    EXPECT_TRUE(written());
    EXPECT_TRUE(shows_end_of(fd, seed + 1)) << i;
    ::close(fd);
    EXPECT_TRUE(read_file(path) == bytes_at(0, kLong, seed + 1)) << i;
  }
  EXPECT_GT(in_the_middle, 0) << kTooLittle;
}

}  // namespace
}  // namespace booster::test
