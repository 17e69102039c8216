// How openers are held up, on any local file: by a mark of one's own, and by a lease. What they get
// when bricks fail is tested on volumes (tests/integration/watch_test.cc).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/fanotify.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <future>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "common/page_cache.h"
#include "daemon/gluster/lease_watch.h"
#include "daemon/gluster/open_watch.h"

namespace booster::daemon::gluster {
namespace {

using std::chrono::milliseconds;

/// Longer than anything that is not held up takes; shorter than the 45 s after which the kernel
/// breaks a lease by itself.
constexpr std::chrono::seconds kPatience{30};

class LocalPrivileges final : public Privileges {
 public:
  Result<UniqueFd> make_open_watch() override {
    UniqueFd group(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_TID,
                                   O_RDONLY | O_LARGEFILE | O_CLOEXEC));
    if (!group) return errno_failure();
    return group;
  }
  Result<UniqueFd> clone_mount(int) override { return Failure{std::error_code()}; }
};

class LocalFile : public testing::Test {
 protected:
  LocalFile() {
    const int fd = ::mkstemp(name_);
    EXPECT_EQ(::write(fd, "bytes", 5), 5);
    ::close(fd);
  }
  ~LocalFile() override { ::unlink(name_); }

  /// A process opens the file, and ends with 0, or with an errno.
  pid_t opener(int flags) const {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::close_range(STDERR_FILENO + 1, ~0U, 0);  // nobody may keep from going on whom he waits for
    ::_exit(::open(name_, flags | O_CLOEXEC) >= 0 ? 0 : errno);
  }
  static bool waits(pid_t pid) {
    std::this_thread::sleep_for(milliseconds(100));
    return ::waitpid(pid, nullptr, WNOHANG) == 0;
  }
  /// What it ended with; -1 if it still waits after kPatience.
  static int end_of(pid_t pid) {
    int status = 0;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (::waitpid(pid, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) return -1;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  char name_[32] = "/var/tmp/booster-watch-XXXXXX";
};

class OpenWatches : public LocalFile {
 protected:
  void SetUp() override {
    if (!privileges_.make_open_watch()) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
    keeper_->post([] {});  // who lets a group go cannot start its thread
  }
  std::shared_ptr<OpenWatch> start(bool wait) {
    const UniqueFd file(::open(name_, O_PATH | O_CLOEXEC));
    auto watch = OpenWatch::start(
        privileges_, file.get(),
        [this, wait] {
          told_.fetch_add(1);
          return wait;
        },
        [this](int group) { return keep(group); });
    EXPECT_TRUE(watch) << watch.error().message();
    return watch ? *watch : nullptr;
  }

  /// As the recovery agent does: openers wait until its copy is gone, too.
  Recovery::Guard keep(int group) {
    const auto copy = std::make_shared<UniqueFd>(::fcntl(group, F_DUPFD_CLOEXEC, 0));
    EXPECT_TRUE(*copy);
    return {copy.get(),
            [keeper = keeper_, copy](const void*) { keeper->post([copy] { copy->reset(); }); }};
  }

  LocalPrivileges privileges_;
  std::atomic<int> told_{0};
  const std::shared_ptr<Worker> keeper_ = std::make_shared<Worker>("keeper", 1);
};

TEST_F(OpenWatches, WhoeverOpensTheFileWaitsUntilItGoes) {
  auto watch = start(true);
  const pid_t reader = opener(O_RDONLY);
  const pid_t writer = opener(O_WRONLY);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (told_ == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_TRUE(waits(reader));
  EXPECT_TRUE(waits(writer));
  EXPECT_EQ(told_, 1) << "once is enough";
  watch.reset();
  EXPECT_EQ(end_of(reader), 0);
  EXPECT_EQ(end_of(writer), 0);
  EXPECT_EQ(end_of(opener(O_RDWR)), 0) << "nobody is held up any more";
}

TEST_F(OpenWatches, NobodyWaitsWhenThereIsNoNeed) {
  const auto watch = start(false);
  EXPECT_EQ(end_of(opener(O_RDWR)), 0);
  EXPECT_EQ(end_of(opener(O_RDONLY)), 0);
  EXPECT_EQ(told_, 1);
}

TEST_F(OpenWatches, OnceItReadsOnlyTheDaemonComesThrough) {
  auto watch = start(true);
  const pid_t other = opener(O_RDONLY);
  EXPECT_TRUE(waits(other));
  auto own = std::async(std::launch::async,
                        [this] { return UniqueFd(::open(name_, O_RDWR | O_CLOEXEC)).get() >= 0; });
  EXPECT_EQ(own.wait_for(milliseconds(100)), std::future_status::timeout) << "it is not read yet";
  watch->read();
  ASSERT_EQ(own.wait_for(kPatience), std::future_status::ready);
  EXPECT_TRUE(own.get());
  EXPECT_TRUE(waits(other));
  const pid_t late = opener(O_WRONLY);
  EXPECT_TRUE(waits(late));
  watch.reset();
  EXPECT_EQ(end_of(other), 0);
  EXPECT_EQ(end_of(late), 0);
}

TEST_F(OpenWatches, WhoIsKilledWhileHeWaitsHoldsUpNobody) {
  auto watch = start(true);
  const pid_t killed = opener(O_RDONLY);
  const pid_t other = opener(O_RDONLY);
  EXPECT_TRUE(waits(killed));
  ::kill(killed, SIGKILL);
  EXPECT_EQ(end_of(killed), -1) << "killed";
  watch->read();
  watch.reset();
  EXPECT_EQ(end_of(other), 0);
}

class Told final : public WriterListener {
 public:
  void writer_opens() override { times.fetch_add(1); }
  std::atomic<int> times{0};
};

class Leases : public LocalFile {
 protected:
  Leases() : leases_(LeaseWatch::start(word_)) {
    EXPECT_TRUE(leases_);
    worker_ = leases_->make_worker("lease-test", 2);
    inode_->set_writer_listener(told_);
  }
  ~Leases() override {
    lease_.reset();
    settle();
    worker_.reset();
    leases_.reset();
    // Its thread ends a moment later, and what that holds until then would be taken for leaked.
    for (int i = 0; i < 3000 && threads() > 1; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  static ptrdiff_t threads() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
  }

  std::shared_ptr<Lease> hold() {
    std::promise<std::shared_ptr<Lease>> held;
    worker_->post([&] {
      held.set_value(leases_->hold(
          worker_, inode_, [this] { return UniqueFd(::open(name_, O_RDONLY | O_CLOEXEC)); }));
    });
    return held.get_future().get();
  }
  /// What was posted before has been done.
  void settle() {
    for (int i = 0; i < 2; ++i) {
      std::promise<void> done;
      worker_->post([&] { done.set_value(); });
      done.get_future().wait();
    }
  }

  // The thread ends a moment after its owner.
  static common::WatchWord& new_word() {
    static std::deque<common::WatchWord> words;
    return words.emplace_back();
  }
  common::WatchWord& word_ = new_word();
  std::shared_ptr<LeaseWatch> leases_;
  std::shared_ptr<Worker> worker_;
  const std::shared_ptr<Told> told_ = std::make_shared<Told>();
  const std::shared_ptr<Inode> inode_ = std::make_shared<Inode>(0, 0, Gfid{});
  std::shared_ptr<Lease> lease_;
};

TEST_F(Leases, ItShowsThatItLives) {
  EXPECT_TRUE(word_.held());
}

TEST_F(Leases, WhoOpensForWritingIsHeardOfBeforeHeCan) {
  for (const int flags : {O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC}) {
    lease_ = hold();
    ASSERT_TRUE(lease_);
    const int before = told_->times;
    EXPECT_EQ(end_of(opener(flags)), 0);
    EXPECT_EQ(told_->times, before + 1) << flags;
  }
}

TEST_F(Leases, WhoCutsTheFileByNameIsHeardOf) {
  lease_ = hold();
  ASSERT_TRUE(lease_);
  EXPECT_EQ(::truncate(name_, 1), 0);
  EXPECT_EQ(told_->times, 1);
}

TEST_F(Leases, WhoReadsIsNot) {
  lease_ = hold();
  ASSERT_TRUE(lease_);
  EXPECT_EQ(end_of(opener(O_RDONLY)), 0);
  EXPECT_EQ(told_->times, 0);
}

TEST_F(Leases, ThereIsNoneWhileSomebodyCanWrite) {
  UniqueFd writer(::open(name_, O_WRONLY | O_CLOEXEC));
  EXPECT_FALSE(hold());
  writer.reset();
  lease_ = hold();
  EXPECT_TRUE(lease_);
}

/// A worker wants a thread, and the watch ends before it has started one.
TEST_F(Leases, AThreadThatIsNeverStartedKeepsNothingAlive) {
  for (int i = 0; i < 200; ++i) {
    common::WatchWord& word = new_word();
    auto watch = LeaseWatch::start(word);
    ASSERT_TRUE(watch);
    auto worker = watch->make_worker("lease-never", 8);
    const auto kept = std::make_shared<int>();
    for (int job = 0; job < 8; ++job) worker->post([kept] {});
    worker.reset();
    watch.reset();
    for (int wait = 0; wait < 3000 && kept.use_count() > 1; ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ASSERT_EQ(kept.use_count(), 1) << "in round " << i;
  }
}

TEST_F(Leases, OneThatWasGivenBackIsNot) {
  lease_ = hold();
  ASSERT_TRUE(lease_);
  lease_.reset();
  settle();
  EXPECT_EQ(end_of(opener(O_RDWR)), 0);
  EXPECT_EQ(told_->times, 0);
}

/// The kernel then sends SIGIO, which does not say which.
TEST_F(Leases, AFullQueueOfSignalsLosesNone) {
  lease_ = hold();
  ASSERT_TRUE(lease_);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  const int end = end_of(opener(O_RDWR));
  ::setrlimit(RLIMIT_SIGPENDING, &before);
  EXPECT_EQ(end, 0);
  EXPECT_EQ(told_->times, 1);
}

/// Somebody comes while it is being taken, and his signal is one that does not say where to.
TEST_F(Leases, OneThatIsBrokenAtOnceIsNotHeld) {
  ASSERT_NE(::signal(SIGIO, SIG_IGN), SIG_ERR);
  std::promise<std::shared_ptr<Lease>> held;
  worker_->post([&] {
    held.set_value(leases_->hold(worker_, inode_, [this] {
      UniqueFd file(::open(name_, O_RDONLY | O_CLOEXEC));
      EXPECT_EQ(::fcntl(file.get(), F_SETLEASE, F_RDLCK), 0);
      EXPECT_EQ(::open(name_, O_WRONLY | O_NONBLOCK | O_CLOEXEC), -1);
      EXPECT_EQ(errno, EWOULDBLOCK);
      return file;
    }));
  });
  EXPECT_FALSE(held.get_future().get());
  ::signal(SIGIO, SIG_DFL);
  EXPECT_EQ(end_of(opener(O_RDWR)), 0);
}

TEST_F(Leases, ManyAtOnceAreAllHeard) {
  constexpr int kTimes = 200;
  for (int i = 1; i <= kTimes; ++i) {
    lease_ = hold();
    ASSERT_TRUE(lease_);
    const pid_t first = opener(O_RDWR);
    const pid_t second = opener(O_WRONLY);
    ASSERT_EQ(end_of(first), 0);
    ASSERT_EQ(end_of(second), 0);
    ASSERT_EQ(told_->times, i);
  }
}

}  // namespace
}  // namespace booster::daemon::gluster
