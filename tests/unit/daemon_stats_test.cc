// Histograms and the pump's habit of spinning.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>

#include "daemon/data/spin.h"
#include "daemon/stats/histogram.h"
#include "daemon/stats/report.h"

namespace booster::daemon {
namespace {

using namespace std::chrono_literals;
using stats::Histogram;

TEST(Histogram, BucketsAreOrderedAndWithoutGaps) {
  size_t last = 0;
  for (uint64_t ns = 0; ns < 100'000; ++ns) {
    const size_t bucket = Histogram::bucket_of(ns);
    ASSERT_TRUE(bucket == last || bucket == last + 1) << ns;
    last = bucket;
  }
  EXPECT_LT(Histogram::bucket_of(~uint64_t{0}), Histogram::kBuckets);
}

TEST(Histogram, TheMiddleOfABucketIsNearWhatWasPutIn) {
  for (uint64_t ns = 1; ns < uint64_t{1} << 50; ns = ns * 3 / 2 + 1) {
    const double middle = Histogram::middle_of(Histogram::bucket_of(ns));
    EXPECT_NEAR(middle, static_cast<double>(ns), static_cast<double>(ns) * 0.07) << ns;
  }
}

TEST(Histogram, Percentiles) {
  Histogram histogram;
  for (int i = 0; i < 98; ++i) histogram.add(100us);
  for (int i = 0; i < 2; ++i) histogram.add(50ms);
  stats::HistogramSums sums{};
  histogram.add_to(sums);
  EXPECT_EQ(stats::count(sums), 100U);
  EXPECT_NEAR(stats::percentile_us(sums, 0.50), 100, 7);
  EXPECT_NEAR(stats::percentile_us(sums, 0.99), 50'000, 3500);
}

TEST(Histogram, EmptyAndNegativeAreNoTrouble) {
  Histogram histogram;
  stats::HistogramSums sums{};
  EXPECT_EQ(stats::percentile_us(sums, 0.5), 0);
  histogram.add(-5ns);
  histogram.add_to(sums);
  EXPECT_EQ(stats::count(sums), 1U);
}

using data::Spin;

/// Plays gaps of one length; whether it spun before the last.
bool spins_after(Spin& spin, std::chrono::microseconds gap, int times) {
  auto now = Spin::Clock::time_point(1h);
  bool spun = false;
  for (int i = 0; i < times; ++i) {
    spun = spin.idle_from(now) > now;
    now += gap;
    spin.work_at(now, !spun);
    now += 1us;
  }
  return spun;
}

TEST(Report, StringsBecomeValidUtf8) {
  using stats::valid_utf8;
  for (const char* good : {"", "/mnt/a b", "/mnt/\u00e9", "\u20ac", "\U0001f4be", "\ud7ff\ue000"}) {
    EXPECT_EQ(valid_utf8(good), good);
  }
  EXPECT_EQ(valid_utf8("/mnt/\xff/x"), "/mnt/?/x");
  EXPECT_EQ(valid_utf8("\xc3"), "?");                 // cut off
  EXPECT_EQ(valid_utf8("\xc0\xaf"), "??");            // overlong
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), "???");       // surrogate
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), "????");  // beyond Unicode
  EXPECT_EQ(valid_utf8(std::string("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Spin, LearnsThatRequestsFollowQuicklyAndThatTheyDoNot) {
  Spin spin(50us);
  EXPECT_TRUE(spins_after(spin, 10us, 20));
  EXPECT_FALSE(spins_after(spin, 1000us, 20));
  EXPECT_TRUE(spins_after(spin, 10us, 20));
}

TEST(Spin, NeverIfTheMaximumIsZero) {
  Spin spin(0us);
  EXPECT_FALSE(spins_after(spin, 1us, 100));
}

}  // namespace
}  // namespace booster::daemon
