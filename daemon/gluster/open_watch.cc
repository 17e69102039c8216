// Marks, waits, reads fanotify events.
#include "daemon/gluster/open_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/fanotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <future>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "daemon/gluster/open_events.h"
#include "daemon/gluster/own_opens.h"
#include "daemon/gluster/worker.h"

namespace booster::daemon::gluster {
namespace {

// In the table of a watch's thread, and there only.
constexpr int kGroup = 3;
constexpr int kOrders = 4;

constexpr char kRead = 'r';

/// Threads that hang in closing what events have opened. With more, nothing new is watched.
constexpr int kMostClosers = 32;
std::atomic<int> g_closers{0};

/// A table of this thread's own, with the group and where orders come from.
bool take(int group, int orders) {
  if (::unshare(CLONE_FILES) != 0) return false;
  // Both may be anywhere, also on each other's place.
  constexpr int kOutOfTheWay = 100;
  const int high_group = ::fcntl(group, F_DUPFD_CLOEXEC, kOutOfTheWay);
  const int high_orders = ::fcntl(orders, F_DUPFD_CLOEXEC, kOutOfTheWay);
  return high_group >= 0 && high_orders >= 0 && ::dup3(high_group, kGroup, O_CLOEXEC) == kGroup &&
         ::dup3(high_orders, kOrders, O_CLOEXEC) == kOrders &&
         ::close_range(kOrders + 1, ~0U, 0) == 0;
}

void allow(int event) {
  const int error = allow_open(kGroup, event);
  if (error != 0 && error != ENOENT) {
    spdlog::warn("event=watch-answer-failed error=\"{}\"", strerrordesc_np(error));
  }
}

}  // namespace

/// Shared by the thread and, until it watches, by who starts it.
struct OpenWatch::Thread {
  Thread(std::function<bool()> tell, Recovery::Guard guarded)
      : opened(std::move(tell)), guard(std::move(guarded)) {}

  void run(int group, int orders, int file);
  void serve();
  void read_events();

  const std::function<bool()> opened;
  Recovery::Guard guard;
  std::promise<int> taken;   // an errno or 0: the group is in the thread's table, too
  std::promise<void> alone;  // and in no other
  std::promise<int> marked;  // an errno or 0

  bool told = false;     // `opened` has been called
  bool reading = false;  // events are read
  std::vector<int> held;
  std::vector<int> let_by;
};

void OpenWatch::Thread::run(int group, int orders, int file) {
  note_own_descriptors();
  const int error = take(group, orders) ? 0 : errno;
  taken.set_value(error);
  if (error != 0) return;
  alone.get_future().wait();
  // /proc/self is the process's first thread, whose descriptors are the common ones.
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  const bool done =
      ::fanotify_mark(kGroup, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, path.c_str()) == 0;
  marked.set_value(done ? 0 : errno);
  if (done) serve();
}

/// Until the owner lets go: the end of the connection.
void OpenWatch::Thread::serve() {
  while (true) {
    // Until it is to be read, the group has nothing more to say than that somebody waits.
    pollfd ready[2] = {{kOrders, POLLIN, 0}, {kGroup, POLLIN, 0}};
    if (::poll(ready, told && !reading ? 1 : 2, -1) < 0 && errno != EINTR) break;
    if (ready[0].revents != 0) {
      char what = 0;
      if (::recv(kOrders, &what, 1, 0) != 1) break;
      reading = reading || what == kRead;
    }
    if ((ready[1].revents & POLLIN) == 0) continue;
    try {
      if (!std::exchange(told, true) && !opened()) break;
      if (reading) read_events();
    } catch (const std::exception& e) {
      // Out of memory. Who waits does so until the owner lets go.
      job_failed("open-watch", e.what());
    }
  }
  for (const int event : held) allow(event);
  // Whoever else waits goes on, too. The kernel takes a grace period for this; nobody waits for it.
  ::close(kGroup);
  guard.reset();
  g_closers.fetch_add(1, std::memory_order_relaxed);
  for (const int event : held) ::close(event);
  for (const int event : let_by) ::close(event);
  g_closers.fetch_sub(1, std::memory_order_relaxed);
}

void OpenWatch::Thread::read_events() {
  const int error = read_opens(kGroup, [this](int event, pid_t opener) {
    // The daemon itself opens it to fence it, so that whoever waits can go on.
    if (is_boosters_own(opener)) {
      allow(event);
      let_by.push_back(event);
    } else {
      held.push_back(event);
    }
  });
  // One opener's, whom the kernel has refused: the others are still there.
  if (error != 0 && error != EAGAIN && error != EINTR) {
    spdlog::warn("event=open-denied error=\"{}\"", strerrordesc_np(error));
  }
}

Result<std::shared_ptr<OpenWatch>> OpenWatch::start(
    Privileges& privileges, int file, std::function<bool()> opened,
    const std::function<Recovery::Guard(int)>& guard) {
  const auto failed = [](int error) {
    return Failure{std::error_code(error, std::generic_category())};
  };
  if (g_closers.load(std::memory_order_relaxed) >= kMostClosers) return failed(EBUSY);
  auto group = privileges.make_open_watch();
  if (!group) return Failure{group.error()};
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return errno_failure();
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  Recovery::Guard guarded = guard(group->get());
  if (!guarded) return failed(EPIPE);
  std::shared_ptr<OpenWatch> watch(new OpenWatch(std::move(ours)));
  const auto thread = std::make_shared<Thread>(std::move(opened), std::move(guarded));
  if (!run_detached("open-watch", [thread, number = group->get(), orders = theirs.get(), file] {
        thread->run(number, orders, file);
      })) {
    return failed(EAGAIN);
  }
  if (const int error = thread->taken.get_future().get(); error != 0) return failed(error);
  // Common until here, and marks nothing.
  group->reset();
  theirs.reset();
  thread->alone.set_value();
  if (const int error = thread->marked.get_future().get(); error != 0) return failed(error);
  return watch;
}

OpenWatch::~OpenWatch() {
  // Not by closing alone: a child that was forked meanwhile would have it, too.
  ::shutdown(orders_.get(), SHUT_RDWR);
}

void OpenWatch::read() const {
  if (::send(orders_.get(), &kRead, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) {
    spdlog::warn("event=watch-not-told error=\"{}\"", strerrordesc_np(errno));
  }
}

}  // namespace booster::daemon::gluster
