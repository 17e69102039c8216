// The `stats` command: once, or again and again.
#pragma once

#include <optional>
#include <string>

#include "ctl/failure.h"

namespace booster::ctl {

struct StatsOptions {
  std::string admin_socket;
  bool json = false;
  std::optional<double> watch_seconds;  // none: once
};

/// Prints to the standard output; one line on the standard error says what failed. A watch begins
/// only when boosterd answers, but then outlives its restarts.
Exit show_stats(const StatsOptions& options);

}  // namespace booster::ctl
