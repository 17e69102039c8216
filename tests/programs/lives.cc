// Programs that look at themselves while something else of them goes on, one per subcommand. Each
// says in one line what it saw, which must be the same without and with booster.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/bare_call.h"
#include "tests/programs/bytes.h"

namespace {

using Arguments = std::vector<std::string>;
using booster::test::bare_call;
using booster::test::bytes_at;
using booster::test::first_wrong;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

[[noreturn]] void fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  fflush(stdout);
  _exit(1);
}

int open_or_fail(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags, 0644);
  if (fd < 0) fail("open");
  return fd;
}

/// Writes the first bytes of `seed`, for so long that what pays is boosted. Returns how many.
uint64_t write_noticed(int fd, uint64_t seed) {
  constexpr size_t kLength = 64 << 10;
  const bool pays = getenv("PROBE_PAYS") != nullptr;
  uint64_t at = 0;
  for (int i = 0; i < 24; ++i, at += kLength) {
    const std::string bytes = bytes_at(at, kLength, seed);
    if (write(fd, bytes.data(), kLength) != static_cast<ssize_t>(kLength)) fail("write");
    if (pays) usleep(1000);
  }
  return at;
}

/// FILE MS: one thread writes in order, another looks at the offset: all that lies before it must
/// be there.
int offset(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  constexpr size_t kLength = 3000;
  uint64_t at = write_noticed(fd, 1);
  std::atomic<bool> done{false};
  std::atomic<uint64_t> looks{0}, ahead{0};
  std::thread looker([&] {
    std::string bytes(kLength, '\0');
    while (!done.load()) {
      const off_t end = lseek(fd, 0, SEEK_CUR);
      if (end < static_cast<off_t>(kLength)) continue;
      const off_t from = end - static_cast<off_t>(kLength);
      const ssize_t got = pread(fd, bytes.data(), kLength, from);
      const bool right =
          got == static_cast<ssize_t>(kLength) &&
          first_wrong(bytes.data(), kLength, static_cast<uint64_t>(from), 1) == kLength;
      ++looks;
      if (!right) ++ahead;
    }
  });
  const auto end = steady_clock::now() + milliseconds(std::stoi(arguments[1]));
  for (; steady_clock::now() < end && at < 256 << 20; at += kLength) {
    const std::string bytes = bytes_at(at, kLength, 1);
    if (write(fd, bytes.data(), kLength) != static_cast<ssize_t>(kLength)) fail("write");
  }
  done.store(true);
  looker.join();
  if (looks.load() < 10) fail("few looks");
  printf("%lu ahead\n", ahead.load());
  return close(fd);
}

/// FILE: what it has written is there when it has closed the number by a bare system call and opens
/// the file again.
int bare_close(const Arguments& arguments) {
  uint64_t wrong = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
    const uint64_t end = write_noticed(fd, seed);
    if (bare_call(SYS_close, fd) != 0) fail("close");
    const int again = open_or_fail(arguments[0], O_RDONLY);
    const std::string bytes = booster::test::bytes_of(again, end);
    struct stat status {};
    if (fstat(again, &status) != 0) fail("fstat");
    if (bytes.size() != end || status.st_size != static_cast<off_t>(end) ||
        first_wrong(bytes.data(), end, 0, seed) != end) {
      ++wrong;
    }
    close(again);
  }
  printf("%lu wrong\n", wrong);
  return 0;
}

int try_lock(int fd) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  return fcntl(fd, F_SETLK, &lock);
}

/// FILE: has a lock, and becomes `lock-after-exec`, which writes, cuts the file by its name, and
/// asks another process whether the lock is still there.
int lock_and_exec(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  if (try_lock(fd) != 0) fail("lock");
  const std::string number = std::to_string(fd);
  execl("/proc/self/exe", "booster_lives", "lock-after-exec", arguments[0].c_str(), number.c_str(),
        static_cast<char*>(nullptr));
  fail("exec");
}

int lock_after_exec(const Arguments& arguments) {
  const int fd = std::stoi(arguments[1]);
  write_noticed(fd, 1);
  if (truncate(arguments[0].c_str(), 100'000) != 0) fail("truncate");
  write_noticed(fd, 2);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    printf("%s\n", try_lock(open_or_fail(arguments[0], O_RDWR)) == 0 ? "lost" : "kept");
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  return 0;
}

/// FILE: while the file's close hangs in FUSE, its number is a socket's, which another thread uses.
int slow_close(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_noticed(fd, 1);
  if (fsync(fd) != 0) fail("fsync");
  std::atomic<bool> closed{false};
  std::thread closer([&] {
    close(fd);
    closed.store(true);
  });
  int pair[2] = {-1, -1};
  const auto deadline = steady_clock::now() + std::chrono::seconds(30);
  while (pair[0] != fd && pair[1] != fd) {
    close(pair[0]);
    close(pair[1]);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) fail("socketpair");
    if (steady_clock::now() > deadline) fail("the number does not come");
  }
  const bool hangs = !closed.load();
  const auto before = steady_clock::now();
  char byte = 'x';
  for (int i = 0; i < 10; ++i) {
    if (write(pair[0], &byte, 1) != 1 || read(pair[1], &byte, 1) != 1) fail("socket");
  }
  const auto took = steady_clock::now() - before;
  const bool still = !closed.load();
  closer.join();
  if (!hangs || !still) fail("close did not hang");
  printf("%s\n", took < milliseconds(1000) ? "at once" : "waited");
  return 0;
}

/// FILE: a thread that may be cancelled anywhere is, again and again, in the middle of writes. The
/// others can use the file then, and close it.
int cancelled(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  const uint64_t end = write_noticed(fd, 1);
  for (int i = 0; i < 100; ++i) {
    struct Writing {
      int fd;
      std::atomic<uint64_t> calls{0};
      std::string bytes = bytes_at(0, 4096, 1);
    } writing{fd};
    pthread_t thread;
    const auto run = [](void* argument) -> void* {
      auto& mine = *static_cast<Writing*>(argument);
      pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
      while (true) {
        pwrite(mine.fd, mine.bytes.data(), mine.bytes.size(), 0);
        mine.calls.fetch_add(1, std::memory_order_relaxed);
      }
    };
    if (pthread_create(&thread, nullptr, run, &writing) != 0) fail("pthread_create");
    while (writing.calls.load() < 3) usleep(100);
    usleep(static_cast<useconds_t>(i * 7 % 50));
    pthread_cancel(thread);
    void* result = nullptr;
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED) fail("not cancelled");
    char byte = 0;
    if (pread(fd, &byte, 1, 5) != 1 || pwrite(fd, &byte, 1, 5) != 1) fail("pread or pwrite");
  }
  const std::string bytes = booster::test::bytes_of(fd, end);
  const auto before = steady_clock::now();
  if (close(fd) != 0) fail("close");
  const bool soon = steady_clock::now() - before < std::chrono::seconds(30);
  printf("%s %s\n", first_wrong(bytes.data(), bytes.size(), 0, 1) == end ? "right" : "wrong",
         soon ? "closed" : "hung");
  return 0;
}

/// FILE: what a program sees of its handlers, and whether they are what it has asked for.
int handlers(const Arguments& arguments) {
  static volatile sig_atomic_t count = 0;
  static volatile sig_atomic_t value = 0;
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_noticed(fd, 1);
  const auto plain = [](int) { count = count + 1; };
  const auto full = [](int, siginfo_t* info, void*) {
    count = count + 1;
    value = info->si_value.sival_int;
  };
  const auto seen = [](int number) {
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    const char* what = now.sa_handler == SIG_DFL   ? "default"
                       : now.sa_handler == SIG_IGN ? "ignored"
                                                   : "handler";
    printf("%s %x %d;", what, static_cast<unsigned>(now.sa_flags & ~0x04000000),  // SA_RESTORER
           sigismember(&now.sa_mask, SIGUSR2));
  };
  for (const int number : {SIGSEGV, SIGBUS, SIGUSR1, SIGTERM}) seen(number);
  struct sigaction action {};
  struct sigaction old {};
  action.sa_sigaction = full;
  action.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
  sigaddset(&action.sa_mask, SIGUSR2);
  if (sigaction(SIGUSR1, &action, nullptr) != 0) fail("sigaction");
  seen(SIGUSR1);
  sigval with{};
  with.sival_int = 77;
  sigqueue(getpid(), SIGUSR1, with);
  printf("count %d value %d;", count, value);
  seen(SIGUSR1);
  printf("%d;", signal(SIGUSR1, plain) == SIG_DFL);
  seen(SIGUSR1);
  raise(SIGUSR1);
  printf("count %d;", count);
  action.sa_handler = plain;
  action.sa_flags = SA_NODEFER | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGUSR1, &action, &old);
  printf("%d %x;", old.sa_handler == static_cast<void (*)(int)>(plain),
         static_cast<unsigned>(old.sa_flags & ~0x04000000));
  seen(SIGUSR1);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  siginterrupt(SIGUSR1, 1);
#pragma GCC diagnostic pop
  seen(SIGUSR1);
  raise(SIGUSR1);
  printf("count %d;", count);
  printf("%d;", signal(SIGUSR1, SIG_IGN) == static_cast<void (*)(int)>(plain));
  seen(SIGUSR1);
  raise(SIGUSR1);
  printf("%d;", sigaction(SIGKILL, &action, nullptr) == -1 && errno == EINVAL);
  printf("%d;", sigaction(99, &action, nullptr) == -1 && errno == EINVAL);
  sigaction(SIGSEGV, &action, nullptr);
  seen(SIGSEGV);
  signal(SIGSEGV, SIG_DFL);
  seen(SIGSEGV);
  printf("count %d\n", count);
  return close(fd);
}

/// FILE HOW: ends by a fault, or by a signal of that kind that it sends itself.
int fault(const Arguments& arguments) {
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_noticed(fd, 1);
  const std::string& how = arguments[1];
  if (how == "handler") {
    signal(SIGSEGV, [](int) { _exit(7); });
  } else if (how == "ignored") {
    signal(SIGSEGV, SIG_IGN);
  }
  if (how == "kill") kill(getpid(), SIGSEGV);
  if (how == "bus") raise(SIGBUS);
  if (how != "bus" && how != "kill") {
    void* nothing = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *static_cast<volatile char*>(nothing) = 1;
  }
  return 3;
}

volatile sig_atomic_t g_handled = 0;

/// A child that borrows its parent's memory does what those do that start programs.
void reset_handlers() {
  signal(SIGUSR1, SIG_DFL);
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  sigaction(SIGUSR2, &action, nullptr);
}

/// FILE: children that borrow memory (vfork, clone) change and use up handlers of their own; the
/// parent's stay, also for what comes while it waits for them.
int borrowed(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_noticed(fd, 1);
  const auto handler = [](int number) {
    g_handled = g_handled + 1;
    // As a System V program does.
    if (number == SIGUSR2) signal(SIGUSR2, [](int) { g_handled = g_handled + 10; });
  };
  const auto install = [&handler](int flags) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigaction(SIGUSR1, &action, nullptr);
    sigaction(SIGUSR2, &action, nullptr);
  };
  const auto use = [] {
    raise(SIGUSR1);
    raise(SIGUSR2);
    raise(SIGUSR2);
  };

  install(SA_RESTART);
  pid_t child = vfork();
  if (child == 0) {
    reset_handlers();
    execl("/bin/true", "true", static_cast<char*>(nullptr));
    _exit(1);
  }
  waitpid(child, nullptr, 0);
  use();
  printf("after vfork %d;", g_handled);

  install(static_cast<int>(SA_RESETHAND));
  child = vfork();
  if (child == 0) {
    raise(SIGUSR1);
    kill(getppid(), SIGUSR2);
    usleep(1000);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  raise(SIGUSR1);
  raise(SIGUSR2);
  printf("used up %d;", g_handled);

  install(SA_RESTART);
  constexpr size_t kStack = 64 << 10;
  static char stack[kStack];
  const auto run = [](void*) -> int {
    reset_handlers();
    _exit(0);
  };
  child = clone(run, stack + kStack, CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
  if (child < 0) fail("clone");
  waitpid(child, nullptr, 0);
  use();
  sigset_t mask;
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int number = 1; number < 32; ++number) {
    if (sigismember(&mask, number) != 0) printf("%d is blocked;", number);
  }
  write_noticed(fd, 2);
  printf("after clone %d\n", g_handled);
  return close(fd);
}

/// FILE: a stream that maps the file is closed, and its number is a socket's, of which one thread
/// reads while another writes.
int mapped_stream(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_noticed(fd, 1);
  FILE* stream = fopen(arguments[0].c_str(), "rm");
  if (stream == nullptr || fgetc(stream) == EOF) fail("fopen");
  const int number = fileno(stream);
  char byte = 0;
  if (pread(number, &byte, 1, 0) != 1) fail("pread");
  if (fclose(stream) != 0) fail("fclose");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) fail("socketpair");
  if (pair[0] != number) fail("another number");
  alarm(20);
  std::thread reader([&pair] {
    char got = 0;
    if (read(pair[0], &got, 1) != 1) fail("read");
  });
  usleep(100'000);
  if (write(pair[0], "x", 1) != 1 || read(pair[1], &byte, 1) != 1) fail("write");
  if (write(pair[1], "x", 1) != 1) fail("write");
  reader.join();
  printf("both ways\n");
  return close(fd);
}

/// FILE: a thread that is to be cancelled closes its stream all the same.
int cancelled_stream(const Arguments& arguments) {
  struct Closing {
    FILE* stream;
    int result = 1;
  } closing{fopen(arguments[0].c_str(), "w")};
  if (closing.stream == nullptr) fail("fopen");
  const int fd = fileno(closing.stream);
  write_noticed(fd, 1);
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    auto& mine = *static_cast<Closing*>(argument);
    pthread_cancel(pthread_self());
    mine.result = fclose(mine.stream);
    pthread_testcancel();
    return nullptr;
  };
  if (pthread_create(&thread, nullptr, run, &closing) != 0) fail("pthread_create");
  void* result = nullptr;
  pthread_join(thread, &result);
  printf("%s, %d, %s\n", result == PTHREAD_CANCELED ? "cancelled" : "not cancelled", closing.result,
         fcntl(fd, F_GETFD) < 0 ? "closed" : "open");
  return 0;
}

/// FILE: formatted output to a descriptor is as good as any other.
int formatted(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  std::string line(4000, 'x');
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    if (dprintf(fd, "%06d %s\n", i, line.c_str()) != 4008) fail("dprintf");
    char number[8];
    snprintf(number, sizeof number, "%06d ", i);
    all += number + line + "\n";
  }
  printf("%s\n", booster::test::bytes_of(fd, all.size()) == all ? "right" : "wrong");
  return close(fd);
}

/// FILE: what one thread copies into it comes before what it writes next, although another, to
/// whom the kernel gives the same file, writes elsewhere meanwhile.
int copied(const Arguments& arguments) {
  constexpr size_t kMost = 64 << 20;
  const std::string path = arguments[0];
  const int from = memfd_create("from", 0);
  const std::string bytes = bytes_at(0, kMost, 1);
  if (write(from, bytes.data(), kMost) != static_cast<ssize_t>(kMost)) fail("write");
  uint64_t wrong = 0;
  for (uint64_t round = 0; round < 10; ++round) {
    const int fd = open_or_fail(path, O_RDWR | O_CREAT);
    std::atomic<bool> done{false};
    std::thread writer([&] {
      usleep(static_cast<useconds_t>(round) * 1000);
      for (int i = 0; i < 200 && !done.load(); ++i) {
        const std::string page = bytes_at(kMost, 64 << 10, 1);
        if (pwrite(fd, page.data(), page.size(), kMost) < 0) fail("pwrite");
      }
    });
    off_t at = 0;
    while (at < static_cast<off_t>(kMost)) {
      if (sendfile(fd, from, &at, kMost - static_cast<size_t>(at)) <= 0) fail("sendfile");
    }
    const uint64_t last = kMost - (256 << 10);
    const std::string newer = bytes_at(last, 256 << 10, round + 2);
    if (pwrite(fd, newer.data(), newer.size(), static_cast<off_t>(last)) < 0) fail("pwrite");
    done.store(true);
    writer.join();
    close(fd);
    const int again = open_or_fail(path, O_RDONLY);
    const std::string all = booster::test::bytes_of(again, kMost);
    if (first_wrong(all.data(), last, 0, 1) != last ||
        first_wrong(&all[last], kMost - last, last, round + 2) != kMost - last) {
      ++wrong;
    }
    close(again);
    unlink(path.c_str());
  }
  printf("%lu wrong\n", wrong);
  return 0;
}

/// FILE: has a ring, by which the kernel may read and write unseen: what is written is there for
/// it at once. Says so too where the kernel allows no rings.
int ring(const Arguments& arguments) {
  std::array<char, 256> parameters{};
  const long made = syscall(SYS_io_uring_setup, 4, parameters.data());
  uint64_t wrong = 0;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
    const uint64_t end = write_noticed(fd, seed);
    std::string bytes(end, '\0');
    const long got =
        bare_call(SYS_pread64, fd, reinterpret_cast<long>(bytes.data()), static_cast<long>(end), 0);
    if (made >= 0 &&
        (got != static_cast<long>(end) || first_wrong(bytes.data(), end, 0, seed) != end)) {
      ++wrong;
    }
    close(fd);
  }
  printf("%lu wrong\n", wrong);
  return 0;
}

const std::map<std::string, std::pair<size_t, int (*)(const Arguments&)>> kCommands = {
    {"mapped-stream", {1, mapped_stream}},
    {"cancelled-stream", {1, cancelled_stream}},
    {"formatted", {1, formatted}},
    {"ring", {1, ring}},
    {"copied", {1, copied}},
    {"borrowed", {1, borrowed}},
    {"offset", {2, offset}},
    {"bare-close", {1, bare_close}},
    {"lock-and-exec", {1, lock_and_exec}},
    {"lock-after-exec", {2, lock_after_exec}},
    {"slow-close", {1, slow_close}},
    {"cancelled", {1, cancelled}},
    {"handlers", {1, handlers}},
    {"fault", {2, fault}},
};

}  // namespace

int main(int argc, char** argv) {
  const auto command = argc < 2 ? kCommands.end() : kCommands.find(argv[1]);
  if (command == kCommands.end() || static_cast<size_t>(argc) != 2 + command->second.first) {
    fprintf(stderr, "usage: lives COMMAND ARGUMENTS\n");
    return 2;
  }
  return command->second.second(Arguments(argv + 2, argv + argc));
}
