// What both sides agree on: names that users see, and the words of the session memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <string>
#include <thread>

#include "common/abi.h"
#include "common/copy.h"
#include "common/futex.h"
#include "common/reason.h"

namespace booster::common {
namespace {

TEST(Reason, EveryReasonHasANameOfItsOwn) {
  std::set<std::string> names;
  for (uint32_t i = 0; i < kReasonCount; ++i) names.insert(reason_name(static_cast<Reason>(i)));
  EXPECT_EQ(names.size(), kReasonCount);
  EXPECT_EQ(names.count("unknown"), 0U);
}

TEST(Reason, ANumberOutOfSharedMemoryHasAName) {
  EXPECT_STREQ(reason_name(static_cast<Reason>(0xffffffffU)), "unknown");
}

TEST(CopyBytes, CopiesEveryLengthAtEveryPlaceAndNothingElse) {
  constexpr size_t kMost = 2000;
  std::string from;
  for (size_t i = 0; i < kMost + 64; ++i) from += static_cast<char>(i * 31 + i / 251);
  for (size_t length = 0; length <= kMost; length += length < 700 ? 1 : 97) {
    const size_t source = length % 61;
    const size_t target = length * 7 % 59;
    std::string to(kMost + 128, '-');
    std::string expected = to;
    expected.replace(target, length, from, source, length);
    copy_bytes(to.data() + target, from.data() + source, length);
    ASSERT_EQ(to, expected) << length;
  }
}

TEST(SlotState, TellsGenerationsAndStatesApart) {
  EXPECT_NE(slot_state(1, HandleSlot::kReady), slot_state(2, HandleSlot::kReady));
  EXPECT_NE(slot_state(1, HandleSlot::kReady), slot_state(1, HandleSlot::kRefused));
  EXPECT_NE(slot_state(0xffffffffU, HandleSlot::kReady), slot_state(0, HandleSlot::kReady));
}

/// The lane protocol of abi.h between two threads: no wake-up is lost although neither side sleeps
/// or rings more than it must. A lost one shows as a wait of all of 20 s.
TEST(Lane, NoWakeUpIsLostBetweenSubmitterAndPump) {
  LaneRequest request{};
  LaneReply reply{};
  std::atomic<uint32_t> pump_asleep{0};
  std::atomic<uint32_t> doorbell{0};
  constexpr uint32_t kRequests = 20'000;
  using Clock = std::chrono::steady_clock;
  const auto wait = [](std::atomic<uint32_t>& word, uint32_t seen, Clock::duration& longest) {
    const auto start = Clock::now();
    futex_wait(word, seen, 20'000);
    longest = std::max(longest, Clock::now() - start);
  };
  Clock::duration pump_longest{0};
  Clock::duration submitter_longest{0};

  std::thread pump([&] {
    uint32_t taken = 0;
    while (taken < kRequests) {
      if (request.submitted.load(std::memory_order_acquire) == taken) {
        const uint32_t rung = doorbell.load(std::memory_order_relaxed);
        pump_asleep.store(1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (request.submitted.load(std::memory_order_acquire) == taken) {
          wait(doorbell, rung, pump_longest);
        }
        pump_asleep.store(0, std::memory_order_relaxed);
        continue;
      }
      ++taken;
      reply.length = request.length + 1;
      reply.completed.store(taken, std::memory_order_release);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (request.client_waits.load(std::memory_order_relaxed) != 0) {
        futex_wake_all(reply.completed);
      }
    }
  });

  for (uint32_t number = 1; number <= kRequests; ++number) {
    request.length = number;
    request.submitted.store(number, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (pump_asleep.exchange(0, std::memory_order_relaxed) != 0) {
      doorbell.fetch_add(1, std::memory_order_relaxed);
      futex_wake_all(doorbell);
    }
    while (true) {
      request.client_waits.store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      const uint32_t seen = reply.completed.load(std::memory_order_acquire);
      if (seen == number) break;
      wait(reply.completed, seen, submitter_longest);
    }
    request.client_waits.store(0, std::memory_order_relaxed);
    ASSERT_EQ(reply.length, number + 1);
  }
  pump.join();
  EXPECT_LT(pump_longest, std::chrono::seconds(19));
  EXPECT_LT(submitter_longest, std::chrono::seconds(19));
}

}  // namespace
}  // namespace booster::common
