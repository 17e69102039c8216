// Records of a write log, copied once out of memory that a client can write, and checked.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "common/abi.h"

namespace booster::daemon::data {

/// Record `number` as it is at this moment.
inline common::LogRecord copy_record(common::LogRing& ring, uint32_t number) {
  common::LogRecord& record = ring.records[number % common::kLogRecords];
  // Atomic loads, so that the compiler can neither repeat nor invent one.
  const auto once = [](auto& word) {
    return std::atomic_ref(word).load(std::memory_order_relaxed);
  };
  return {once(record.slot), once(record.generation), once(record.offset), once(record.length),
          once(record.place)};
}

/// Its numbers are within their bounds. That the slot may be written is for the caller to say.
inline bool is_well_formed(const common::LogRecord& record) {
  constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return record.slot < common::kHandleSlots && record.length >= 1 &&
         record.length <= common::kMaxRecord && record.place <= common::kLogBytes - record.length &&
         record.offset <= kMaxOffset - record.length;
}

}  // namespace booster::daemon::data
