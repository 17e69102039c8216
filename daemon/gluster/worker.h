// A few threads that may block: everything that asks FUSE or waits for a brick runs on the worker
// of its mount, so that a hung mount holds up nobody but itself. Nobody ever joins these threads.
#pragma once

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace booster::daemon::gluster {

class Worker {
 public:
  /// kOwn: its threads share no descriptors with the others. A thread that waits for FUSE may
  /// outlive SIGKILL, and the kernel closes nothing that it shares: programs would not see the
  /// daemon's end. Jobs then use only what they open themselves, and give back what they hold
  /// elsewhere. When all threads are stuck, some more are started.
  enum class Descriptors { kShared, kOwn };

  /// `name` is shown for its threads (at most 15 bytes). They start with the first job.
  Worker(std::string name, unsigned threads, Descriptors descriptors = Descriptors::kShared);

  /// Like kOwn, but `start` runs its threads, in a table of descriptors of somebody's own; false if
  /// it cannot.
  using Starter = std::function<bool(std::function<void()> body)>;
  Worker(std::string name, unsigned threads, Starter start);

  /// Jobs that wait already are still done; the threads end after the last.
  ~Worker();

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Runs `job()` on one of the threads. Any thread, also a job and a gfapi callback. When no
  /// thread can be started, the job waits for one that runs, or for the next call of this or the
  /// next. From a job of a worker with descriptors of its own, none is.
  template <class F>
  void post(F job) {
    enqueue(std::make_unique<JobOf<F>>(std::move(job)));
  }

  /// For jobs that wait although nothing runs. Once in a while, any thread.
  void serve_waiting() noexcept { serve_waiting(state_); }

 private:
  struct Job {
    virtual ~Job() = default;
    virtual void run() = 0;
  };
  template <class F>
  struct JobOf final : Job {
    explicit JobOf(F f) : function(std::move(f)) {}
    void run() override { function(); }
    F function;
  };
  // Shared with the threads, which outlive the worker when they hang.
  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::unique_ptr<Job>> jobs;
    std::chrono::steady_clock::time_point moved{};  // when a job was last taken
    std::string name;
    Descriptors descriptors = Descriptors::kShared;
    Starter start;
    unsigned idle = 0;
    unsigned running = 0;
    unsigned max = 0;
    bool stopping = false;
  };

  void enqueue(std::unique_ptr<Job> job);
  static void serve_waiting(const std::shared_ptr<State>& state) noexcept;
  static void work(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
};

/// Gives the calling thread root's identity for gfapi, once: gfapi asks the kernel twice for each
/// operation otherwise, and a graph switch runs with the identity of the thread that notices it
/// (DESIGN section 9). Every thread calls this before it calls gfapi; cheap after the first time.
/// It does nothing before gfapi_is_up(): libgfapi makes its thread-specific keys in the first
/// glfs_new, and before that glfs_setfsuid writes into key 0, which is somebody else's (the address
/// sanitizer died of it).
void adopt_gfapi_identity();

/// To be called after every glfs_new.
void gfapi_is_up();

/// The calling thread has left the common descriptors. Every thread that it starts would have its
/// own, too, so that no worker starts one from it.
void note_own_descriptors();
bool has_own_descriptors();

/// What every thread but the main one begins with: its name, of which 15 bytes are shown, and
/// nothing of what the main thread's signals are. One that met SIGTERM on a thread with descriptors
/// of its own would be lost: Boost.Asio's handler writes to a pipe that is not there.
void begin_thread(const char* name) noexcept;

/// Logs it.
void job_failed(const char* worker, const char* error) noexcept;

/// A detached thread for one long job. `name` has at most 15 bytes and lives for ever. False, and
/// the failure is logged, if there is no thread to be had.
template <class F>
bool run_detached(const char* name, F job) noexcept {
  try {
    std::thread([name, job = std::move(job)]() mutable {
      begin_thread(name);
      try {
        adopt_gfapi_identity();
        job();
      } catch (const std::exception& e) {
        job_failed(name, e.what());
      }
    }).detach();
    return true;
  } catch (const std::exception& e) {
    job_failed(name, e.what());
    return false;
  }
}

}  // namespace booster::daemon::gluster
