// What all sessions of the daemon share: settings that a reload changes, limits, counters, mounts.
// Everything here may be used by any thread.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "common/abi.h"
#include "daemon/config.h"
#include "daemon/control/fdinfo_readers.h"
#include "daemon/control/lease_provers.h"
#include "daemon/control/reclaimer.h"
#include "daemon/control/recovery.h"
#include "daemon/data/channel.h"
#include "daemon/data/page_cache.h"
#include "daemon/gluster/mount.h"
#include "daemon/stats/counters.h"

namespace booster::daemon::control {

/// Settings that a running daemon can change. Each is independent, hence relaxed.
struct LiveSettings {
  std::atomic<int64_t> sessions{0};
  std::atomic<int64_t> sessions_per_uid{0};
  std::atomic<int64_t> session_memory_bytes{0};
  std::atomic<int64_t> handles{0};
  std::atomic<int64_t> pending_engages{0};
  std::atomic<int64_t> idle_seconds{0};
  std::atomic<int64_t> build_timeout_seconds{0};
  std::atomic<int64_t> retry_seconds{0};

  void apply(const Config& config) {
    const auto set = [](std::atomic<int64_t>& to, int64_t value) {
      to.store(value, std::memory_order_relaxed);
    };
    set(sessions, config.sessions);
    set(sessions_per_uid, config.sessions_per_uid);
    set(session_memory_bytes, config.session_memory_bytes);
    set(handles, config.handles);
    set(pending_engages, config.pending_engages);
    set(idle_seconds, config.idle_seconds);
    set(build_timeout_seconds, config.build_timeout_seconds);
    set(retry_seconds, config.retry_seconds);
  }
};

/// Counts something against a limit for as long as the ticket lives.
class Ticket {
 public:
  Ticket() = default;
  explicit Ticket(std::function<void()> give_back) : give_back_(std::move(give_back)) {}
  Ticket(Ticket&& other) noexcept : give_back_(std::exchange(other.give_back_, nullptr)) {}
  Ticket& operator=(Ticket&& other) noexcept {
    if (this != &other) {
      reset();
      give_back_ = std::exchange(other.give_back_, nullptr);
    }
    return *this;
  }
  ~Ticket() { reset(); }

  explicit operator bool() const { return static_cast<bool>(give_back_); }

 private:
  void reset() {
    if (give_back_) std::exchange(give_back_, nullptr)();
  }
  std::function<void()> give_back_;
};

class Limits {
 public:
  explicit Limits(const LiveSettings& settings) : settings_(settings) {}

  /// An empty ticket: one session too many, of all or of this user.
  Ticket admit_session(uid_t uid);

  /// An empty ticket: one handle too many.
  Ticket admit_handle();

  /// An empty ticket: one file too many that is delegated for writing, of all or of this user's.
  Ticket admit_delegation(uid_t uid);

 private:
  struct Count {
    int64_t all = 0;
    std::unordered_map<uid_t, int64_t> by_uid;
  };
  Ticket admit(Count& count, uid_t uid, int64_t most, int64_t most_of_one);

  const LiveSettings& settings_;
  std::mutex mutex_;  // of what follows
  Count sessions_;
  Count delegations_;
  std::atomic<int64_t> handles_{0};
};

/// The sockets of all sessions, so that the end of the daemon reaches every program. The kernel
/// closes them only when the last thread has gone, and one that waits for FUSE can outlive SIGKILL.
class OpenSockets {
 public:
  void add(int fd) {
    const std::lock_guard lock(mutex_);
    fds_.insert(fd);
  }
  /// Before it is closed.
  void remove(int fd) {
    const std::lock_guard lock(mutex_);
    fds_.erase(fd);
  }
  void hang_up() {
    const std::lock_guard lock(mutex_);
    for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
  }

 private:
  std::mutex mutex_;
  std::unordered_set<int> fds_;
};

/// All of them; made while the process has one thread.
struct Helpers {
  FdinfoReaders fdinfo_readers;
  LeaseProvers lease_provers;
  Reclaimer reclaimer;
  RecoveryAgent recovery;
};

struct Shared {
  Shared(const Config& config, std::shared_ptr<LiveSettings> live_settings,
         gluster::MountSettings mount_settings, Helpers& forked,
         std::unique_ptr<data::CacheStore> cache_store, bool can_watch)
      : live(std::move(live_settings)),
        limits(*live),
        mounts(std::move(mount_settings)),
        cache(std::move(cache_store), {config.cache_bytes, config.cache_retain_bytes}, mounts),
        quarantine(static_cast<uint32_t>(config.quarantine_min_ms)),
        delegates(config.write_log == "on" && can_watch),
        helpers(forked) {}

  const std::shared_ptr<LiveSettings> live;
  Limits limits;
  OpenSockets sockets;
  gluster::Mounts mounts;
  data::PageCache cache;
  data::Quarantine quarantine;
  const bool delegates;  // programs may write into their logs: who opens a file can be held up
  stats::Totals totals;
  Helpers& helpers;
};

}  // namespace booster::daemon::control
