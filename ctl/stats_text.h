// Statistics for people.
#pragma once

#include <string>

#include "proto/admin.pb.h"

namespace booster::ctl {

/// The whole page, each line ended by a newline. With `before`, an earlier answer of the same
/// daemon, it also shows what happens per second.
std::string stats_text(const admin::Stats& now, const admin::Stats* before = nullptr);

/// True if the counters of both can be compared: they come from one run of one daemon.
bool same_daemon(const admin::Stats& before, const admin::Stats& now);

}  // namespace booster::ctl
