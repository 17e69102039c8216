// What the daemon counts. All counters only grow, are added to with relaxed atomics by whoever is
// there, and decide nothing. Shared between the threads of one daemon, never with a client.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "common/reason.h"
#include "daemon/stats/histogram.h"

namespace booster::daemon::stats {

class Counter {
 public:
  void add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

/// Requests served. One for each pump (so that pumps do not share cache lines) and each session.
struct alignas(64) Traffic {
  Counter read_calls;
  Counter read_bytes;
  Counter write_calls;
  Counter write_bytes;
  Counter errors;
  Counter doorbells;
  Counter logged_calls;  // of write_calls, those that came through a write log
};

struct PumpStats {
  Traffic traffic;
  /// A gauge: answers of writes that wait, since a brick may still do them.
  std::atomic<uint64_t> held_answers{0};
  Histogram reads;
  Histogram writes;
};

/// By reason, as clients report them (any value is possible).
struct PassedSums {
  std::array<uint64_t, common::kReasonCount> calls{};
  std::array<uint64_t, common::kReasonCount> bytes{};
};

/// Of the whole daemon.
struct Totals {
  Counter sessions_opened;
  Counter sessions_refused;
  Counter sessions_ended_for_lies;
  Counter engaged;
  Counter cached_calls;  // of sessions that have ended
  Counter cached_bytes;
  std::array<Counter, common::kReasonCount> refused;
  // What ended sessions had left to the kernel, by reason.
  std::array<Counter, common::kReasonCount> passed_calls;
  std::array<Counter, common::kReasonCount> passed_bytes;
};

}  // namespace booster::daemon::stats
