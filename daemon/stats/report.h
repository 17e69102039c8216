// Turns a snapshot into the message that boosterctl shows.
#pragma once

#include "daemon/stats/snapshot.h"
#include "proto/admin.pb.h"

namespace booster::daemon::stats {

/// Reads /proc for the process's own costs: about a millisecond.
admin::Stats to_message(Snapshot& snapshot);

}  // namespace booster::daemon::stats
