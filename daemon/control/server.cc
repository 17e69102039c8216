// The main thread's loop.
#include "daemon/control/server.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <csignal>
#include <thread>

#include "booster_version.h"
#include "daemon/control/descriptor_limit.h"

namespace booster::daemon::control {
namespace {

constexpr std::chrono::seconds kHouseKeepingEvery{1};
// A submission to libgfapi takes microseconds: one that has not come back within this hangs.
constexpr std::chrono::milliseconds kRescueEvery{100};
constexpr std::chrono::milliseconds kDrainPoll{10};
constexpr int kAcceptsPerTurn = 64;

size_t pump_count(int64_t configured) {
  if (configured > 0) return static_cast<size_t>(configured);
  return std::clamp<size_t>(std::thread::hardware_concurrency() / 4, 1, 4);
}

gluster::MountSettings mount_settings(const Config& config,
                                      const std::shared_ptr<LiveSettings>& live,
                                      std::shared_ptr<gluster::Privileges> privileges,
                                      std::shared_ptr<gluster::LeaseWatch> leases) {
  const auto part = [&live](std::atomic<int64_t>& value) {
    return std::shared_ptr<const std::atomic<int64_t>>(live, &value);
  };
  return {.context = {.log_dir = config.gluster_log_dir, .log_level = config.gluster_log_level},
          .privileges = std::move(privileges),
          .leases = std::move(leases),
          .idle_seconds = part(live->idle_seconds),
          .build_timeout_seconds = part(live->build_timeout_seconds),
          .retry_seconds = part(live->retry_seconds)};
}

/// Null: nothing is cached.
std::shared_ptr<gluster::LeaseWatch> start_leases(data::CacheStore* store) {
  return store ? gluster::LeaseWatch::start(store->watch()) : nullptr;
}

std::shared_ptr<LiveSettings> live_settings(const Config& config) {
  auto live = std::make_shared<LiveSettings>();
  live->apply(config);
  return live;
}

}  // namespace

Server::Server(Config config, Listeners listeners, MountTable mount_table, Helpers& helpers,
               Prepared prepared, Reload reload)
    : config_(std::move(config)),
      reload_(std::move(reload)),
      made_control_(std::move(listeners.made_control)),
      made_admin_(std::move(listeners.made_admin)),
      live_(live_settings(config_)),
      leases_(start_leases(prepared.cache_store.get())),
      shared_(config_, live_, mount_settings(config_, live_, prepared.privileges, leases_), helpers,
              std::move(prepared.cache_store), prepared.privileges != nullptr),
      control_(io_, listeners.control.release()),
      mount_events_(io_, ::dup(mount_table.fd())),
      mount_table_(std::move(mount_table)),
      signals_(io_, SIGTERM, SIGINT, SIGHUP),
      house_timer_(io_),
      memory_timer_(io_),
      pump_timer_(io_),
      watchdog_timer_(io_),
      accept_timer_(io_),
      stop_timer_(io_) {
  std::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  shared_.helpers.recovery.start();
  admin_ = std::make_unique<stats::AdminServer>(
      io_, listeners.admin.release(), [this](auto done) { collect(std::move(done)); },
      [this] { return drop_cache(); });
}

Server::~Server() = default;

void Server::run() {
  start_pumps();
  wait_for_clients();
  wait_for_signals();
  wait_for_mounts();
  house_keeping();
  watch_memory();
  watch_pumps();
  uint64_t watchdog_us = 0;
  if (::sd_watchdog_enabled(0, &watchdog_us) > 0) {
    watchdog_every_ = std::chrono::microseconds(watchdog_us / 2);
    pet_watchdog();
  }
  spdlog::info("event=ready version={} pumps={}", BOOSTER_VERSION, pumps_.size());
  ::sd_notify(0, "READY=1");
  while (true) {
    try {
      io_.run();
    } catch (const std::exception& e) {
      spdlog::error("event=handler-failed thread=main error=\"{}\"", e.what());
    }
  }
}

void Server::start_pumps() {
  const std::chrono::microseconds spin(config_.spin_us);
  for (unsigned i = 0; i < pump_count(config_.pumps); ++i) {
    auto table = MountTable::open();
    if (!table) throw std::system_error(table.error(), "/proc/self/mountinfo");
    pumps_.push_back(std::make_unique<data::Pump>(i, spin, shared_.quarantine));
    homes_.push_back(std::make_unique<PumpSessions>(*pumps_.back(), shared_, std::move(*table)));
    heartbeats_seen_.push_back(0);
    pumps_.back()->start();
  }
}

// --- clients -----------------------------------------------------------------------------

void Server::wait_for_clients() {
  if (stopping_) return;
  control_.async_wait(StreamDescriptor::wait_read, [this](const boost::system::error_code& error) {
    if (!error) accept_clients();
  });
}

void Server::accept_clients() {
  bool all = false;
  try {
    all = take_clients();
  } catch (const std::exception& e) {
    spdlog::error("event=accept-failed error=\"{}\"", e.what());
  }
  if (all) {
    wait_for_clients();
    return;
  }
  // Clients wait in the queue, and use FUSE, until others have gone.
  accept_timer_.expires_after(std::chrono::milliseconds(100));
  accept_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) wait_for_clients();
  });
}

/// False: for want of memory or descriptors it has to be tried again later.
bool Server::take_clients() {
  for (int i = 0; i < kAcceptsPerTurn && !stopping_; ++i) {
    UniqueFd client(
        ::accept4(control_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        spdlog::warn("event=accept-failed error=\"{}\"", strerrordesc_np(errno));
        return false;
      }
      if (errno == EINTR || errno == ECONNABORTED) continue;
      break;
    }
    const auto uid = peer_uid(client.get());
    Ticket ticket = uid ? shared_.limits.admit_session(*uid) : Ticket();
    if (!ticket) {
      proto::FromDaemon refusal;
      refusal.mutable_refusal()->set_code(uid ? proto::Refusal::TOO_MANY_SESSIONS
                                              : proto::Refusal::NOT_ALLOWED);
      send(client.get(), refusal.SerializeAsString(), -1);
      shared_.totals.sessions_refused.add();
      continue;
    }
    PumpSessions& home = *homes_[next_pump_++ % homes_.size()];
    // A session is made on its pump's thread, where it stays.
    auto held = std::make_shared<std::pair<UniqueFd, Ticket>>(std::move(client), std::move(ticket));
    boost::asio::post(home.pump.io(), [&home, id = next_session_++, uid = *uid, held] {
      std::make_shared<Session>(home, id, uid, std::move(held->first), std::move(held->second))
          ->start();
    });
  }
  return true;
}

// --- house keeping -----------------------------------------------------------------------
//
// What comes again and again asks for the next time first: an exception ends one turn only.

void Server::wait_for_mounts() {
  mount_events_.async_wait(StreamDescriptor::wait_error,
                           [this](const boost::system::error_code& error) {
                             if (error) return;
                             wait_for_mounts();
                             sweep_mounts();
                           });
}

void Server::sweep_mounts() {
  const auto table = mount_table_.read();
  if (!table) return;
  shared_.mounts.sweep([&table](dev_t dev) { return is_genuine(lines_of_device(*table, dev)); });
}

void Server::house_keeping() {
  house_timer_.expires_after(kHouseKeepingEvery);
  house_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) house_keeping();
  });
  shared_.mounts.tick();
  shared_.cache.tick();
}

void Server::watch_memory() {
  memory_timer_.expires_after(data::PageCache::kWatchMemoryEvery);
  memory_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) watch_memory();
  });
  shared_.cache.watch_memory();
}

void Server::watch_pumps() {
  pump_timer_.expires_after(kRescueEvery);
  pump_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) watch_pumps();
  });
  for (size_t i = 0; i < pumps_.size(); ++i) {
    if (pumps_[i]->rescue()) {
      spdlog::warn("event=pump-rescued pump={} reason=\"a call into libgfapi does not return\"", i);
    }
  }
}

void Server::pet_watchdog() {
  watchdog_timer_.expires_after(watchdog_every_);
  watchdog_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) pet_watchdog();
  });
  bool alive = true;
  for (size_t i = 0; i < pumps_.size(); ++i) {
    const uint64_t now = pumps_[i]->heartbeats();
    alive = alive && (now != heartbeats_seen_[i] || stopping_);
    heartbeats_seen_[i] = now;
  }
  if (alive) {
    ::sd_notify(0, "WATCHDOG=1");
  } else {
    spdlog::error("event=pump-stuck");
  }
}

// --- signals -----------------------------------------------------------------------------

void Server::wait_for_signals() {
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    wait_for_signals();
    if (signal == SIGHUP) {
      reload();
    } else {
      stop();
    }
  });
}

void Server::reload() {
  ::sd_notify(0, "RELOADING=1");
  const auto fresh = reload_();
  if (!fresh) {
    spdlog::error("event=reload-failed error=\"{}\"", fresh.error());
  } else {
    const auto later = changes_needing_restart(config_, *fresh);
    live_->apply(*fresh);
    spdlog::set_level(spdlog::level::from_str(fresh->log_level));
    spdlog::info("event=reloaded needs_restart=\"{}\"", fmt::join(later, " "));
  }
  ::sd_notify(0, "READY=1");
}

void Server::stop() {
  shared_.cache.stop();
  if (leases_) leases_->give_all_back();
  if (stopping_) return;
  stopping_ = true;
  ::sd_notify(0, "STOPPING=1");
  spdlog::info("event=stopping drain_ms={}", config_.drain_ms);
  boost::system::error_code ignored;
  control_.close(ignored);
  admin_->close();
  if (!made_control_.empty()) ::unlink(made_control_.c_str());
  if (!made_admin_.empty()) ::unlink(made_admin_.c_str());
  for (const auto& pump : pumps_) pump->drain();
  stop_by_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(config_.drain_ms);
  finish();
}

void Server::finish() {
  // Programs that live see the daemon end and fence their files themselves; those that were killed
  // cannot.
  const bool drained =
      shared_.mounts.fences_done() &&
      std::all_of(pumps_.begin(), pumps_.end(), [](const auto& pump) { return pump->drained(); });
  if (drained || std::chrono::steady_clock::now() >= stop_by_) {
    spdlog::info("event=stopped drained={}", drained);
    spdlog::default_logger()->flush();
    // Clients carry on through FUSE.
    shared_.sockets.hang_up();
    // Not exit: glfs_fini and threads that hang would be waited for.
    ::_exit(0);
  }
  for (const auto& pump : pumps_) boost::asio::post(pump->io(), [] {});
  stop_timer_.expires_after(kDrainPoll);
  stop_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) finish();
  });
}

// --- what administrators see -------------------------------------------------------------

uint64_t Server::drop_cache() {
  const uint64_t used = shared_.cache.report().used;
  shared_.cache.drop();
  return used;
}

void Server::collect(std::function<void(stats::Snapshot)> done) {
  struct Collection {
    stats::Snapshot snapshot;
    size_t missing = 0;
    std::function<void(stats::Snapshot)> done;
  };
  auto collection = std::make_shared<Collection>();
  collection->missing = pumps_.size();
  collection->done = std::move(done);
  for (size_t i = 0; i < pumps_.size(); ++i) {
    PumpSessions& home = *homes_[i];
    boost::asio::post(home.pump.io(), [this, &home, collection] {
      auto reports = std::make_shared<std::vector<stats::SessionReport>>();
      for (const auto& [id, session] : home.sessions) reports->push_back(session->report());
      boost::asio::post(io_, [this, collection, reports] {
        auto& sessions = collection->snapshot.sessions;
        std::move(reports->begin(), reports->end(), std::back_inserter(sessions));
        if (--collection->missing != 0) return;
        collection->snapshot.uptime_seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - since_).count();
        collection->snapshot.mounts = shared_.mounts.report();
        collection->snapshot.cache = shared_.cache.report();
        collection->snapshot.quarantine_ms = shared_.quarantine.ms();
        collection->snapshot.totals = &shared_.totals;
        for (const auto& pump : pumps_) collection->snapshot.pumps.push_back(&pump->stats());
        collection->done(std::move(collection->snapshot));
      });
    });
  }
}

}  // namespace booster::daemon::control
