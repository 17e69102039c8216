// Counting against limits.
#include "daemon/control/shared.h"

namespace booster::daemon::control {

Ticket Limits::admit_session(uid_t uid) {
  const std::lock_guard lock(mutex_);
  const auto of = [](const std::atomic<int64_t>& setting) {
    return setting.load(std::memory_order_relaxed);
  };
  const int64_t by_memory =
      of(settings_.session_memory_bytes) / static_cast<int64_t>(common::kSessionBytes);
  if (sessions_ >= of(settings_.sessions) || sessions_ >= by_memory) return {};
  int64_t& mine = by_uid_[uid];
  if (uid != 0 && mine >= of(settings_.sessions_per_uid)) return {};
  ++mine;
  ++sessions_;
  return Ticket([this, uid] {
    const std::lock_guard give_back_lock(mutex_);
    --sessions_;
    const auto it = by_uid_.find(uid);
    if (--it->second == 0) by_uid_.erase(it);
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
