// The offset is the kernel's: whatever mix of processes, threads and ways uses a description, no
// byte is lost, repeated or reordered. FUSE's own result is the oracle.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "tests/integration/carried.h"
#include "tests/integration/harness.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

std::string numbers(uint64_t count) {
  std::string bytes(count * 8, '\0');
  for (uint64_t i = 0; i < count; ++i) std::memcpy(&bytes[i * 8], &i, 8);
  return bytes;
}

/// A file of which the kernel has nothing, so that it pays to read it past FUSE.
void write_cold_file(const std::string& path, const std::string& bytes) {
  write_file(path, bytes);
  forget(path);
}

/// The same script without and with the shim, each in its own directory; output, errors, status and
/// the file "out" must agree.
void expect_same(const std::string& script, const std::function<void(ScratchDir&)>& prepare = {}) {
  RunResult results[2];
  std::string files[2];
  for (int boosted = 0; boosted < 2; ++boosted) {
    ScratchDir dir;
    if (prepare) prepare(dir);
    results[boosted] = shell(
        script, {.preload = boosted == 1, .env = {{"PROBE", probe_path()}}, .cwd = dir.path()});
    files[boosted] = read_file(dir.file("out"));
  }
  EXPECT_EQ(results[0].status, results[1].status) << script;
  EXPECT_TRUE(results[0].out == results[1].out) << script << "\nFUSE:\n"
                                                << results[0].out.substr(0, 2000) << "\nboosted:\n"
                                                << results[1].out.substr(0, 2000);
  EXPECT_EQ(results[0].err, results[1].err) << script;
  EXPECT_TRUE(files[0] == files[1])
      << script << ": 'out' differs, " << files[0].size() << " and " << files[1].size() << " bytes";
}

class Offset : public PolicyTest {
 protected:
  Daemon daemon_;
};
BOOSTER_UNDER_EACH_POLICY(Offset);

TEST_P(Offset, TwoCommandsWriteOneFileInOrder) {
  expect_same(
      "(seq 1 100000; seq 5 9; dd if=/dev/zero bs=1000 count=70 status=none; echo x) > out");
  until_boosted(daemon_, Moves::kReads, [&] {
    expect_same(
        "(dd if=big bs=64k status=none; \"$PROBE\" write-fd 1 there; dd if=big bs=1M status=none) "
        "> "
        "out",
        [](ScratchDir& dir) { write_cold_file(dir.file("big"), pattern(paying(3 << 20) * 4)); });
  });
}

TEST_P(Offset, ReadLineThenCatGetsTheRest) {
  const auto prepare = [](ScratchDir& dir) {
    std::string text;
    const int lines = policy() == Policy::kSooner ? 50'000 : 1'000'000;
    for (int i = 0; i < lines; ++i) text += "line " + std::to_string(i) + "\n";
    write_cold_file(dir.file("in"), text);
  };
  until_boosted(daemon_, Moves::kReads, [&] {
    expect_same("{ read line; echo \"$line\"; read line; echo \"$line\"; cat; } < in", prepare);
    expect_same("{ head -c 100000 | tail -c 5; dd bs=7777 count=3 status=none; cat; } < in",
                prepare);
  });
  EXPECT_GT(daemon_.boosted_read_bytes(), 100000U) << kTooLittle;
}

TEST_P(Offset, ParentAndChildAlternateReads) {
  const bool sooner = policy() == Policy::kSooner;
  const auto prepare = [&](ScratchDir& dir) {
    write_cold_file(dir.file("in"), pattern(sooner ? 1 << 20 : 16 << 20));
  };
  for (const char* size : {"1000", "4096", "65536", "300000"}) {
    until_boosted(daemon_, Moves::kReads, [&] {
      expect_same(std::string("\"$PROBE\" alternate-read in ") + size + " > out", prepare);
    });
  }
  if (sooner) {
    EXPECT_GT(daemon_.boosted_read_bytes(), 1U << 20) << kTooLittle;
  }
}

TEST_P(Offset, TwoThreadsReadEveryRecordOnce) {
  ScratchDir dir;
  const uint64_t count = policy() == Policy::kSooner ? 200'000 : 2'000'000;
  for (const char* records : {"1024", "1", "33333"}) {
    const bool few = std::string(records) == "1";
    const uint64_t some = few ? 3000 : count;
    const auto read_all = [&] {
      write_cold_file(dir.file("numbers"), numbers(some));
      const RunResult result =
          run({probe_path(), "threads-read", dir.file("numbers"), std::to_string(some), records});
      EXPECT_EQ(result.out, "missing 0 repeated 0 unknown 0\n") << result.err;
    };
    // So small a file never pays.
    if (few && policy() == Policy::kShipped) {
      read_all();
    } else {
      until_boosted(daemon_, Moves::kReads, read_all);
    }
  }
  if (policy() == Policy::kSooner) {
    EXPECT_GT(daemon_.boosted_read_bytes(), count * 8) << kTooLittle;
  }
}

TEST_P(Offset, TwoThreadsAtAGrowingEndLoseAndRepeatNothing) {
  for (int round = 0; round < rounds(); ++round) {
    ScratchDir dir;
    const std::string count = "20000";
    write_file(dir.file("numbers"), numbers(5000));
    // The first 5000 are there, so that readers are boosted before they reach the growing end.
    write_file(dir.file("numbers"), "");
    Child writer({probe_path(), "grow", dir.file("numbers"), count, round % 2 == 0 ? "100" : "7"},
                 {.preload = round % 3 == 0});
    const RunResult result = run(
        {probe_path(), "threads-read", dir.file("numbers"), count, round % 2 == 0 ? "64" : "9"});
    EXPECT_EQ(result.out, "missing 0 repeated 0 unknown 0\n") << result.err;
    EXPECT_EQ(writer.wait().status, 0);
  }
}

TEST_P(Offset, TwoThreadsWriteWholeBlocks) {
  ScratchDir dir;
  for (const size_t size : {paying(1000), paying(70000)}) {
    const auto write_blocks = [&] {
      const RunResult result =
          run({probe_path(), "threads-write", dir.file("out"), "100", std::to_string(size)});
      EXPECT_EQ(result.out, "200 different blocks, size " + std::to_string(200 * size) + "\n");
    };
    if (policy() == Policy::kSooner) {
      until_carried(daemon_, {.written = 200 * size}, write_blocks);
    } else {
      until_boosted(daemon_, Moves::kWrites, write_blocks);
    }
  }
}

TEST_P(Offset, BoostedAndUnboostedProgramsShareADescription) {
  // How many blocks a program takes: under the shipped policy so many that it is still at it when
  // the daemon has answered.
  const std::string count = policy() == Policy::kSooner ? "5" : "6000";
  const auto prepare = [](ScratchDir& dir) {
    write_cold_file(dir.file("in"), pattern(policy() == Policy::kSooner ? 2 << 20 : 96 << 20));
  };
  until_boosted(daemon_, Moves::kReads, [&] {
    expect_same("{ dd bs=10000 count=" + count +
                    " status=none; env -u LD_PRELOAD dd bs=10000 count=5 status=none;"
                    "  dd bs=333 count=5 status=none; env -u LD_PRELOAD cat; } < in > out",
                prepare);
  });
  until_boosted(daemon_, Moves::kReads, [&] {
    expect_same("for i in 1 2 3 4 5; do dd if=in bs=30000 count=" + count +
                    " status=none;"
                    " env -u LD_PRELOAD dd if=in bs=20000 count=2 status=none; done > out",
                prepare);
  });
}

TEST_P(Offset, IsTheTrueOneForWhoeverLooksAtIt) {
  constexpr size_t kSize = 4 << 20;  // as offsets.cc has it
  const int count = 100 * rounds("times 100 looks");
  const auto read_all = [&](bool preload) {
    ScratchDir dir;
    const std::string path = dir.file("in");
    write_file(path, bytes_at(0, kSize, 5));
    RunResult result = run({BOOSTER_TEST_OFFSETS, path, "5", std::to_string(count)},
                           {.preload = preload, .env = probe_blocks()});
    EXPECT_EQ(result.status, 0) << result.out << result.err;
    return result.out;
  };
  EXPECT_EQ(read_all(false), "lagged 0\n");
  int lagged = 0;
  for (int attempt = 0; attempt < 5 && lagged < count / 4 && !HasFailure(); ++attempt) {
    std::sscanf(read_all(true).c_str(), "lagged %d", &lagged);
  }
  EXPECT_GE(lagged, count / 4) << kTooLittle;
}

TEST_P(Offset, AKilledWriterLeavesNoHoleForTheNext) {
  ScratchDir dir;
  const int count = rounds();
  uint64_t killed_bytes = 0;
  for (int round = 0; round < count; ++round) {
    // The first writer says "ready" before it writes; it dies at a random moment after that.
    const std::string script = "( { \"$PROBE\" write-forever - " +
                               std::to_string(paying(round % 2 == 0 ? 4096 : 50000)) +
                               " 2>ready & pid=$!; while ! test -s ready; do :; done; sleep 0.0" +
                               std::to_string(rand() % 90 + 10) +
                               "; kill -9 $pid; wait $pid 2>/dev/null; rm -f ready; }; printf "
                               "'second writer' ) > out 2>/dev/null";
    const RunResult result = shell(script, {.env = {{"PROBE", probe_path()}}, .cwd = dir.path()});
    ASSERT_EQ(result.status, 0);
    const std::string bytes = read_file(dir.file("out"));
    const size_t end = bytes.find_first_not_of('w');
    ASSERT_NE(end, std::string::npos);
    ASSERT_EQ(bytes.substr(end), "second writer") << "round " << round;
    killed_bytes += end;
  }
  EXPECT_GT(killed_bytes, static_cast<uint64_t>(count) * 4096) << kTooLittle;
}

}  // namespace
}  // namespace booster::test
