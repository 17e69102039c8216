// The events of a fanotify group that holds up openers.
#pragma once

#include <sys/fanotify.h>
#include <unistd.h>

#include <cerrno>

namespace booster::daemon::gluster {

/// Lets the opener of an event go on. 0 or an errno; ENOENT: he has been killed.
inline int allow_open(int group, int event) {
  const fanotify_response response{event, FAN_ALLOW};
  return ::write(group, &response, sizeof response) < 0 ? errno : 0;
}

/// Reads what is there, and calls `each` with the descriptor and the thread of every event, which
/// is its to close. 0 or an errno.
template <typename Each>
int read_opens(int group, const Each& each) {
  alignas(fanotify_event_metadata) char buffer[4096];
  ssize_t left = ::read(group, buffer, sizeof buffer);
  const int error = left < 0 ? errno : 0;
  const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
  for (; left > 0 && FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
    if (event->fd >= 0) each(event->fd, event->pid);
  }
  return error;
}

}  // namespace booster::daemon::gluster
