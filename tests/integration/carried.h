// What a program is to move past FUSE to the byte, although FUSE does a call now and then, also of
// an eager program, and what was logged is counted late.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "tests/integration/harness.h"

namespace booster::test {

/// Bytes that the daemon has moved, as far as a test says something of them.
struct Carried {
  std::optional<uint64_t> written = {};
  std::optional<uint64_t> read = {};
  bool or_more = false;
};

/// Does `work`, at most five times, until the daemon has carried exactly that of it: when not even
/// one call was left to FUSE. Ends the test if that does not come to be; fails if it carries more.
inline void until_carried(const Daemon& daemon, const Carried& right,
                          const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto enough = [&right](uint64_t moved, const std::optional<uint64_t>& wanted) {
    return !wanted || moved == *wanted || (right.or_more && moved > *wanted);
  };
  const uint64_t all_before = daemon.boosted_write_bytes();
  uint64_t written = 0;
  uint64_t read = 0;
  for (unsigned attempt = 1; attempt <= 5; ++attempt) {
    const uint64_t written_before = daemon.boosted_write_bytes();
    const uint64_t read_before = daemon.boosted_read_bytes();
    work();
    // What is in the write log is counted when the bricks have it.
    const auto counted = Clock::now() + std::chrono::seconds(5);
    do {
      written = daemon.boosted_write_bytes() - written_before;
      read = daemon.boosted_read_bytes() - read_before;
      if (enough(written, right.written) && enough(read, right.read)) return;
      if (testing::Test::HasFatalFailure()) throw std::runtime_error("failed meanwhile");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    } while (Clock::now() < counted);
    // What one has left to be counted late is at most what it lacks.
    if (right.written && !right.or_more) {
      EXPECT_LE(daemon.boosted_write_bytes() - all_before, attempt * *right.written);
    }
  }
  end_with_too_little(std::to_string(written) + " bytes written and " + std::to_string(read) +
                      " read past FUSE, not " + std::to_string(right.written.value_or(written)) +
                      " and " + std::to_string(right.read.value_or(read)) + ": " +
                      daemon.stats().ShortDebugString());
}

}  // namespace booster::test
