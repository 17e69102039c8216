// What an administrator can set. Every key is declared once, in the table of config.cc, with unit,
// default, range and explanation; the file that --print-config writes comes from that table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/result.h"

namespace booster::daemon {

struct Config {
  // daemon
  std::string control_socket;
  std::string admin_socket;
  std::string admin_group;
  int64_t drain_ms = 0;
  // log
  std::string log_level;
  std::string gluster_log_dir;
  std::string gluster_log_level;
  // limits
  int64_t sessions = 0;
  int64_t sessions_per_uid = 0;
  int64_t session_memory_bytes = 0;
  int64_t handles = 0;
  int64_t pending_engages = 0;
  // context
  int64_t idle_seconds = 0;
  int64_t build_timeout_seconds = 0;
  int64_t retry_seconds = 0;
  // data
  int64_t pumps = 0;
  int64_t spin_us = 0;
  std::string write_log;
  // cache
  int64_t cache_bytes = 0;
  int64_t cache_retain_bytes = 0;
  // failure
  int64_t quarantine_min_ms = 0;
};

inline constexpr const char kDefaultConfigFile[] = "/etc/booster/boosterd.toml";

/// Every key at its default.
Config default_config();

/// Reads a TOML file over the defaults. On failure: one line that names file, key and what is
/// allowed. A file that does not exist is a failure if `must_exist`, else it means the defaults.
Outcome<Config> load_config(const std::string& path, bool must_exist);

/// Sets one key from the command line ("log.level", "debug"). Failure as in load_config.
Outcome<bool> set_config_text(Config& config, const std::string& key, const std::string& value);

/// The commented default file.
std::string default_config_text();

/// Keys in which two configurations differ and that only a restart can change.
std::vector<std::string> changes_needing_restart(const Config& before, const Config& after);

}  // namespace booster::daemon
