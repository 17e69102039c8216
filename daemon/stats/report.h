// Turns a snapshot into the message that boosterctl shows.
#pragma once

#include <string>
#include <string_view>

#include "daemon/stats/snapshot.h"
#include "proto/admin.pb.h"

namespace booster::daemon::stats {

/// `text` with every byte that is not part of valid UTF-8 as '?': a protobuf string with another
/// byte in it is not parsed by anybody, and mount points are any bytes.
std::string valid_utf8(std::string_view text);

/// Reads /proc for the process's own costs: about a millisecond.
admin::Stats to_message(Snapshot& snapshot);

}  // namespace booster::daemon::stats
