// The write log: that small writes go into it, that whoever opens the file sees them, and that
// nothing of it is lost or told wrongly. Every test asks the daemon whether the log was used.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <future>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/integration/watched.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kPage = 4096;

TEST(LoggedNot, WithoutTheLogWritesAreFuses) {
  const Daemon daemon("[data]\nwrite_log = \"off\"\n");
  const ScratchDir dir;
  write_file(dir.file("a"), "");
  Puppet writer;
  ASSERT_EQ(writer.tell("open", "a", "rw", dir.file("a")), "0");
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(writer.tell("pwrite", "a", i * kPage, kPage, 1), std::to_string(kPage));
    ASSERT_EQ(writer.tell("pread", "a", 0, (i + 1) * kPage, 1), std::to_string((i + 1) * kPage));
  }
  EXPECT_TRUE(read_file(dir.file("a")) == bytes_at(0, 100 * kPage, 1));
  const auto stats = daemon.stats();
  EXPECT_GT(stats.totals().sessions_opened(), 0U);
  EXPECT_EQ(stats.totals().write_calls(), 0U);
}

class Logged : public testing::Test {
 protected:
  explicit Logged(const std::string& failure = "") : daemon_(failure) {}

  /// Writes so many pages from the beginning on.
  static void write_pages(Puppet& writer, const std::string& name, size_t count, uint64_t seed) {
    for (size_t w = 0; w < count; ++w) {
      ASSERT_EQ(writer.tell("pwrite", name, w * kPage, kPage, seed), right(kPage));
    }
  }

  /// "" if the first `length` bytes are of that seed, else what is wrong.
  static std::string missing(const std::string& bytes, size_t length, uint64_t seed) {
    if (bytes.size() < length) return "size " + std::to_string(bytes.size()) + "\n";
    const size_t wrong = first_wrong(bytes.data(), length, 0, seed);
    return wrong == length ? "" : "wrong from " + std::to_string(wrong) + " on\n";
  }

  uint64_t logged() const { return daemon_.stats().totals().logged_calls(); }

  /// A new file, open for writing in `writer` as `name`.
  std::string open_file(Puppet& writer, const std::string& name) {
    const std::string path = dir_.file(name);
    EXPECT_EQ(writer.tell("open", name, "rw+creat", path), "0");
    return path;
  }

  static std::string right(size_t length) { return std::to_string(length); }

  /// Writes [0, kPage) of `seed` until such a write goes into the log, and has all of them counted.
  /// Ends the test if that does not come to be.
  void warm(Puppet& writer, const std::string& name, uint64_t seed) {
    until_counted(
        daemon_, [this] { return logged(); },
        [&] { ASSERT_EQ(writer.tell("pwrite", name, 0, kPage, seed), right(kPage)); });
    EXPECT_EQ(writer.tell("fsync", name), "0");
  }

  ScratchDir dir_;
  Daemon daemon_;
};

TEST_F(Logged, AStreamOfSmallWritesNeedsFewRequestsAndDoorbells) {
  const std::string source = Lab::get().dir + "/log-source";
  constexpr size_t kSize = 64 << 20;
  write_file(source, bytes_at(0, kSize, 5));
  // Until the daemon has granted it, FUSE has the file, and where many programs want a processor it
  // may have had most of it by then.
  constexpr int kTries = 10;
  uint64_t calls = 0;
  uint64_t doorbells = 0;
  const auto enough = [&] { return calls > kSize / kPage * 3 / 4 && doorbells < calls / 10; };
  for (int i = 0; i < kTries && !enough(); ++i) {
    const auto before = daemon_.stats().totals();
    const RunResult result =
        run({"dd", "if=" + source, "of=" + dir_.file("a"), "bs=4k", "status=none"}, kAsUsersDo);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    const std::string bytes = read_file(dir_.file("a"));
    ASSERT_EQ(bytes.size(), kSize);
    EXPECT_EQ(first_wrong(bytes.data(), kSize, 0, 5), kSize);
    const auto after = daemon_.stats().totals();
    calls = after.logged_calls() - before.logged_calls();
    doorbells = after.doorbells() - before.doorbells();
  }
  ASSERT_GT(calls, kSize / kPage * 3 / 4) << kTooLittle;
  EXPECT_LT(doorbells, calls / 10);
  ::unlink(source.c_str());
}

/// This program has no booster: it opens the file by the kernel.
TEST_F(Logged, WhoOpensAFileSeesEveryWriteThatHasReturned) {
  constexpr int kFiles = 12;
  Puppet writer;
  std::vector<std::string> paths;
  for (int f = 0; f < kFiles; ++f) paths.push_back(open_file(writer, std::to_string(f)));
  int through_log = 0;
  const int enough = rounds() * kFiles * 9 / 10 + 1;
  uint64_t seed = 1;
  // Whoever is asked late on a busy machine lets the kernel do a call.
  for (int round = 0; round < rounds() || (through_log < enough && round < 3 * rounds()); ++round) {
    for (int f = 0; f < kFiles; ++f) {
      const std::string name = std::to_string(f);
      const std::string& path = paths[static_cast<size_t>(f)];
      constexpr size_t kWrites = 50;
      uint64_t calls = 0;
      expect_nothing_old(daemon_, [&](std::string& old) {
        seed += 10;
        warm(writer, name, seed);
        // Primes what FUSE's client keeps: the next open must not be shown that.
        struct stat status {};
        ASSERT_EQ(::stat(path.c_str(), &status), 0);
        const uint64_t before = logged();
        for (size_t i = 0; i < kWrites; ++i) {
          ASSERT_EQ(writer.tell("pwrite", name, i * kPage, kPage, seed + 1), right(kPage));
        }
        old += missing(read_file(path), kWrites * kPage, seed + 1);
        calls = logged() - before;
      });
      if (calls == kWrites) ++through_log;
      ASSERT_FALSE(HasFailure()) << f;
    }
  }
  EXPECT_GE(through_log, enough) << kTooLittle;
}

TEST_F(Logged, AnOpenerOfAnUntouchedFileDoesNotWait) {
  const auto opens_take = [this](const std::string& name) {
    write_file(dir_.file(name), name);
    const auto start = steady_clock::now();
    for (int i = 0; i < 20; ++i) EXPECT_EQ(read_file(dir_.file(name)), name);
    return steady_clock::now() - start;
  };
  Puppet writer;
  const std::string path = open_file(writer, "a");
  // Two moments are compared, of which a busy machine may have spoilt the second.
  bool soon = false;
  for (int attempt = 0; attempt < 3 && !soon; ++attempt) {
    const auto usual = opens_take("b");
    warm(writer, "a", 1);
    soon = opens_take("c") < 5 * usual + std::chrono::seconds(2);
  }
  EXPECT_TRUE(soon);
}

TEST_F(Logged, AProgramThatIsKilledRightAfterAWriteLeavesAllOfIt) {
  // Whoever is asked late on a busy machine lets the kernel do many calls.
  int through_log = 0;
  int made = 0;
  for (int i = 0; through_log < rounds() && i < 3 * rounds(); ++i) {
    constexpr size_t kWrites = 100;
    constexpr size_t kLength = 20'000;
    uint64_t calls = 0;
    expect_nothing_old(daemon_, [&](std::string& old) {
      Puppet writer;
      const auto seed = static_cast<uint64_t>(++made) * 10 + 1;
      const std::string name = "k" + std::to_string(made);
      const std::string path = open_file(writer, name);
      warm(writer, name, seed);
      struct stat status {};
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
      const uint64_t before = logged();
      for (size_t w = 0; w < kWrites; ++w) {
        ASSERT_EQ(writer.tell("pwrite", name, w * kLength, kLength, seed + 1), right(kLength));
      }
      writer.child().signal(SIGKILL);
      if (i % 2 == 0) writer.child().wait();
      old += missing(read_file(path), kWrites * kLength, seed + 1);
      calls = logged() - before;
    });
    if (calls >= kWrites * 9 / 10) ++through_log;
    ASSERT_FALSE(HasFailure()) << i;
  }
  EXPECT_EQ(through_log, rounds()) << kTooLittle;
}

TEST_F(Logged, AProgramSeesItsOwnWritesWhateverItDoes) {
  const RunResult result = run({"python3", "-c", R"(
import mmap, os, random, subprocess, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT)
size = 1 << 20
right = bytearray(os.urandom(size))
os.pwrite(fd, right, 0)
r = random.Random(int(sys.argv[2]))
for step in range(600):
  for i in range(r.randrange(1, 40)):
    at = r.randrange(size - 5000); part = os.urandom(r.randrange(1, 5000))
    assert os.pwrite(fd, part, at) == len(part)
    right[at:at + len(part)] = part
  what = r.randrange(12)
  if what == 0:
    assert os.pread(fd, size, 0) == right
  elif what == 1:
    other = os.open(path, os.O_RDONLY)
    assert os.pread(other, size, 0) == right
    os.close(other)
  elif what == 2:
    assert os.fstat(fd).st_size == size and os.stat(path).st_size == size
  elif what == 3 and step % 8 == 0:
    assert subprocess.run(["cat", path], stdout=subprocess.PIPE).stdout == right
  elif what == 4:
    os.fsync(fd)
  elif what == 5:
    os.utime(fd, (1000, 2000))
    assert os.stat(path).st_mtime == 2000
  elif what == 6 and step % 8 == 0:
    pid = os.fork()
    if pid == 0: os._exit(0 if os.pread(fd, size, 0) == right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(fd)
    fd = os.open(path, os.O_RDWR)
  elif what == 7:
    os.ftruncate(fd, size // 2)
    os.ftruncate(fd, size)
    right[size // 2:] = bytes(size - size // 2)
  elif what == 8:
    os.rename(path, path + "2"); os.rename(path + "2", path)
  elif what == 9:
    at = r.randrange(size); n = min(size - at, 3000)
    os.lseek(fd, at, 0)
    part = os.urandom(n)
    assert os.write(fd, part) == n and os.lseek(fd, 0, 1) == at + n
    right[at:at + n] = part
  elif what == 10:
    assert os.lseek(fd, 0, 2) == size
  elif what == 11 and step % 8 == 0:
    os.close(fd)
    assert open(path, "rb").read() == right
    fd = os.open(path, os.O_RDWR)
os.close(fd)
assert open(path, "rb").read() == right
)",
                                dir_.file("a"), "7"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_GT(logged(), 500U) << kTooLittle;
}

/// A mapping looks past the shim: from then on nothing is logged.
TEST_F(Logged, AMappingShowsWhatIsWritten) {
  const RunResult result = run({"python3", "-c", R"(
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes(1 << 20), 0)
for i in range(300): os.pwrite(fd, b"%06d" % i, i * 100); time.sleep(0.001)
m = mmap.mmap(fd, 1 << 20)
for i in range(300): assert m[i * 100:i * 100 + 6] == b"%06d" % i
for i in range(50):
  os.pwrite(fd, b"x%05d" % i, i * 100)
  assert m[i * 100:i * 100 + 6] == b"x%05d" % i
)",
                                dir_.file("a")});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_GT(logged(), 50U) << kTooLittle;
}

TEST_F(Logged, TwoWritersHandTheFileOver) {
  Puppet one;
  const std::string path = open_file(one, "a");
  warm(one, "a", 1);
  Puppet two;
  ASSERT_EQ(two.tell("open", "a", "rw", path), "0");
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 2 + 10;
    ASSERT_EQ(one.tell("pwrite", "a", 0, kPage, seed), right(kPage));
    ASSERT_EQ(two.tell("pread", "a", 0, kPage, seed), right(kPage)) << i;
    ASSERT_EQ(two.tell("pwrite", "a", 100, kPage, seed + 1), right(kPage));
    ASSERT_EQ(one.tell("pread", "a", 100, kPage, seed + 1), right(kPage)) << i;
  }
  // When one has it alone again, it logs again.
  two.leave();
  warm(one, "a", 2);
}

TEST_F(Logged, AVolumeThatDoesNotAnswerStopsNoWritesToAnother) {
  ASSERT_GE(Lab::get().mounts.size(), 2U);
  Puppet writer;
  const std::string well = Lab::get().mounts[1] + "/well-" + std::to_string(::getpid());
  open_file(writer, "hung");
  ASSERT_EQ(writer.tell("open", "well", "rw+creat", well), "0");
  warm(writer, "hung", 1);
  warm(writer, "well", 1);
  constexpr size_t kLength = 64 << 10;
  constexpr size_t kWrites = 256;  // several times what a log holds
  const uint64_t before = logged();
  {
    const HungBrick hung(bricks().front());
    for (size_t w = 0; w < 16; ++w) {
      ASSERT_EQ(writer.tell("pwrite", "hung", w * kLength, kLength, 2), right(kLength));
    }
    const auto start = steady_clock::now();
    for (size_t w = 0; w < kWrites; ++w) {
      ASSERT_EQ(writer.tell("pwrite", "well", w * kLength, kLength, 3), right(kLength));
    }
    EXPECT_EQ(writer.tell("fsync", "well"), "0");
    // Without logs of their own: as long as the brick hangs.
    EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(30));
    EXPECT_GE(logged() - before, kWrites * 9 / 10) << kTooLittle;
  }
  EXPECT_EQ(writer.tell("fsync", "hung"), "0");
  std::string bytes = read_file(well);
  EXPECT_EQ(first_wrong(bytes.data(), bytes.size(), 0, 3), kWrites * kLength);
  bytes = read_file(dir_.file("hung"));
  EXPECT_EQ(first_wrong(bytes.data(), bytes.size(), 0, 2), 16 * kLength);
  EXPECT_EQ(writer.tell("close", "well", "close"), "0");
  ::unlink(well.c_str());
}

TEST_F(Logged, ABrickThatHangsHoldsUpNoChangeOfAttributesOfOtherFiles) {
  const std::string other = Lab::get().dir + "/other";
  write_file(other, "");
  Child program({"python3", "-c", R"(
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for line in sys.stdin:
  if line == "write\n": os.pwrite(fd, bytes(4096), 0)
  else: os.chmod(sys.argv[2], 0o600); os.utime(sys.argv[2])
  print("done", flush=True)
)",
                 dir_.file("a"), other});
  const auto tell = [&program](const std::string& what) {
    program.write_line(what);
    return program.read_line() == "done";
  };
  until_counted(
      daemon_, [this] { return logged(); }, [&] { ASSERT_TRUE(tell("write")); });
  const HungBrick hung(bricks().front());
  ASSERT_TRUE(tell("write"));
  const auto start = steady_clock::now();
  EXPECT_TRUE(tell("change"));
  // Bricks that hang are given up after 42 s.
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_EQ(std::filesystem::status(other).permissions(), std::filesystem::perms(0600));
}

class LoggedAndKilled : public Logged {
 protected:
  LoggedAndKilled() : Logged("[failure]\nquarantine_min_ms = 300\n") {}

  /// How often an agent has written what a log still had.
  int logs_recovered() const { return daemon_.events("log-recovered"); }
};

TEST_F(LoggedAndKilled, ADeadDaemonsRecordsAreWrittenByTheProgram) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  std::mt19937 random{std::random_device{}()};
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 10 + 1;
    warm(writer, "a", seed);
    constexpr size_t kWrites = 300;
    constexpr size_t kLength = 10'000;
    const size_t kill_at = random() % kWrites;
    for (size_t w = 0; w < kWrites; ++w) {
      if (w == kill_at) daemon_.signal(SIGKILL);
      ASSERT_EQ(writer.tell("pwrite", "a", w * kLength, kLength, seed + 1), right(kLength));
    }
    ASSERT_EQ(writer.tell("fsync", "a"), "0");
    const std::string bytes = read_file(path);
    ASSERT_EQ(bytes.size(), kWrites * kLength) << i;
    ASSERT_EQ(first_wrong(bytes.data(), bytes.size(), 0, seed + 1), bytes.size()) << i;
    daemon_.kill(SIGKILL);
    daemon_.start();
  }
}

TEST_F(LoggedAndKilled, AStoppedDaemonHoldsOpenersAndWritersUpAndLosesNothing) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  warm(writer, "a", 1);
  daemon_.signal(SIGSTOP);
  ASSERT_NO_FATAL_FAILURE(write_pages(writer, "a", 100, 2));
  const auto start = steady_clock::now();
  std::thread resume([this] {
    std::this_thread::sleep_for(milliseconds(500));
    daemon_.signal(SIGCONT);
  });
  const std::string bytes = read_file(path);
  EXPECT_GT(steady_clock::now() - start, milliseconds(300));
  resume.join();
  EXPECT_EQ(first_wrong(bytes.data(), 100 * kPage, 0, 2), 100 * kPage);
}

TEST_F(LoggedAndKilled, ATerminatedDaemonLeavesNothingUnwritten) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 10 + 1;
    warm(writer, "a", seed);
    ASSERT_NO_FATAL_FAILURE(write_pages(writer, "a", 200, seed + 1));
    daemon_.kill(SIGTERM);
    const std::string bytes = read_file(path);
    ASSERT_EQ(first_wrong(bytes.data(), 200 * kPage, 0, seed + 1), 200 * kPage) << i;
    daemon_.start();
  }
}

// --- what waits for the bricks' disks ----------------------------------------------------------

TEST_F(LoggedAndKilled, WhatWaitsForDisksDoesNotReturnBefore) {
  Puppet writer;
  struct Way {
    std::string how;   // it is open
    std::string sync;  // the call that waits; empty: the write itself
  };
  for (const Way& way : std::vector<Way>{{"rw+creat+sync", ""},
                                         {"rw+creat+dsync", ""},
                                         {"rw+creat", "fsync"},
                                         {"rw+creat", "fdatasync"}}) {
    SCOPED_TRACE(way.how + " " + way.sync);
    const std::string name = way.how + way.sync;
    const std::string path = dir_.file(name);
    const std::string done = way.sync.empty() ? right(kPage) : "0";
    const auto begin = [&](size_t page, uint64_t seed) {
      writer.order("pwrite", name, page * kPage, kPage, seed);
      if (way.sync.empty()) return;
      ASSERT_EQ(writer.answer(), right(kPage));
      writer.order(way.sync, name);
    };
    const auto expect_on_brick = [&](size_t page, uint64_t seed) {
      const std::string bytes = read_file(path_on_brick(path));
      ASSERT_EQ(bytes.size(), (page + 1) * kPage);
      EXPECT_EQ(first_wrong(bytes.data() + page * kPage, kPage, page * kPage, seed), kPage);
    };
    ASSERT_EQ(writer.tell("open", name, way.how, path), "0");
    warm(writer, name, 1);
    daemon_.signal(SIGSTOP);
    ASSERT_NO_FATAL_FAILURE(begin(1, 2));
    auto answer = std::async(std::launch::async, [&] { return writer.answer(); });
    EXPECT_EQ(answer.wait_for(milliseconds(500)), std::future_status::timeout);
    daemon_.signal(SIGCONT);
    EXPECT_EQ(answer.get(), done);
    // Whoever dies now.
    ASSERT_NO_FATAL_FAILURE(expect_on_brick(1, 2));
    // A daemon that dies meanwhile makes it no lie.
    daemon_.signal(SIGSTOP);
    ASSERT_NO_FATAL_FAILURE(begin(2, 3));
    daemon_.kill(SIGKILL);
    EXPECT_EQ(writer.answer(), done);
    ASSERT_NO_FATAL_FAILURE(expect_on_brick(2, 3));
    daemon_.start();
  }
}

// --- the recovery agent ------------------------------------------------------------------------

/// What outlives the daemon, or -1.
pid_t agent_of(const Daemon& daemon) {
  const RunResult found =
      run({"pgrep", "-P", std::to_string(daemon.pid()), "booster-recover"}, {.preload = false});
  return found.status == 0 ? std::stoi(found.out) : -1;
}

/// Whoever opens the file comes back with what the program has written, and not before.
TEST_F(LoggedAndKilled, WhatAProgramHasLoggedOutlivesItAndTheDaemon) {
  constexpr size_t kWrites = 200;
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 10 + 1;
    auto writer = std::make_unique<Puppet>();
    const std::string name = std::to_string(i);
    const std::string path = open_file(*writer, name);
    warm(*writer, name, seed);
    daemon_.signal(SIGSTOP);  // or it would be done before it dies
    ASSERT_NO_FATAL_FAILURE(write_pages(*writer, name, kWrites, seed + 1));
    ASSERT_EQ(::kill(writer->pid(), SIGKILL), 0);
    daemon_.kill(SIGKILL);
    if (i % 2 != 0) daemon_.start();
    const std::string bytes = read_file(path);
    ASSERT_EQ(bytes.size(), kWrites * kPage) << i;
    ASSERT_EQ(first_wrong(bytes.data(), bytes.size(), 0, seed + 1), bytes.size()) << i;
    ASSERT_EQ(logs_recovered(), i + 1);
    if (i % 2 == 0) daemon_.start();
  }
}

/// Newer bytes stay, also where the program whose log it is comes back late.
TEST_F(LoggedAndKilled, NobodysNewerBytesAreOverwrittenByALog) {
  constexpr size_t kWrites = 100;
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint64_t>(i) * 10 + 1;
    Puppet writer;
    Puppet other({.preload = i % 2 == 0});
    const std::string name = std::to_string(i);
    const std::string path = open_file(writer, name);
    warm(writer, name, seed);
    // What is at a slow brick is waited for that long.
    const milliseconds quarantine(daemon_.stats().quarantine_ms());
    daemon_.signal(SIGSTOP);
    ASSERT_NO_FATAL_FAILURE(write_pages(writer, name, kWrites, seed + 1));
    ASSERT_EQ(::kill(writer.pid(), SIGSTOP), 0);
    daemon_.kill(SIGKILL);
    daemon_.start();
    const auto start = steady_clock::now();
    ASSERT_EQ(other.tell("open", "o", "rw", path), "0");
    // It waits for no client.
    EXPECT_LT(steady_clock::now() - start, quarantine + std::chrono::seconds(60)) << i;
    ASSERT_EQ(other.tell("pread", "o", 0, kWrites * kPage, seed + 1), right(kWrites * kPage));
    ASSERT_EQ(other.tell("pwrite", "o", kPage, kPage, seed + 2), right(kPage));
    ASSERT_EQ(::kill(writer.pid(), SIGCONT), 0);
    ASSERT_EQ(writer.tell("fsync", name), "0");
    ASSERT_EQ(writer.tell("pread", name, kPage, kPage, seed + 2), right(kPage)) << i;
    ASSERT_EQ(writer.tell("pwrite", name, 0, kPage, seed + 3), right(kPage));
    ASSERT_EQ(other.tell("pread", "o", 0, kPage, seed + 3), right(kPage)) << i;
    writer.leave();
    other.leave();
  }
}

TEST_F(LoggedAndKilled, WithoutItsAgentTheProgramDoesItsLogItself) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  warm(writer, "a", 1);
  const pid_t agent = agent_of(daemon_);
  ASSERT_GT(agent, 0);
  daemon_.signal(SIGSTOP);
  ASSERT_NO_FATAL_FAILURE(write_pages(writer, "a", 100, 2));
  ASSERT_EQ(::kill(agent, SIGKILL), 0);
  daemon_.kill(SIGKILL);
  ASSERT_EQ(writer.tell("fsync", "a"), "0");
  const std::string bytes = read_file(path);
  EXPECT_EQ(first_wrong(bytes.data(), 100 * kPage, 0, 2), 100 * kPage);
  daemon_.start();
  warm(writer, "a", 3);
}

TEST_F(LoggedAndKilled, WithoutItsAgentADaemonDelegatesNothingNew) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  warm(writer, "a", 1);
  const pid_t agent = agent_of(daemon_);
  ASSERT_GT(agent, 0);
  ASSERT_EQ(::kill(agent, SIGKILL), 0);
  ASSERT_EQ(writer.tell("pwrite", "a", 0, kPage, 2), right(kPage));
  const std::string bytes = read_file(path);  // takes it back
  EXPECT_EQ(first_wrong(bytes.data(), kPage, 0, 2), kPage);
  const uint64_t before = logged();
  const auto write_on = [&] {
    EXPECT_EQ(writer.tell("pwrite", "a", 0, kPage, 3), right(kPage));
    return daemon_.events("recovery-lost") > 0;
  };
  EXPECT_TRUE(comes_true(write_on));
  for (int i = 0; i < 50; ++i) {
    write_on();
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(logged(), before);
}

/// Only who has it open can reach it.
TEST_F(LoggedAndKilled, AFileWithoutANameIsWrittenByItsProgram) {
  Puppet writer;
  const std::string path = open_file(writer, "a");
  open_file(writer, "b");
  warm(writer, "a", 1);
  warm(writer, "b", 1);
  daemon_.signal(SIGSTOP);
  ASSERT_NO_FATAL_FAILURE(write_pages(writer, "a", 100, 2));
  ASSERT_NO_FATAL_FAILURE(write_pages(writer, "b", 100, 3));
  ASSERT_EQ(::unlink(path.c_str()), 0);
  daemon_.kill(SIGKILL);
  EXPECT_EQ(writer.tell("fsync", "a"), "0");
  EXPECT_EQ(writer.tell("pread", "a", 0, 100 * kPage, 2), right(100 * kPage));
  EXPECT_EQ(writer.tell("pread", "b", 0, 100 * kPage, 3), right(100 * kPage));
  EXPECT_EQ(writer.tell("close", "a", "close"), "0");
  EXPECT_EQ(writer.tell("close", "b", "close"), "0");
  daemon_.start();
}

// --- who asks, as programs are -----------------------------------------------------------------

/// `%` is the directory on the mount, `SOURCE` a file of 64 MiB that does not compress.
struct Writer {
  const char* needs;
  const char* script;
  size_t bytes;  // that it writes
};
constexpr size_t kMuch = 64 << 20;
constexpr std::array<Writer, 5> kWriters = {{
    {"dd", "dd if=/dev/zero of=%/a bs=4k count=16384 status=none", kMuch},
    {"cp", "cp SOURCE %/b", kMuch},
    {"python3",
     "python3 -c 'f = open(\"%/c\", \"wb\", 0)\nfor i in range(160000): f.write(b\"x\" * 200)'",
     32'000'000},
    {"rsync", "rsync --archive SOURCE %/d", kMuch},
    {"zstd", "zstd --quiet --force -o %/e SOURCE", kMuch},
}};

TEST_F(Logged, ProgramsThatWriteMuchAreBoostedForNineTenthsOfIt) {
  const ScratchDir dir;
  const std::string source = Lab::get().dir + "/source";
  write_file(source, bytes_at(0, kMuch, 1));
  for (const Writer& writer : kWriters) {
    if (shell(std::string("command -v ") + writer.needs, kPlain).status != 0) continue;
    std::string script = writer.script;
    if (const size_t at = script.find('%'); at != std::string::npos) {
      script.replace(at, 1, dir.path());
    }
    if (const size_t at = script.find("SOURCE"); at != std::string::npos) {
      script.replace(at, 6, source);
    }
    // The daemon may have to wait for its turn where the machine has other things to do.
    bool most = false;
    for (int attempt = 0; attempt < 10 && !most; ++attempt) {
      const uint64_t before = daemon_.boosted_write_bytes();
      const RunResult result = shell("rm -f '" + dir.path() + "'/*; " + script, kAsUsersDo);
      ASSERT_EQ(result.status, 0) << script << ": " << result.err;
      most = comes_true(
          [&] { return daemon_.boosted_write_bytes() - before >= writer.bytes / 10 * 9; },
          std::chrono::seconds(10));
    }
    EXPECT_TRUE(most) << script << kTooLittle;
  }
  ::unlink(source.c_str());
}

TEST_F(Logged, ProgramsThatMoveLittleAskForNothing) {
  const ScratchDir dir;
  const RunResult made = shell(
      "mkdir tree && for i in $(seq 50); do head -c 3000 /dev/urandom > tree/$i; done && "
      "tar -cf small.tar tree",
      {.preload = false, .cwd = dir.path()});
  ASSERT_EQ(made.status, 0) << made.err;
  // Where every call takes long, also what is little may seem to pay.
  bool nothing = false;
  for (int attempt = 0; attempt < 20 && !nothing; ++attempt) {
    const uint64_t before = daemon_.stats().totals().engaged();
    const RunResult result = shell(
        "rm -rf again .git && cat tree/1 > /dev/null && mkdir again && tar -xf small.tar -C again "
        "&& diff -r tree again/tree && if command -v git; then git init -q . && git status; fi",
        {.eager = false, .cwd = dir.path()});
    ASSERT_EQ(result.status, 0) << result.out << result.err;
    nothing = daemon_.stats().totals().engaged() == before;
  }
  EXPECT_TRUE(nothing) << kTooLittle;
}

}  // namespace
}  // namespace booster::test
