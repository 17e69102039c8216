// More small programs for tests, one per subcommand: threads that meet in calls, children that have
// more of their parent than descriptors, and I/O inside libc. Each says what it saw in one line,
// which must be the same without and with the shim.
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

using Arguments = std::vector<std::string>;

/// PROBE_PAYS: so many bytes more, if the policy is to find that the program's writes pay.
size_t more_that_pays() {
  const char* value = getenv("PROBE_PAYS");
  return value == nullptr ? 0 : std::stoul(value);
}
const size_t kBlock = (256 << 10) + more_that_pays();

[[noreturn]] void fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

int open_or_fail(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CREAT, 0644);
  if (fd < 0) fail(path.c_str());
  return fd;
}

void put(int fd, char letter, size_t size, off_t offset) {
  const std::string bytes(size, letter);
  if (pwrite(fd, bytes.data(), size, offset) != static_cast<ssize_t>(size)) fail("pwrite");
}

/// Opens it, and if its writes are to pay, writes for so long that it is boosted.
int open_noticed(const std::string& path, int flags) {
  const int fd = open_or_fail(path, flags);
  for (int i = 0; i < 20 && more_that_pays() != 0; ++i) {
    put(fd, 'n', kBlock, 0);
    usleep(2000);
  }
  return fd;
}

/// What all of `size` bytes are, or '?'.
char letter_of(const char* bytes, size_t size) {
  for (size_t i = 1; i < size; ++i) {
    if (bytes[i] != bytes[0]) return '?';
  }
  return bytes[0];
}

/// FILE: a child writes a file that its parent has mapped, and looks at its mapping.
int fork_mapped(const Arguments& arguments) {
  const int fd = open_noticed(arguments[0], O_RDWR);
  put(fd, 'a', kBlock, 0);
  void* mapped = mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) fail("mmap");
  auto* bytes = static_cast<volatile char*>(mapped);
  printf("%c", bytes[kBlock / 2]);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    put(fd, 'b', kBlock, 0);
    const char seen = bytes[kBlock / 2];
    bytes[kBlock / 2] = 'c';
    char read_back = 0;
    if (pread(fd, &read_back, 1, kBlock / 2) != 1) fail("pread");
    printf("%c%c", seen, read_back);
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  printf("%c\n", bytes[kBlock / 2]);
  return 0;
}

/// DIRECTORY COUNT: a thread writes COUNT numbered blocks to one descriptor, which another thread
/// replaces by a next file all the time. No block may be lost, torn, or in two places.
int rotate(const Arguments& arguments) {
  const auto count = static_cast<uint32_t>(std::stoul(arguments[1]));
  const auto path = [&](int number) { return arguments[0] + "/" + std::to_string(number); };
  const int fd = open_or_fail(path(0), O_WRONLY);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    std::vector<uint32_t> block(kBlock / sizeof(uint32_t));
    for (uint32_t i = 1; i <= count; ++i) {
      block.assign(block.size(), i);
      if (write(fd, block.data(), kBlock) != static_cast<ssize_t>(kBlock)) fail("write");
    }
    done = true;
  });
  int files = 1;
  while (!done) {
    const int next = open_or_fail(path(files++), O_WRONLY);
    if (dup2(next, fd) != fd) fail("dup2");
    close(next);
    // Where writes are to pay, each file gets some.
    usleep(more_that_pays() == 0 ? 500 : 30'000);
  }
  writer.join();
  close(fd);
  uint32_t expected = 1;
  std::vector<uint32_t> block(kBlock / sizeof(uint32_t));
  for (int i = 0; i < files; ++i) {
    const int file = open_or_fail(path(i), O_RDONLY);
    struct stat status {};
    if (fstat(file, &status) != 0) fail("fstat");
    if (status.st_size % static_cast<off_t>(kBlock) != 0) printf("file %d has an odd size\n", i);
    for (off_t at = 0; at < status.st_size; at += static_cast<off_t>(kBlock)) {
      if (pread(file, block.data(), kBlock, at) != static_cast<ssize_t>(kBlock)) fail("pread");
      for (const uint32_t word : block) {
        if (word != expected) {
          printf("file %d at %ld: block %u where %u belongs\n", i, static_cast<long>(at), word,
                 expected);
          return 1;
        }
      }
      ++expected;
    }
    close(file);
  }
  printf("%u blocks in order\n", expected - 1);
  return 0;
}

/// FILE: a thread that does nothing but write is cancelled.
int cancel(const Arguments& arguments) {
  struct Work {
    int fd;
    std::atomic<int> calls{0};
  } work{open_noticed(arguments[0], O_WRONLY), {}};
  pthread_t thread{};
  const auto body = [](void* argument) -> void* {
    auto& mine = *static_cast<Work*>(argument);
    const std::string bytes(4096 + more_that_pays(), 'x');
    while (true) {
      if (pwrite(mine.fd, bytes.data(), bytes.size(), 0) < 0) fail("pwrite");
      ++mine.calls;
    }
  };
  if (pthread_create(&thread, nullptr, body, &work) != 0) fail("pthread_create");
  while (work.calls < 20) usleep(1000);
  pthread_cancel(thread);
  void* result = nullptr;
  pthread_join(thread, &result);
  // What it held must be free: the same file goes on.
  put(work.fd, 'y', 4096 + more_that_pays(), 0);
  printf("%s\n", result == PTHREAD_CANCELED ? "cancelled" : "ended");
  return 0;
}

/// FILE: descriptor calls mixed with what libc does by itself.
int inside_libc(const Arguments& arguments) {
  const int fd = open_noticed(arguments[0], O_RDWR);
  std::string bytes(kBlock, '\0');
  // Whatever the kernel may remember of the file is old after the first write.
  put(fd, 'a', kBlock, 0);
  if (pread(fd, bytes.data(), kBlock, 0) != static_cast<ssize_t>(kBlock)) fail("pread");
  put(fd, 'b', kBlock, 0);
  aiocb block{};
  block.aio_fildes = fd;
  block.aio_buf = bytes.data();
  block.aio_nbytes = kBlock;
  const auto finish = [&block] {
    const aiocb* one = &block;
    while (aio_error(&block) == EINPROGRESS) aio_suspend(&one, 1, nullptr);
    if (aio_return(&block) != static_cast<ssize_t>(kBlock)) fail("aio");
  };
  if (aio_read(&block) != 0) fail("aio_read");
  finish();
  printf("%c", letter_of(bytes.data(), kBlock));
  bytes.assign(kBlock, 'c');
  block.aio_buf = bytes.data();
  if (aio_write(&block) != 0) fail("aio_write");
  finish();
  bytes.assign(kBlock, '\0');
  if (pread(fd, bytes.data(), kBlock, 0) != static_cast<ssize_t>(kBlock)) fail("pread");
  printf("%c", letter_of(bytes.data(), kBlock));

  // Another file, which no asynchronous call has touched.
  const int plain = open_noticed(arguments[0] + ".plain", O_RDWR);
  put(plain, 'd', kBlock, 0);
  if (dprintf(plain, "%s", "eeee") != 4) fail("dprintf");
  if (pread(plain, bytes.data(), 8, 0) != 8) fail("pread");
  printf("%.8s\n", bytes.c_str());
  return 0;
}

/// FILE OTHER COUNT: a thread makes everything settle all the time; this one must see its own
/// writes whatever that one is at.
int settle_together(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  const int other = open_or_fail(arguments[1], O_RDWR);
  const int count = std::stoi(arguments[2]);
  std::atomic<bool> done{false};
  std::thread settler([&] {
    while (!done) {
      put(other, 'o', 65536 + more_that_pays(), 0);
      chmod(arguments[1].c_str(), 0644);
    }
  });
  int stale = 0;
  const size_t step = 1000 + more_that_pays();
  for (int i = 1; i <= count; ++i) {
    put(fd, 'x', step, static_cast<off_t>(step) * (i - 1));
    struct stat status {};
    if (stat(arguments[0].c_str(), &status) != 0) fail("stat");
    if (status.st_size != static_cast<off_t>(step) * i) ++stale;
  }
  done = true;
  settler.join();
  printf("stale %d of %d\n", stale, count);
  return 0;
}

/// FILE OTHER: what the kernel does through a number that nobody has used yet, of a file that has
/// been written through another.
int unseen_number(const Arguments& arguments) {
  const int written = open_noticed(arguments[0], O_RDWR);
  const int unseen = open_or_fail(arguments[0], O_RDWR);
  const int timed = open_or_fail(arguments[0], O_RDWR);
  const int other = open_or_fail(arguments[1], O_RDWR);
  put(written, 'a', kBlock, 0);
  printf("%ld ", static_cast<long>(lseek(unseen, 0, SEEK_END)));
  const int copied = open_or_fail(arguments[0], O_RDONLY);
  put(written, 'b', kBlock, static_cast<off_t>(kBlock));
  off_t from = 0;
  printf("%zd ", sendfile(other, copied, &from, 4 * kBlock));
  put(written, 'c', kBlock, 0);
  const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  if (futimens(timed, times) != 0) fail("futimens");
  close(written);
  struct stat status {};
  if (stat(arguments[0].c_str(), &status) != 0) fail("stat");
  printf("%ld\n", static_cast<long>(status.st_mtim.tv_sec));
  return 0;
}

/// FILE: a child that nobody has told the shim of closes what its parent has used.
int cloned_close(const Arguments& arguments) {
  const int fd = open_noticed(arguments[0], O_RDWR);
  put(fd, 'a', kBlock, 0);
  const long child = syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) {
    close(fd);
    const int again = open_or_fail(arguments[0], O_RDWR);
    put(again, 'b', kBlock, 0);
    _exit(close(again) == 0 ? 7 : 8);
  }
  int status = 0;
  waitpid(static_cast<pid_t>(child), &status, 0);
  std::string bytes(kBlock, '\0');
  if (pread(fd, bytes.data(), kBlock, 0) != static_cast<ssize_t>(kBlock)) fail("pread");
  printf("%d%c\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1, letter_of(bytes.data(), kBlock));
  return 0;
}

/// FILE: one number of a description goes while several threads are busy with another.
int busy_duplicates(const Arguments& arguments) {
  const int fd = open_noticed(arguments[0], O_RDWR);
  const int same = dup(fd);
  put(fd, 'a', kBlock, 0);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!done) put(same, 'b', kBlock, 0);
    });
  }
  usleep(100'000);
  timespec before{};
  timespec after{};
  clock_gettime(CLOCK_MONOTONIC, &before);
  close(fd);
  clock_gettime(CLOCK_MONOTONIC, &after);
  done = true;
  for (auto& thread : threads) thread.join();
  printf("%s\n", after.tv_sec - before.tv_sec < 30 ? "closed in time" : "waited");
  return 0;
}

/// FILE: reads while a timer interrupts it a hundred times a second, until standard input ends.
int ticking_reader(const Arguments& arguments) {
  const int fd = open_noticed(arguments[0], O_RDWR);
  put(fd, 'a', kBlock, 0);
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often{{0, 10'000}, {0, 10'000}};
  setitimer(ITIMER_REAL, &often, nullptr);
  std::string bytes(kBlock, '\0');
  bool ready = false;
  pollfd input{0, POLLIN, 0};
  while (poll(&input, 1, 0) <= 0) {
    if (pread(fd, bytes.data(), kBlock, 0) != static_cast<ssize_t>(kBlock)) fail("pread");
    if (letter_of(bytes.data(), kBlock) != 'a') fail("bytes");
    if (!ready) write(1, "ready\n", 6);
    ready = true;
  }
  printf("done\n");
  return 0;
}

const std::map<std::string, std::pair<size_t, int (*)(const Arguments&)>> kCommands = {
    {"fork-mapped", {1, fork_mapped}},
    {"rotate", {2, rotate}},
    {"cancel", {1, cancel}},
    {"inside-libc", {1, inside_libc}},
    {"settle-together", {3, settle_together}},
    {"unseen-number", {2, unseen_number}},
    {"cloned-close", {1, cloned_close}},
    {"busy-duplicates", {1, busy_duplicates}},
    {"ticking-reader", {1, ticking_reader}},
};

}  // namespace

int main(int argc, char** argv) {
  const auto command = argc < 2 ? kCommands.end() : kCommands.find(argv[1]);
  if (command == kCommands.end() || static_cast<size_t>(argc) != 2 + command->second.first) {
    fprintf(stderr, "usage: booster_corners COMMAND ARGUMENT...\n");
    return 2;
  }
  return command->second.second(Arguments(argv + 2, argv + argc));
}
