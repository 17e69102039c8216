// `boosterctl run`: becomes a program that has libbooster.so preloaded. Needs no daemon, since
// booster never does.
#pragma once

#include <string>
#include <vector>

namespace booster::ctl {

struct RunOptions {
  bool eager = false;
  std::string logfile;               // empty: the shim's default
  std::vector<std::string> command;  // not empty
};

/// Returns only on failure, after a line on the standard error, with env(1)'s exit status.
int run(const RunOptions& options);

}  // namespace booster::ctl
