#include "preload/session.h"

#include <errno.h>
#include <string.h>

#include "common/futex.h"
#include "preload/connector.h"
#include "preload/signals.h"

namespace booster::preload {

using common::kLanePayload;
using common::LaneReply;
using common::LaneRequest;
using common::Op;
using common::Reason;

namespace {

/// How many lanes one call may use at once: enough to keep the bricks busy while bytes are copied,
/// and leaves lanes to other threads.
constexpr int kWindow = 4;
/// The daemon sees to it itself that the bricks are busy.
constexpr int kStreamWindow = 2;
/// Lanes that no fsync takes: one volume whose bricks hang must not keep all of them.
constexpr int kKeptForReads = 2;

/// `lanes` without `kept` of them.
constexpr uint32_t beyond(uint32_t lanes, int kept) {
  for (; kept > 0; --kept) lanes &= lanes - 1;
  return lanes;
}
/// Bounds of the adaptive spin before a futex sleep. The round trip of a sleep is 20 to 50 us.
constexpr uint32_t kMaxSpinUs = 60;
/// Longer than the daemon takes to take a delegation back when its bricks answer.
constexpr uint64_t kRecallWaitMs = 10'000;

}  // namespace

void IoCursor::advance(size_t length) {
  skip += length;
  while (count > 0 && skip >= vectors->iov_len) {
    skip -= vectors->iov_len;
    ++vectors;
    --count;
  }
}

template <typename Copy>
bool IoCursor::copy(size_t length, Copy copy) {
  const IoCursor start = *this;
  size_t done = 0;
  while (done < length) {
    const size_t left = vectors->iov_len - skip;
    const size_t part = left < length - done ? left : length - done;
    if (!copy(static_cast<std::byte*>(vectors->iov_base) + skip, done, part)) {
      *this = start;
      return false;
    }
    done += part;
    advance(part);
  }
  return true;
}

bool IoCursor::copy_out(const std::byte* memory, size_t length) {
  return copy(length, [memory](std::byte* buffer, size_t done, size_t part) {
    return copy_guarded(buffer, memory + done, part);
  });
}

bool IoCursor::copy_in(std::byte* memory, size_t length) {
  return copy(length, [memory](const std::byte* buffer, size_t done, size_t part) {
    return copy_guarded(memory + done, buffer, part);
  });
}

int Session::acquire_lane(bool wait, int kept) {
  while (true) {
    uint32_t free = free_lanes_.load(std::memory_order_relaxed);
    while (beyond(free, kept) != 0) {
      const int lane = __builtin_ctz(free);
      // Acquire: partner of the release in release_lane(); lane_sequence_ is ours now.
      if (free_lanes_.compare_exchange_weak(free, free & ~(1U << lane), std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
        return lane;
      }
    }
    if (!wait || dead_.load(std::memory_order_relaxed)) return -1;
    common::futex_wait(free_lanes_, free, 10);
  }
}

void Session::release_lane(int lane) {
  const uint32_t free = free_lanes_.fetch_or(1U << lane, std::memory_order_release);
  if (beyond(free, kKeptForReads) == 0) {
    common::futex_wake_all(free_lanes_);
  }
}

void Session::submit(int lane, Op op, const HandleRef& handle, uint64_t offset, uint32_t length,
                     uint32_t ahead, uint32_t delegation) {
  LaneRequest& request = memory_->requests[lane];
  request.op = static_cast<uint32_t>(op);
  request.slot = handle.slot;
  request.generation = handle.generation;
  request.length = length;
  request.offset = offset;
  request.ahead = ahead;
  request.delegation = delegation;
  const uint32_t number = ++lane_sequence_[lane];
  // Release: partner of the pump's acquire load of `submitted`.
  request.submitted.store(number, std::memory_order_release);
}

void Session::ring_if_asleep() {
  // Partner: the pump's fence between `pump_asleep = 1` and its last look at the lanes.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::atomic<uint32_t>& asleep = memory_->header.pump_asleep;
  if (asleep.load(std::memory_order_relaxed) == 0) return;
  // One bell for each sleep, however many submit before the pump has got up. Who is interrupted for
  // good before he rings keeps nobody waiting for longer than kLookMs: see await().
  if (asleep.exchange(0, std::memory_order_relaxed) != 0) ring();
}

void Session::ring() {
  if (!g_connector.send_doorbell()) dead_.store(true, std::memory_order_relaxed);
}

bool Session::await(int lane) {
  LaneReply& reply = memory_->replies[lane];
  LaneRequest& request = memory_->requests[lane];
  const uint32_t number = lane_sequence_[lane];
  // Acquire: partner of the pump's release store; the reply and the payload are there.
  auto answered = [&] { return reply.completed.load(std::memory_order_acquire) == number; };

  const uint32_t spin = spin_us_.load(std::memory_order_relaxed);
  if (spin > 0) {
    const uint64_t until = raw::now_us() + spin;
    do {
      for (int i = 0; i < 8; ++i) {
        if (answered()) {
          if (spin < kMaxSpinUs) spin_us_.store(spin + 4, std::memory_order_relaxed);
          return true;
        }
        common::cpu_relax();
      }
    } while (raw::now_us() < until);
    spin_us_.store(spin / 2, std::memory_order_relaxed);
  } else if (answered()) {
    return true;
  } else if ((number & 15) == 0) {
    spin_us_.store(8, std::memory_order_relaxed);  // try again now and then
  }

  bool got = false;
  uint64_t rung_ms = raw::coarse_now_ms();
  while (true) {
    request.client_waits.store(1, std::memory_order_relaxed);
    // Partner: the pump's fence between its store of `completed` and its look at `client_waits`.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t seen = reply.completed.load(std::memory_order_acquire);
    if (seen == number) {
      got = true;
      break;
    }
    common::futex_wait(reply.completed, seen, kLookMs);
    if (answered()) {
      got = true;
      break;
    }
    // By the clock: signals may end every single wait early.
    if (!alive_lately()) {
      got = answered();  // it may have answered just before it died
      break;
    }
    if (const uint64_t now = raw::coarse_now_ms(); now - rung_ms >= kLookMs) {
      rung_ms = now;
      ring();
    }
  }
  request.client_waits.store(0, std::memory_order_relaxed);
  return got;
}

bool Session::alive_lately() {
  const uint64_t now = raw::coarse_now_ms();
  if (now - looked_ms_.load(std::memory_order_relaxed) < kLookMs) return !dead();
  return alive();
}

bool Session::alive() {
  if (dead_.load(std::memory_order_relaxed)) return false;
  looked_ms_.store(raw::coarse_now_ms(), std::memory_order_relaxed);
  if (!g_connector.socket_alive(id_)) dead_.store(true, std::memory_order_relaxed);
  return !dead_.load(std::memory_order_relaxed);
}

size_t Session::carry(Op op, const HandleRef& handle, IoCursor& cursor, uint64_t offset,
                      size_t length, uint32_t ahead) {
  struct Piece {
    int lane;
    uint32_t length;
  };
  Piece window[kWindow];
  int first = 0;
  int in_flight = 0;
  size_t submitted = 0;
  size_t done = 0;
  bool stop = false;  // an answer came up short: what follows it does not count
  const int most = op == Op::kStream ? kStreamWindow : kWindow;

  while (true) {
    bool any = false;
    while (!stop && submitted < length && in_flight < most) {
      const int lane = acquire_lane(in_flight == 0);
      if (lane < 0) break;
      const size_t left = length - submitted;
      const auto part = static_cast<uint32_t>(left < kLanePayload ? left : kLanePayload);
      // The rest of this call comes soon for sure.
      size_t next = left - part > ahead ? left - part : ahead;
      if (next > common::kMaxAhead) next = common::kMaxAhead;
      submit(lane, op, handle, offset + submitted, part,
             common::looks_ahead(op) ? static_cast<uint32_t>(next) : 0, 0);
      window[(first + in_flight++) % kWindow] = {lane, part};
      submitted += part;
      any = true;
    }
    if (any) ring_if_asleep();
    if (in_flight == 0) return done;
    const Piece piece = window[first];
    first = (first + 1) % kWindow;
    --in_flight;
    if (!await(piece.lane)) return done;  // the lanes in flight are lost with the session
    const LaneReply& reply = memory_->replies[piece.lane];
    const uint32_t moved = reply.length < piece.length ? reply.length : piece.length;
    if (!stop && reply.error == 0) {
      // What cannot be copied is the kernel's to refuse.
      if (cursor.copy_out(memory_->payload[piece.lane], moved)) {
        done += moved;
      } else {
        stop = true;
      }
    }
    stop = stop || reply.error != 0 || moved < piece.length;
    release_lane(piece.lane);
  }
}

bool Session::sync(const HandleRef& handle, Op op, uint32_t delegation) {
  const int lane = acquire_lane(true, kKeptForReads);
  if (lane < 0) return false;
  submit(lane, op, handle, 0, 0, 0, delegation);
  ring_if_asleep();
  if (!await(lane)) return false;  // lost with the session
  const bool done = memory_->replies[lane].error == 0;
  release_lane(lane);
  return done;
}

bool Session::fill(const HandleRef& handle, uint64_t offset, uint32_t length, uint32_t ahead) {
  const int lane = acquire_lane(true);
  if (lane < 0) return false;
  submit(lane, Op::kFill, handle, offset, length, ahead, 0);
  ring_if_asleep();
  if (!await(lane)) return false;  // lost with the session
  const bool filled = memory_->replies[lane].error == 0;
  release_lane(lane);
  return filled;
}

bool Session::fill_ahead(const HandleRef& handle, uint64_t offset, uint32_t ahead, Op op) {
  if (!ahead_lock_.lock_for(0)) return false;
  bool submitted = false;
  if (ahead_lane_ >= 0 && memory_->replies[ahead_lane_].completed.load(std::memory_order_acquire) ==
                              lane_sequence_[ahead_lane_]) {
    release_lane(ahead_lane_);
    ahead_lane_ = -1;
  }
  if (ahead_lane_ < 0) {
    ahead_lane_ = acquire_lane(false);
    if (ahead_lane_ >= 0) {
      submit(ahead_lane_, op, handle, offset, 0, ahead, 0);
      submitted = true;
    }
  }
  ahead_lock_.unlock();
  if (submitted) ring_if_asleep();
  return submitted;
}

void Session::note_cached(uint32_t slot, uint64_t offset, size_t length, uint64_t now_ms) {
  common::CacheUse& use = memory_->cache_use;
  use.calls.fetch_add(1, std::memory_order_relaxed);
  use.bytes.fetch_add(length, std::memory_order_relaxed);
  // Stored only when they change: a line that stays clean costs next to nothing.
  const auto now = static_cast<uint32_t>(now_ms);
  if (use.used_ms[slot].load(std::memory_order_relaxed) != now) {
    use.used_ms[slot].store(now, std::memory_order_relaxed);
  }
  const uint64_t last = (offset + length - 1) / common::kExtent;
  for (uint64_t extent = offset / common::kExtent; extent <= last; ++extent) {
    const uint64_t touch = common::touch_of(slot, extent, now_ms);
    std::atomic<uint64_t>& place =
        use.touches[(extent * 0x9e3779b97f4a7c15ULL >> 40 ^ slot) % common::CacheUse::kTouches];
    if (place.load(std::memory_order_relaxed) != touch) {
      place.store(touch, std::memory_order_relaxed);
    }
  }
}

CacheView* Session::take_view(const HandleRef& handle) {
  if ((memory_->slots[handle.slot].flags & common::kHandleCached) == 0) return nullptr;
  return g_connector.take_view(*this, handle);
}

bool Session::engage(int fd, const raw::FileId& file, HandleRef& handle, Reason& reason) {
  return g_connector.engage(*this, fd, file, handle, reason);
}

Session::Answer Session::answer(const HandleRef& handle, Reason& reason) const {
  const common::HandleSlot& slot = memory_->slots[handle.slot];
  // Acquire: partner of the daemon's release; reason and flags are there.
  const uint64_t state = slot.state.load(std::memory_order_acquire);
  if (state == common::slot_state(handle.generation, common::HandleSlot::kReady)) {
    return Answer::kReady;
  }
  if (state == common::slot_state(handle.generation, common::HandleSlot::kRefused)) {
    reason = static_cast<Reason>(slot.reason);
    return Answer::kRefused;
  }
  return dead_.load(std::memory_order_relaxed) ? Answer::kLost : Answer::kPending;
}

bool Session::ask_delegation(const HandleRef& handle, int fd) {
  return g_connector.ask_delegation(*this, handle, fd);
}

Reason Session::refused(const HandleRef& handle) const {
  return static_cast<Reason>(
      memory_->slots[handle.slot].delegation_reason.load(std::memory_order_relaxed));
}

Session::Recall Session::await_recall(const HandleRef& handle, uint32_t under) {
  // Partner: the daemon's fence after it has shown kRevoking. Either it sees what has been settled,
  // or it is seen here that it may be about to fence.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t deadline = raw::coarse_now_ms() + kRecallWaitMs;
  const raw::Patience patience;
  while (true) {
    const uint32_t word = delegation(handle);
    const bool lives = word == under ? alive() : alive_lately();
    if (word == under && lives) return Recall::kHeld;
    if (word != under && (word & common::kDelegationStates) != common::kRevoking) {
      // Who took it away could not fence: this side can, which has the file open.
      return refused(handle) == Reason::kFenceFailed ? Recall::kLost : Recall::kDone;
    }
    if (raw::coarse_now_ms() >= deadline || !(lives || is_recovered_soon(handle))) {
      return Recall::kLost;
    }
    patience.sleep();
  }
}

/// The daemon is dead, and its recovery agent is about to do, or does, what is left of the log: it
/// fences, too, and then shows that it has.
bool Session::is_recovered_soon(const HandleRef& handle) {
  const uint32_t owner = memory_->logs[log_of(handle)].tail.owner.load(std::memory_order_acquire);
  return owner == common::kLogGuarded || owner == common::kLogRecovering;
}

uint64_t Session::file_size(const HandleRef& handle) const {
  return memory_->slots[handle.slot].file_size.load(std::memory_order_relaxed);
}

uint32_t Session::write_unit(const HandleRef& handle) const {
  const uint32_t unit = memory_->slots[handle.slot].write_unit;
  return unit != 0 ? unit : 1;
}

bool Session::may_read(const HandleRef& handle) const {
  return (memory_->slots[handle.slot].flags & common::kHandleReadable) != 0;
}

bool Session::may_write(const HandleRef& handle) const {
  return (memory_->slots[handle.slot].flags & common::kHandleWritable) != 0;
}

void Session::count(Reason reason, uint64_t bytes, uint64_t calls) {
  // Some reasons come out of shared memory.
  const uint32_t index = static_cast<uint32_t>(reason) % 64;
  memory_->counters.calls[index].fetch_add(calls, std::memory_order_relaxed);
  memory_->counters.bytes[index].fetch_add(bytes, std::memory_order_relaxed);
}

SessionRef::~SessionRef() {
  if (session_ != nullptr) g_connector.release(session_);
}

SessionRef current_session() {
  return SessionRef(g_connector.current_ref());
}

SessionRef session(bool wait) {
  return SessionRef(g_connector.acquire(wait));
}
void release_session(Session* session) {
  g_connector.release(session);
}
void give_back(const HandleRef& handle) {
  g_connector.give_back(handle);
}
void session_after_fork() {
  g_connector.after_fork();
}
int own_descriptor() {
  return g_socket.load(std::memory_order_relaxed);
}
void move_own_descriptor() {
  g_connector.move_descriptor();
}

}  // namespace booster::preload
