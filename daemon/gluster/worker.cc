// Threads that may block.
#include "daemon/gluster/worker.h"

#include <glusterfs/api/glfs.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <string_view>

namespace booster::daemon::gluster {

namespace {

std::atomic<bool> g_gfapi_is_up{false};

/// A fence takes milliseconds; one second is what is promised.
constexpr std::chrono::milliseconds kStuckAfter{500};
constexpr unsigned kMoreThreads = 30;

/// This thread has left the common table, and so would every thread that it starts.
thread_local bool t_own_descriptors = false;

/// From here on the thread has a table of its own, with the standard three in it.
bool leave_descriptors() {
  t_own_descriptors = ::unshare(CLONE_FILES) == 0;
  return t_own_descriptors && ::close_range(STDERR_FILENO + 1, ~0U, 0) == 0;
}

}  // namespace

void adopt_gfapi_identity() {
  thread_local bool done = false;
  // acquire: partner of the release in gfapi_is_up().
  if (done || !g_gfapi_is_up.load(std::memory_order_acquire)) return;
  glfs_setfsuid(0);
  glfs_setfsgid(0);
  glfs_setfsgroups(0, nullptr);
  done = true;
}

void gfapi_is_up() {
  g_gfapi_is_up.store(true, std::memory_order_release);
  adopt_gfapi_identity();
}

void begin_thread(const char* name) noexcept {
  // Short enough to be kept in the string itself: nothing here may throw.
  const std::string shown(std::string_view(name).substr(0, 15));
  pthread_setname_np(pthread_self(), shown.c_str());
  sigset_t of_main;
  ::sigemptyset(&of_main);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&of_main, signal);
  ::pthread_sigmask(SIG_BLOCK, &of_main, nullptr);
}

void job_failed(const char* worker, const char* error) noexcept {
  spdlog::error("event=job-failed worker={} error=\"{}\"", worker, error);
}

void note_own_descriptors() {
  t_own_descriptors = true;
}

bool has_own_descriptors() {
  return t_own_descriptors;
}

Worker::Worker(std::string name, unsigned threads, Descriptors descriptors)
    : state_(std::make_shared<State>()) {
  state_->name = std::move(name);
  state_->max = threads;
  state_->descriptors = descriptors;
}

Worker::Worker(std::string name, unsigned threads, Starter start)
    : Worker(std::move(name), threads, Descriptors::kOwn) {
  state_->start = std::move(start);
}

Worker::~Worker() {
  const std::lock_guard lock(state_->mutex);
  state_->stopping = true;
  state_->wake.notify_all();
}

void Worker::enqueue(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->jobs.push_back(std::move(job));
  }
  serve_waiting();
}

void Worker::serve_waiting(const std::shared_ptr<State>& state) noexcept {
  bool start = false;
  {
    const std::lock_guard lock(state->mutex);
    if (state->jobs.empty()) return;
    if (t_own_descriptors) return state->wake.notify_one();
    start = state->jobs.size() > state->idle && state->running < state->max;
    const auto now = std::chrono::steady_clock::now();
    if (!start && state->descriptors == Descriptors::kOwn && now - state->moved > kStuckAfter &&
        state->idle == 0 && state->running < state->max + kMoreThreads) {
      spdlog::warn("event=worker-stuck worker={} threads={} waiting={}", state->name,
                   state->running, state->jobs.size());
      state->moved = now;
      start = true;
    }
    if (start) ++state->running;
  }
  if (start) {
    try {
      if (!state->start) {
        std::thread([state] { work(state); }).detach();
        return;
      }
      if (state->start([state] { work(state); })) return;
      const std::lock_guard lock(state->mutex);
      --state->running;
    } catch (const std::exception& e) {
      // EAGAIN: the host, or the service, has as many threads as it may have.
      job_failed(state->name.c_str(), e.what());
      const std::lock_guard lock(state->mutex);
      --state->running;
    }
  }
  state->wake.notify_one();
}

void Worker::work(const std::shared_ptr<State>& state) {
  begin_thread(state->name.c_str());
  if (state->start) {
    note_own_descriptors();
  } else if (state->descriptors == Descriptors::kOwn && !leave_descriptors()) {
    spdlog::warn("event=worker-shares-descriptors worker={} error=\"{}\"", state->name,
                 strerrordesc_np(errno));
  }
  std::unique_lock lock(state->mutex);
  while (true) {
    while (state->jobs.empty()) {
      if (state->stopping) return;
      ++state->idle;
      state->wake.wait(lock);
      --state->idle;
    }
    std::unique_ptr<Job> job = std::move(state->jobs.front());
    state->jobs.pop_front();
    state->moved = std::chrono::steady_clock::now();
    lock.unlock();
    try {
      adopt_gfapi_identity();
      job->run();
    } catch (const std::exception& e) {
      // Out of memory, mostly. What the job would have answered stays unanswered: FUSE serves.
      job_failed(state->name.c_str(), e.what());
    }
    job.reset();
    lock.lock();
  }
}

}  // namespace booster::daemon::gluster
