// What the daemon knows about itself at one moment, collected from its threads for the admin
// socket.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/gluster/mount.h"
#include "daemon/stats/counters.h"

namespace booster::daemon::stats {

struct EngagedReport {
  gluster::Gfid gfid{};
  dev_t dev = 0;
  uint64_t inode = 0;
  uint32_t flags = 0;  // common::HandleFlags
};

struct SessionReport {
  uint64_t id = 0;
  pid_t pid = 0;
  uid_t uid = 0;
  std::string command;
  double age_seconds = 0;
  uint64_t read_calls = 0;
  uint64_t read_bytes = 0;
  uint64_t write_calls = 0;
  uint64_t write_bytes = 0;
  uint64_t cached_calls = 0;
  uint64_t cached_bytes = 0;
  std::vector<EngagedReport> engaged;
  PassedSums passed;
};

struct CacheReport {
  uint64_t budget = 0;  // bytes, as all of it; 0: there is no page cache
  uint64_t used = 0;
  uint64_t files = 0;
  uint64_t filled = 0;
  uint64_t evicted = 0;
  uint64_t fills = 0;
};

struct Snapshot {
  double uptime_seconds = 0;
  uint32_t quarantine_ms = 0;
  CacheReport cache;
  std::vector<gluster::MountReport> mounts;
  std::vector<SessionReport> sessions;
  // Of the running daemon, not copies: they outlive every snapshot.
  const Totals* totals = nullptr;
  std::vector<const PumpStats*> pumps;
};

}  // namespace booster::daemon::stats
