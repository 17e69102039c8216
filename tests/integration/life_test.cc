// A program's own life beside its boosted calls: other threads that look, exec, cancellation,
// signals and faults (tests/programs/lives.cc), as with FUSE alone.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/integration/carried.h"
#include "tests/integration/harness.h"

namespace booster::test {
namespace {

class Life : public PolicyTest {
 protected:
  /// The context of the mount takes longer than some of the programs.
  void SetUp() override {
    until_boosted(daemon_, Moves::kWrites, [this] {
      run({BOOSTER_TEST_LIVES, "offset", dir_.file("first"), "100"}, {.env = probe_blocks()});
    });
  }

  /// What the program says and how it ends, without booster and with it. Some of it was boosted.
  void compare(std::vector<std::string> words, bool boosted = true) {
    words.insert(words.begin(), BOOSTER_TEST_LIVES);
    words.insert(words.begin() + 2, "");
    const auto live = [&](bool preload) {
      words[2] = dir_.file(words[1] + (preload ? "-boosted" : "-plain") + std::to_string(++files_));
      return run(words, {.preload = preload, .env = probe_blocks()});
    };
    const RunResult plain = live(false);
    const auto live_boosted = [&] {
      const RunResult result = live(true);
      EXPECT_EQ(result.status, plain.status) << result.out << result.err;
      EXPECT_EQ(result.out, plain.out);
      EXPECT_EQ(result.err, "");
    };
    if (boosted) {
      until_carried(daemon_, {.written = 1U, .or_more = true}, live_boosted);
    } else {
      live_boosted();
    }
  }

  const Daemon daemon_;
  const ScratchDir dir_;
  int files_ = 0;
};

TEST_P(Life, TheOffsetIsNotAheadOfWhatIsWritten) {
  compare({"offset", "1000"});
}

TEST_P(Life, ANumberThatIsClosedPastLibcHidesNoWrite) {
  compare({"bare-close"});
}

TEST_P(Life, ALockOutlivesExecAndWrites) {
  // What was open before is not this program's alone.
  compare({"lock-and-exec"}, false);
}

TEST_P(Life, ANumberOfAFileWhoseCloseHangsIsFreeForASocket) {
  const VolumeOption delayed("vol1", "delay-gen.enable", "flush");
  const VolumeOption duration("vol1", "delay-gen.delay-duration", "2000000");
  const VolumeOption always("vol1", "delay-gen.delay-percentage", "100");
  const VolumeOption waited("vol1", "performance.flush-behind", "off");
  for (const bool preload : {false, true}) {
    SCOPED_TRACE(preload ? "boosted" : "plain");
    const uint64_t before = daemon_.boosted_write_bytes();
    RunResult result;
    // Options take a while to reach the clients. A delegation takes a flush, too, which an eager
    // program waits for.
    for (int i = 0; i < 10 && result.out != "at once\n" && result.out != "waited\n"; ++i) {
      result = run({BOOSTER_TEST_LIVES, "slow-close", dir_.file("slow" + std::to_string(i))},
                   {.preload = preload, .eager = true});
    }
    EXPECT_EQ(result.out, "at once\n") << result.err;
    if (preload) {
      EXPECT_GT(daemon_.boosted_write_bytes(), before) << kTooLittle;
    }
  }
}

TEST_P(Life, AThreadThatIsCancelledAnywhereLeavesNothingLocked) {
  compare({"cancelled"});
}

TEST_P(Life, TheNumberOfAStreamThatWasMappedIsFreeForASocket) {
  // A file that is mapped is FUSE's.
  compare({"mapped-stream"}, false);
}

TEST_P(Life, AThreadThatIsToBeCancelledClosesItsStream) {
  compare({"cancelled-stream"});
}

TEST_P(Life, FormattedOutputToADescriptorIsBoosted) {
  compare({"formatted"});
}

TEST_P(Life, WhatTheKernelCopiesIntoAFileThatAnotherThreadWritesStays) {
  // While the kernel copies, nothing is.
  compare({"copied"}, false);
}

TEST_P(Life, WhatIsWrittenBesideARingIsThereForIt) {
  compare({"ring"}, false);
}

TEST_P(Life, SignalHandlersAreWhatTheProgramHasAskedFor) {
  compare({"handlers"});
}

TEST_P(Life, ChildrenThatBorrowMemoryLeaveHandlersAlone) {
  compare({"borrowed"});
}

TEST_P(Life, AFaultEndsTheProgramAsEver) {
  for (const char* how : {"default", "handler", "ignored", "kill", "bus"}) {
    SCOPED_TRACE(how);
    compare({"fault", how});
  }
}

BOOSTER_UNDER_EACH_POLICY(Life);

}  // namespace
}  // namespace booster::test
