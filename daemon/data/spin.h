// Whether it pays to look for the next request for a while before sleeping: learned from how long
// the last ones took to come. Pure arithmetic; used by one thread.
#pragma once

#include <bit>
#include <chrono>
#include <cstdint>

namespace booster::daemon::data {

class Spin {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Spin(std::chrono::microseconds max) : max_(max) {}

  /// Work has run out at `now`. Returns until when to look for more; `now` itself: sleep at once.
  Clock::time_point idle_from(Clock::time_point now) {
    idle_since_ = now;
    idle_ = true;
    // Every 32nd time regardless, or a spell of long gaps would be remembered for ever.
    const bool probe = (++idle_periods_ & 31U) == 0;
    const bool pays = std::popcount(history_) >= 4;
    return pays || probe ? now + max_ : now;
  }

  /// Work has come at `now`; `slept`: by a doorbell, so that waking up is part of the gap.
  void work_at(Clock::time_point now, bool slept) {
    if (!idle_) return;
    idle_ = false;
    const auto gap = now - idle_since_;
    const auto limit = slept ? max_ + kWakeUp : max_;
    history_ = static_cast<uint8_t>((unsigned{history_} << 1) | (gap <= limit ? 1U : 0U));
  }

 private:
  // A futex or socket wake-up between sleeping processes (DESIGN section 5: 20 to 50 us).
  static constexpr std::chrono::microseconds kWakeUp{30};

  const std::chrono::microseconds max_;
  Clock::time_point idle_since_{};
  bool idle_ = false;
  uint8_t history_ = 0;  // the last eight gaps: 1 if spinning would have caught the request
  uint32_t idle_periods_ = 0;
};

}  // namespace booster::daemon::data
