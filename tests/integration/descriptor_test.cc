// Descriptors stay the kernel's: copied, inherited, passed, closed and re-used numbers, locks and
// space mean what they mean without booster.
#include <gtest/gtest.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/integration/carried.h"
#include "tests/integration/harness.h"

namespace booster::test {
namespace {

class Descriptor : public PolicyTest {
 protected:
  /// Runs a probe without and with the shim on equal files; output and file must agree.
  void expect_same(std::vector<std::string> command, const std::string& initial = "",
                   bool file_remains = true) {
    RunResult results[2];
    std::string files[2];
    for (int boosted = 0; boosted < 2; ++boosted) {
      ScratchDir dir;
      if (!initial.empty()) write_file(dir.file("file"), initial);
      std::vector<std::string> argv = {probe_path()};
      argv.push_back(command[0]);
      argv.push_back(dir.file("file"));
      argv.insert(argv.end(), command.begin() + 1, command.end());
      results[boosted] = run(argv, {.preload = boosted == 1, .env = probe_blocks()});
      files[boosted] = read_file(dir.file("file"));
    }
    EXPECT_EQ(results[0].out, results[1].out) << command[0];
    EXPECT_EQ(results[0].err, results[1].err) << command[0];
    EXPECT_EQ(results[0].status, results[1].status) << command[0];
    EXPECT_TRUE(files[0] == files[1]) << command[0];
    EXPECT_EQ(files[0].empty(), !file_remains) << command[0];
  }

  /// Until some of its writes are boosted; PROBE_PAYS makes its blocks so large that they pay.
  void expect_same_boosted(const std::vector<std::string>& command,
                           const std::string& initial = "") {
    until_boosted(daemon_, Moves::kWrites, [&] { expect_same(command, initial); });
  }

  Daemon daemon_;
};
BOOSTER_UNDER_EACH_POLICY(Descriptor);

TEST_P(Descriptor, CopiesShareOneOffset) {
  if (policy() == Policy::kSooner) {
    until_carried(daemon_, {.written = 105000U}, [&] { expect_same({"dup-write"}); });
  } else {
    expect_same_boosted({"dup-write"});
  }
}

TEST_P(Descriptor, ExecKeepsTheDescription) {
  expect_same_boosted({"exec-write"});
}

TEST_P(Descriptor, ChildrenOfEveryKindWriteOn) {
  expect_same_boosted({"children-write"});
}

TEST_P(Descriptor, PassedOverASocketBothWrite) {
  // Two processes write at once: the order is open, so the oracle is counting.
  const size_t block = paying(3000);
  const auto pass = [&] {
    ScratchDir dir;
    const RunResult result =
        run({probe_path(), "pass-write", dir.file("file")}, {.env = probe_blocks()});
    EXPECT_EQ(result.out, "at " + std::to_string(150 * block) + "\n");
    const std::string bytes = read_file(dir.file("file"));
    ASSERT_EQ(bytes.size(), 150 * block);
    EXPECT_EQ(bytes.find_first_not_of('p'), bytes.find('c'));
    for (size_t at = 0; at < bytes.size(); at += block) {
      ASSERT_EQ(bytes.compare(at, block, std::string(block, bytes[at])), 0)
          << "a block is mixed at " << at;
    }
    EXPECT_EQ(static_cast<size_t>(std::count(bytes.begin(), bytes.end(), 'c')), 50 * block);
  };
  if (policy() == Policy::kSooner) {
    // What was written before it was passed.
    until_carried(daemon_, {.written = 150000U, .or_more = true}, pass);
  } else {
    until_boosted(daemon_, Moves::kWrites, pass);
  }
}

TEST_P(Descriptor, AClosedNumberIsNeverTakenForTheOldFile) {
  const auto check = [](const char* how) {
    ScratchDir dir;
    write_file(dir.file("a"), "file AAA" + std::string(200, 'a'));
    write_file(dir.file("b"), "file BBB" + std::string(200, 'b'));
    const RunResult result = run({probe_path(), "closed-number", dir.file("a"), dir.file("b"), how},
                                 {.env = probe_blocks()});
    EXPECT_EQ(result.out, "file AAA same file BBB file BBB\n") << how << result.err;
    const auto there = [&](const char* file) { return read_file(dir.file(file)).substr(100, 10); };
    const auto right = [&] { return there("a") == "A was here" && there("b") == "B was here"; };
    // Nobody is told of a number that is closed past libc; the daemon shows it within a second, or
    // when it comes to that.
    const bool late = std::string(how) == "raw";
    for (int i = 0; late && i < 8 && (i == 0 || !right()); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    }
    EXPECT_EQ(there("a"), "A was here") << how;
    EXPECT_EQ(there("b"), "B was here") << how;
  };
  for (const char* how :
       {"close", "syscall", "raw", "close_range", "closefrom", "fclose", "dup2", "freopen"}) {
    until_boosted(daemon_, Moves::kWrites, [&] { check(how); });
  }
}

TEST_P(Descriptor, LocksAreFreeAfterClose) {
  expect_same_boosted({"lock-free", "flock"}, std::string(8192, 'x'));
  expect_same_boosted({"lock-free", "ofd"}, std::string(8192, 'x'));
}

TEST_P(Descriptor, PosixLocksSurviveBoostedCalls) {
  ScratchDir dir;
  write_file(dir.file("file"), std::string(8192, 'x'));
  until_boosted(daemon_, Moves::kWrites, [&] {
    const RunResult result =
        run({probe_path(), "posix-lock-kept", dir.file("file")}, {.env = probe_blocks()});
    EXPECT_EQ(result.out, "kept\n") << result.err;
  });
}

/// A stream on standard input is there before anybody could look for it.
TEST_P(Descriptor, AStreamOnDescriptorZeroSeesWhatWasWrittenThroughAnother) {
  ScratchDir dir;
  until_boosted(daemon_, Moves::kWrites, [&] {
    const RunResult result =
        run({probe_path(), "stream-on-zero", dir.file("file")}, {.env = probe_blocks()});
    EXPECT_EQ(result.status, 0) << result.out;
    EXPECT_EQ(result.out, "stale 0 of 20\n");
  });
}

TEST_P(Descriptor, StreamsMappingsAndDescriptorsOfOneProcessAgree) {
  expect_same_boosted({"mixed-ways"});
}

TEST_P(Descriptor, OddCallsGiveTheSameResultAndErrno) {
  until_boosted(daemon_, policy() == Policy::kSooner ? Moves::kReads : Moves::kWrites,
                [&] { expect_same({"odd-calls"}, "", false); });
}

TEST_P(Descriptor, AFileSizeLimitHoldsAsThroughFuse) {
  if (policy() == Policy::kSooner) {
    until_carried(daemon_, {.written = 1000U}, [&] { expect_same({"fsize-limit", "8192"}); });
  } else {
    expect_same_boosted({"fsize-limit", "20000000"});
  }
}

TEST_P(Descriptor, AProgramThatClosesEverythingIsStillRight) {
  expect_same_boosted({"close-everything"});
}

TEST_P(Descriptor, TheSpaceOfADeletedFileIsFreeAtOnce) {
  ScratchDir dir;
  const auto used = [&] {
    const RunResult result = run({"df", "--output=used", "-k", dir.path()}, {.preload = false});
    return std::stol(result.out.substr(result.out.find('\n') + 1));
  };
  // What is held is held each time. Other labs, on the same disk, may grow meanwhile.
  bool is_free = false;
  const uint64_t enough = policy() == Policy::kSooner ? 64U << 20 : 1U << 20;
  const auto boosted = [&] { return daemon_.boosted_write_bytes() >= enough; };
  for (int attempt = 0; attempt < 10 && !(is_free && boosted()); ++attempt) {
    const long before = used();
    Child holder({"bash", "-c",
                  "dd if=/dev/zero of=big bs=1M count=64 status=none; dd if=big of=/dev/null bs=1M "
                  "status=none; rm big; echo removed; read"},
                 {.cwd = dir.path()});
    EXPECT_EQ(holder.read_line(), "removed");
    // At once to whoever removes it; FUSE tells the bricks a little later.
    is_free = comes_true([&] { return used() < before + 32 * 1024; }, std::chrono::seconds(10));
    holder.write_line("");
  }
  EXPECT_TRUE(is_free);
  EXPECT_TRUE(boosted()) << kTooLittle;
}

}  // namespace
}  // namespace booster::test
