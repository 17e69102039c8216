// Reads fanotify events.
#include "daemon/gluster/open_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <deque>
#include <future>
#include <optional>
#include <sstream>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/gluster/worker.h"

namespace booster::daemon::gluster {
namespace {

// In the table of the thread that answers, and there only.
constexpr int kGroup = 3;
constexpr int kWake = 4;
constexpr int kFirstEvent = 5;

/// With more, nobody else is kept waiting.
constexpr size_t kMostHeld = 1 << 16;

/// Threads of a mount that hang in closing. With more, nothing of it is watched any more.
constexpr int kMostClosers = 16;
constexpr size_t kManyInodes = 100'000;

}  // namespace

namespace {

/// What a line of /proc/TID/syscall says of how a file is opened: open(2)'s flags; nothing when it
/// does not say.
std::optional<unsigned long> flags_of(const std::string& syscall_line) {
  std::istringstream words(syscall_line);
  long number = -1;
  unsigned long arguments[6] = {};
  unsigned long stack = 0;
  unsigned long instruction = 0;
  words >> number >> std::hex;
  const auto next = [&words](unsigned long& value) {
    std::string word;
    words >> word;
    value = std::strtoul(word.c_str(), nullptr, 16);
  };
  for (unsigned long& argument : arguments) next(argument);
  next(stack);
  next(instruction);
  // A thread that works for io_uring is in no call; it shows one of the thread that has made it.
  if (!words || stack == 0 || instruction == 0) return std::nullopt;
  switch (number) {
    case SYS_openat:
    case SYS_open_by_handle_at: return arguments[2];
#ifdef SYS_open
    case SYS_open: return arguments[1];
#endif
#ifdef SYS_creat
    case SYS_creat: return O_CREAT | O_WRONLY | O_TRUNC;
#endif
    case SYS_execve:
    case SYS_execveat: return O_RDONLY;
    default: return std::nullopt;
  }
}

bool is_for_reading(unsigned long flags) {
  return (flags & O_ACCMODE) == O_RDONLY;
}

}  // namespace

bool opens_for_writing(const std::string& syscall_line) {
  const auto flags = flags_of(syscall_line);
  return !flags || !is_for_reading(*flags) || (*flags & O_TRUNC) != 0;
}

bool cuts_while_reading(const std::string& syscall_line) {
  const auto flags = flags_of(syscall_line);
  return !flags || (is_for_reading(*flags) && (*flags & O_TRUNC) != 0);
}

// --- groups ------------------------------------------------------------------------------------

namespace {

pthread_mutex_t& mutex_of(common::WatchWords::Word& word) {
  // The kernel and programs see the holder in the mutex's first word (struct __pthread_mutex_s of
  // glibc, which registers it with set_robust_list()).
  static_assert(sizeof(pthread_mutex_t) <= sizeof(common::WatchWords::Word));
  static_assert(offsetof(__pthread_mutex_s, __lock) == 0);
  return reinterpret_cast<pthread_mutex_t&>(word);
}

/// So that the kernel takes its holder's number out of it when that ends.
bool prepare(common::WatchWords::Word& word) {
  pthread_mutexattr_t attributes;
  if (::pthread_mutexattr_init(&attributes) != 0) return false;
  const bool prepared = ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
                        ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
                        ::pthread_mutex_init(&mutex_of(word), &attributes) == 0;
  ::pthread_mutexattr_destroy(&attributes);
  return prepared;
}

}  // namespace

WatchGroups::WatchGroups(unsigned count, common::Watches& watches) : watches_(watches) {
  for (unsigned i = 0; i < std::min(count, common::kWatches); ++i) {
    UniqueFd group(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_TID |
                                       FAN_UNLIMITED_MARKS | FAN_UNLIMITED_QUEUE,
                                   O_RDONLY | O_LARGEFILE | O_CLOEXEC));
    if (!group) {
      spdlog::warn("event=no-watch-group made={} error=\"{}\"", i, strerrordesc_np(errno));
      return;
    }
    for (common::WatchWords::Word& word : watches_.of[i].words) {
      if (!prepare(word)) return;
    }
    groups_.push_back({std::move(group), i});
  }
}

WatchGroups::Group WatchGroups::take() {
  const std::lock_guard lock(mutex_);
  if (groups_.empty()) return {};
  Group group = std::move(groups_.back());
  groups_.pop_back();
  return group;
}

void WatchGroups::park(std::shared_ptr<OpenWatch> watch) {
  const std::lock_guard lock(mutex_);
  parked_.push_back(std::move(watch));
}

std::shared_ptr<OpenWatch> WatchGroups::unpark() {
  const std::lock_guard lock(mutex_);
  while (!parked_.empty()) {
    std::shared_ptr<OpenWatch> watch = std::move(parked_.back());
    parked_.pop_back();
    if (watch->serves()) return watch;
  }
  return nullptr;
}

bool WatchGroups::empty() {
  const std::lock_guard lock(mutex_);
  return groups_.empty();
}

// --- one mount ---------------------------------------------------------------------------------

struct OpenWatch::State : std::enable_shared_from_this<OpenWatch::State> {
  /// Lives, and ends, where the common descriptors are.
  struct Order {
    UniqueFd file;
    bool add = false;
    std::function<void(bool)> done;
    bool marked = false;
    uint64_t let_go = 0;  // not 0: that is all
    bool flush = false;   // true: all marks go, and that is all
  };
  struct Held {
    uint64_t number;
    int event;  // what the kernel knows it by
  };

  std::shared_ptr<Worker> elsewhere;  // under the mutex: see where()
  std::shared_ptr<Worker> wakes;
  std::weak_ptr<OpenWatch> owner;  // under the mutex
  // Of the thread that serves.
  std::vector<Held> held_openers;
  uint64_t last_held = 0;
  common::WatchWords* life = nullptr;
  unsigned held = 0;    // which of its words the thread that serves holds
  bool denied = false;  // an opener, of that thread
  std::mutex mutex;
  std::condition_variable started;
  enum class Stage { kStarting, kServing, kEnded } stage = Stage::kStarting;
  bool stopping = false;
  std::deque<std::shared_ptr<Order>> orders;
  std::unordered_map<uint64_t, std::weak_ptr<Inode>> inodes;
  std::atomic<int> closers{0};

  std::shared_ptr<Worker> where() {
    const std::lock_guard lock(mutex);
    return elsewhere;
  }
  void begin(int group, int wake);
  void serve();
  bool watch();
  bool obey();
  bool read_events();
  void answer(const fanotify_event_metadata& event);
  bool hold(const fanotify_event_metadata& event, const std::shared_ptr<Inode>& inode);
  static void allow(int event);
  void let_go(uint64_t number);
  void keep_numbers();
  bool leave_events_behind();
  void end();
};

namespace {

/// A table of this thread's own, with the group and what wakes it.
bool take_group(int group, int wake) {
  if (::unshare(CLONE_FILES) != 0) return false;
  // Both may be anywhere, also on each other's place.
  constexpr int kOutOfTheWay = 100;
  const int high_group = ::fcntl(group, F_DUPFD_CLOEXEC, kOutOfTheWay);
  const int high_wake = ::fcntl(wake, F_DUPFD_CLOEXEC, kOutOfTheWay);
  return high_group >= 0 && high_wake >= 0 && ::dup3(high_group, kGroup, O_CLOEXEC) == kGroup &&
         ::dup3(high_wake, kWake, O_CLOEXEC) == kWake && ::close_range(kFirstEvent, ~0U, 0) == 0;
}

}  // namespace

void OpenWatch::State::begin(int group, int wake) {
  note_own_descriptors();
  // Shown when it watches, and not before.
  const bool taken =
      take_group(group, wake) && ::pthread_mutex_lock(&mutex_of(life->words[held])) == 0;
  if (!taken) spdlog::warn("event=no-watch error=\"{}\"", strerrordesc_np(errno));
  {
    const std::lock_guard lock(mutex);
    stage = taken ? Stage::kServing : Stage::kEnded;
  }
  started.notify_all();
  if (taken) serve();
}

/// Runs on one thread at a time, which has the group. However it ends, nothing is watched then, and
/// whoever waits is free.
void OpenWatch::State::serve() {
  try {
    if (!watch()) return;
  } catch (const std::exception& error) {
    spdlog::error("event=watch-failed error=\"{}\"", error.what());
  }
  end();
}

/// False: goes on in another thread.
bool OpenWatch::State::watch() {
  while (true) {
    pollfd ready[2] = {{kGroup, POLLIN, 0}, {kWake, POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) break;
    if ((ready[1].revents & POLLIN) != 0 && !obey()) break;
    const bool events = (ready[0].revents & POLLIN) != 0 && read_events();
    if (denied) break;  // no second one
    if (events) {
      if (closers.load(std::memory_order_relaxed) >= kMostClosers) {
        spdlog::warn("event=watch-given-up reason=\"{} threads hang in closing\"", kMostClosers);
        break;
      }
      // Goes on in another thread; this one closes.
      if (leave_events_behind()) return false;
    }
  }
  return true;
}

/// False: told to end.
bool OpenWatch::State::obey() {
  uint64_t rung = 0;
  if (::read(kWake, &rung, sizeof rung) < 0 && errno != EAGAIN) return false;
  while (true) {
    std::shared_ptr<Order> order;
    {
      const std::lock_guard lock(mutex);
      if (stopping) return false;
      if (orders.empty()) return true;
      order = std::move(orders.front());
      orders.pop_front();
    }
    if (order->let_go != 0) {
      let_go(order->let_go);
      continue;
    }
    if (order->flush) {
      ::fanotify_mark(kGroup, FAN_MARK_FLUSH, 0, AT_FDCWD, nullptr);
      continue;
    }
    // /proc/self is the process's first thread, whose descriptors are the common ones.
    const std::string path = fmt::format("/proc/self/fd/{}", order->file.get());
    const unsigned how = order->add ? FAN_MARK_ADD : FAN_MARK_REMOVE;
    order->marked = ::fanotify_mark(kGroup, how, FAN_OPEN_PERM, AT_FDCWD, path.c_str()) == 0;
    where()->post([order = std::move(order)] {
      if (order->done) order->done(order->marked);
    });
  }
}

namespace {

/// Of opening a file: whoever tried would have failed, watched or not, since it or its bricks are
/// gone.
bool nobody_could(int error) {
  return error == ENOENT || error == ESTALE || error == ENOTCONN || error == EIO;
}

}  // namespace

/// True if it leaves descriptors to close.
bool OpenWatch::State::read_events() {
  alignas(fanotify_event_metadata) char buffer[4096];
  ssize_t left = ::read(kGroup, buffer, sizeof buffer);
  if (left < 0 && errno != EAGAIN && errno != EINTR && !nobody_could(errno)) {
    // The kernel lets nobody open what it cannot open for us. Mount::trusts_root() should have kept
    // us away from such a volume.
    spdlog::warn("event=open-denied error=\"{}\"", strerrordesc_np(errno));
    denied = true;
  }
  if (left <= 0) return false;
  bool any = false;
  const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
  for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
    if (event->fd < 0) continue;
    any = true;
    if ((event->mask & FAN_OPEN_PERM) != 0) answer(*event);
  }
  return any;
}

void OpenWatch::State::answer(const fanotify_event_metadata& event) {
  // It is asked first, while the opener waits: afterwards it may be in any other call.
  std::string line;
  const int proc = ::open(fmt::format("/proc/{}/syscall", event.pid).c_str(), O_RDONLY | O_CLOEXEC);
  char text[256];
  const ssize_t n = proc >= 0 ? ::read(proc, text, sizeof text) : -1;
  if (proc >= 0) ::close(proc);
  if (n > 0) line.assign(text, static_cast<size_t>(n));
  struct statx status {};
  std::shared_ptr<Inode> inode;
  if (::statx(event.fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) == 0) {
    const std::lock_guard lock(mutex);
    const auto found = inodes.find(status.stx_ino);
    if (found != inodes.end()) inode = found->second.lock();
  }
  std::shared_ptr<WriterListener> listener;
  if (inode && opens_for_writing(line)) listener = inode->writer_opens(cuts_while_reading(line));
  if (!inode || !hold(event, inode)) allow(event.fd);
  where()->post([inode = std::move(inode), listener = std::move(listener)] {});
}

/// True: he is answered later.
bool OpenWatch::State::hold(const fanotify_event_metadata& event,
                            const std::shared_ptr<Inode>& inode) {
  // The daemon itself opens it to fence it, so that whoever waits can go on.
  if (held_openers.size() >= kMostHeld || ::tgkill(::getpid(), event.pid, 0) == 0) return false;
  std::shared_ptr<OpenListener> listener = inode->open_listener();
  if (!listener) return false;
  std::weak_ptr<OpenWatch> watch;
  {
    const std::lock_guard lock(mutex);
    watch = owner;
  }
  const uint64_t number = ++last_held;
  // Let go on any thread, and told where the common descriptors are.
  const std::shared_ptr<const void> token(
      nullptr, [watch = std::move(watch), wakes = wakes, number](const void*) {
        wakes->post([watch, number] {
          if (const auto alive = watch.lock()) alive->let_go(number);
        });
      });
  const bool waits = listener->opens(token);
  if (waits) {
    held_openers.push_back({number, event.fd});
  }
  where()->post([listener = std::move(listener)] {});
  return waits;
}

void OpenWatch::State::allow(int event) {
  const fanotify_response response{event, FAN_ALLOW};
  // ENOENT: he has been killed.
  if (::write(kGroup, &response, sizeof response) < 0 && errno != ENOENT) {
    spdlog::warn("event=watch-answer-failed error=\"{}\"", strerrordesc_np(errno));
  }
}

void OpenWatch::State::let_go(uint64_t number) {
  const auto found = std::find_if(held_openers.begin(), held_openers.end(),
                                  [number](const Held& held) { return held.number == number; });
  if (found == held_openers.end()) return;
  allow(found->event);
  ::close(found->event);  // what keeps its number: never a file
  held_openers.erase(found);
}

/// After the descriptors of events have been closed: none of those numbers is to mean another event
/// before it has been answered.
void OpenWatch::State::keep_numbers() {
  for (const Held& held : held_openers) ::dup3(kWake, held.event, O_CLOEXEC);
}

/// False: another thread is not to be had, and this one goes on.
bool OpenWatch::State::leave_events_behind() {
  const auto took = std::make_shared<std::promise<bool>>();
  const unsigned ours = held;
  const bool begun = run_detached("open-watch", [self = shared_from_this(), took, ours] {
    note_own_descriptors();
    // A copy of the table without the events, which are left to the thread that has started this.
    // The other word is free, or will be in a moment: who had it last has told this one's starter
    // that he had done with it.
    const bool taken = ::close_range(kFirstEvent, ~0U, CLOSE_RANGE_UNSHARE) == 0 &&
                       ::pthread_mutex_lock(&mutex_of(self->life->words[1 - ours])) == 0;
    if (taken) {
      self->held = 1 - ours;
      self->keep_numbers();
    }
    took->set_value(taken);
    if (taken) self->serve();
  });
  const bool handed_over = begun && took->get_future().get();
  if (handed_over) {
    // In this order: who holds a word watches.
    ::pthread_mutex_unlock(&mutex_of(life->words[ours]));
    ::close(kGroup);
    ::close(kWake);
  }
  closers.fetch_add(1, std::memory_order_relaxed);
  ::close_range(kFirstEvent, ~0U, 0);
  closers.fetch_sub(1, std::memory_order_relaxed);
  if (!handed_over) keep_numbers();
  return handed_over;
}

void OpenWatch::State::end() {
  struct Told {
    std::shared_ptr<Inode> inode;
    std::shared_ptr<WriterListener> writers;
    std::shared_ptr<OpenListener> openers;
  };
  std::vector<Told> told;
  std::deque<std::shared_ptr<Order>> never;
  {
    const std::lock_guard lock(mutex);
    stage = Stage::kEnded;
    never.swap(orders);
    for (const auto& [number, entry] : inodes) {
      if (auto inode = entry.lock()) told.push_back({std::move(inode), nullptr, nullptr});
    }
  }
  // Nobody will be heard of any more: as if somebody came for each of them.
  for (Told& one : told) {
    one.writers = one.inode->writer_opens(false);
    one.openers = one.inode->open_listener();
    if (one.openers) one.openers->opens(nullptr);
  }
  ::pthread_mutex_unlock(&mutex_of(life->words[held]));
  // Frees whoever waits, and ends all marks.
  ::close(kGroup);
  where()->post([told = std::move(told), never = std::move(never)] {
    for (const auto& order : never) {
      if (order->done) order->done(false);
    }
  });
}

// --- from outside ------------------------------------------------------------------------------

std::shared_ptr<OpenWatch> OpenWatch::start(WatchGroups& groups, std::shared_ptr<Worker> elsewhere,
                                            std::shared_ptr<Worker> wakes) {
  if (auto parked = groups.unpark(); parked && parked->reassign(elsewhere)) return parked;
  // The group is common until the thread has it, and nothing hangs here.
  const WatchGroups::Group group = groups.take();
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!group.fd || !wake) {
    spdlog::warn("event=no-watch error=\"no fanotify group is left\"");
    return nullptr;
  }
  const auto state = std::make_shared<State>();
  state->elsewhere = std::move(elsewhere);
  state->wakes = std::move(wakes);
  state->life = &groups.watches().of[group.number];
  if (!run_detached("open-watch", [state, group = group.fd.get(), wake = wake.get()] {
        state->begin(group, wake);
      })) {
    return nullptr;
  }
  {
    std::unique_lock lock(state->mutex);
    state->started.wait(lock, [&state] { return state->stage != State::Stage::kStarting; });
    if (state->stage == State::Stage::kEnded) return nullptr;
  }
  std::shared_ptr<OpenWatch> watch(new OpenWatch(state, std::move(wake), group.number));
  const std::lock_guard lock(state->mutex);
  state->owner = watch;
  return watch;
}

OpenWatch::~OpenWatch() {
  std::deque<std::shared_ptr<State::Order>> never;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    never.swap(state_->orders);
  }
  ring();
}

bool OpenWatch::serves() const {
  const std::lock_guard lock(state_->mutex);
  return state_->stage == State::Stage::kServing;
}

bool OpenWatch::reassign(std::shared_ptr<Worker> elsewhere) {
  auto order = std::make_shared<State::Order>();
  order->flush = true;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stage != State::Stage::kServing) return false;
    state_->inodes.clear();
    state_->elsewhere = std::move(elsewhere);
    state_->orders.push_back(std::move(order));
  }
  ring();
  return true;
}

void OpenWatch::ring() const {
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) < 0) {
    spdlog::warn("event=watch-not-woken error=\"{}\"", strerrordesc_np(errno));
  }
}

void OpenWatch::let_go(uint64_t held) {
  auto order = std::make_shared<State::Order>();
  order->let_go = held;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stage != State::Stage::kServing) return;
    state_->orders.push_back(std::move(order));
  }
  ring();
}

void OpenWatch::add(UniqueFd file, const std::shared_ptr<Inode>& inode,
                    std::function<void(bool)> done) {
  auto order = std::make_shared<State::Order>();
  order->file = std::move(file);
  order->add = true;
  order->done = std::move(done);
  bool taken = false;
  {
    const std::lock_guard lock(state_->mutex);
    taken = state_->stage == State::Stage::kServing;
    if (taken) {
      state_->inodes[inode->number()] = inode;
      if (state_->inodes.size() > kManyInodes) {
        std::erase_if(state_->inodes, [](const auto& item) { return item.second.expired(); });
      }
      // A mark that is there already is as good.
      state_->orders.push_back(order);
    }
  }
  if (taken) {
    ring();
  } else {
    order->done(false);
  }
}

void OpenWatch::remove(UniqueFd file, const Inode& inode) {
  auto order = std::make_shared<State::Order>();
  order->file = std::move(file);
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stage != State::Stage::kServing) return;
    const auto entry = state_->inodes.find(inode.number());
    if (entry != state_->inodes.end()) {
      const auto watched = entry->second.lock();
      // Set before it is added: whoever has begun to listen meanwhile keeps the mark.
      if (watched && watched->is_listened_to()) return;
      state_->inodes.erase(entry);
    }
    state_->orders.push_back(std::move(order));
  }
  ring();
}

}  // namespace booster::daemon::gluster
