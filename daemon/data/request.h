// A client's request, copied out of shared memory once and checked. Nothing else of a request is
// ever read from there, so what was checked is what is used.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "common/abi.h"

namespace booster::daemon::data {

struct Request {
  common::Op op{};
  uint32_t slot = 0;
  uint32_t generation = 0;
  uint32_t length = 0;
  uint64_t offset = 0;
  uint32_t ahead = 0;
  uint32_t delegation = 0;
};

/// Copies a submitted request. The caller has loaded `submitted` with acquire, which is the partner
/// of the client's release; a client that writes on meanwhile gets a copy of some mixture, checked
/// like any other.
inline Request copy_request(common::LaneRequest& lane) {
  // Atomic loads, so that the compiler can neither repeat nor invent one.
  const auto once = [](auto& word) {
    return std::atomic_ref(word).load(std::memory_order_relaxed);
  };
  Request request;
  request.op = static_cast<common::Op>(once(lane.op));
  request.slot = once(lane.slot);
  request.generation = once(lane.generation);
  request.length = once(lane.length);
  request.offset = once(lane.offset);
  request.ahead = once(lane.ahead);
  request.delegation = once(lane.delegation);
  return request;
}

/// False for what no honest client sends: the session is ended for it.
constexpr bool is_well_formed(const Request& request) {
  constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const bool ahead = common::looks_ahead(request.op);
  const bool sync = common::is_sync(request.op);
  return (request.op == common::Op::kRead || ahead || sync) &&
         request.slot < common::kHandleSlots && request.length >= (ahead || sync ? 0U : 1U) &&
         request.length <= (sync ? 0U : common::kLanePayload) &&
         request.ahead <= (ahead ? common::kMaxAhead : 0U) && (request.delegation == 0 || sync) &&
         request.offset <= (sync ? 0U : kMaxOffset - request.length - request.ahead);
}

/// The handle flag that a request needs.
constexpr uint32_t needed_right(common::Op op) {
  return common::is_sync(op) ? common::kHandleWritable : common::kHandleReadable;
}

}  // namespace booster::daemon::data
