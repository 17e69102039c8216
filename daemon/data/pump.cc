// The pump's loop: look at lanes, run handlers, spin a little, sleep.
#include "daemon/data/pump.h"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <exception>
#include <system_error>

#include "common/futex.h"
#include "daemon/gluster/worker.h"

namespace booster::daemon::data {
namespace {

// Handlers run between two looks at the lanes: a flood of packets must not starve them, nor they
// the sockets.
constexpr int kHandlersPerRound = 8;
constexpr std::chrono::microseconds kPollEvery{20};
// A session without a request for so long needs a doorbell again, while others keep the pump busy.
constexpr std::chrono::milliseconds kActiveFor{1};
// A client that has just logged something will do so again: it is spared the doorbell for so long,
// and its log is looked at every kLookEvery.
constexpr std::chrono::milliseconds kLooksFor{10};
constexpr std::chrono::microseconds kLookEvery{500};
constexpr std::chrono::milliseconds kHeartbeatEvery{500};
// Well within the time for which a page cache is shown to be valid (cached_file.cc).
constexpr std::chrono::milliseconds kRenewEvery{80};

constexpr uint64_t kInside = 1;
constexpr uint64_t kCall = 2;
constexpr uint64_t kEpoch = uint64_t{1} << 48;

}  // namespace

/// The calling thread's claim to the loop.
class Pump::Turn final : public Submitter {
 public:
  Turn(Pump& pump, uint64_t turn) : pump_(pump), turn_(turn) {}

  void begin(gluster::Gate& gate) override {
    gluster::adopt_gfapi_identity();
    pump_.inside_gate_.store(&gate, std::memory_order_relaxed);
    turn_ = (turn_ + kCall) | kInside;
    // release: with this number, rescue() sees this gate.
    pump_.turn_.store(turn_, std::memory_order_release);
  }

  bool end(gluster::Gate& gate) override {
    uint64_t expected = turn_;
    turn_ &= ~kInside;
    // acq_rel: partner of rescue()'s exchange, whoever of the two comes first.
    if (pump_.turn_.compare_exchange_strong(expected, turn_, std::memory_order_acq_rel)) {
      return true;
    }
    gate.resume();
    return false;
  }

 private:
  Pump& pump_;
  uint64_t turn_;
};

Pump::Pump(unsigned number, std::chrono::microseconds max_spin, Quarantine& quarantine)
    : number_(number), quarantine_(quarantine), spin_(max_spin) {}

Pump::~Pump() = default;

void Pump::start() {
  heartbeat();
  if (!start_thread(0)) throw std::system_error(EAGAIN, std::generic_category(), "pump");
}

bool Pump::start_thread(uint64_t turn) {
  try {
    // Detached: a thread that hangs inside libgfapi cannot be waited for.
    std::thread([this, turn] {
      gluster::begin_thread(fmt::format("pump-{}", number_).c_str());
      run(turn);
    }).detach();
    return true;
  } catch (const std::exception& e) {
    spdlog::error("event=no-thread pump={} error=\"{}\"", number_, e.what());
    return false;
  }
}

void Pump::add(const std::shared_ptr<Channel>& channel, std::function<void(bool)> ended) {
  members_[channel.get()] = Member{channel, std::move(ended)};
  activate(channel);
}

void Pump::remove(const std::shared_ptr<Channel>& channel) {
  channel->close();
  // It leaves active_ at the next look: this may be called from within one.
  members_.erase(channel.get());
}

void Pump::activate(const std::shared_ptr<Channel>& channel) {
  channel->last_work = Clock::now();
  if (channel->active || channel->closed()) return;
  channel->active = true;
  active_.push_back(channel);
  // relaxed: clearing it late costs a doorbell at most; the scan that follows sees what was
  // submitted before the packet, since the packet's arrival orders it.
  (*channel->memory()).header.pump_asleep.store(0, std::memory_order_relaxed);
}

void Pump::leave(const std::shared_ptr<Channel>& channel) {
  channel->leave();
  members_.erase(channel.get());
  activate(channel);
}

void Pump::poke(const std::shared_ptr<Channel>& channel) {
  // acq_rel: partner of the exchange below; what was done before a poke is seen by the look that
  // follows it.
  if (channel->poked.exchange(true, std::memory_order_acq_rel)) return;
  boost::asio::post(io_, [this, channel] {
    channel->poked.exchange(false, std::memory_order_acq_rel);
    activate(channel);
  });
}

void Pump::later(std::chrono::milliseconds delay, std::function<void()> what) {
  boost::asio::post(io_, [this, delay, what = std::move(what)] {
    try {
      const auto timer = std::make_shared<boost::asio::steady_timer>(io_, delay);
      timer->async_wait([timer, what](const boost::system::error_code& error) {
        if (!error) what();
      });
    } catch (const std::exception&) {  // out of memory: early is better than never
      what();
    }
  });
}

void Pump::drain() {
  boost::asio::post(io_, [this] {
    draining_ = true;
    for (const auto& [key, member] : members_) member.channel->take_delegations_back();
  });
}

// --- the loop ----------------------------------------------------------------------------

void Pump::run(uint64_t initial_turn) {
  Turn turn(*this, initial_turn);
  Clock::time_point spin_until{};
  bool idle = false;
  bool slept = false;
  while (true) {
    now_ = Clock::now();
    bool worked = false;
    if (!scan_all(turn, worked)) return;
    if (worked) {
      if (idle) spin_.work_at(now_, slept);
      idle = slept = false;
      if (now_ - last_poll_ >= kPollEvery) poll_handlers();
      if (!retire_idle(turn)) return;
      continue;
    }
    if (!idle) {
      idle = true;
      slept = false;
      spin_until = spin_.idle_from(now_);
    }
    if (now_ - last_poll_ >= kPollEvery) poll_handlers();
    if (now_ < spin_until && !active_.empty()) {
      common::cpu_relax();
      continue;
    }
    bool found = false;
    if (!fall_asleep(turn, found)) return;
    if (found) continue;
    try {
      io_.restart();
      io_.run_one();
    } catch (const std::exception& e) {
      spdlog::error("event=handler-failed pump={} error=\"{}\"", number_, e.what());
    }
    slept = true;
  }
}

void Pump::poll_handlers() {
  last_poll_ = now_;
  io_.restart();
  try {
    for (int i = 0; i < kHandlersPerRound && io_.poll_one() != 0; ++i) {
    }
  } catch (const std::exception& e) {
    // One session's out of memory is not the daemon's end.
    spdlog::error("event=handler-failed pump={} error=\"{}\"", number_, e.what());
  }
}

bool Pump::scan_one(const std::shared_ptr<Channel>& channel, Turn& turn, bool& worked) {
  const Channel::Scan scanned = channel->scan(turn, now_);
  switch (scanned) {
    case Channel::Scan::kNothing: return true;
    case Channel::Scan::kWorked:
      channel->last_work = now_;
      if (!channel->watched) {
        channel->watched = true;
        watched_.push_back(channel);
      }
      worked = true;
      return true;
    case Channel::Scan::kThreadLost:
      return false;  // touches nothing of the pump: another thread runs it now
    case Channel::Scan::kGone:
    case Channel::Scan::kLie: {
      const auto member = members_.find(channel.get());
      if (member != members_.end()) {
        const std::function<void(bool)> ended = member->second.ended;
        ended(scanned == Channel::Scan::kLie);  // removes it
      } else if (scanned == Channel::Scan::kLie) {
        channel->close();
      }  // else whoever waits for its end sees to it
      worked = true;
      return true;
    }
  }
  return true;
}

bool Pump::scan_all(Turn& turn, bool& worked) {
  if (draining_) {
    // Who asks now is told at once to ask the kernel; a write that nobody has looked at would have
    // to wait for the quarantine.
    for (const auto& [key, member] : members_) member.channel->refuse_requests();
    // What is left is in their logs. A copy: whoever lies leaves.
    std::vector<std::shared_ptr<Channel>> channels(active_);
    for (const auto& [key, member] : members_) channels.push_back(member.channel);
    for (const auto& channel : channels) {
      if (!scan_one(channel, turn, worked)) return false;
    }
    const bool busy = std::any_of(members_.begin(), members_.end(),
                                  [](const auto& member) { return member.second.channel->busy(); });
    if (!busy) drained_.store(true, std::memory_order_release);
    return true;
  }
  for (size_t i = 0; i < active_.size(); ++i) {
    const std::shared_ptr<Channel> channel = active_[i];
    if (!scan_one(channel, turn, worked)) return false;
  }
  return true;
}

bool Pump::retire_idle(Turn& turn) {
  for (size_t i = 0; i < active_.size();) {
    const std::shared_ptr<Channel> channel = active_[i];
    bool keep = !channel->closed();
    if (keep && now_ - channel->last_work >= kActiveFor) {
      auto& asleep = channel->memory()->header.pump_asleep;
      asleep.store(1, std::memory_order_relaxed);
      goes_idle(channel);
      // Partner: the client's fence after `submitted` (common/abi.h). Either the client sees that
      // it must ring, or this last look sees its request.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      bool worked = false;
      if (!scan_one(channel, turn, worked)) return false;
      keep = worked && !channel->closed();
      if (keep) asleep.store(0, std::memory_order_relaxed);
    }
    if (keep) {
      ++i;
      continue;
    }
    channel->active = false;
    active_[i] = std::move(active_.back());
    active_.pop_back();
  }
  return true;
}

bool Pump::fall_asleep(Turn& turn, bool& found) {
  for (const auto& channel : active_) {
    channel->memory()->header.pump_asleep.store(1, std::memory_order_relaxed);
    goes_idle(channel);
  }
  // Partner: the client's fence after `submitted` (common/abi.h).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!scan_all(turn, found)) return false;
  for (const auto& channel : active_) {
    if (found) {
      channel->memory()->header.pump_asleep.store(0, std::memory_order_relaxed);
    } else {
      channel->active = false;
    }
  }
  if (!found) active_.clear();
  return true;
}

/// Before the fence and the last look that follow.
void Pump::goes_idle(const std::shared_ptr<Channel>& channel) {
  const bool looks = !channel->closed() && now_ - channel->last_logged() < kLooksFor;
  channel->show_looks(looks);
  if (!looks) return;
  if (lookers_.empty()) {
    log_timer_.expires_after(kLookEvery);
    log_timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) look_at_logs();
    });
  }
  lookers_.push_back(channel);
}

void Pump::look_at_logs() {
  std::vector<std::shared_ptr<Channel>> lookers;
  lookers.swap(lookers_);
  for (const auto& channel : lookers) activate(channel);
}

void Pump::heartbeat() {
  // First: whatever fails below, there is a next time.
  heartbeat_timer_.expires_after(kHeartbeatEvery);
  heartbeat_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) heartbeat();
  });
  heartbeats_.fetch_add(1, std::memory_order_relaxed);
  const auto now = Clock::now();
  quarantine_.forget_old(now);
  if (watching_caches_) {
    for (const auto& [key, member] : members_) member.channel->note_touches(now);
  }
  for (size_t i = 0; i < watched_.size();) {
    Channel& channel = *watched_[i];
    channel.note_writes_in_flight(now);
    if (channel.busy()) {
      ++i;
      continue;
    }
    channel.watched = false;
    watched_[i] = std::move(watched_.back());
    watched_.pop_back();
  }
  // Only when it has changed: idle sessions cost nothing.
  if (quarantine_shown_ != quarantine_.ms()) {
    quarantine_shown_ = quarantine_.ms();
    for (const auto& [key, member] : members_) member.channel->show_quarantine();
  }
}

void Pump::watch_caches() {
  if (!watching_caches_) renew_caches();
}

void Pump::renew_caches() {
  // First, so that an exception is not the end of it.
  watching_caches_ = true;
  cache_timer_.expires_after(kRenewEvery);
  cache_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) renew_caches();
  });
  const auto now = Clock::now();
  bool any = false;
  for (const auto& [key, member] : members_) {
    if (member.channel->renew_caches(now)) any = true;
  }
  if (any) return;
  watching_caches_ = false;
  cache_timer_.cancel();
}

bool Pump::rescue() {
  if (abandoned_) {
    if (!start_thread(*abandoned_)) return false;
    abandoned_.reset();
    return true;
  }
  uint64_t turn = turn_.load(std::memory_order_acquire);
  const bool same = turn == turn_seen_;
  turn_seen_ = turn;
  if ((turn & kInside) == 0 || !same) return false;
  gluster::Gate* gate = inside_gate_.load(std::memory_order_relaxed);
  const uint64_t next = (turn & ~kInside) + kEpoch;
  if (!turn_.compare_exchange_strong(turn, next, std::memory_order_acq_rel)) return false;
  gate->stall();
  // Given up by the hanging thread either way, which must not come back to it.
  if (start_thread(next)) return true;
  abandoned_ = next;
  return false;
}

}  // namespace booster::daemon::data
