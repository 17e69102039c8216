// Corners where descriptors, threads, children and libc's own I/O meet: the same as without the
// shim (tests/programs/corners.cc).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/integration/watched.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

class Corners : public PolicyTest {
 protected:
  /// Runs one of the programs without and with the shim; `arguments` are names in a fresh
  /// directory, or numbers. Both must print `expected`.
  void expect(const std::string& expected, const std::string& command,
              const std::vector<std::string>& arguments) {
    until_boosted(daemon_, Moves::kWrites, [&] { expect_once(expected, command, arguments); });
  }

  void expect_once(const std::string& expected, const std::string& command,
                   const std::vector<std::string>& arguments) {
    for (const bool boosted : {false, true}) {
      ScratchDir dir;
      std::vector<std::string> argv = {
          std::filesystem::path(probe_path()).replace_filename("booster_corners"), command};
      for (const std::string& argument : arguments) {
        const bool number = argument.find_first_not_of("0123456789") == std::string::npos;
        argv.push_back(number ? argument : dir.file(argument));
      }
      const RunResult result = run(argv, {.preload = boosted, .env = probe_blocks()});
      EXPECT_EQ(result.out, expected + "\n") << command << (boosted ? " boosted" : "");
      EXPECT_EQ(result.err, "") << command;
      EXPECT_EQ(result.status, 0) << command;
    }
  }

  Daemon daemon_;
};
BOOSTER_UNDER_EACH_POLICY(Corners);

TEST_P(Corners, AChildSeesItsWritesInWhatItsParentMapped) {
  expect("abcc", "fork-mapped", {"file"});
}

TEST_P(Corners, ANumberThatIsReplacedDuringACallTakesNoBytesAlong) {
  const std::string count = std::to_string(rounds());
  expect(count + " blocks in order", "rotate", {".", count});
}

TEST_P(Corners, AThreadThatWritesCanBeCancelled) {
  expect("cancelled", "cancel", {"file"});
}

TEST_P(Corners, AsynchronousAndFormattedOutputSeeTheOtherBytes) {
  expect("bceeeedddd", "inside-libc", {"file"});
}

TEST_P(Corners, AThreadSeesItsOwnWriteWhileAnotherSettles) {
  const int count = rounds();
  expect("stale 0 of " + std::to_string(count), "settle-together",
         {"file", "other", std::to_string(count)});
}

TEST_P(Corners, ANumberThatWasNeverUsedShowsWhatAnotherHasWritten) {
  const std::string block = std::to_string(paying(256 << 10));
  const std::string two = std::to_string(2 * paying(256 << 10));
  // It has its file open several times over, so that no description is alone.
  expect_once(block + " " + two + " 1000000000", "unseen-number", {"file", "other"});
}

TEST_P(Corners, AClonedChildMayCloseWhatItsParentHasUsed) {
  expect("7b", "cloned-close", {"file"});
}

TEST_P(Corners, ACloseDoesNotWaitForTheTrafficOfAnotherNumber) {
  expect("closed in time", "busy-duplicates", {"file"});
}

TEST_P(Corners, AProgramThatSignalsInterruptSeesTheDaemonsEnd) {
  ScratchDir dir;
  Child reader({std::filesystem::path(probe_path()).replace_filename("booster_corners"),
                "ticking-reader", dir.file("file")},
               {.env = probe_blocks()});
  ASSERT_EQ(reader.read_line(), "ready");
  // What the kernel has it keeps reading there, as users start it.
  until_boosted(daemon_, Moves::kReads, [&] {
    if (policy() == Policy::kShipped) forget(dir.file("file"));
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  });
  daemon_.signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  daemon_.kill(SIGKILL);
  const RunResult result = reader.wait();
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "done\n");
  daemon_.start();
}

/// So that whoever gets the lock next, on another host, sees what was written. On this one, who
/// looks at a file without opening it may be as late as the attributes that FUSE and the kernel
/// keep.
TEST_P(Corners, AnUnlockOfOneFileBringsTheOthersToTheBricks) {
  for (const char* how : {"flock", "posix", "ofd", "close"}) {
    ScratchDir dir;
    const size_t size = paying(65536);
    const std::string right = std::to_string(size);
    const std::string data = dir.file("data");
    write_file(data, "");
    write_file(dir.file("lock"), "");
    Puppet writer;
    ASSERT_EQ(writer.tell("open", "lock", "rw", dir.file("lock")), "0");
    ASSERT_EQ(writer.tell("open", "data", "rw", data), "0");
    const std::string word = how;
    const bool flock = word == "flock" || word == "close";
    ASSERT_EQ(writer.tell(flock ? "flock" : word + "-lock", "lock"), "0");
    until_boosted(daemon_, Moves::kWrites,
                  [&] { ASSERT_EQ(writer.tell("pwrite", "data", 0, size, 6), right); });
    ASSERT_EQ(writer.tell("fsync", "data"), "0");
    ASSERT_EQ(file_size(path_on_brick(data)), size);
    const uint64_t before = daemon_.boosted_write_bytes();
    ASSERT_EQ(writer.tell("pwrite", "data", size, size, 7), right);
    if (word == "close") {
      ASSERT_EQ(writer.tell("close", "lock", "close"), "0");
    } else {
      ASSERT_EQ(writer.tell(flock ? "unflock" : word + "-unlock", "lock"), "0");
    }
    EXPECT_EQ(file_size(path_on_brick(data)), 2 * size) << how;
    EXPECT_LE(daemon_.boosted_write_bytes(), before + size);
    EXPECT_GE(daemon_.boosted_write_bytes(), before + size) << kTooLittle;
    EXPECT_TRUE(comes_true([&] { return file_size(data) == 2 * size; }));
    // An open shows it at once.
    ASSERT_EQ(writer.tell("pwrite", "data", 2 * size, size, 7), right);
    EXPECT_EQ(read_file(data).size(), 3 * size) << how;
  }
}

TEST_P(Corners, ASettledProgramThatIsKilledLeavesTheTimesItSet) {
  ScratchDir dir;
  write_file(dir.file("file"), "x");
  Puppet writer;
  ASSERT_EQ(writer.tell("open", "f", "rw", dir.file("file")), "0");
  const size_t size = paying(65536);
  until_boosted(daemon_, Moves::kWrites,
                [&] { ASSERT_EQ(writer.tell("pwrite", "f", 0, size, 7), std::to_string(size)); });
  ASSERT_EQ(writer.tell("times", "f", 1'000'000'000), "0");
  writer.child().signal(SIGKILL);
  EXPECT_EQ(writer.child().wait().status, 128 + SIGKILL);
  EXPECT_TRUE(comes_true([this] { return daemon_.stats().sessions_size() == 0; }));
  // A fence would follow the end of the session on one thread of the daemon; this waits for it by
  // giving the same thread more to do, and looks past the second that attributes are kept.
  until_boosted(daemon_, Moves::kWrites, [&] {
    run({"dd", "if=/dev/zero", "of=" + dir.file("other"), "bs=" + std::to_string(size),
         policy() == Policy::kSooner ? "count=4" : "count=64", "status=none"});
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  struct stat status {};
  ASSERT_EQ(::stat(dir.file("file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mtim.tv_sec, 1'000'000'000);
  EXPECT_GE(daemon_.boosted_write_bytes(), 65536U);
}

TEST_P(Corners, ALogLineEndsNoProgramWhosePipeIsBroken) {
  ScratchDir dir;
  write_file(dir.file("file"), std::string(1 << 20, 'a'));
  // The library complains about the variable when it first looks at the file.
  const RunResult result = shell(
      "exec 3>&1; { sleep 0.3; dd if=file of=/dev/null bs=64k status=none; echo $? >&3; } "
      "2>&1 >/dev/null | true",
      {.env = {{"GLFS_BOOSTER_ENGAGE", "sideways"}}, .cwd = dir.path()});
  EXPECT_EQ(result.out, "0\n");
}

}  // namespace
}  // namespace booster::test
