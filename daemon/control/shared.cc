// Counting against limits.
#include "daemon/control/shared.h"

#include <algorithm>

namespace booster::daemon::control {

namespace {

/// Each costs the daemon a thread, and the host a fanotify group: half of what
/// systemd/booster.sysctl.conf allows root's programs, and fewer than the unit's TasksMax.
constexpr int64_t kDelegations = 4096;
constexpr int64_t kDelegationsPerUid = 1024;

}  // namespace

Ticket Limits::admit_session(uid_t uid) {
  const auto of = [](const std::atomic<int64_t>& setting) {
    return setting.load(std::memory_order_relaxed);
  };
  const int64_t by_memory =
      of(settings_.session_memory_bytes) / static_cast<int64_t>(common::kSessionBytes);
  return admit(sessions_, uid, std::min(of(settings_.sessions), by_memory),
               of(settings_.sessions_per_uid));
}

Ticket Limits::admit_delegation(uid_t uid) {
  return admit(delegations_, uid, kDelegations, kDelegationsPerUid);
}

/// `most_of_one` is for everybody but root.
Ticket Limits::admit(Count& count, uid_t uid, int64_t most, int64_t most_of_one) {
  const std::lock_guard lock(mutex_);
  if (count.all >= most) return {};
  int64_t& mine = count.by_uid[uid];
  if (uid != 0 && mine >= most_of_one) return {};
  ++mine;
  ++count.all;
  return Ticket([this, &count, uid] {
    const std::lock_guard give_back_lock(mutex_);
    --count.all;
    const auto it = count.by_uid.find(uid);
    if (--it->second == 0) count.by_uid.erase(it);
  });
}

Ticket Limits::admit_handle() {
  if (handles_.fetch_add(1, std::memory_order_relaxed) >=
      settings_.handles.load(std::memory_order_relaxed)) {
    handles_.fetch_sub(1, std::memory_order_relaxed);
    return {};
  }
  return Ticket([this] { handles_.fetch_sub(1, std::memory_order_relaxed); });
}

}  // namespace booster::daemon::control
