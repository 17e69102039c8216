// The daemon's threads that may block.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <future>

#include "daemon/gluster/worker.h"
#include "daemon/unique_fd.h"

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

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

TEST(Worker, ThreadsWithDescriptorsOfTheirOwnHaveNoOthers) {
  const UniqueFd ours(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Worker own("own", 1, Worker::Descriptors::kOwn);
  Worker shared("shared", 1);
  std::promise<bool> seen_by_own;
  std::promise<bool> seen_by_shared;
  own.post([&] {
    // The first job of a worker: its thread must not come from here.
    shared.post([&] { seen_by_shared.set_value(is_open(ours.get())); });
    seen_by_own.set_value(is_open(ours.get()) || !is_open(STDERR_FILENO));
  });
  EXPECT_FALSE(seen_by_own.get_future().get());
  shared.serve_waiting();
  EXPECT_TRUE(seen_by_shared.get_future().get());
  EXPECT_TRUE(is_open(ours.get()));
}

TEST(Worker, MoreThreadsAreStartedWhenAllAreStuck) {
  Worker own("own", 2, Worker::Descriptors::kOwn);
  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  for (int i = 0; i < 2; ++i) own.post([ended] { ended.wait(); });
  std::promise<void> done;
  own.post([&] { done.set_value(); });
  const auto finished = done.get_future();
  while (finished.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) {
    own.serve_waiting();
  }
  end.set_value();
}

}  // namespace
}  // namespace booster::daemon::gluster
