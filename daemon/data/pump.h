// A pump: one thread that carries the requests of its sessions between shared memory and libgfapi.
// It looks at the lanes of active sessions, runs the event loop that its sessions' sockets live on,
// and sleeps in that loop when there is nothing to do. It never waits for a brick or for FUSE.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "daemon/data/channel.h"
#include "daemon/data/spin.h"
#include "daemon/stats/counters.h"

namespace booster::daemon::data {

class Pump final : public ChannelKeeper {
 public:
  Pump(unsigned number, std::chrono::microseconds max_spin, Quarantine& quarantine);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  void start();

  /// The loop for sockets and timers of this pump's sessions. Handlers run on the pump's thread,
  /// never while a request is being submitted, and must not block.
  boost::asio::io_context& io() { return io_; }
  stats::PumpStats& stats() { return stats_; }
  Quarantine& quarantine() { return quarantine_; }

  // --- on the pump's thread ---

  /// Adds a channel; `ended` is called when its session has to end: with true when its client has
  /// lied.
  void add(const std::shared_ptr<Channel>& channel, std::function<void(bool)> ended);
  void remove(const std::shared_ptr<Channel>& channel);
  /// A channel has got a page cache: from now on its validity is renewed while it is used.
  void watch_caches();
  /// A packet of the client has come: looks at its lanes for a while.
  void activate(const std::shared_ptr<Channel>& channel);
  /// Nobody looks at the channel's lanes any more. What its client has left in the log is written;
  /// whoever calls this closes it then.
  void leave(const std::shared_ptr<Channel>& channel);

  // --- on any thread ---

  void poke(const std::shared_ptr<Channel>& channel) override;
  void later(std::chrono::milliseconds delay, std::function<void()> what) override;

  /// Takes no further requests; drained() is true once nothing is in flight.
  void drain();
  bool drained() const { return drained_.load(std::memory_order_acquire); }

  /// Grows at least every half second.
  uint64_t heartbeats() const { return heartbeats_.load(std::memory_order_relaxed); }

  /// Once in a while from the main thread: if the pump's thread has hung in one call into libgfapi
  /// since the last call of this, lets another thread carry on in its place (DESIGN section 9: a
  /// changed volume's graph is switched to by whichever thread calls next, and that waits for
  /// bricks). True if it did.
  bool rescue();

 private:
  class Turn;

  void run(uint64_t turn);
  void poll_handlers();
  bool scan_all(Turn& turn, bool& worked);
  bool scan_one(const std::shared_ptr<Channel>& channel, Turn& turn, bool& worked);
  bool retire_idle(Turn& turn);
  bool fall_asleep(Turn& turn, bool& found);
  void heartbeat();
  void goes_idle(const std::shared_ptr<Channel>& channel);
  void look_at_logs();
  void renew_caches();
  bool start_thread(uint64_t turn);

  stats::PumpStats stats_;
  const unsigned number_;
  uint32_t quarantine_shown_ = 0;
  Quarantine& quarantine_;
  boost::asio::io_context io_{1};
  boost::asio::steady_timer heartbeat_timer_{io_};
  boost::asio::steady_timer cache_timer_{io_};
  boost::asio::steady_timer log_timer_{io_};
  bool watching_caches_ = false;
  Spin spin_;

  struct Member {
    std::shared_ptr<Channel> channel;
    std::function<void(bool)> ended;
  };
  std::unordered_map<Channel*, Member> members_;
  std::vector<std::shared_ptr<Channel>> active_;
  std::vector<std::shared_ptr<Channel>> watched_;  // may have requests in flight
  std::vector<std::shared_ptr<Channel>> lookers_;  // their logs are looked at without a doorbell
  Clock::time_point now_{};
  Clock::time_point last_poll_{};
  bool draining_ = false;

  std::atomic<bool> drained_{false};
  std::atomic<uint64_t> heartbeats_{0};

  // Who runs the loop: epoch (high 16 bits), number of the call into libgfapi, and in the lowest
  // bit whether a thread is inside that call now. A thread enters and leaves by changing it,
  // rescue() takes the loop away from one that is inside by raising the epoch; compare-and-swap
  // decides who was first.
  std::atomic<uint64_t> turn_{0};
  std::atomic<gluster::Gate*> inside_gate_{nullptr};
  uint64_t turn_seen_ = 0;  // by rescue()
  // The loop has been taken from a thread that hangs, but no other could be started yet: its turn.
  std::optional<uint64_t> abandoned_;  // of rescue()
};

}  // namespace booster::daemon::data
