// Descriptors stay the kernel's: copied, inherited, passed, closed and re-used numbers, locks and
// space mean what they mean without booster.
#include <gtest/gtest.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

class Descriptor : public testing::Test {
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
      results[boosted] = run(argv, {.preload = boosted == 1});
      files[boosted] = read_file(dir.file("file"));
    }
    EXPECT_EQ(results[0].out, results[1].out) << command[0];
    EXPECT_EQ(results[0].err, results[1].err) << command[0];
    EXPECT_EQ(results[0].status, results[1].status) << command[0];
    EXPECT_TRUE(files[0] == files[1]) << command[0];
    EXPECT_EQ(files[0].empty(), !file_remains) << command[0];
  }

  Daemon daemon_;
};

TEST_F(Descriptor, CopiesShareOneOffset) {
  expect_same({"dup-write"});
  EXPECT_GE(daemon_.boosted_write_bytes(), 105000U);
}

TEST_F(Descriptor, ExecKeepsTheDescription) {
  expect_same({"exec-write"});
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, ChildrenOfEveryKindWriteOn) {
  expect_same({"children-write"});
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, PassedOverASocketBothWrite) {
  // Two processes write at once: the order is open, so the oracle is counting.
  ScratchDir dir;
  const RunResult result = run({probe_path(), "pass-write", dir.file("file")});
  EXPECT_EQ(result.out, "at 450000\n");
  const std::string bytes = read_file(dir.file("file"));
  ASSERT_EQ(bytes.size(), 450000U);
  EXPECT_EQ(bytes.find_first_not_of('p'), bytes.find('c'));
  for (size_t at = 0; at < bytes.size(); at += 3000) {
    ASSERT_EQ(bytes.substr(at, 3000), std::string(3000, bytes[at])) << "a block is mixed at " << at;
  }
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 'c'), 150000);
  EXPECT_GE(daemon_.boosted_write_bytes(), 150000U);  // what was written before it was passed
}

TEST_F(Descriptor, AClosedNumberIsNeverTakenForTheOldFile) {
  for (const char* how :
       {"close", "syscall", "raw", "close_range", "closefrom", "fclose", "dup2", "freopen"}) {
    ScratchDir dir;
    write_file(dir.file("a"), "file AAA" + std::string(200, 'a'));
    write_file(dir.file("b"), "file BBB" + std::string(200, 'b'));
    const RunResult result =
        run({probe_path(), "closed-number", dir.file("a"), dir.file("b"), how});
    EXPECT_EQ(result.out, "file AAA same file BBB file BBB\n") << how << result.err;
    EXPECT_EQ(read_file(dir.file("a")).substr(100, 10), "A was here") << how;
    EXPECT_EQ(read_file(dir.file("b")).substr(100, 10), "B was here") << how;
  }
  EXPECT_GT(daemon_.boosted_write_bytes(), 50U);
}

TEST_F(Descriptor, LocksAreFreeAfterClose) {
  expect_same({"lock-free", "flock"}, std::string(8192, 'x'));
  expect_same({"lock-free", "ofd"}, std::string(8192, 'x'));
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, PosixLocksSurviveBoostedCalls) {
  ScratchDir dir;
  write_file(dir.file("file"), std::string(8192, 'x'));
  const RunResult result = run({probe_path(), "posix-lock-kept", dir.file("file")});
  EXPECT_EQ(result.out, "kept\n") << result.err;
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, StreamsMappingsAndDescriptorsOfOneProcessAgree) {
  expect_same({"mixed-ways"});
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, OddCallsGiveTheSameResultAndErrno) {
  expect_same({"odd-calls"}, "", false);
  EXPECT_GT(daemon_.boosted_read_bytes(), 0U);
}

TEST_F(Descriptor, AFileSizeLimitHoldsAsThroughFuse) {
  expect_same({"fsize-limit", "8192"});
  EXPECT_EQ(daemon_.boosted_write_bytes(), 1000U);
}

TEST_F(Descriptor, AProgramThatClosesEverythingIsStillRight) {
  expect_same({"close-everything"});
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U);
}

TEST_F(Descriptor, TheSpaceOfADeletedFileIsFreeAtOnce) {
  ScratchDir dir;
  const RunResult before = run({"df", "--output=used", "-k", dir.path()}, {.preload = false});
  Child holder({"bash", "-c",
                "dd if=/dev/zero of=big bs=1M count=64 status=none; dd if=big of=/dev/null bs=1M "
                "status=none; rm big; echo removed; read"},
               {.cwd = dir.path()});
  EXPECT_EQ(holder.read_line(), "removed");
  EXPECT_GE(daemon_.boosted_write_bytes(), 64U << 20);
  const RunResult after = run({"df", "--output=used", "-k", dir.path()}, {.preload = false});
  const auto used = [](const RunResult& result) {
    return std::stol(result.out.substr(result.out.find('\n') + 1));
  };
  EXPECT_LT(used(after), used(before) + 32 * 1024);
  holder.write_line("");
}

}  // namespace
}  // namespace booster::test
