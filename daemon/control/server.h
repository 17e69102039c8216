// The daemon's main thread: accepts clients, answers administrators, keeps house once a second, and
// stops when it is told to.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/control/session.h"
#include "daemon/control/shared.h"
#include "daemon/control/sockets.h"
#include "daemon/data/pump.h"
#include "daemon/stats/admin_server.h"

namespace booster::daemon::control {

/// What the page cache needs and only a daemon with CAP_SYS_ADMIN can make: null where there is no
/// page cache.
struct Prepared {
  std::unique_ptr<data::CacheStore> cache_store;
  std::shared_ptr<gluster::Privileges> privileges;
};

class Server {
 public:
  /// How a reload reads the configuration again.
  using Reload = std::function<Outcome<Config>()>;

  Server(Config config, Listeners listeners, MountTable mount_table, Helpers& helpers,
         Prepared prepared, Reload reload);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Serves until SIGTERM or SIGINT; then ends the process, without waiting for any thread.
  [[noreturn]] void run();

 private:
  using StreamDescriptor = boost::asio::posix::stream_descriptor;

  void start_pumps();
  void wait_for_clients();
  void accept_clients();
  bool take_clients();
  void wait_for_signals();
  void wait_for_mounts();
  void sweep_mounts();
  void house_keeping();
  void watch_memory();
  void watch_pumps();
  void pet_watchdog();
  void reload();
  void stop();
  void finish();
  uint64_t drop_cache();
  void collect(std::function<void(stats::Snapshot)> done);

  Config config_;
  Reload reload_;
  std::string made_control_;
  std::string made_admin_;
  std::shared_ptr<LiveSettings> live_;
  const std::shared_ptr<gluster::LeaseWatch> leases_;
  Shared shared_;
  boost::asio::io_context io_{1};
  StreamDescriptor control_;
  StreamDescriptor mount_events_;
  MountTable mount_table_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer house_timer_;
  boost::asio::steady_timer memory_timer_;
  boost::asio::steady_timer pump_timer_;
  boost::asio::steady_timer watchdog_timer_;
  boost::asio::steady_timer accept_timer_;
  boost::asio::steady_timer stop_timer_;
  std::chrono::microseconds watchdog_every_{0};
  std::vector<std::unique_ptr<data::Pump>> pumps_;
  std::vector<std::unique_ptr<PumpSessions>> homes_;
  std::vector<uint64_t> heartbeats_seen_;
  std::unique_ptr<stats::AdminServer> admin_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point stop_by_{};
  uint64_t next_session_ = 1;
  size_t next_pump_ = 0;
  bool stopping_ = false;
};

}  // namespace booster::daemon::control
