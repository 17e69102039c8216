// A full volume: the program is told, what was accepted before is there, and when there is room
// again work goes on. Needs bricks of their own size: lab run --brick-size 64M.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

constexpr uint64_t kSeed = 11;
/// Goes onto the bricks in any case; and so much of it, if not all, past FUSE.
constexpr uint64_t kFits = 40 << 20;
constexpr uint64_t kMostOfIt = kFits / 10 * 9;

uint64_t free_bytes() {
  struct statvfs fs {};
  EXPECT_EQ(::statvfs(Lab::get().mount.c_str(), &fs), 0);
  return static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
}

/// A brick gives room back a little after a file has gone, and looks only every five seconds
/// whether it still has to refuse everything (storage.reserve).
bool becomes_free(uint64_t bytes) {
  const std::string trial = Lab::get().mount + "/trial";
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline) {
    const int fd = ::open(trial.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const bool good = fd >= 0 && ::write(fd, "x", 1) == 1 && ::fsync(fd) == 0;
    if (fd >= 0) ::close(fd);
    ::unlink(trial.c_str());
    if (good && free_bytes() >= bytes) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

class Full : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_LT(free_bytes(), 1U << 30) << "needs lab run --brick-size 64M";
    ASSERT_TRUE(becomes_free(40 << 20)) << "the test before has left " << free_bytes();
  }
  Daemon daemon_;
};

struct Filled {
  uint64_t accepted = 0;      // by write
  uint64_t synced = 0;        // of these, before the last fsync that succeeded
  std::string said;           // the first complaint: which call, and what
  std::string said_by_fsync;  // right after that
};

/// Writes to "a" until something complains.
Filled fill(Puppet& puppet, size_t block, bool positional) {
  Filled filled;
  for (int i = 0; filled.said.empty() && filled.accepted < 1U << 30; ++i) {
    const std::string answer = positional
                                   ? puppet.tell("pwrite", "a", filled.accepted, block, kSeed)
                                   : puppet.tell("write", "a", block, kSeed);
    if (answer.empty() || answer[0] == '-') {
      filled.said = "write " + answer;
      break;
    }
    filled.accepted += std::stoull(answer);
    if (i % 8 != 7) continue;
    const std::string synced = puppet.tell("fsync", "a");
    if (synced == "0") {
      filled.synced = filled.accepted;
    } else {
      filled.said = "fsync " + synced;
    }
  }
  filled.said_by_fsync = puppet.tell("fsync", "a");
  return filled;
}

/// So many of the bytes in [0, end) are what was written. Behind a write that failed, one that was
/// under way with it may have found room.
uint64_t right_bytes(const std::string& path, uint64_t end) {
  const std::string bytes = read_file(path);
  const std::string right = bytes_at(0, end, kSeed);
  uint64_t count = 0;
  for (size_t i = 0; i < std::min(bytes.size(), right.size()); ++i) count += bytes[i] == right[i];
  return count;
}

void expect_bytes(const std::string& path, uint64_t from, uint64_t to, const char* what) {
  const std::string bytes = read_file(path);
  ASSERT_GE(bytes.size(), to) << what;
  EXPECT_EQ(first_wrong(bytes.data() + from, to - from, from, kSeed), to - from)
      << what << ": wrong byte from there on";
}

TEST_F(Full, WithAndWithoutBoosterTheProgramIsTold) {
  for (bool positional : {false, true}) {
    for (size_t block : {size_t{1} << 20, size_t{65536}}) {
      for (bool boosted : {false, true}) {
        const std::string how = std::string(boosted ? "boosted, " : "FUSE, ") +
                                (positional ? "pwrite of " : "write of ") + std::to_string(block);
        SCOPED_TRACE(how);
        ScratchDir dir;
        const uint64_t before = daemon_.boosted_write_bytes();
        Puppet puppet({.preload = boosted});
        ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
        const Filled filled = fill(puppet, block, positional);
        const uint64_t through_daemon = daemon_.boosted_write_bytes() - before;
        const std::string closed = puppet.tell("close", "a", "close");
        std::printf("%s: %lu accepted, %lu boosted; %s; then fsync %s, close %s\n", how.c_str(),
                    filled.accepted, through_daemon, filled.said.c_str(),
                    filled.said_by_fsync.c_str(), closed.c_str());

        EXPECT_TRUE(filled.said == "write -1 ENOSPC" || filled.said == "fsync -1 ENOSPC")
            << filled.said;
        EXPECT_TRUE(filled.said_by_fsync == "0" || filled.said_by_fsync == "-1 ENOSPC")
            << filled.said_by_fsync;
        EXPECT_TRUE(closed == "0" || closed == "-1 ENOSPC") << closed;
        EXPECT_GT(filled.accepted, kFits);
        expect_bytes(dir.file("a"), 0, filled.synced, "synced");
        if (boosted) {
          EXPECT_GT(through_daemon, kMostOfIt) << kTooLittle;
          // What the daemon has carried, it was told by the bricks that they have it.
          EXPECT_GE(right_bytes(dir.file("a"), filled.accepted),
                    std::min(through_daemon, filled.accepted));
        } else {
          EXPECT_EQ(through_daemon, 0U);
        }
        puppet.leave();
        ::unlink(dir.file("a").c_str());
        ASSERT_TRUE(becomes_free(40 << 20));
      }
    }
  }
}

TEST_F(Full, DdFailsAlikeAndCopiesWhatFits) {
  const std::string source = Lab::get().dir + "/full-source";
  write_file(source, bytes_at(0, 100 << 20, kSeed));
  for (bool boosted : {false, true}) {
    SCOPED_TRACE(boosted ? "boosted" : "FUSE");
    ScratchDir dir;
    const uint64_t before = daemon_.boosted_write_bytes();
    const RunResult result =
        run({"dd", "if=" + source, "of=" + dir.file("a"), "bs=1M", "conv=fsync", "status=none"},
            {.preload = boosted});
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.err.find("No space left on device"), std::string::npos) << result.err;
    const uint64_t past_fuse = daemon_.boosted_write_bytes() - before;
    if (boosted) {
      EXPECT_GT(past_fuse, kMostOfIt) << kTooLittle;
    } else {
      EXPECT_EQ(past_fuse, 0U);
    }
    const uint64_t size = file_size(dir.file("a"));
    EXPECT_GT(size, kFits);
    if (boosted) {
      EXPECT_GE(right_bytes(dir.file("a"), size),
                std::min<uint64_t>(size, daemon_.boosted_write_bytes() - before));
    }
    ::unlink(dir.file("a").c_str());
    ASSERT_TRUE(becomes_free(40 << 20));
  }
  ::unlink(source.c_str());
}

/// Whoever closes a file by way of a stream hears of what could not be kept, too.
TEST_F(Full, AnErrorOfAWriteThatWasAcceptedIsToldByFclose) {
  constexpr size_t kBlock = 256 << 10;
  // How much goes in is not what the volume says: its file system takes more room while a file
  // grows.
  uint64_t room = 0;
  {
    ScratchDir dir;
    Puppet puppet({.preload = false});
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    room = fill(puppet, kBlock, true).synced;
    puppet.tell("close", "a", "close");
    puppet.leave();
    ::unlink(dir.file("a").c_str());
  }
  ASSERT_GT(room, 16U << 20);
  std::string told;
  for (int attempt = 0; attempt < 10 && told != "-1 ENOSPC"; ++attempt) {
    ASSERT_TRUE(becomes_free(40 << 20));
    ScratchDir dir;
    const uint64_t before = daemon_.boosted_write_bytes();
    Puppet puppet;
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    // Until there is room for little more.
    uint64_t at = 0;
    for (; at < room - (4 << 20); at += kBlock) {
      ASSERT_EQ(puppet.tell("pwrite", "a", at, kBlock, kSeed), std::to_string(kBlock));
      if (at % (4 << 20) == 0) {
        ASSERT_EQ(puppet.tell("fsync", "a"), "0");
      }
    }
    EXPECT_GT(daemon_.boosted_write_bytes(), before) << kTooLittle;
    // Faster than the bricks can refuse it.
    constexpr int kMore = 48;
    for (int i = 0; i < kMore; ++i) {
      puppet.order("pwrite", "a", at + static_cast<uint64_t>(i) * kBlock, kBlock, kSeed);
    }
    puppet.order("close", "a", "fclose");
    bool refused = false;
    for (int i = 0; i < kMore; ++i) refused |= puppet.answer() != std::to_string(kBlock);
    told = puppet.answer();
    // Told once, by one of them.
    EXPECT_TRUE(told == "-1 ENOSPC" || (refused && told == "0")) << told;
    puppet.leave();
    ::unlink(dir.file("a").c_str());
  }
  EXPECT_EQ(told, "-1 ENOSPC") << "each time a write was refused before" << kTooLittle;
  ASSERT_TRUE(becomes_free(40 << 20));
}

TEST_F(Full, WhenThereIsRoomAgainWorkGoesOn) {
  constexpr uint64_t kMore = 8 << 20;
  uint64_t carried = 0;  // of the bytes that it writes then
  const auto work_goes_on = [&](bool boosted) {
    ScratchDir dir;
    const std::string filler(20 << 20, 'f');
    write_file(dir.file("filler"), filler);
    Puppet puppet({.preload = boosted});
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    const Filled filled = fill(puppet, 256 << 10, true);
    EXPECT_TRUE(filled.said == "write -1 ENOSPC" || filled.said == "fsync -1 ENOSPC")
        << filled.said;
    EXPECT_EQ(read_file(dir.file("filler")), filler) << "another file was hurt";

    ::unlink(dir.file("filler").c_str());
    ASSERT_TRUE(becomes_free(15 << 20));
    const uint64_t before = daemon_.boosted_write_bytes();
    // From where everything is known to be there, on the same descriptor.
    for (uint64_t at = filled.synced; at < filled.synced + kMore; at += 1 << 20) {
      EXPECT_EQ(puppet.tell("pwrite", "a", at, 1 << 20, kSeed), std::to_string(1 << 20)) << at;
    }
    EXPECT_EQ(puppet.tell("fsync", "a"), "0");
    EXPECT_EQ(puppet.tell("close", "a", "close"), "0");
    carried = daemon_.boosted_write_bytes() - before;
    expect_bytes(dir.file("a"), 0, filled.synced + kMore, "in the end");
    puppet.leave();
    ::unlink(dir.file("a").c_str());
    ASSERT_TRUE(becomes_free(40 << 20));
  };
  {
    SCOPED_TRACE("FUSE");
    work_goes_on(false);
    EXPECT_EQ(carried, 0U);
  }
  SCOPED_TRACE("boosted");
  // FUSE may do a call itself.
  for (int attempt = 0; attempt < 10 && carried != kMore && !HasFatalFailure(); ++attempt) {
    work_goes_on(true);
    EXPECT_LE(carried, kMore);
  }
  EXPECT_GE(carried, kMore) << kTooLittle;
}

TEST_F(Full, ASmallFileOnAFullVolumeFailsAlike) {
  ScratchDir dir;
  {
    Puppet filler({.preload = false});
    ASSERT_EQ(filler.tell("open", "a", "rw+creat", dir.file("filler")), "0");
    fill(filler, 1 << 20, true);
    fill(filler, 65536, true);
    filler.tell("close", "a", "close");
    filler.leave();
  }
  std::string told[2];
  for (int boosted = 0; boosted < 2; ++boosted) {
    const RunResult result =
        shell("head -c 3000000 /dev/zero > small", {.preload = boosted == 1, .cwd = dir.path()});
    told[boosted] = std::to_string(result.status) + " " + result.err;
    ::unlink(dir.file("small").c_str());
  }
  EXPECT_NE(told[0].find("No space left on device"), std::string::npos) << told[0];
  EXPECT_NE(told[1].find("No space left on device"), std::string::npos) << told[1];
  ::unlink(dir.file("filler").c_str());
  ASSERT_TRUE(becomes_free(40 << 20));
}

}  // namespace
}  // namespace booster::test
