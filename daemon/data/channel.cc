// Takes requests out of shared memory, and puts answers there.
#include "daemon/data/channel.h"

#include <algorithm>
#include <cerrno>

#include "common/futex.h"
#include "daemon/data/delegation.h"

namespace booster::daemon::data {

using common::HandleSlot;
using common::LaneReply;
using common::LaneRequest;
using common::Op;

void Quarantine::note_write(std::chrono::nanoseconds duration) {
  // Ten times the slowest answer, rounded up to a tenth of a second.
  const int64_t wanted = (duration.count() * 10 / 1'000'000 + 99) / 100 * 100;
  const auto ms = static_cast<uint32_t>(std::clamp<int64_t>(wanted, 0, kMostMs));
  uint32_t current = period_.load(std::memory_order_relaxed);
  while (ms > current && !period_.compare_exchange_weak(current, ms, std::memory_order_relaxed)) {
  }
}

void Quarantine::forget_old(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (now - period_start_ < kPeriod) return;
  period_start_ = now;
  // Twice, so that ms() at no time misses what was noted meanwhile.
  before_.store(period_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  before_.store(period_.exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
}

uint32_t Quarantine::ms() const {
  return std::max(
      {min_ms_, period_.load(std::memory_order_relaxed), before_.load(std::memory_order_relaxed)});
}

// --- answers -----------------------------------------------------------------------------

namespace {

/// The way to a brick has broken while a request was on it: the brick may have it, and do it later.
bool may_still_land(int error, uint32_t write_unit) {
  switch (error) {
    case ENOTCONN:
    case ETIMEDOUT:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN: return true;
    // On a disperse volume: too few bricks have answered, whatever became of the others.
    case EIO: return write_unit > 1;
    default: return false;
  }
}

}  // namespace

bool Channel::hold_answer(int error, uint32_t write_unit, std::function<void()> answer) noexcept {
  if (!may_still_land(error, write_unit)) return false;
  // relaxed: a gauge.
  pump_stats_.held_answers.fetch_add(1, std::memory_order_relaxed);
  const auto over = [this] { pump_stats_.held_answers.fetch_sub(1, std::memory_order_relaxed); };
  try {
    keeper_.later(std::chrono::milliseconds(quarantine_.ms()), [over, answer = std::move(answer)] {
      over();
      answer();
    });
  } catch (const std::exception&) {  // out of memory
    over();
    return false;
  }
  return true;
}

void ClientIo::finished(int64_t result, int error) noexcept {
  end_ = Clock::now();
  if (result < 0 && error <= 0) error = EIO;
  if (result < 0 && write_unit_ != 0) {
    held_.store(true, std::memory_order_relaxed);
    const auto over = [this, result, error] {
      held_.store(false, std::memory_order_relaxed);
      answer(result, error);
    };
    if (channel_->hold_answer(error, write_unit_, over)) return;
    held_.store(false, std::memory_order_relaxed);
  }
  answer(result, error);
}

void ClientIo::refuse(int error) noexcept {
  end_ = Clock::now();
  answer(-1, error);
}

void Lane::filled(bool all) noexcept {
  finished(all ? request_.length : -1, all ? 0 : ENODATA);
}

std::byte* Lane::place() noexcept {
  return (*channel_->memory_)->payload[index_];
}

void Lane::streamed(int64_t bytes) noexcept {
  finished(bytes, bytes < 0 ? ENODATA : 0);
}

void Lane::answer(int64_t result, int error) noexcept {
  // Everything that is needed after in_flight_ goes: the lane may carry the next request then.
  const std::shared_ptr<Channel> channel = std::move(channel_);
  const uint32_t number = taken_;
  common::SessionMemory& memory = **channel->memory_;
  LaneReply& reply = memory.replies[index_];
  LaneRequest& request = memory.requests[index_];

  const std::chrono::nanoseconds duration = end_ - start_;
  const auto moved = static_cast<uint32_t>(result < 0 ? 0 : result);
  // The client asks the kernel, and nothing else has happened.
  const bool refused = result < 0 && (error == ESHUTDOWN || error == common::kDelegationLost);
  stats::PumpStats& pump = channel->pump_stats_;
  // The program counts what it reads out of caches.
  const bool counts = request_.op == Op::kRead && !refused;
  for (stats::Traffic* traffic : {&pump.traffic, &channel->traffic_}) {
    if (!counts) break;
    traffic->read_calls.add();
    traffic->read_bytes.add(moved);
    if (result < 0) traffic->errors.add();
  }
  if (counts) pump.reads.add(duration);

  reply.error = result < 0 ? error : 0;
  reply.length = moved;
  // Before `completed`: an honest client submits again only when it has seen that, and then the
  // pump must find the lane free.
  in_flight_.store(false, std::memory_order_release);
  reply.completed.store(number, std::memory_order_release);  // partner: client's acquire load
  // Partner: the client's fence after client_waits = 1 (common/abi.h).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (request.client_waits.load(std::memory_order_relaxed) != 0) {
    common::futex_wake_all(reply.completed);
  }
}

// --- requests ----------------------------------------------------------------------------

Channel::Channel(std::shared_ptr<SessionMemory> memory, stats::PumpStats& pump_stats,
                 Quarantine& quarantine, std::shared_ptr<const void> place, ChannelKeeper& keeper)
    : place_(std::move(place)),
      memory_(std::move(memory)),
      pump_stats_(pump_stats),
      quarantine_(quarantine),
      keeper_(keeper) {
  for (uint32_t i = 0; i < common::kLogs; ++i) {
    logs_.push_back(
        std::make_unique<WriteLog>(**memory_, i, [this] { keeper_.poke(shared_from_this()); }));
  }
  for (uint32_t i = 0; i < common::kLanes; ++i) lanes_[i].index_ = i;
}

Channel::Scan Channel::scan(Submitter& submitter, Clock::time_point now) {
  Scan outcome = Scan::kNothing;
  if (closed_) return outcome;
  // When this thread is given up, the channel may be gone.
  const std::shared_ptr<Channel> self = shared_from_this();
  for (const auto& log : logs_) {
    switch (log->take(self, submitter, now)) {
      case WriteLog::Take::kNothing: break;
      case WriteLog::Take::kWorked: outcome = Scan::kWorked; break;
      case WriteLog::Take::kLie: return Scan::kLie;
      case WriteLog::Take::kGone: return Scan::kGone;
      case WriteLog::Take::kThreadLost: return Scan::kThreadLost;
    }
  }
  if (closed_) return outcome;  // by somebody who waited for a log
  if (!syncs_.empty()) {
    if (!begin_syncs(submitter)) return Scan::kThreadLost;
    outcome = Scan::kWorked;
  }
  if (left_) return outcome;
  for (Lane& lane : lanes_) {
    // acquire: partner of the client's release after it has filled request and payload.
    const uint32_t number =
        (*memory_)->requests[lane.index_].submitted.load(std::memory_order_acquire);
    if (number == lane.taken_) continue;
    const Scan taken = take(lane, number, submitter, now);
    if (taken != Scan::kWorked) return taken;
    outcome = Scan::kWorked;
  }
  return outcome;
}

void Channel::take_delegations_back() {
  for (const auto& slot : slots_) {
    // A copy: it may leave its slot meanwhile.
    const std::shared_ptr<Delegation> delegation = slot ? slot->delegation : nullptr;
    if (delegation) delegation->take_back();
  }
}

void Channel::when_written(uint32_t index, std::function<void()> done) {
  logs_[make_slot(index).log]->when_written(std::move(done));
}

void Channel::client_ended() {
  for (const auto& log : logs_) log->client_ended();
}

void Channel::show_delegation(uint32_t index, common::DelegationState state) {
  const uint32_t word = (++delegation_answers_ << 2) | state;
  make_slot(index).delegation_word = state == common::kDelegated ? word : 0;
  // relaxed: whoever takes it away has a fence after this; who grants it has done what it stands
  // for, and the client looks by itself whether it may use it.
  (*memory_)->slots[index].delegation.store(word, std::memory_order_relaxed);
}

void Channel::show_not_delegated(uint32_t index, common::Reason reason, int flush_error) {
  HandleSlot& shared = (*memory_)->slots[index];
  shared.delegation_reason.store(static_cast<uint32_t>(reason), std::memory_order_relaxed);
  if (flush_error != 0) shared.log_error.store(flush_error, std::memory_order_relaxed);
  // Release: partner of the client's acquire in Session::delegation().
  std::atomic_thread_fence(std::memory_order_release);
  show_delegation(index, common::kNotDelegated);
}

bool Channel::owes_fence(uint32_t index) const {
  const Slot* slot = index < slots_.size() ? slots_[index].get() : nullptr;
  // acquire: partner of the client's release in Session::add_unsettled().
  return slot && slot->written && slot->state == Slot::State::kReady &&
         (*memory_)->state.unsettled_in[index].load(std::memory_order_acquire) != 0;
}

bool Channel::owes_fences() const {
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (owes_fence(i)) return true;
  }
  return false;
}

void Channel::note_logged(uint32_t records, uint64_t bytes, int error,
                          std::chrono::nanoseconds duration) {
  for (stats::Traffic* traffic : {&pump_stats_.traffic, &traffic_}) {
    traffic->write_calls.add(records);
    traffic->logged_calls.add(records);
    if (error == 0) traffic->write_bytes.add(bytes);
    if (error != 0) traffic->errors.add();
  }
  pump_stats_.writes.add(duration);
  quarantine_.note_write(duration);
}

void Channel::refuse_requests() {
  if (closed_ || left_) return;
  for (Lane& lane : lanes_) {
    // acquire: as in scan().
    const uint32_t number =
        (*memory_)->requests[lane.index_].submitted.load(std::memory_order_acquire);
    if (number != lane.taken_ + 1 || lane.in_flight_.load(std::memory_order_acquire)) continue;
    lane.taken_ = number;
    lane.request_ = {};
    lane.start_ = Clock::now();
    lane.channel_ = shared_from_this();
    lane.in_flight_.store(true, std::memory_order_relaxed);
    lane.finished(-1, ESHUTDOWN);
  }
}

Channel::Scan Channel::take(Lane& lane, uint32_t number, Submitter& submitter,
                            Clock::time_point now) {
  if (number != lane.taken_ + 1 || lane.in_flight_.load(std::memory_order_acquire)) {
    return Scan::kLie;
  }
  const Request request = copy_request((*memory_)->requests[lane.index_]);
  if (!is_well_formed(request)) return Scan::kLie;

  lane.taken_ = number;
  lane.request_ = request;
  lane.start_ = now;
  lane.channel_ = shared_from_this();
  lane.in_flight_.store(true, std::memory_order_relaxed);  // set and cleared in turns only

  Slot* slot = find_slot(request.slot);
  if (!slot || slot->state != Slot::State::kReady || slot->generation != request.generation) {
    // Not a lie: another thread of the program may have closed the file.
    lane.finished(-1, EBADF);
    return Scan::kWorked;
  }
  if ((slot->flags & needed_right(request.op)) == 0) {
    lane.finished(-1, EBADF);
    return Scan::kLie;
  }
  if (common::looks_ahead(request.op))
    return fill(lane, slot->handle.file(), slot->cache, submitter);
  if (common::is_sync(request.op) &&
      (request.delegation == 0 || request.delegation != slot->delegation_word)) {
    lane.finished(-1, common::kDelegationLost);
    return Scan::kWorked;
  }
  if (common::is_sync(request.op)) {
    if (logs_[slot->log]->idle()) return submit(lane, slot->handle.file(), submitter);
    when_written(request.slot,
                 [this, &lane, file = slot->handle.file()] { syncs_.emplace_back(&lane, file); });
    return Scan::kWorked;
  }
  return submit(lane, slot->handle.file(), submitter);
}

Channel::Scan Channel::fill(Lane& lane, const std::shared_ptr<gluster::File>& file,
                            const std::shared_ptr<CachedFile>& cache, Submitter& submitter) {
  if (!cache || file->gate().stalled()) {
    lane.finished(-1, ENODATA);
    return Scan::kWorked;
  }
  // Copies: when this thread is given up, the channel may be gone before the call returns.
  // NOLINTBEGIN(performance-unnecessary-copy-initialization)
  const std::shared_ptr<gluster::File> keep_file = file;
  const std::shared_ptr<CachedFile> keep_cache = cache;
  // NOLINTEND(performance-unnecessary-copy-initialization)
  const std::shared_ptr<Channel> self = shared_from_this();
  const Request request = lane.request_;
  const CachedFile::Range range{request.offset, request.length, request.ahead};
  switch (request.op == Op::kStream ? keep_cache->stream(keep_file, range, lane, submitter)
                                    : keep_cache->fill(keep_file, range, lane, submitter)) {
    case CachedFile::Fill::kUnderWay: return Scan::kWorked;
    case CachedFile::Fill::kThreadLost: return Scan::kThreadLost;
    case CachedFile::Fill::kCannot: break;
  }
  lane.finished(-1, ENODATA);
  return Scan::kWorked;
}

/// Of which everything that they are about is on the bricks. False: this thread has been given up.
bool Channel::begin_syncs(Submitter& submitter) {
  // One by one: what is left is for the thread that comes after this one.
  while (!syncs_.empty()) {
    const auto [lane, file] = std::move(syncs_.back());
    syncs_.pop_back();
    if (submit(*lane, file, submitter) == Scan::kThreadLost) return false;
  }
  return true;
}

Channel::Scan Channel::submit(Lane& lane, const std::shared_ptr<gluster::File>& file,
                              Submitter& submitter) {
  const Request request = lane.request_;
  std::byte* payload = (*memory_)->payload[lane.index_];
  const auto call = [payload, request, &lane](gluster::File& target) {
    const int error = request.op == Op::kRead
                          ? target.read(payload, request.length, request.offset, lane)
                          : target.sync(request.op == Op::kDataSync, lane);
    if (error != 0) lane.refuse(error);
  };
  gluster::Gate& gate = file->gate();
  if (gate.stalled()) {
    // Some thread hangs in libgfapi for this mount; the pump would, too. The lane keeps the
    // channel.
    file->post([call](gluster::File& target) { call(target); });
    return Scan::kWorked;
  }
  // Copies: when this thread is given up, the channel may be gone before the call returns.
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  const std::shared_ptr<gluster::File> keep = file;
  const std::shared_ptr<Channel> self = shared_from_this();
  submitter.begin(gate);
  call(*keep);
  return submitter.end(gate) ? Scan::kWorked : Scan::kThreadLost;
}

bool Channel::busy() {
  return std::any_of(
             lanes_.begin(), lanes_.end(),
             [](const Lane& lane) { return lane.in_flight_.load(std::memory_order_relaxed); }) ||
         !logs_idle();
}

bool Channel::logs_idle() {
  return std::all_of(logs_.begin(), logs_.end(), [](const auto& log) { return log->idle(); });
}

Clock::time_point Channel::last_logged() const {
  Clock::time_point last{};
  for (const auto& log : logs_) last = std::max(last, log->last_work());
  return last;
}

void Channel::show_looks(bool looks) {
  for (const auto& log : logs_) log->show_looks(looks);
}

/// The first mounts have one each.
uint32_t Channel::log_of(dev_t mount) {
  for (uint32_t i = 0; i < common::kLogs; ++i) {
    if (log_mounts_[i] == 0) log_mounts_[i] = mount;
    if (log_mounts_[i] == mount) return i;
  }
  return static_cast<uint32_t>(mount % common::kLogs);
}

void Channel::note_writes_in_flight(Clock::time_point now) {
  for (const auto& log : logs_) log->note_in_flight(quarantine_, now);
}

void Channel::show_quarantine() {
  (*memory_)->header.quarantine_ms.store(quarantine_.ms(), std::memory_order_relaxed);
}

// --- caches ------------------------------------------------------------------------------

bool Channel::renew_caches(Clock::time_point now) {
  constexpr uint32_t kInUseMs = 1000;
  const auto now_ms = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count());
  bool any = false;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i] || !slots_[i]->cache) continue;
    any = true;
    // relaxed: a hint of the client's, who hurts himself alone.
    const uint32_t used = (*memory_)->cache_use.used_ms[i].load(std::memory_order_relaxed);
    slots_[i]->cache->renew(slots_[i]->handle.file(), now_ms - used < kInUseMs, now);
  }
  return any;
}

void Channel::note_touches(Clock::time_point now) {
  common::CacheUse& use = (*memory_)->cache_use;
  const uint64_t calls = use.calls.load(std::memory_order_relaxed);
  if (calls == touches_seen_) return;
  touches_seen_ = calls;
  constexpr uint64_t kRecent = 16;  // units of 64 ms: a little more than the time between two looks
  const auto unit =
      static_cast<uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count()) >>
      6;
  for (std::atomic<uint64_t>& place : use.touches) {
    const uint64_t touch = place.load(std::memory_order_relaxed);
    if (touch == 0 || ((unit - touch) & 0xffff) > kRecent) continue;
    const Slot* slot = find_slot(static_cast<uint32_t>(touch >> 52));
    if (slot && slot->cache) slot->cache->touched(touch >> 16 & 0xf'ffff'ffff);
  }
}

// --- handles -----------------------------------------------------------------------------

Channel::Slot* Channel::find_slot(uint32_t index) {
  return index < slots_.size() ? slots_[index].get() : nullptr;
}

Channel::Slot& Channel::make_slot(uint32_t index) {
  if (index >= slots_.size()) slots_.resize(index + 1);
  if (!slots_[index]) slots_[index] = std::make_unique<Slot>();
  return *slots_[index];
}

void Channel::publish_ready(uint32_t index, Slot& slot, std::shared_ptr<gluster::File> file) {
  HandleSlot& shared = (*memory_)->slots[index];
  slot.state = Slot::State::kReady;
  // The word lives in the session's memory, which the handle keeps mapped.
  slot.handle = gluster::Handle(std::move(file), gluster::SizeWord(memory_, &shared.file_size));
  shared.reason = static_cast<uint32_t>(common::Reason::kNone);
  shared.flags = slot.flags;
  shared.write_unit = slot.handle.file()->write_unit();
  shared.log = slot.log = log_of(slot.handle.file()->inode()->dev());
  // Of whoever had the slot before.
  shared.log_error.store(0, std::memory_order_relaxed);
  show_delegation(index, common::kDelegationNone);
  // Partner: the client's acquire load of the slot.
  shared.state.store(common::slot_state(slot.generation, HandleSlot::kReady),
                     std::memory_order_release);
}

void Channel::publish_refused(uint32_t index, uint32_t generation, common::Reason reason) {
  HandleSlot& shared = (*memory_)->slots[index];
  shared.reason = static_cast<uint32_t>(reason);
  shared.flags = 0;
  shared.state.store(common::slot_state(generation, HandleSlot::kRefused),
                     std::memory_order_release);
}

void Channel::close() {
  closed_ = true;
  for (const auto& log : logs_) log->stop();
  for (const auto& [lane, file] : syncs_) lane->refuse(ESHUTDOWN);
  syncs_.clear();
  for (const auto& slot : slots_) {
    if (slot && slot->wanted) slot->wanted->store(false, std::memory_order_relaxed);
  }
  slots_.clear();
}

}  // namespace booster::daemon::data
