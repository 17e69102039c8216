// The thinnest slice: ordinary programs on a real mount, boosted, with the same bytes.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "tests/integration/carried.h"
#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

TEST(Smoke, DdWritesThroughTheDaemonAndEverybodySeesTheBytes) {
  Daemon daemon;
  const std::string bytes = pattern(8 << 20);
  const std::string source = Lab::get().dir + "/source";
  write_file(source, bytes);

  until_carried(daemon, {.written = bytes.size()}, [&] {
    ScratchDir dir;
    const RunResult result =
        run({"dd", "if=" + source, "of=" + dir.file("copy"), "bs=1M", "status=none"});
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    EXPECT_TRUE(read_file(dir.file("copy")) == bytes);  // this process is not preloaded
  });
}

TEST(Smoke, CatReadsThroughTheDaemon) {
  Daemon daemon;
  ScratchDir dir;
  const std::string bytes = pattern(8 << 20, 2);
  write_file(dir.file("data"), bytes);

  const RunResult result = run({"cat", dir.file("data")});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(result.out == bytes);
  EXPECT_GT(daemon.boosted_read_bytes(), bytes.size() / 2) << kTooLittle;
}

/// As f.read() does, and many that load a file: once it is clear that it is cold.
TEST(Smoke, OneLongReadIsBoostedFromWithin) {
  Daemon daemon;
  ScratchDir dir;
  const std::string bytes = pattern(64 << 20, 5);
  const std::string path = dir.file("data");
  write_file(path, bytes);
  const std::string script = R"(
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
data = os.read(fd, 1 << 30) if sys.argv[2] == 'read' else os.pread(fd, 1 << 30, 12345)
assert os.lseek(fd, 0, os.SEEK_CUR) == (len(data) if sys.argv[2] == 'read' else 0)
while data: data = data[os.write(1, data[:1 << 24]):]
)";
  for (const auto& [call, start] : {std::pair{"read", 0}, std::pair{"pread", 12345}}) {
    uint64_t boosted = 0;
    // A busy machine may take longer to agree about the file than to read it.
    for (int i = 0; i < 10 && boosted <= bytes.size() / 2; ++i) {
      forget(path);
      ASSERT_EQ(run({boosterctl_path(), "cache", "drop"}, kPlain).status, 0);
      const uint64_t before = daemon.boosted_read_bytes();
      const RunResult result = run({"python3", "-c", script, path, call}, kAsUsersDo);
      EXPECT_EQ(result.status, 0) << result.err;
      EXPECT_TRUE(result.out == bytes.substr(static_cast<size_t>(start))) << call;
      boosted = daemon.boosted_read_bytes() - before;
    }
    EXPECT_GT(boosted, bytes.size() / 2) << call << kTooLittle;
  }
}

/// Each call of either thread gets bytes that stand in a row in the file, and each byte goes to
/// one.
TEST(Smoke, ALongReadHasNoGapWhileAnotherThreadReadsShortOnes) {
  Daemon daemon;
  ScratchDir dir;
  const std::string path = dir.file("data");
  constexpr uint64_t kWords = 6 << 20;
  std::string bytes(kWords * 8, '\0');
  for (uint64_t i = 0; i < kWords; ++i) std::memcpy(&bytes[i * 8], &i, sizeof i);
  write_file(path, bytes);
  for (const char* cold : {"cold", "warm"}) {
    if (std::string(cold) == "cold") forget(path);
    const RunResult result = run({"python3", "-c", R"(
import os, sys, threading
fd, size, seen = os.open(sys.argv[1], os.O_RDONLY), os.path.getsize(sys.argv[1]), []
def reader(step):
    while data := os.read(fd, step):
        words = memoryview(data).cast('Q')
        seen.append((words[0], len(words)))
        if any(words[i] != words[0] + i for i in range(0, len(words), 512)) or \
           words[-1] != words[0] + len(words) - 1: os._exit(1)
threads = [threading.Thread(target=reader, args=[step]) for step in (4096, 4096, 12 << 20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sorted(seen)[0][0] == 0 and sum(words for first, words in seen) * 8 == size
)",
                                  path},
                                 kAsUsersDo);
    EXPECT_EQ(result.status, 0) << cold << ": " << result.err;
  }
}

/// Short reads of what the kernel has are looked at now and then only, and seen when that ends.
TEST(Smoke, AProgramThatReadsOnIntoWhatIsColdIsBoosted) {
  Daemon daemon;
  ScratchDir dir;
  constexpr size_t kWarm = 16 << 20;
  const std::string bytes = pattern(64 << 20, 6);
  const std::string path = dir.file("data");
  write_file(path, bytes);
  uint64_t boosted = 0;
  for (int i = 0; i < 10 && boosted <= (bytes.size() - kWarm) / 2; ++i) {
    forget(path);
    ASSERT_EQ(run({boosterctl_path(), "cache", "drop"}, kPlain).status, 0);
    const RunResult warm = run({"head", "-c", std::to_string(kWarm), path}, kPlain);
    ASSERT_EQ(warm.status, 0) << warm.err;
    const uint64_t before = daemon.boosted_read_bytes();
    const RunResult result = run({"dd", "if=" + path, "bs=4k", "status=none"}, kAsUsersDo);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_TRUE(result.out == bytes);
    boosted = daemon.boosted_read_bytes() - before;
  }
  EXPECT_GT(boosted, (bytes.size() - kWarm) / 2) << kTooLittle;
}

TEST(Smoke, ReadsOfNothingBetweenWarmOnesAreAnswered) {
  Daemon daemon;
  ScratchDir dir;
  const std::string path = dir.file("data");
  write_file(path, pattern(4 << 20, 7));
  ASSERT_EQ(run({"cat", path}, kPlain).status, 0);
  const RunResult result = run({"python3", "-c", R"(
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for at in range(0, 4 << 20, 4096):
    assert len(os.read(fd, 4096)) == 4096 and os.read(fd, 0) == b'' and os.pread(fd, 0, at) == b''
assert os.read(fd, 4096) == b''
)",
                                path},
                               kAsUsersDo);
  EXPECT_EQ(result.status, 0) << result.err;
}

TEST(Smoke, WithoutADaemonEverythingGoesThroughFuse) {
  ScratchDir dir;
  const std::string bytes = pattern(1 << 20, 3);
  const RunResult result = shell(
      "cat > '" + dir.file("data") + "' && cat '" + dir.file("data") + "'", {.stdin_data = bytes});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(result.out == bytes + "\n");
  EXPECT_EQ(result.err, "");
}

uint64_t left_unaligned(const Daemon& daemon) {
  const admin::Stats stats = daemon.stats();
  for (const auto& passed : stats.passed()) {
    if (passed.reason() == "unaligned") return passed.calls();
  }
  return 0;
}

/// See write_unit() in daemon/gluster/context.h.
TEST(Smoke, OfADisperseVolumeOnlyWholeStripesAreWrittenThroughTheDaemon) {
  const bool disperse = Lab::get().shape == "disperse";
  Daemon daemon;
  // Boosted bytes of the large write, of the odd ones and of another file's; and what was left.
  using Parts = std::array<uint64_t, 4>;
  const Parts right{3 << 20, disperse ? 0U : 10'096U, 4096, disperse ? 3U : 0U};
  Parts parts{};
  // FUSE may have done a call itself.
  for (int attempt = 0; attempt < 10 && parts != right; ++attempt) {
    ScratchDir dir;
    Puppet puppet;
    const uint64_t unaligned = left_unaligned(daemon);
    uint64_t before = daemon.boosted_write_bytes();
    // What was logged is counted when the bricks have it.
    const auto boosted = [&](const char* file) {
      EXPECT_EQ(puppet.tell("fsync", file), "0");
      const uint64_t now = daemon.boosted_write_bytes();
      return now - std::exchange(before, now);
    };
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    ASSERT_EQ(puppet.tell("pwrite", "a", 0, 3 << 20, 1), std::to_string(3 << 20));
    parts[0] = boosted("a");
    for (const int offset : {1024, 1000, 0}) {  // its end, its start, and then it is too late
      const int length = offset == 0 ? 4096 : 3000;
      ASSERT_EQ(puppet.tell("pwrite", "a", offset, length, 1), std::to_string(length));
    }
    parts[1] = boosted("a");
    parts[3] = left_unaligned(daemon) - unaligned;

    ASSERT_EQ(puppet.tell("open", "b", "rw+creat", dir.file("b")), "0");
    ASSERT_EQ(puppet.tell("write", "b", 2048, 1), "2048");
    ASSERT_EQ(puppet.tell("write", "b", 2048, 1), "2048");
    parts[2] = boosted("b");
    puppet.leave();
    EXPECT_TRUE(read_file(dir.file("a")) == bytes_at(0, 3 << 20, 1));
    EXPECT_TRUE(read_file(dir.file("b")) == bytes_at(0, 4096, 1));
    for (size_t i = 0; i < parts.size(); ++i) EXPECT_LE(parts[i], right[i]) << i;
  }
  EXPECT_EQ(parts, right) << kTooLittle;
}

/// A long write is several records, of whole stripes each.
TEST(Stripes, LongWritesOfWholeStripesOfAnySizeAreWrittenThroughTheDaemon) {
  constexpr size_t kStripe = 3 * 512;
  constexpr size_t kLong = 2048 * kStripe;
  const Daemon daemon;
  until_carried(daemon, {.written = 2 * kLong}, [&] {
    const ScratchDir dir;
    Puppet puppet;
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    ASSERT_EQ(puppet.tell("pwrite", "a", 0, kLong, 1), std::to_string(kLong));
    ASSERT_EQ(puppet.tell("pwrite", "a", kLong - kStripe, kLong, 1), std::to_string(kLong));
    puppet.leave();
    EXPECT_TRUE(read_file(dir.file("a")) == bytes_at(0, 2 * kLong - kStripe, 1));
  });
}

/// GlusterFS supports sharding for one client of a file at a time, and FUSE is one already.
TEST(Shard, AShardedVolumeIsLeftToFuseAndSaysWhy) {
  ScratchDir dir;
  const std::string bytes = pattern(20 << 20, 4);
  const std::string source = Lab::get().dir + "/source";
  write_file(source, bytes);
  // The first shards of a new volume are sometimes refused with ESTALE on a busy machine, while the
  // FUSE client is still looking for shards that were left over. Not what this is about.
  const auto first = [&] {
    return run({"dd", "if=" + source, "of=" + dir.file("first"), "bs=1M", "status=none"},
               {.preload = false})
        .status;
  };
  for (int attempt = 0; attempt < 5 && first() != 0; ++attempt) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }

  Daemon daemon;
  const RunResult result =
      run({"dd", "if=" + source, "of=" + dir.file("copy"), "bs=1M", "status=none"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(read_file(dir.file("copy")) == bytes);
  EXPECT_EQ(daemon.boosted_write_bytes(), 0U);
  const booster::admin::Stats stats = daemon.stats();
  ASSERT_EQ(stats.mounts_size(), 1);
  EXPECT_NE(stats.mounts(0).error().find("sharded"), std::string::npos) << stats.mounts(0).error();
  ASSERT_EQ(stats.totals().refused_size(), 1);
  EXPECT_EQ(stats.totals().refused(0).count(), 1U);
}

}  // namespace
}  // namespace booster::test
