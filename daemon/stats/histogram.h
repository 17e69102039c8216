// A histogram of durations that any thread may add to without a lock: 16 buckets for each power of
// two, so that a percentile is right within about 6 %.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace booster::daemon::stats {

class Histogram {
 public:
  static constexpr unsigned kSubBits = 4;
  static constexpr size_t kBuckets = (64 - kSubBits + 1) << kSubBits;

  /// Bucket of a value in nanoseconds. Below 16 each value has its own.
  static constexpr size_t bucket_of(uint64_t ns) {
    if (ns < (1U << kSubBits)) return static_cast<size_t>(ns);
    const auto exponent = static_cast<unsigned>(std::bit_width(ns)) - 1 - kSubBits;
    return (static_cast<size_t>(exponent) << kSubBits) + static_cast<size_t>(ns >> exponent);
  }

  /// Middle of a bucket, in nanoseconds.
  static constexpr double middle_of(size_t bucket) {
    if (bucket < (1U << (kSubBits + 1))) return static_cast<double>(bucket);
    const size_t exponent = (bucket >> kSubBits) - 1;
    const size_t mantissa = bucket - (exponent << kSubBits);
    return (static_cast<double>(mantissa) + 0.5) * static_cast<double>(uint64_t{1} << exponent);
  }

  void add(std::chrono::nanoseconds duration) {
    const int64_t ns = duration.count();
    // relaxed: a statistic; nothing is ordered by it.
    buckets_[bucket_of(ns > 0 ? static_cast<uint64_t>(ns) : 0)].fetch_add(
        1, std::memory_order_relaxed);
  }

  /// Adds this histogram's counts to a plain array.
  void add_to(std::array<uint64_t, kBuckets>& sums) const {
    for (size_t i = 0; i < kBuckets; ++i) {
      sums[i] += buckets_[i].load(std::memory_order_relaxed);
    }
  }

 private:
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
};

using HistogramSums = std::array<uint64_t, Histogram::kBuckets>;

inline uint64_t count(const HistogramSums& sums) {
  uint64_t total = 0;
  for (uint64_t n : sums) total += n;
  return total;
}

/// The duration in microseconds below which `share` (0 to 1) of all lie; 0 if there are none.
inline double percentile_us(const HistogramSums& sums, double share) {
  const uint64_t total = count(sums);
  if (total == 0) return 0;
  const double wanted = share * static_cast<double>(total);
  uint64_t seen = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    seen += sums[i];
    if (sums[i] != 0 && static_cast<double>(seen) >= wanted) {
      return Histogram::middle_of(i) / 1000;
    }
  }
  return 0;
}

}  // namespace booster::daemon::stats
