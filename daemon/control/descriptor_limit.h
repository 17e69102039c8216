// How many descriptors a process of the daemon's may have.
#pragma once

#include <sys/resource.h>

#include <algorithm>

namespace booster::daemon::control {

/// As many as a large host needs, or as it may: each session holds three, each context some dozens,
/// and the recovery agent has a copy of what every delegation hangs on.
inline void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max = std::max<rlim_t>(limit.rlim_max, 1U << 20);
  if (::setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace booster::daemon::control
