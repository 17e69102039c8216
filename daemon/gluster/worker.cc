// Threads that may block.
#include "daemon/gluster/worker.h"

#include <glusterfs/api/glfs.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <exception>

namespace booster::daemon::gluster {

namespace {

std::atomic<bool> g_gfapi_is_up{false};

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

void job_failed(const char* worker, const char* error) noexcept {
  spdlog::error("event=job-failed worker={} error=\"{}\"", worker, error);
}

Worker::Worker(std::string name, unsigned threads) : state_(std::make_shared<State>()) {
  state_->name = std::move(name);
  state_->max = threads;
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
    start = state->jobs.size() > state->idle && state->running < state->max;
    if (start) ++state->running;
  }
  if (start) {
    try {
      std::thread([state] { work(state); }).detach();
      return;
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
  pthread_setname_np(pthread_self(), state->name.substr(0, 15).c_str());
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
