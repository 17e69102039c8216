// The page cache: what it serves, and that it never serves what somebody has overwritten. Every
// test that looks for stale bytes first sees to it that the cache, not the kernel, is what would
// show them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <list>
#include <string>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kPage = 4096;
constexpr size_t kSize = 4 << 20;

class Cached : public testing::Test {
 protected:
  /// `more`: other keys of [cache].
  explicit Cached(uint64_t budget = 256 << 20, const std::string& more = "")
      : daemon_("[cache]\nbytes = " + std::to_string(budget) + "\n" + more) {}

  /// A file of kSize bytes of `seed`, open for reading in `reader` as `name`.
  std::string open_file(Puppet& reader, const std::string& name, uint64_t seed) {
    const std::string path = dir_.file(name);
    write_file(path, bytes_at(0, kSize, seed));
    EXPECT_EQ(reader.tell("open", name, "r", path), "0");
    return path;
  }

  uint64_t cached_calls() const { return daemon_.stats().totals().cached_calls(); }

  static std::string right(size_t length) { return std::to_string(length); }

  /// Reads until reads of [offset, offset + length) come out of the cache; they must be right all
  /// the time. Ends the test if that does not come to be.
  void warm(Puppet& reader, const std::string& name, uint64_t seed, size_t offset = 0,
            size_t length = kPage) {
    const auto read = [&] {
      ASSERT_EQ(reader.tell("pread", name, offset, length, seed), right(length))
          << "while the cache gets warm";
    };
    until_counted(
        daemon_, [this] { return cached_calls(); }, read, milliseconds(2));
  }

  static void drop() {
    const RunResult result = run({boosterctl_path(), "cache", "drop"}, {.preload = false});
    EXPECT_EQ(result.status, 0) << result.err;
  }

  /// Does `work` with an empty cache; `changed` is when its files were. What is filled soon after
  /// that is dropped after four times as long: when so much time has gone by meanwhile, once more,
  /// and by then the change is long ago.
  static void before_it_is_doubted(steady_clock::time_point changed,
                                   const std::function<void()>& work) {
    for (int attempt = 0; attempt < 4 && !HasFatalFailure(); ++attempt) {
      const auto start = steady_clock::now();
      drop();
      work();
      if (steady_clock::now() - changed < 4 * (start - changed)) return;
    }
  }

  /// The bricks have all of the file, for so long that what is filled from now on is kept.
  static void let_settle(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(::fsync(fd), 0);
    ::close(fd);
    std::this_thread::sleep_for(milliseconds(1500));
  }

  /// Overwrites [offset, offset + length) as programs without booster do.
  static void overwrite(const std::string& path, size_t offset, size_t length, uint64_t seed) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const std::string bytes = bytes_at(offset, length, seed);
    EXPECT_EQ(::pwrite(fd, bytes.data(), length, static_cast<off_t>(offset)),
              static_cast<ssize_t>(length));
    EXPECT_EQ(::close(fd), 0);
  }

  ScratchDir dir_;
  Daemon daemon_;
};

// --- what it serves ----------------------------------------------------------------------------

TEST_F(Cached, HotReadsAskNobody) {
  Puppet reader;
  open_file(reader, "r", 1);
  // What was filled within a second of a change goes at the next look.
  std::this_thread::sleep_for(milliseconds(1500));
  warm(reader, "r", 1, 0, kSize);
  const auto before = daemon_.stats().totals();
  constexpr int kCalls = 1000;
  for (int i = 0; i < kCalls; ++i) {
    const size_t offset = static_cast<size_t>(i) * 7919 % (kSize - kPage);
    ASSERT_EQ(reader.tell("pread", "r", offset, kPage, 1), right(kPage)) << offset;
  }
  for (size_t offset = 0; offset < kSize; offset += 10'000) {
    const size_t length = std::min<size_t>(10'000, kSize - offset);
    ASSERT_EQ(reader.tell("read", "r", 10'000, 1), right(length)) << offset;
  }
  EXPECT_EQ(reader.tell("read", "r", 10'000, 1), "0");
  const auto after = daemon_.stats().totals();
  EXPECT_GT(after.cached_calls() - before.cached_calls(), kCalls * 95 / 100) << kTooLittle;
  EXPECT_LT(after.read_calls() - before.read_calls(), kCalls / 20) << kTooLittle;
}

TEST_F(Cached, SmallReadsInOrderAreFetchedInLargeRequests) {
  constexpr size_t kLong = 128 << 20;  // much more than is fetched ahead at once
  const std::string path = dir_.file("long");
  write_file(path, bytes_at(0, kLong, 7));
  // As fast as it can, so that it catches up with what is fetched ahead of it.
  const RunResult result = run({"dd", "if=" + path, "of=/dev/null", "bs=4k"});
  ASSERT_EQ(result.status, 0) << result.err;
  const auto cache = daemon_.stats().cache();
  // The first reads may have been left to the kernel.
  ASSERT_GT(cache.filled(), kLong / 2) << kTooLittle;
  EXPECT_GT(cache.filled() / cache.fills(), 128U << 10) << kTooLittle;
}

TEST_F(Cached, SmallReadsBackwardsAndInStepsAreFetchedInLargeRequests) {
  constexpr size_t kLong = 32 << 20;
  constexpr size_t kCall = 16 << 10;
  for (const int64_t step : {-1, -2, 3}) {
    const std::string path = dir_.file("long" + std::to_string(step));
    write_file(path, bytes_at(0, kLong, 7));
    Puppet reader;
    ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
    const auto before = daemon_.stats().cache();
    constexpr auto kLast = static_cast<int64_t>(kLong / kCall) - 1;
    for (int64_t at = step < 0 ? kLast : 0; at >= 0 && at <= kLast; at += step) {
      ASSERT_EQ(reader.tell("pread", "r", static_cast<size_t>(at) * kCall, kCall, 7), right(kCall));
    }
    const auto after = daemon_.stats().cache();
    ASSERT_GT(after.filled() - before.filled(), kLong / 4) << step << kTooLittle;
    EXPECT_GT((after.filled() - before.filled()) / (after.fills() - before.fills()), 96U << 10)
        << step << kTooLittle;
  }
}

TEST_F(Cached, SeveralProgramsShareWhatOneHasRead) {
  Puppet first;
  const std::string path = open_file(first, "r", 2);
  const auto changed = steady_clock::now();
  let_settle(path);
  uint64_t filled_again = 0;
  before_it_is_doubted(changed, [&] {
    warm(first, "r", 2, 0, kSize);
    const uint64_t filled = daemon_.stats().cache().filled();
    for (int i = 0; i < 5; ++i) {
      Puppet other;
      ASSERT_EQ(other.tell("open", "r", "r", path), "0");
      warm(other, "r", 2, 0, kSize);
    }
    filled_again = daemon_.stats().cache().filled() - filled;
  });
  EXPECT_EQ(filled_again, 0U);
}

/// As users have it: one that is read a little is the kernel's, and one that is read all the time
/// not.
TEST_F(Cached, ASmallFileThatIsReadAllTheTimeMovesToTheCache) {
  constexpr const char* kRead = R"(
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for i in range(int(sys.argv[2])): assert os.pread(fd, 4096, i % 64 * 4096) == b'%04d' % (i % 64) * 1024
)";
  std::string bytes;
  for (int page = 0; page < 64; ++page) {
    char number[5];
    snprintf(number, sizeof(number), "%04d", page);
    for (int i = 0; i < 1024; ++i) bytes += number;
  }
  const auto read = [&](const std::string& path, int times) {
    const uint64_t before = daemon_.stats().totals().cached_bytes();
    const RunResult result = run({"python3", "-c", kRead, path, std::to_string(times)}, kAsUsersDo);
    EXPECT_EQ(result.status, 0) << result.err;
    return daemon_.stats().totals().cached_bytes() - before;
  };
  // On a busy machine calls that are slow look as if the kernel had to ask the bricks.
  uint64_t of_a_little = 1;
  std::string path;
  for (int i = 0; i < 5 && of_a_little > 0; ++i) {
    path = dir_.file("small" + std::to_string(i));
    write_file(path, bytes);
    of_a_little = read(path, 2000);
  }
  EXPECT_EQ(of_a_little, 0U);
  constexpr uint64_t kMuch = 32 << 20;
  uint64_t cached = 0;
  for (int i = 0; i < 10 && cached <= kMuch; ++i) cached = read(path, 60'000);
  EXPECT_GT(cached, kMuch) << kTooLittle;
}

TEST_F(Cached, DroppingItBringsTheBytesFromTheBricksAgain) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 3);
  const auto changed = steady_clock::now();
  let_settle(path);
  uint64_t filled = 0;
  before_it_is_doubted(changed, [&] {
    const uint64_t before = daemon_.stats().cache().filled();
    for (int i = 0; i < 21; ++i) warm(reader, "r", 3, 0, kSize);
    filled = daemon_.stats().cache().filled() - before;
  });
  EXPECT_EQ(filled, kSize);
  const auto before = daemon_.stats().cache();
  EXPECT_GE(before.used(), kSize);
  drop();
  warm(reader, "r", 3, 0, kSize);
  EXPECT_GE(daemon_.stats().cache().filled() - before.filled(), kSize);
}

TEST_F(Cached, AChildReadsWithoutItsParentsMemory) {
  const std::string path = dir_.file("f");
  write_file(path, bytes_at(0, kSize, 4));
  const RunResult result = run({"python3", "-c", R"(
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
whole = os.pread(fd, 1 << 22, 0)
end = time.time() + 1
while time.time() < end: assert os.pread(fd, 5000, 70000) == whole[70000:75000]
for i in range(20):
    if os.fork() == 0:
        for at in range(0, 1 << 22, 65521): assert os.pread(fd, 300, at) == whole[at:at + 300]
        os._exit(0)
    assert os.wait()[1] == 0
    assert os.pread(fd, 5000, 70000) == whole[70000:75000]
)",
                                path});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_GT(cached_calls(), 100U) << kTooLittle;
}

TEST_F(Cached, ADirectDescriptorIsTheKernels) {
  Puppet reader;
  open_file(reader, "r", 5);
  warm(reader, "r", 5);
  const uint64_t before = cached_calls();
  const std::string path = dir_.file("r");
  const RunResult result = run({"python3", "-c", R"(
import fcntl, mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
page = mmap.mmap(-1, 4096)
end = time.time() + 2
while time.time() < end: os.preadv(fd, [page], 0)
print("cached", flush=True)
sys.stdin.readline()
fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
print("direct", flush=True)
sys.stdin.readline()
for i in range(100): os.preadv(fd, [page], 4096 * i)
)",
                                path},
                               {.stdin_data = "\n\n"});
  EXPECT_EQ(result.status, 0) << result.err;
  // A session that ends just now may be counted as one that is there, and as one that was.
  auto stats = daemon_.stats();
  for (; stats.sessions_size() > 1; stats = daemon_.stats()) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_GT(stats.totals().cached_calls(), before + 100) << kTooLittle;
  uint64_t direct = 0;
  for (const auto& passed : stats.passed()) {
    if (passed.reason() == "o-direct") direct = passed.calls();
  }
  EXPECT_EQ(direct, 100U);
}

// --- that nothing is stale ---------------------------------------------------------------------

TEST_F(Cached, WhatAProgramWithoutBoosterClosedIsSeenAtOnce) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  const int count = rounds();
  for (int i = 0; i < count; ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    warm(reader, "r", seed, 8 * kPage, 4 * kPage);
    overwrite(path, 8 * kPage, 4 * kPage, seed + 1);
    ASSERT_EQ(reader.tell("pread", "r", 8 * kPage, 4 * kPage, seed + 1), right(4 * kPage)) << i;
  }
}

TEST_F(Cached, EachWriteOfABoostedProgramIsSeenAtOnce) {
  Puppet reader;
  Puppet writer;
  const std::string path = open_file(reader, "r", 1);
  uint64_t seed = 1;
  for (int i = 0; i < rounds(); ++i) {
    warm(reader, "r", seed, 0, 2 * kPage);
    ASSERT_EQ(writer.tell("open", "w", i % 2 == 0 ? "w" : "rw", path), "0");
    for (int k = 0; k < 5; ++k) {
      ++seed;
      ASSERT_EQ(writer.tell("pwrite", "w", 0, 2 * kPage, seed), right(2 * kPage));
      ASSERT_EQ(reader.tell("pread", "r", 0, 2 * kPage, seed), right(2 * kPage)) << i << ", " << k;
    }
    ASSERT_EQ(writer.tell("close", "w", "close"), "0");
    ASSERT_EQ(reader.tell("pread", "r", 0, 2 * kPage, seed), right(2 * kPage)) << i;
  }
}

TEST_F(Cached, NothingIsCachedWhileSomebodyHasItOpenForWriting) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  warm(reader, "r", 1);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  for (int i = 0; i < 10; ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 2;
    const std::string bytes = bytes_at(0, kPage, seed);
    ASSERT_EQ(::pwrite(fd, bytes.data(), kPage, 0), static_cast<ssize_t>(kPage));
    // Not closed: within a second.
    ASSERT_TRUE(comes_true_soon(milliseconds(1100), [&] {
      return reader.tell("pread", "r", 0, kPage, seed) == right(kPage);
    })) << i;
    const uint64_t before = cached_calls();
    for (int k = 0; k < 20; ++k) {
      ASSERT_EQ(reader.tell("pread", "r", 0, kPage, seed), right(kPage)) << i;
      std::this_thread::sleep_for(milliseconds(10));
    }
    ASSERT_EQ(cached_calls(), before);
  }
  ::close(fd);
  warm(reader, "r", 11);
}

TEST_F(Cached, AFileThatIsCutIsShortAtOnce) {
  Puppet reader;
  Puppet cutter;
  const std::string path = open_file(reader, "r", 1);
  const std::list<std::function<void(size_t)>> ways = {
      [&](size_t size) { EXPECT_EQ(cutter.tell("truncate-path", path, size), "0"); },
      [&](size_t size) {
        EXPECT_EQ(cutter.tell("open", "w", "w", path), "0");
        EXPECT_EQ(cutter.tell("truncate", "w", size), "0");
        EXPECT_EQ(cutter.tell("close", "w", "close"), "0");
      },
      [&](size_t size) {
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
        EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(size)), 0);
        ::close(fd);
      },
      [&](size_t size) { EXPECT_EQ(::truncate(path.c_str(), static_cast<off_t>(size)), 0); },
  };
  for (int i = 0; i < rounds(); ++i) {
    for (const auto& cut : ways) {
      overwrite(path, 0, kSize, 1);
      warm(reader, "r", 1, kSize - 3 * kPage, 3 * kPage);
      cut(kSize - kPage);
      ASSERT_EQ(reader.tell("pread", "r", kSize - 3 * kPage, 3 * kPage, 1), right(2 * kPage)) << i;
    }
  }
  warm(reader, "r", 1);
  // POSIX leaves open what this does. The kernel breaks no lease for it: within a second, as by any
  // other host.
  const int fd = ::open(path.c_str(), O_RDONLY | O_TRUNC | O_CLOEXEC);
  EXPECT_TRUE(comes_true_soon(milliseconds(1000),
                              [&] { return reader.tell("pread", "r", 0, kPage, 1) == "0"; }));
  ::close(fd);
}

TEST_F(Cached, ADeadDaemonsCacheIsBelievedByNobody) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  for (int i = 0; i < rounds(); ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    warm(reader, "r", seed);
    // Also while it is dying: who opens the file for writing waits until it cannot answer.
    if (i % 2 == 0) {
      daemon_.kill(SIGKILL);
    } else {
      daemon_.signal(SIGKILL);
    }
    overwrite(path, 0, kPage, seed + 1);
    ASSERT_EQ(reader.tell("pread", "r", 0, kPage, seed + 1), right(kPage)) << i;
    daemon_.kill(SIGKILL);
    daemon_.start();
  }
}

/// A write of another host that was long on its way may change no times: a later one has set them.
/// To whoever reads, that is as if somebody wrote on the brick itself.
TEST_F(Cached, AWriteThatWasLongOnItsWayIsSeenInTheEnd) {
  if (Lab::get().shape != "one") GTEST_SKIP() << "needs the bricks' file to be the volume's";
  Puppet reader;
  const auto opened = steady_clock::now();
  const std::string path = open_file(reader, "r", 1);
  std::this_thread::sleep_for(milliseconds(1500));
  warm(reader, "r", 1);
  const std::string bytes = Lab::get().dir + "/late";
  write_file(bytes, bytes_at(0, kPage, 2));
  const RunResult late = shell(
      "lab bricks | while read number volume pid brick; do [ $volume != vol1 ] || "
      "lab exec --host server -- dd if='" +
          bytes + "' of=\"$brick/" + path.substr(Lab::get().mount.size() + 1) +
          "\" conv=notrunc status=none; done",
      {.preload = false});
  ASSERT_EQ(late.status, 0) << late.err;
  const uint64_t before = cached_calls();
  // What was filled soon after a change is dropped after four times as long.
  const auto four_times =
      std::chrono::ceil<std::chrono::seconds>(4 * (steady_clock::now() - opened));
  ASSERT_TRUE(comes_true([&] { return reader.tell("pread", "r", 0, kPage, 2) == right(kPage); },
                         four_times + std::chrono::seconds(10)));
  EXPECT_GT(cached_calls(), before + 50) << kTooLittle;
  warm(reader, "r", 2);
}

/// Bytes of page caches that the process keeps in memory by mapping them: those of the one file
/// that it reads, which no path leads to.
uint64_t mapped_caches(pid_t pid) {
  uint64_t bytes = 0;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    // Shared, and only to be read: the log and the lanes can be written.
    if (line.find(" r--s ") == std::string::npos) continue;
    size_t end = 0;
    const uint64_t first = std::stoull(line, &end, 16);
    bytes += std::stoull(line.substr(end + 1), nullptr, 16) - first;
  }
  return bytes;
}

TEST_F(Cached, ADeadDaemonsCacheIsUnmapped) {
  Puppet reader;
  open_file(reader, "r", 1);
  warm(reader, "r", 1);
  const uint64_t mapped = mapped_caches(reader.pid());
  ASSERT_GE(mapped, kSize);
  ASSERT_LT(mapped, 3 * kSize);  // with room to grow
  for (int i = 0; i < 3; ++i) {
    daemon_.kill(SIGKILL);
    daemon_.start();
    warm(reader, "r", 1);
    // But a page by which the old daemon is known to be dead.
    EXPECT_LT(mapped_caches(reader.pid()), mapped + (64 << 10)) << i;
  }
}

TEST_F(Cached, AReaderAsksTheNextDaemon) {
  Puppet reader({.eager = false});
  const std::string path = open_file(reader, "r", 1);
  for (int daemons = 0; daemons < 3; ++daemons) {
    const auto end = steady_clock::now() + std::chrono::seconds(180);
    for (size_t i = 0; daemon_.stats().totals().cached_calls() < 50; ++i) {
      ASSERT_LT(steady_clock::now(), end) << daemons << kTooLittle;
      if (i % 100 == 0) forget(path);
      const size_t offset = i * 7919 % (kSize - kPage);
      ASSERT_EQ(reader.tell("pread", "r", offset, kPage, 1), right(kPage)) << offset;
    }
    daemon_.kill(daemons % 2 == 0 ? SIGKILL : SIGTERM);
    daemon_.start();
  }
}

/// What comes for a file that is closed before the program has looked for the answer must not wait
/// for the next file that gets its place.
TEST_F(Cached, TheCacheOfAFileThatWasClosedEarlyIsNoOthers) {
  Puppet reader(kAsUsersDo);
  constexpr size_t kLength = 64 << 10;
  // Reads until the daemon has answered, but does not look at the answer: that is the next read's.
  const auto ask = [&](const std::string& name, uint64_t seed) {
    const auto engaged = [&] { return daemon_.stats().totals().engaged(); };
    const uint64_t before = engaged();
    open_file(reader, name, seed);
    // Here and there; the kernel has it, so that it is asked for when it was read four times.
    for (size_t i = 1; i < 1000; ++i) {
      const size_t offset = i * 126'704 % (kSize - kLength);
      EXPECT_EQ(reader.tell("pread", name, offset, kLength, seed), right(kLength)) << offset;
      for (int look = 0; look < 10; ++look) {
        if (engaged() > before) return true;
        std::this_thread::sleep_for(milliseconds(1));
      }
    }
    return false;
  };
  for (int i = 0; i < 2; ++i) {
    // Each takes the first place that is free.
    ASSERT_TRUE(ask("first", 1)) << kTooLittle;
    warm(reader, "first", 1, 0, kLength);
    ASSERT_TRUE(ask("early", 2)) << kTooLittle;
    ASSERT_EQ(reader.tell("close", "early", "close"), "0");
    ASSERT_EQ(reader.tell("close", "first", "close"), "0");
    ASSERT_TRUE(ask("in-firsts-place", 3)) << kTooLittle;
    warm(reader, "in-firsts-place", 3, 0, kLength);
    ASSERT_TRUE(ask("in-earlys-place", 4)) << kTooLittle;
    warm(reader, "in-earlys-place", 4, 0, kLength);
    ASSERT_EQ(reader.tell("close", "in-firsts-place", "close"), "0");
    ASSERT_EQ(reader.tell("close", "in-earlys-place", "close"), "0");
  }
}

TEST_F(Cached, AProgramSeesItsOwnWriteWhateverHappensToTheDaemon) {
  for (int i = 0; i < rounds(); ++i) {
    Puppet program;
    const std::string path = open_file(program, "r", 1);
    warm(program, "r", 1);
    daemon_.kill(SIGKILL);
    ASSERT_EQ(program.tell("open", "w", "rw", path), "0");
    ASSERT_EQ(program.tell("pwrite", "w", 0, kPage, 2), right(kPage));
    ASSERT_EQ(program.tell("pread", "r", 0, kPage, 2), right(kPage)) << i;
    ASSERT_EQ(program.tell("pread", "w", 0, kPage, 2), right(kPage)) << i;
    daemon_.start();
  }
}

/// The kernel opens a watched file for the daemon before it lets anybody else open it, and refuses
/// them if it cannot.
TEST_F(Cached, WhereRootIsNobodyWhoMayOpenAFileCanAlwaysOpenIt) {
  constexpr uid_t kUser = 1000;
  const std::string path = dir_.file("r");
  write_file(path, bytes_at(0, kSize, 1));
  ASSERT_EQ(::chown(dir_.path().c_str(), kUser, kUser), 0);
  ASSERT_EQ(::chown(path.c_str(), kUser, kUser), 0);
  {
    const VolumeOption squash("vol1", "server.root-squash", "on");
    daemon_.kill(SIGTERM);  // its context has read other files
    daemon_.start();
    const RunResult result = run({"python3", "-c", R"(
import os, sys, time
path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
end = time.time() + 2
while time.time() < end: os.pread(fd, 4096, 8192)
os.chmod(path, 0o600)
for i in range(50):
  os.close(os.open(path, os.O_RDONLY))
  os.close(os.open(path, os.O_RDWR))
)",
                                  path},
                                 {.uid = kUser});
    EXPECT_EQ(result.status, 0) << result.err;
    // The file was engaged, so that it would have been cached elsewhere.
    EXPECT_GT(daemon_.stats().totals().engaged(), 0U) << kTooLittle;
  }
  // Options take a while to reach the bricks.
  ASSERT_TRUE(comes_true([&] { return ::chmod(path.c_str(), 0644) == 0; }));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  warm(reader, "r", 1);
}

/// Nobody is told of truncate(2), and a lock keeps the shim from opening the file for it.
TEST_F(Cached, AProgramThatCutsAFileByItsNameSeesThatItself) {
  Puppet program;
  const std::string path = open_file(program, "r", 1);
  ASSERT_EQ(program.tell("open", "w", "rw", path), "0");
  ASSERT_EQ(program.tell("posix-lock", "w"), "0");
  ASSERT_EQ(program.tell("close", "w", "close"), "0");
  for (int i = 0; i < rounds(); ++i) {
    overwrite(path, 0, kSize, 1);
    warm(program, "r", 1, kSize - kPage, kPage);
    ASSERT_EQ(program.tell("truncate-path", path, kSize - kPage), "0");
    ASSERT_EQ(program.tell("pread", "r", kSize - kPage, kPage, 1), "0") << i;
  }
}

/// Cutting a file breaks the lease that the daemon takes to see whether anybody writes it.
TEST_F(Cached, WhoeverCutsAFileAllTheTimeDoesNotEndTheDaemon) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  warm(reader, "r", 1);
  const pid_t pid = daemon_.pid();
  const auto end = steady_clock::now() + std::chrono::seconds(rounds());
  std::thread cutter([&] {
    while (steady_clock::now() < end) ::truncate(path.c_str(), kSize);
  });
  while (steady_clock::now() < end) {
    const std::string got = reader.tell("pread", "r", 0, kPage, 1);
    EXPECT_EQ(got, right(kPage));
    if (got != right(kPage)) break;
  }
  cutter.join();
  EXPECT_EQ(daemon_.stats().pid(), static_cast<uint32_t>(pid));
  warm(reader, "r", 1);
}

TEST_F(Cached, LongReadsOfWhatTheKernelHasKeepTheirSession) {
  constexpr size_t kLong = 80 << 20;
  const std::string path = dir_.file("long");
  write_file(path, bytes_at(0, kLong, 1));
  Puppet reader({.eager = false});
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(reader.tell("pread", "r", 0, kLong, 1), right(kLong));
  }
  EXPECT_EQ(daemon_.stats().totals().sessions_opened(), 1U);
  EXPECT_EQ(daemon_.stats().totals().sessions_ended_for_lies(), 0U);
}

/// After a change of the volume's graph the kernel has the file as two inodes: one that was opened
/// before, and one that is opened after it. A mark on one says nothing of the other.
TEST_F(Cached, AFileThatTheKernelHasTwiceIsNotCached) {
  Puppet before;
  Puppet reader;
  Puppet writer;
  const std::string path = open_file(before, "r", 1);
  warm(before, "r", 1);
  const VolumeOption changed("vol1", "performance.read-ahead", "on");
  // The names that the kernel knows are believed for a second.
  std::this_thread::sleep_for(milliseconds(4000));
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  for (int i = 0; i < 100; ++i) {
    reader.tell("pread", "r", 0, kPage, 1);
    before.tell("pread", "r", 0, kPage, 1);
    std::this_thread::sleep_for(milliseconds(10));
  }
  for (uint64_t seed = 2; seed < 12; ++seed) {
    ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
    ASSERT_EQ(writer.tell("pwrite", "w", 0, kPage, seed), right(kPage));
    ASSERT_EQ(writer.tell("pread", "w", 0, kPage, seed), right(kPage));
    ASSERT_EQ(writer.tell("close", "w", "close"), "0");
    ASSERT_EQ(reader.tell("pread", "r", 0, kPage, seed), right(kPage)) << seed;
  }
}

// --- how much of it ----------------------------------------------------------------------------

class SmallCache : public Cached {
 protected:
  static constexpr uint64_t kBudget = 3 << 20;
  SmallCache() : Cached(kBudget, "retain_bytes = 0\n") {}
};

/// Also what a seqlock is for: pages come and go under the readers' hands.
TEST_F(SmallCache, WhatIsTooMuchGoesAndNobodySeesAWrongByte) {
  std::list<Child> workers;
  for (const uint64_t seed : {1UL, 2UL}) {
    write_file(dir_.file(std::to_string(seed)), bytes_at(0, kSize, seed));
  }
  for (int i = 0; i < 4; ++i) {
    const uint64_t seed = static_cast<uint64_t>(i % 2) + 1;
    const std::string path = dir_.file(std::to_string(seed));
    workers.emplace_back(std::vector<std::string>{
        probe_path(), "worker", i < 2 ? "read-anywhere" : "read-in-order", path, "0",
        std::to_string(kSize), std::to_string(i < 2 ? 20'000 : 8192), std::to_string(seed)});
    ASSERT_EQ(workers.back().read_line(), "ready");
  }
  const auto end = steady_clock::now() + std::chrono::seconds(rounds());
  while (steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(200));
    // Pages on their way are on top of it.
    ASSERT_LT(daemon_.stats().cache().used(), kBudget + (2 << 20));
  }
  for (Child& worker : workers) {
    const RunResult result = worker.wait();
    EXPECT_EQ(result.status, 0) << result.out << result.err;
    EXPECT_TRUE(result.out.starts_with("done")) << result.out;
  }
  const auto stats = daemon_.stats();
  EXPECT_GT(stats.cache().evicted(), 4 * kBudget) << kTooLittle;
  EXPECT_GT(stats.totals().cached_calls(), 100U) << kTooLittle;
}

class ScannedCache : public Cached {
 protected:
  static constexpr uint64_t kBudget = 16 << 20;
  ScannedCache() : Cached(kBudget, "retain_bytes = 0\n") {}
};

/// Who reads much, once, takes nothing away from who reads the same over and over.
TEST_F(ScannedCache, WhatIsReadAgainAndAgainStaysWhileAScanGoesBy) {
  constexpr size_t kHot = 8 << 20;
  const std::string hot = dir_.file("hot");
  const std::string scanned = dir_.file("scanned");
  write_file(hot, bytes_at(0, kHot, 5));
  write_file(scanned, bytes_at(0, 10 * kBudget, 6));
  const auto changed = steady_clock::now();
  std::this_thread::sleep_for(milliseconds(4000));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", hot), "0");
  uint64_t filled_again = 0;
  before_it_is_doubted(changed, [&] {
    for (int i = 0; i < 4; ++i) {
      warm(reader, "r", 5, 0, kHot);
      std::this_thread::sleep_for(milliseconds(700));
    }
    const auto before = daemon_.stats().cache();
    // Nobody looks at what is hot meanwhile.
    for (int i = 0; i < 2; ++i) {
      const RunResult scan =
          run({"dd", "if=" + scanned, "of=/dev/null", i == 0 ? "bs=64k" : "bs=1M"});
      ASSERT_EQ(scan.status, 0) << scan.err;
    }
    const auto after = daemon_.stats().cache();
    ASSERT_GT(after.filled() - before.filled(), 15 * kBudget)
        << "not scanned through the cache" << kTooLittle;
    ASSERT_GT(after.evicted() - before.evicted(), 10 * kBudget) << kTooLittle;
    warm(reader, "r", 5, 0, kHot);
    filled_again = daemon_.stats().cache().filled() - after.filled();
  });
  // All but what was at the end of the list when there was nothing cold yet.
  EXPECT_LT(filled_again, kHot / 8);
}

/// As users have it: what was read stays as long as the kernel would have kept it, and what there
/// is no room for the kernel keeps.
class FullCache : public Cached {
 protected:
  static constexpr uint64_t kBudget = 16 << 20;
  static constexpr size_t kFile = 4 * kBudget;
  /// What comes when the last room is gone may have to go again.
  static constexpr uint64_t kStray = 2 << 20;
  explicit FullCache(const std::string& more = "") : Cached(kBudget, more) {}

  uint64_t left_to_kernel() const {
    const auto stats = daemon_.stats();
    for (const auto& passed : stats.passed()) {
      if (passed.reason() == "no-room") return passed.bytes();
    }
    return 0;
  }
  void make(const std::string& name, uint64_t seed) const {
    write_file(dir_.file(name), bytes_at(0, kFile, seed));
    forget(dir_.file(name));
  }
  /// In order, by one program, all of it right.
  void read_all(Puppet& reader, const std::string& name, uint64_t seed, size_t step) {
    for (size_t at = 0; at < kFile; at += step) {
      ASSERT_EQ(reader.tell("pread", name, at, step, seed), right(step)) << "at " << at;
    }
  }
};

/// A file of four times the room: what came first is booster's, the rest the kernel's, and it comes
/// from the bricks once.
TEST_F(FullCache, WhatThereIsNoRoomForIsTheKernels) {
  make("f", 3);
  const auto changed = steady_clock::now();
  std::this_thread::sleep_for(milliseconds(4000));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", dir_.file("f")), "0");
  uint64_t filled = 0;
  uint64_t evicted = 0;
  before_it_is_doubted(changed, [&] {
    forget(dir_.file("f"));
    const auto before = daemon_.stats().cache();
    warm(reader, "r", 3);
    for (const size_t step : {size_t{1} << 20, size_t{64} << 10, size_t{4096}}) {
      const uint64_t left = left_to_kernel();
      const uint64_t cached = daemon_.stats().totals().cached_bytes();
      ASSERT_NO_FATAL_FAILURE(read_all(reader, "r", 3, step));
      ASSERT_GT(left_to_kernel() - left, kFile / 2) << step << kTooLittle;
      ASSERT_GT(daemon_.stats().totals().cached_bytes() - cached, kBudget / 2)
          << step << kTooLittle;
    }
    const auto after = daemon_.stats().cache();
    filled = after.filled() - before.filled();
    evicted = after.evicted() - before.evicted();
  });
  EXPECT_LT(filled, 2 * kBudget) << "read from the bricks again and again";
  EXPECT_LT(evicted, kStray);
  EXPECT_LT(daemon_.stats().cache().used(), kBudget + (2 << 20));
  // The kernel's part changes as the other does.
  overwrite(dir_.file("f"), 0, kPage, 4);
  overwrite(dir_.file("f"), kFile - kPage, kPage, 4);
  EXPECT_EQ(reader.tell("pread", "r", 0, kPage, 4), right(kPage));
  EXPECT_EQ(reader.tell("pread", "r", kFile - kPage, kPage, 4), right(kPage));
}

/// Who looks for what is not there leaves nothing behind that would be taken for somebody's theft.
TEST_F(FullCache, WhatIsThereStaysWhileALongFileIsReadThroughTheKernel) {
  constexpr size_t kLong = size_t{16} << 30;
  constexpr size_t kStep = 2 << 20;  // twice in what one page of the cache's words is about
  const std::string path = dir_.file("long");
  write_file(path, bytes_at(0, kFile, 6));
  ASSERT_EQ(::truncate(path.c_str(), kLong), 0);
  const auto changed = steady_clock::now();
  std::this_thread::sleep_for(milliseconds(4000));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  uint64_t filled_again = 0;
  before_it_is_doubted(changed, [&] {
    const uint64_t at_first = daemon_.stats().cache().filled();
    warm(reader, "r", 6);
    ASSERT_NO_FATAL_FAILURE(read_all(reader, "r", 6, 1 << 20));
    const uint64_t before = daemon_.stats().cache().filled();
    ASSERT_GT(before - at_first, kBudget / 2) << kTooLittle;
    const RunResult result = run({"python3", "-c", R"(
import os, sys, time
fd, step, size = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2]), int(sys.argv[3])
end = time.time() + 4
while time.time() < end:
    for at in range(1 << 30, size, step): assert os.pread(fd, 512, at) == bytes(512)
)",
                                  path, std::to_string(kStep), std::to_string(kLong)});
    ASSERT_EQ(result.status, 0) << result.err;
    ASSERT_NO_FATAL_FAILURE(read_all(reader, "r", 6, 1 << 20));
    filled_again = daemon_.stats().cache().filled() - before;
  });
  EXPECT_LT(filled_again, kBudget / 2);
}

class ForgetfulCache : public FullCache {
 protected:
  static constexpr uint64_t kRetain = 128 << 20;
  ForgetfulCache() : FullCache("retain_bytes = " + std::to_string(kRetain) + "\n") {}
};

/// What nobody has read for so long that the kernel would have forgotten it goes for what is read
/// now, also when all of that came by way of the kernel.
TEST_F(ForgetfulCache, WhatTheKernelWouldHaveForgottenGoes) {
  constexpr uint64_t kOthers = 4;
  make("old", 5);
  for (uint64_t i = 0; i < kOthers; ++i) make("new" + std::to_string(i), 10 + i);
  // What is filled soon after a change is dropped after four times as long.
  std::this_thread::sleep_for(milliseconds(4000));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", dir_.file("old")), "0");
  warm(reader, "r", 5);
  read_all(reader, "r", 5, 1 << 20);
  EXPECT_LT(daemon_.stats().cache().evicted(), kStray);
  constexpr size_t kMost = 8 * kRetain;
  size_t passed = 0;
  for (uint64_t i = 0; passed < kMost && daemon_.stats().cache().evicted() < kBudget / 2; ++i) {
    const std::string path = dir_.file("new" + std::to_string(i % kOthers));
    forget(path);
    Puppet other;
    ASSERT_EQ(other.tell("open", "n", "r", path), "0");
    read_all(other, "n", 10 + i % kOthers, 64 << 10);
    passed += kFile;
  }
  EXPECT_GE(daemon_.stats().cache().evicted(), kBudget / 2) << passed;
  EXPECT_GT(passed, kRetain / 2) << "too early";
}

/// A file that the kernel has is not fetched once more for a program that reads here and there.
TEST_F(Cached, WhatTheKernelHasIsNotFetchedAgainPageByPage) {
  constexpr const char* kRead = R"(
import os, random, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
while os.read(fd, 1 << 20): pass
size = os.fstat(fd).st_size
for i in range(60000): assert len(os.pread(fd, 4096, random.randrange(size >> 12) << 12)) == 4096
)";
  constexpr size_t kLarge = 48 << 20;
  const std::string path = dir_.file("large");
  write_file(path, bytes_at(0, kLarge, 8));
  constexpr int kAttempts = 20;  // a slow machine looks as if the kernel had to wait for bricks
  uint64_t fetched = kLarge;
  for (int i = 0; i < kAttempts && fetched > kLarge / 8; ++i) {
    for (int k = 0; k < 2; ++k) ASSERT_EQ(run({"cat", path}, kPlain).out.size(), kLarge);
    const uint64_t before = daemon_.stats().cache().filled();
    const RunResult result = run({"python3", "-c", kRead, path}, kAsUsersDo);
    ASSERT_EQ(result.status, 0) << result.err;
    fetched = daemon_.stats().cache().filled() - before;
  }
  EXPECT_LE(fetched, kLarge / 8) << kTooLittle;
}

class LargeCache : public Cached {
 protected:
  LargeCache() : Cached(512 << 20) {}
};

/// What is dropped is invalid at once, and its memory goes afterwards: from under pages, too, that
/// have been filled again meanwhile.
TEST_F(LargeCache, WhatIsFilledWhileDroppedMemoryGoesStays) {
  constexpr size_t kLarge = 192 << 20;
  const std::string path = dir_.file("large");
  write_file(path, bytes_at(0, kLarge, 4));
  Puppet reader;
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  std::this_thread::sleep_for(milliseconds(1500));
  warm(reader, "r", 4, 0, kLarge);
  for (int i = 0; i < rounds(); ++i) {
    const uint64_t filled = daemon_.stats().cache().filled();
    drop();
    // Every second piece first, so that old and new pages lie side by side.
    constexpr size_t kPiece = 192 << 10;
    for (const size_t first : {size_t{0}, kPiece}) {
      for (size_t at = first; at + kPiece <= kLarge; at += 2 * kPiece) {
        ASSERT_EQ(reader.tell("pread", "r", at, kPiece, 4), right(kPiece)) << "at " << at;
      }
    }
    ASSERT_GE(daemon_.stats().cache().filled() - filled, kLarge / 10 * 9)
        << "nothing was dropped" << kTooLittle;
  }
  // All of the old memory is gone, and none of it is counted.
  const auto used = [&] { return daemon_.stats().cache().used(); };
  EXPECT_TRUE(comes_true([&] { return used() < kLarge + (1 << 20); })) << used();
  EXPECT_GE(used(), kLarge / 10 * 9);
  drop();
  EXPECT_TRUE(comes_true([&] { return used() < 64 << 10; })) << used();
}

// --- another host ------------------------------------------------------------------------------

class CachedOnTwoHosts : public Cached {
 protected:
  void SetUp() override {
    if (Lab::get().hosts < 2) GTEST_SKIP() << "needs a lab with two hosts";
  }

  /// The same as overwrite(), on the other host. Returns when its program has ended.
  static void overwrite_elsewhere(const std::string& path, size_t offset, size_t length,
                                  uint64_t seed, const std::string& before = "") {
    const std::string source = Lab::get().dir + "/elsewhere";
    write_file(source, bytes_at(offset, length, seed));
    const RunResult result =
        shell("lab exec --host 2 -- " + before + " dd if='" + source + "' of='" + path +
                  "' bs=" + std::to_string(length) + " seek=" + std::to_string(offset) +
                  " oflag=seek_bytes conv=notrunc status=none",
              {.preload = false});
    ASSERT_EQ(result.status, 0) << result.err;
  }
};

TEST_F(CachedOnTwoHosts, WhatAnotherHostClosedIsSeenWithinASecond) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  for (int i = 0; i < rounds(); ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    warm(reader, "r", seed, 0, 4 * kPage);
    overwrite_elsewhere(path, 0, 4 * kPage, seed + 1);
    ASSERT_TRUE(comes_true_soon(milliseconds(1000), [&] {
      return reader.tell("pread", "r", 0, 4 * kPage, seed + 1) == right(4 * kPage);
    })) << i;
  }
}

/// Who has it delegated for writing knows the size from each answer of the bricks, and reads out of
/// the cache what was brought before.
TEST_F(CachedOnTwoHosts, WhoOwnsAFileSeesNoZerosBehindWhatAnotherHostMadeLonger) {
  Puppet owner;
  const std::string path = dir_.file("a");
  for (int i = 0; i < rounds(); ++i) {
    constexpr size_t kSome = 3 * kPage + 100;
    write_file(path, bytes_at(0, kSome, 1));
    ASSERT_EQ(owner.tell("open", "a", "rw", path), "0");
    ASSERT_EQ(owner.tell("pwrite", "a", 0, kPage, 1), right(kPage));
    const uint64_t before = cached_calls();
    for (int k = 0; k < 20; ++k) {
      ASSERT_EQ(owner.tell("pread", "a", 0, 3 * kPage, 1), right(3 * kPage));
      ASSERT_EQ(owner.tell("pread", "a", kSome - 50, 50, 1), right(50));
    }
    ASSERT_GT(cached_calls(), before) << kTooLittle;
    overwrite_elsewhere(path, kSome, 100, 1);
    constexpr milliseconds kSeen{1200};
    const auto end = steady_clock::now() + kSeen;
    std::string got;
    // No zeros, whenever.
    ASSERT_TRUE(comes_true_soon(kSeen, [&] {
      got = owner.tell("pread", "a", kSome, 100, 1);
      return got != "0";
    })) << i;
    ASSERT_EQ(got, right(100)) << i;
    while (steady_clock::now() < end) {
      ASSERT_EQ(owner.tell("pread", "a", kSome, 100, 1), right(100)) << i << ", once it was seen";
    }
    ASSERT_EQ(owner.tell("close", "a", "close"), "0");
  }
}

TEST_F(CachedOnTwoHosts, AnOpenShowsWhatAnotherHostHasClosed) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  int shown = 0;
  for (int i = 0; shown < rounds() && i < 3 * rounds(); ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    warm(reader, "r", seed, 0, 4 * kPage);
    overwrite_elsewhere(path, 0, 4 * kPage, seed + 1);
    ASSERT_EQ(reader.tell("open", "new", "r", path), "0");
    int past_fuse = 0;
    // What one descriptor has shown, an older one shows, too.
    for (const char* name : {"new", "r"}) {
      const auto before = daemon_.stats().totals();
      const std::string got = reader.tell("pread", name, 0, 4 * kPage, seed + 1);
      const auto after = daemon_.stats().totals();
      // A read that was left to FUSE shows what FUSE's client keeps.
      if (after.cached_calls() == before.cached_calls() &&
          after.read_calls() == before.read_calls()) {
        continue;
      }
      ASSERT_EQ(got, right(4 * kPage)) << i << ", " << name;
      ++past_fuse;
    }
    ASSERT_EQ(reader.tell("close", "new", "close"), "0");
    if (past_fuse == 2) {
      ++shown;
    } else {
      std::this_thread::sleep_for(milliseconds(2200));  // until FUSE shows it
    }
  }
  EXPECT_EQ(shown, rounds()) << kTooLittle;
}

TEST_F(CachedOnTwoHosts, WhoCannotOpenAFileThatIsGoneEndsNothing) {
  const VolumeOption at_once("vol1", "performance.open-behind", "off");
  Puppet reader;
  for (const char* name : {"a", "b"}) {
    open_file(reader, name, 1);
    warm(reader, name, 1);
  }
  const std::string gone = dir_.file("a");
  const RunResult removed = shell("lab exec --host 2 -- rm '" + gone + "'", {.preload = false});
  ASSERT_EQ(removed.status, 0) << removed.err;
  ASSERT_LT(::open(gone.c_str(), O_RDWR | O_CLOEXEC), 0);
  for (uint64_t seed = 1; seed < 4; ++seed) {
    warm(reader, "b", seed);
    overwrite(dir_.file("b"), 0, kPage, seed + 1);
    ASSERT_EQ(reader.tell("pread", "b", 0, kPage, seed + 1), right(kPage));
  }
  EXPECT_EQ(read_file(daemon_.log_path()).find("event=open-denied"), std::string::npos);
}

TEST_F(CachedOnTwoHosts, ALockShowsWhatWasWrittenUnderItElsewhere) {
  Puppet reader;
  const std::string path = open_file(reader, "r", 1);
  for (int i = 0; i < rounds(); ++i) {
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    warm(reader, "r", seed, 0, 4 * kPage);
    overwrite_elsewhere(path, 0, 4 * kPage, seed + 1, "flock '" + path + "'");
    ASSERT_EQ(reader.tell("flock", "r"), "0");
    // FUSE's client may keep what it has for a moment longer; the page cache must not.
    const auto end = steady_clock::now() + milliseconds(2500);
    while (true) {
      const uint64_t before = cached_calls();
      const std::string got = reader.tell("pread", "r", 0, 4 * kPage, seed + 1);
      if (got == right(4 * kPage)) break;
      ASSERT_EQ(cached_calls(), before) << i << ": " << got << " out of the page cache";
      ASSERT_LT(steady_clock::now(), end) << i << ": " << got;
    }
    ASSERT_EQ(reader.tell("unflock", "r"), "0");
  }
}

}  // namespace
}  // namespace booster::test
