#include "daemon/gluster/lease_watch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace booster::daemon::gluster {
namespace {

// In the table of the leases.
constexpr int kSignals = 3;
constexpr int kWake = 4;

constexpr int kTryThreadsEveryMs = 100;

/// Queued, with the number of the descriptor; SIGIO comes when the queue is full.
int lease_signal() {
  return SIGRTMIN + 3;
}

pthread_mutex_t& mutex_of(common::WatchWord& word) {
  // The kernel and programs see the holder in the mutex's first word (struct __pthread_mutex_s of
  // glibc, which registers it with set_robust_list()).
  static_assert(sizeof(pthread_mutex_t) <= sizeof(common::WatchWord));
  static_assert(offsetof(__pthread_mutex_s, __lock) == 0);
  return reinterpret_cast<pthread_mutex_t&>(word);
}

/// So that the kernel takes its holder's number out of it when that ends.
bool prepare(common::WatchWord& word) {
  pthread_mutexattr_t attributes;
  if (::pthread_mutexattr_init(&attributes) != 0) return false;
  const bool prepared = ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
                        ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
                        ::pthread_mutex_init(&mutex_of(word), &attributes) == 0;
  ::pthread_mutexattr_destroy(&attributes);
  return prepared;
}

}  // namespace

struct LeaseWatch::State : std::enable_shared_from_this<LeaseWatch::State> {
  struct Entry {
    uint64_t number;
    std::weak_ptr<Inode> inode;
    std::shared_ptr<Worker> closer;
    bool leased = false;  // the kernel has said so
    bool broken = false;  // asked back before that
    bool going = false;   // a job of the closer's sees to its end, and closes the descriptor
  };

  // What must not be let go on a thread without the common descriptors is let go here.
  const std::shared_ptr<Worker> wakes = std::make_shared<Worker>("lease-told", 1);
  common::WatchWord* life = nullptr;
  std::promise<bool> started;
  pid_t thread = 0;
  bool short_of_threads = false;  // of that thread
  UniqueFd wake;                  // a common descriptor; the thread's is kWake

  std::mutex mutex;
  bool stopping = false;
  bool given_back = false;  // all of them, for good
  uint64_t last_number = 0;
  std::unordered_map<int, Entry> leases;  // by descriptor in their table
  std::deque<std::function<void()>> to_start;

  void run(int common_wake);
  bool begin(int common_wake);
  bool obey();
  void hear();
  void broken(int descriptor);
  void look_at_all();
  void give_all_back();
  void close_later(int descriptor, uint64_t number, const std::shared_ptr<Worker>& closer);
  bool start_thread(std::function<void()> body);
  bool ring() const;
};

class LeaseWatch::Held final : public Lease {
 public:
  Held(std::shared_ptr<State> state, int descriptor, uint64_t number)
      : state_(std::move(state)), descriptor_(descriptor), number_(number) {}
  ~Held() override {
    std::shared_ptr<Worker> closer;
    {
      const std::lock_guard lock(state_->mutex);
      const auto found = state_->leases.find(descriptor_);
      if (found == state_->leases.end() || found->second.number != number_ || found->second.going) {
        return;
      }
      found->second.going = true;
      closer = found->second.closer;
    }
    state_->close_later(descriptor_, number_, closer);
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  const std::shared_ptr<State> state_;
  const int descriptor_;
  const uint64_t number_;
};

// --- the thread of the signals -----------------------------------------------------------------

void LeaseWatch::State::run(int common_wake) {
  note_own_descriptors();
  const bool begun = begin(common_wake);
  if (!begun) spdlog::warn("event=no-lease-watch error=\"{}\"", strerrordesc_np(errno));
  started.set_value(begun);
  if (!begun) return;
  while (true) {
    pollfd ready[2] = {{kSignals, POLLIN, 0}, {kWake, POLLIN, 0}};
    if (::poll(ready, 2, short_of_threads ? kTryThreadsEveryMs : -1) < 0 && errno != EINTR) break;
    try {
      if ((ready[0].revents & POLLIN) != 0) hear();
      if (!obey()) break;
    } catch (const std::exception& error) {
      spdlog::error("event=lease-watch-failed error=\"{}\"", error.what());
    }
  }
  ::pthread_mutex_unlock(&mutex_of(*life));
  // Threads that nobody starts any more: a worker's would keep this alive, and be kept by it.
  std::deque<std::function<void()>> not_started;
  const std::lock_guard lock(mutex);
  stopping = true;
  not_started.swap(to_start);
}

bool LeaseWatch::State::begin(int common_wake) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGIO);
  ::sigaddset(&signals, lease_signal());
  if (::pthread_sigmask(SIG_BLOCK, &signals, nullptr) != 0) return false;
  const int heard = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  thread = ::gettid();
  constexpr int kOutOfTheWay = 100;
  if (heard < 0 || ::unshare(CLONE_FILES) != 0) return false;
  const int high_signals = ::fcntl(heard, F_DUPFD_CLOEXEC, kOutOfTheWay);
  const int high_wake = ::fcntl(common_wake, F_DUPFD_CLOEXEC, kOutOfTheWay);
  return high_signals >= 0 && high_wake >= 0 &&
         ::dup3(high_signals, kSignals, O_CLOEXEC) == kSignals &&
         ::dup3(high_wake, kWake, O_CLOEXEC) == kWake && ::close_range(kWake + 1, ~0U, 0) == 0 &&
         ::pthread_mutex_lock(&mutex_of(*life)) == 0;
}

/// False: told to end.
bool LeaseWatch::State::obey() {
  uint64_t rung = 0;
  if (::read(kWake, &rung, sizeof rung) < 0 && errno != EAGAIN) return false;
  short_of_threads = false;
  while (true) {
    std::function<void()> body;
    bool all_back = false;
    {
      const std::lock_guard lock(mutex);
      if (stopping) return false;
      all_back = given_back;
      if (!to_start.empty()) body = std::move(to_start.front());
      if (body) to_start.pop_front();
    }
    if (all_back) give_all_back();
    if (!body) return true;
    // A thread that is started here has this one's table.
    if (run_detached("lease", body)) continue;
    const std::lock_guard lock(mutex);
    to_start.push_front(std::move(body));
    short_of_threads = true;
    return true;
  }
}

void LeaseWatch::State::hear() {
  signalfd_siginfo heard{};
  bool all = false;
  while (::read(kSignals, &heard, sizeof heard) == sizeof heard) {
    if (heard.ssi_signo == SIGIO) {
      all = true;
    } else {
      broken(heard.ssi_fd);
    }
  }
  if (all) look_at_all();
}

void LeaseWatch::State::look_at_all() {
  std::vector<int> descriptors;
  {
    const std::lock_guard lock(mutex);
    for (const auto& [descriptor, entry] : leases) {
      if (entry.leased) descriptors.push_back(descriptor);
    }
  }
  for (const int descriptor : descriptors) {
    // What the lease is about to be.
    if (::fcntl(descriptor, F_GETLEASE) == F_UNLCK) broken(descriptor);
  }
}

void LeaseWatch::State::give_all_back() {
  const std::lock_guard lock(mutex);
  for (const auto& [descriptor, entry] : leases) ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
}

/// Somebody waits. A number that is another lease's by now is given back for nothing.
void LeaseWatch::State::broken(int descriptor) {
  std::shared_ptr<Inode> inode;
  std::shared_ptr<Worker> closer;
  uint64_t number = 0;
  {
    const std::lock_guard lock(mutex);
    const auto found = leases.find(descriptor);
    if (found == leases.end()) return;
    Entry& entry = found->second;
    if (!entry.leased) {
      entry.broken = true;  // hold() sees to it
      return;
    }
    if (entry.going) {
      // Nobody relies on it any more, and the closer may have a lot to do.
      ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
      return;
    }
    entry.going = true;
    number = entry.number;
    closer = entry.closer;
    inode = entry.inode.lock();
  }
  // First nothing is valid any more, then he goes on.
  std::shared_ptr<WriterListener> listener;
  if (inode) listener = inode->writer_opens();
  ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
  close_later(descriptor, number, closer);
  wakes->post(
      [inode = std::move(inode), listener = std::move(listener), closer = std::move(closer)] {});
}

void LeaseWatch::State::close_later(int descriptor, uint64_t number,
                                    const std::shared_ptr<Worker>& closer) {
  closer->post([self = shared_from_this(), descriptor, number] {
    std::shared_ptr<Worker> keep;
    {
      const std::lock_guard lock(self->mutex);
      const auto found = self->leases.find(descriptor);
      if (found == self->leases.end() || found->second.number != number) return;
      ::fcntl(descriptor, F_SETLEASE, F_UNLCK);
      keep = std::move(found->second.closer);
      self->leases.erase(found);
    }
    ::close(descriptor);  // may wait for FUSE
    self->wakes->post([keep = std::move(keep)] {});
  });
}

bool LeaseWatch::State::start_thread(std::function<void()> body) {
  {
    const std::lock_guard lock(mutex);
    if (stopping) return false;
    to_start.push_back(std::move(body));
  }
  return ring();
}

bool LeaseWatch::State::ring() const {
  const uint64_t one = 1;
  const bool rung = ::write(wake.get(), &one, sizeof one) == sizeof one;
  if (!rung) spdlog::warn("event=lease-watch-not-told error=\"{}\"", strerrordesc_np(errno));
  return rung;
}

// --- from outside ------------------------------------------------------------------------------

std::shared_ptr<LeaseWatch> LeaseWatch::start(common::WatchWord& life) {
  const auto state = std::make_shared<State>();
  state->life = &life;
  state->wakes->post([] {});  // who needs it cannot start its thread
  state->wake.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->wake || !prepare(life) ||
      !run_detached("lease-watch", [state, wake = state->wake.get()] { state->run(wake); }) ||
      !state->started.get_future().get()) {
    return nullptr;
  }
  return std::shared_ptr<LeaseWatch>(new LeaseWatch(state));
}

LeaseWatch::~LeaseWatch() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->ring();
}

void LeaseWatch::give_all_back() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->given_back = true;
  }
  state_->ring();
}

std::shared_ptr<Worker> LeaseWatch::make_worker(const std::string& name, unsigned threads) {
  return std::make_shared<Worker>(name, threads, [state = state_](std::function<void()> body) {
    return state->start_thread(std::move(body));
  });
}

std::shared_ptr<Lease> LeaseWatch::hold(const std::shared_ptr<Worker>& closer,
                                        const std::shared_ptr<Inode>& inode,
                                        const std::function<UniqueFd()>& open) {
  UniqueFd file = open();
  if (!file) return nullptr;
  // Each time: giving a lease back wipes both.
  const f_owner_ex owner{F_OWNER_TID, state_->thread};
  if (::fcntl(file.get(), F_SETOWN_EX, &owner) != 0 ||
      ::fcntl(file.get(), F_SETSIG, lease_signal()) != 0) {
    return nullptr;
  }
  uint64_t number = 0;
  {
    // Before it is there, so that it cannot be broken unheard.
    const std::lock_guard lock(state_->mutex);
    if (state_->given_back) return nullptr;
    number = ++state_->last_number;
    state_->leases[file.get()] = {.number = number, .inode = inode, .closer = closer};
  }
  // The kernel gives a read lease only on a file that nobody has open for writing, through whatever
  // descriptor, mapping or process (generic_add_lease in fs/locks.c).
  const bool leased = ::fcntl(file.get(), F_SETLEASE, F_RDLCK) == 0;
  const std::lock_guard lock(state_->mutex);
  const auto entry = state_->leases.find(file.get());
  // Also who came just now and was told of by a SIGIO, which does not say whose lease it is, and
  // for which look_at_all() has passed this one over.
  const bool broken = entry->second.broken || ::fcntl(file.get(), F_GETLEASE) != F_RDLCK;
  if (!leased || broken || state_->given_back) {
    ::fcntl(file.get(), F_SETLEASE, F_UNLCK);  // closing may wait for FUSE
    state_->leases.erase(entry);
    return nullptr;
  }
  entry->second.leased = true;
  return std::make_shared<Held>(state_, file.release(), number);
}

}  // namespace booster::daemon::gluster
