// One program does everything with one file that a program can, and sees what it must: with FUSE
// alone, and with booster serving what it serves of it (tests/programs/exerciser.cc).
#include <gtest/gtest.h>

#include <string>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

/// GlusterFS 10.3 alone shows an older size after a read beside writes that its client still holds
/// back, since its cache of attributes takes the answer for newer than it is: not with it.
struct NoAttributeCache {
  const VolumeOption option{"vol1", "performance.stat-prefetch", "off"};
};
class Exercise : public PolicyTest {
  const NoAttributeCache no_attribute_cache_{};
};

RunResult exercise(const std::string& path, int seed, int ms, const RunOptions& options) {
  return run({BOOSTER_TEST_EXERCISER, path, std::to_string(seed), std::to_string(ms)}, options);
}

TEST_P(Exercise, WhateverAProgramDoesWithAFileItSeesWhatItMust) {
  Daemon daemon;
  ScratchDir dir;
  const int seeds = rounds();
  for (int seed = 1; seed <= seeds; ++seed) {
    const RunResult result = exercise(dir.file("f"), seed, 1500, {});
    EXPECT_EQ(result.status, 0) << "seed " << seed << "\n" << result.out << result.err;
    EXPECT_TRUE(result.out.starts_with("done")) << result.out;
  }
  const auto totals = daemon.stats().totals();
  EXPECT_GT(totals.logged_calls(), 100U * static_cast<unsigned>(seeds));
  EXPECT_GT(totals.cached_calls(), 10U * static_cast<unsigned>(seeds));
  EXPECT_GT(totals.read_calls(), 10U * static_cast<unsigned>(seeds));
}

/// What is read again and again is evicted all the time.
TEST_P(Exercise, TheSameWithLittleRoom) {
  Daemon daemon("[cache]\nbytes = 1048576\n");
  ScratchDir dir;
  const int seeds = rounds();
  for (int seed = 1001; seed <= 1000 + seeds; ++seed) {
    const RunResult result = exercise(dir.file("f"), seed, 1500, {});
    EXPECT_EQ(result.status, 0) << "seed " << seed << "\n" << result.out << result.err;
  }
  EXPECT_GT(daemon.stats().totals().cached_calls(), 10U * static_cast<unsigned>(seeds));
  if (policy() == Policy::kSooner) {
    EXPECT_GT(daemon.stats().cache().evicted(), 0U);
  }
}

// If this fails, the one before says nothing of booster.
TEST(ExerciseWithoutBooster, SeesWhatItMust) {
  const NoAttributeCache no_attribute_cache{};
  ScratchDir dir;
  const RunResult result = exercise(dir.file("f"), 1, 1500, {.preload = false});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

BOOSTER_UNDER_EACH_POLICY(Exercise);

}  // namespace
}  // namespace booster::test
