// Programs as users start them, with the policy of the default configuration: what one of them has
// written is seen at once by all others on the host, with booster and without. A write is boosted
// only while nobody else has the file open, and whoever opens it waits until FUSE knows of it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <random>
#include <string>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;

constexpr size_t kLarge = 1 << 20;  // a call that pays
constexpr size_t kSmall = 4096;     // one that does not

class Alone : public testing::Test {
 protected:
  uint64_t boosted() const { return daemon_.boosted_write_bytes(); }

  uint64_t passed(const std::string& reason) const {
    const auto stats = daemon_.stats();
    for (const auto& passed : stats.passed()) {
      if (passed.reason() == reason) return passed.calls();
    }
    return 0;
  }

  std::string open_file(Puppet& writer, const std::string& name) {
    const std::string path = dir_.file(name);
    EXPECT_EQ(writer.tell("open", name, "rw+creat", path), "0");
    return path;
  }

  static std::string right(size_t length) { return std::to_string(length); }

  /// Writes [0, kLarge) of `seed` until such a write is boosted, and has all of them counted. Ends
  /// the test if that does not come to be.
  void warm(Puppet& writer, const std::string& name, uint64_t seed) {
    until_counted(
        daemon_, [this] { return boosted(); },
        [&] { ASSERT_EQ(writer.tell("pwrite", name, 0, kLarge, seed), right(kLarge)); });
    EXPECT_EQ(writer.tell("fsync", name), "0");
  }

  /// "" if a new descriptor of this program, which has no booster, shows that; else what it shows.
  static std::string look(const std::string& path, size_t offset, size_t length, uint64_t seed) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    EXPECT_EQ(::fstat(fd, &status), 0);
    std::string bytes(length, '\0');
    const ssize_t got = ::pread(fd, bytes.data(), length, static_cast<off_t>(offset));
    EXPECT_GE(got, 0);
    ::close(fd);
    const auto size = static_cast<size_t>(status.st_size);
    if (size < offset + length) return path + ": size " + std::to_string(size) + "\n";
    if (got != static_cast<ssize_t>(length)) return path + ": read " + std::to_string(got) + "\n";
    const size_t wrong = first_wrong(bytes.data(), length, offset, seed);
    return wrong == length ? "" : path + ": wrong from " + std::to_string(offset + wrong) + " on\n";
  }

  ScratchDir dir_;
  Daemon daemon_;
};

TEST_F(Alone, WhoOpensAFileSeesEveryWriteThatHasReturned) {
  constexpr int kFiles = 10;
  Puppet writer(kAsUsersDo);
  std::vector<std::string> paths;
  for (int f = 0; f < kFiles; ++f) paths.push_back(open_file(writer, std::to_string(f)));
  int seen_boosted = 0;
  const int all = rounds() * kFiles;
  uint64_t seed = 1;
  // Whoever is asked late on a busy machine lets the kernel do a call.
  for (int i = 0; i < all || (seen_boosted <= all * 9 / 10 && i < 3 * all); ++i) {
    const std::string name = std::to_string(i % kFiles);
    const std::string& path = paths[static_cast<size_t>(i % kFiles)];
    uint64_t bytes = 0;
    expect_nothing_old(daemon_, [&](std::string& old) {
      seed += 10;
      warm(writer, name, seed);
      // Primes what FUSE's client keeps: the next open must not be shown that.
      struct stat status {};
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
      const uint64_t before = boosted();
      ASSERT_EQ(writer.tell("pwrite", name, 0, kLarge, seed + 1), right(kLarge));
      ASSERT_EQ(writer.tell("pwrite", name, kLarge, kLarge, seed + 1), right(kLarge));
      old += look(path, 0, 2 * kLarge, seed + 1);
      bytes = boosted() - before;
    });
    if (bytes == 2 * kLarge) ++seen_boosted;
    ASSERT_FALSE(HasFailure()) << i;
  }
  EXPECT_GT(seen_boosted, all * 9 / 10) << kTooLittle;
}

/// Also while a write is under way.
TEST_F(Alone, WhoOpensAFileInTheMiddleOfAWriteSeesTheOneBeforeIt) {
  Puppet writer(kAsUsersDo);
  const std::string path = open_file(writer, "a");
  std::mt19937 random(1);
  constexpr size_t kLength = 4 * kLarge;
  uint64_t seed = 1;
  for (int i = 0; i < rounds(); ++i) {
    expect_nothing_old(daemon_, [&](std::string& old) {
      seed += 10;
      warm(writer, "a", seed);
      ASSERT_EQ(writer.tell("pwrite", "a", kLength, kLarge, seed + 1), right(kLarge));
      writer.order("pwrite", "a", 0, kLength, seed + 2);
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 12'000));
      old += look(path, kLength, kLarge, seed + 1);
      ASSERT_EQ(writer.answer(), right(kLength));
      old += look(path, 0, kLength, seed + 2);
    });
    ASSERT_FALSE(HasFailure()) << i;
  }
}

TEST_F(Alone, WhileSomebodyElseHasItOpenWritesAreTheKernels) {
  Puppet writer(kAsUsersDo);
  const std::string path = open_file(writer, "a");
  warm(writer, "a", 1);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const uint64_t before = boosted();
  std::string bytes(kLarge, '\0');
  for (uint64_t i = 0; i < 50; ++i) {
    ASSERT_EQ(writer.tell("pwrite", "a", 0, kLarge, i + 2), right(kLarge));
    // Through the descriptor that has been open all the time.
    ASSERT_EQ(::pread(fd, bytes.data(), kLarge, 0), static_cast<ssize_t>(kLarge));
    ASSERT_EQ(first_wrong(bytes.data(), kLarge, 0, i + 2), kLarge) << i;
    if (i % 10 == 0) std::this_thread::sleep_for(milliseconds(300));
  }
  EXPECT_EQ(boosted(), before);
  ::close(fd);
  warm(writer, "a", 100);  // they come back
  writer.leave();
  EXPECT_GT(passed("not-alone"), 30U) << kTooLittle;
}

/// What is not worth the daemon's way goes through FUSE's write-behind, where only FUSE sees it.
TEST_F(Alone, SmallWritesAreSeenByLargeReadsOfOthersAtOnce) {
  Puppet writer(kAsUsersDo);
  Puppet reader(kAsUsersDo);
  constexpr size_t kSize = 8 << 20;
  const std::string path = dir_.file("a");
  write_file(path, bytes_at(0, kSize, 1));
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  for (uint64_t i = 0; i < static_cast<uint64_t>(rounds()); ++i) {
    const size_t at = i * 7919 % (kSize - kLarge) / kSmall * kSmall;
    ASSERT_EQ(writer.tell("pwrite", "w", at, kSmall, i + 2), right(kSmall));
    // Nothing of it is in the kernel's cache, so that it pays to ask the bricks.
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    const std::string got = reader.tell("pread", "r", at, kLarge, i + 2);
    const std::string wrong = " wrong at ";
    const size_t found = got.find(wrong);
    ASSERT_NE(found, std::string::npos) << got;
    ASSERT_GE(std::stoull(got.substr(found + wrong.size())), kSmall) << "write " << i << " unseen";
  }
  ::close(fd);
  reader.leave();
  // The daemon cannot know what FUSE's client of a writer still holds back.
  EXPECT_GT(passed("not-alone"), 30U) << kTooLittle;
}

/// FUSE's client gives no sign of what its write-behind holds back once it is sure of the
/// attributes, which it is after a read elsewhere in the file.
TEST_F(Alone, WhatTheProgramWroteThroughTheKernelComesBeforeItsBoostedCalls) {
  const std::string path = dir_.file("a");
  write_file(path, bytes_at(0, 24 << 20, 1));
  const int all = rounds();
  const auto before = daemon_.stats().totals();
  const RunResult result =
      run({probe_path(), "held-back", path, std::to_string(all)}, {.eager = true});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  const auto after = daemon_.stats().totals();
  // Whoever is asked late on a busy machine lets the kernel do a call.
  EXPECT_GE(after.read_calls() + after.cached_calls() - before.read_calls() - before.cached_calls(),
            static_cast<uint64_t>(all) * 9 / 10)
      << kTooLittle;
  EXPECT_GE(after.write_calls() - before.write_calls(), static_cast<uint64_t>(all) * 9 / 10)
      << kTooLittle;
}

TEST_F(Alone, ThatAFileIsOpenedDoesNotChangeTimesThatWereSet) {
  Puppet writer(kAsUsersDo);
  int made = 0;
  for (int i = 0; i < rounds(); ++i) {
    expect_nothing_old(daemon_, [&](std::string& old) {
      const std::string name = "t" + std::to_string(made++);
      const std::string path = open_file(writer, name);
      warm(writer, name, 1);
      // Another file that FUSE does not know all of.
      if (i > 0) {
        ASSERT_EQ(writer.tell("pwrite", "t0", 0, kLarge, 2), right(kLarge));
      }
      writer.order("times", name, 1'000'000'000);
      if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i * 50));
      old += look(path, 0, kLarge, 1);
      ASSERT_EQ(writer.answer(), "0");
      old += look(path, 0, kLarge, 1);
      struct stat status {};
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
      ASSERT_EQ(status.st_mtim.tv_sec, 1'000'000'000) << i;
      ASSERT_EQ(writer.tell("close", name, "close"), "0");
      if (name == "t0") {
        ASSERT_EQ(writer.tell("open", "t0", "rw", path), "0");
      }
    });
  }
}

TEST_F(Alone, AProgramThatIsKilledRightAfterAWriteHoldsUpWhoOpensTheFile) {
  uint64_t seed = 1;
  for (int i = 0; i < rounds(); ++i) {
    expect_nothing_old(daemon_, [&](std::string& old) {
      seed += 10;
      Puppet writer(kAsUsersDo);
      const std::string name = "k" + std::to_string(seed);
      const std::string path = open_file(writer, name);
      warm(writer, name, seed);
      struct stat status {};
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
      ASSERT_EQ(writer.tell("pwrite", name, 0, 3 * kLarge, seed + 1), right(3 * kLarge));
      writer.child().signal(SIGKILL);
      if (i % 2 == 0) writer.child().wait();
      old += look(path, 0, 3 * kLarge, seed + 1);
    });
    ASSERT_FALSE(HasFailure()) << i;
  }
}

/// A filter kills a program for calls that it does not know of.
TEST_F(Alone, AProgramThatEntersSeccompIsTheKernels) {
  Puppet writer(kAsUsersDo);
  const std::string path = open_file(writer, "a");
  warm(writer, "a", 1);
  const uint64_t before = boosted();
  ASSERT_EQ(writer.tell("seccomp"), "0");
  EXPECT_EQ(look(path, 0, kLarge, 1), "");
  for (uint64_t seed = 2; seed < 10; ++seed) {
    ASSERT_EQ(writer.tell("pwrite", "a", 0, kLarge, seed), right(kLarge));
    ASSERT_EQ(writer.tell("pread", "a", 0, kLarge, seed), right(kLarge));
  }
  // Once more in a child, where nothing of the parent's session is.
  ASSERT_EQ(writer.tell("seccomp-in-child"), "0");
  ASSERT_EQ(writer.tell("close", "a", "close"), "0");
  writer.leave();
  EXPECT_EQ(look(path, 0, kLarge, 9), "");
  EXPECT_EQ(boosted(), before);
  EXPECT_EQ(passed("seccomp"), 1U);
}

TEST_F(Alone, WhenTheDaemonDiesWritesGoOnThroughTheKernel) {
  Puppet writer(kAsUsersDo);
  const std::string path = open_file(writer, "a");
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 10 + 1;
    warm(writer, "a", seed);
    daemon_.kill(i % 2 == 0 ? SIGKILL : SIGTERM);
    ASSERT_EQ(writer.tell("pwrite", "a", 0, kLarge, seed + 1), right(kLarge));
    const std::string bytes = read_file(path);
    ASSERT_EQ(first_wrong(bytes.data(), kLarge, 0, seed + 1), kLarge) << i;
    daemon_.start();
  }
}

}  // namespace
}  // namespace booster::test
