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

/// A machine that is busy with other things comes to less in the same time: more seeds, then.
constexpr unsigned kTimesAsMany = 5;

RunResult exercise(const std::string& path, unsigned seed, int ms, const RunOptions& options) {
  return run({BOOSTER_TEST_EXERCISER, path, std::to_string(seed), std::to_string(ms)}, options);
}

TEST_P(Exercise, WhateverAProgramDoesWithAFileItSeesWhatItMust) {
  Daemon daemon;
  ScratchDir dir;
  const auto seeds = static_cast<unsigned>(rounds());
  const auto boosted = [&] {
    const auto totals = daemon.stats().totals();
    return totals.logged_calls() > 100 * seeds && totals.cached_calls() > 10 * seeds &&
           totals.read_calls() > 10 * seeds;
  };
  for (unsigned seed = 1; seed <= seeds || (seed <= kTimesAsMany * seeds && !boosted()); ++seed) {
    const RunResult result = exercise(dir.file("f"), seed, 1500, {});
    EXPECT_EQ(result.status, 0) << "seed " << seed << "\n" << result.out << result.err;
    EXPECT_TRUE(result.out.starts_with("done")) << result.out;
  }
  EXPECT_TRUE(boosted()) << daemon.stats().totals().ShortDebugString() << kTooLittle;
}

/// What is read again and again is evicted all the time.
TEST_P(Exercise, TheSameWithLittleRoom) {
  Daemon daemon("[cache]\nbytes = 1048576\nretain_bytes = 0\n");
  ScratchDir dir;
  const auto seeds = static_cast<unsigned>(rounds());
  const auto evicts = [&] {
    const admin::Stats stats = daemon.stats();
    return stats.totals().cached_calls() > 10 * seeds &&
           (policy() == Policy::kShipped || stats.cache().evicted() > 0);
  };
  for (unsigned seed = 1; seed <= seeds || (seed <= kTimesAsMany * seeds && !evicts()); ++seed) {
    const RunResult result = exercise(dir.file("f"), 1000 + seed, 1500, {});
    EXPECT_EQ(result.status, 0) << "seed " << seed << "\n" << result.out << result.err;
  }
  EXPECT_TRUE(evicts()) << daemon.stats().ShortDebugString() << kTooLittle;
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
