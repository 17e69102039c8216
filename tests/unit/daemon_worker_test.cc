// The daemon's threads that may block, when there are none to be had.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <future>

#include "daemon/gluster/worker.h"

namespace booster::daemon::gluster {
namespace {

/// No room for another thread's stack; for another small object, there is.
void refuse_threads(bool refuse) {
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = limit.rlim_max;
  if (refuse) {
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    limit.rlim_cur = pages * 4096 + (1U << 20);
  }
  ::setrlimit(RLIMIT_AS, &limit);
}

// In a process of its own, which has no other thread whose stack could be used again.
void post_without_threads() {
  Worker worker("test", 1);
  std::promise<void> first;
  std::promise<void> second;
  std::promise<void> third;
  refuse_threads(true);
  worker.post([&] { first.set_value(); });
  worker.post([&] { second.set_value(); });
  const bool none = !run_detached("test", [] {});
  refuse_threads(false);
  worker.serve_waiting();
  first.get_future().wait();
  second.get_future().wait();
  worker.post([&] { third.set_value(); });
  third.get_future().wait();
  std::_Exit(none ? 0 : 1);
}

TEST(Worker, JobsForWhichNoThreadCanBeStartedAreDoneLater) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need the address space";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(post_without_threads(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace booster::daemon::gluster
