// Small programs for tests, one per subcommand, each doing one thing with descriptors that shell
// tools do not do. Tests run them once without and once with the shim and compare. They print what
// they saw; errors of the kernel are printed, not hidden.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/bytes.h"
#include "tests/programs/envelope.h"
#include "tests/programs/views.h"

extern char** environ;

namespace {

[[noreturn]] void fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

int open_or_fail(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags, 0644);
  if (fd < 0) fail(path.c_str());
  return fd;
}

void write_all(int fd, const std::string& text) {
  if (write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail("write");
}

/// PROBE_PAYS, so many bytes, if the policy is to find that the program's writes pay; else 0.
size_t more_that_pays() {
  const char* value = getenv("PROBE_PAYS");
  return value == nullptr ? 0 : std::stoul(value);
}

std::string block(char letter, size_t size) {
  return std::string(size + more_that_pays(), letter);
}

/// If the program's writes are to pay: some at `offset`, for so long that the file is boosted.
void write_until_noticed(int fd, off_t offset, char letter) {
  if (more_that_pays() == 0) return;
  const std::string bytes = block(letter, 0);
  for (int i = 0; i < 20; ++i) {
    if (pwrite(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
      fail("pwrite");
    }
    usleep(2000);
  }
}

using Arguments = std::vector<std::string>;

// --- offsets -----------------------------------------------------------------------------------

/// FILE SIZE: parent and child take turns reading SIZE bytes from one description; all they read
/// goes to standard output in turn.
int alternate_read(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDONLY);
  const size_t size = std::stoul(arguments[1]);
  int to_child[2];
  int to_parent[2];
  if (pipe(to_child) != 0 || pipe(to_parent) != 0) fail("pipe");
  // A first read before the fork: the parent has engaged the file by then.
  std::string buffer(size, '\0');
  ssize_t got = read(fd, buffer.data(), size);
  if (got < 0) fail("read");
  write_all(1, buffer.substr(0, static_cast<size_t>(got)));
  const pid_t child = fork();
  const int wait_on = child == 0 ? to_child[0] : to_parent[0];
  const int signal_on = child == 0 ? to_parent[1] : to_child[1];
  if (child != 0) {
    close(to_parent[1]);
    close(to_child[0]);
    write_all(signal_on, "x");
  } else {
    close(to_child[1]);
    close(to_parent[0]);
  }
  signal(SIGPIPE, SIG_IGN);
  char turn;
  while (read(wait_on, &turn, 1) == 1) {
    got = read(fd, buffer.data(), size);
    if (got < 0) fail("read");
    if (got == 0) break;
    write_all(1, buffer.substr(0, static_cast<size_t>(got)));
    if (write(signal_on, "x", 1) != 1) {
      // The other side has seen the end and left; it is ours to finish.
      while ((got = read(fd, buffer.data(), size)) > 0) {
        write_all(1, buffer.substr(0, static_cast<size_t>(got)));
      }
      break;
    }
  }
  if (child == 0) _exit(0);
  close(signal_on);
  waitpid(child, nullptr, 0);
  return 0;
}

/// Collects 8-byte numbers and says whether each of 0..count-1 came exactly once.
int report_numbers(const std::vector<std::vector<uint64_t>>& seen, uint64_t count) {
  std::map<uint64_t, int> times;
  for (const auto& numbers : seen) {
    for (uint64_t number : numbers) ++times[number];
  }
  uint64_t missing = 0;
  uint64_t repeated = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto found = times.find(i);
    if (found == times.end()) {
      ++missing;
    } else if (found->second > 1) {
      ++repeated;
    }
  }
  printf("missing %lu repeated %lu unknown %lu\n", missing, repeated,
         times.size() + missing - count);
  return 0;
}

/// FILE COUNT RECORDS: two threads read RECORDS numbers at a time from one description until they
/// have COUNT together; the file may still be growing.
int threads_read(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDONLY);
  const uint64_t count = std::stoull(arguments[1]);
  const size_t records = std::stoul(arguments[2]);
  std::vector<std::vector<uint64_t>> seen(2);
  std::atomic<uint64_t> total{0};
  std::vector<std::thread> threads;
  for (auto& numbers : seen) {
    threads.emplace_back([&] {
      std::vector<uint64_t> buffer(records);
      while (total < count) {
        const ssize_t got = read(fd, buffer.data(), records * 8);
        if (got < 0) fail("read");
        if (got % 8 != 0) {
          printf("a read of %zd bytes cut a number\n", got);
          exit(1);
        }
        if (got == 0) usleep(100);
        numbers.insert(numbers.end(), buffer.begin(), buffer.begin() + got / 8);
        total += static_cast<uint64_t>(got) / 8;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return report_numbers(seen, count);
}

/// FILE COUNT RECORDS: appends COUNT numbers, RECORDS at a time.
int grow(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_WRONLY | O_APPEND);
  const uint64_t count = std::stoull(arguments[1]);
  const size_t records = std::stoul(arguments[2]);
  std::vector<uint64_t> buffer(records);
  for (uint64_t next = 0; next < count;) {
    size_t filled = 0;
    while (filled < records && next < count) buffer[filled++] = next++;
    if (write(fd, buffer.data(), filled * 8) != static_cast<ssize_t>(filled * 8)) fail("write");
  }
  return 0;
}

/// FILE BLOCKS SIZE: two threads write numbered blocks through one description; every block must
/// stand whole, once, at a multiple of SIZE.
int threads_write(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  const int blocks = std::stoi(arguments[1]);
  const size_t size = std::stoul(arguments[2]);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::vector<uint32_t> buffer(size / 4);
      for (int i = 0; i < blocks; ++i) {
        for (auto& word : buffer) word = static_cast<uint32_t>(i * 2 + t);
        if (write(fd, buffer.data(), size) != static_cast<ssize_t>(size)) fail("write");
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::map<uint32_t, int> times;
  std::vector<uint32_t> buffer(size / 4);
  for (int i = 0; i < 2 * blocks; ++i) {
    if (pread(fd, buffer.data(), size, static_cast<off_t>(size) * i) !=
        static_cast<ssize_t>(size)) {
      fail("pread");
    }
    for (uint32_t word : buffer) {
      if (word != buffer[0]) {
        printf("block %d is mixed\n", i);
        return 1;
      }
    }
    ++times[buffer[0]];
  }
  struct stat st {};
  fstat(fd, &st);
  printf("%zu different blocks, size %ld\n", times.size(), static_cast<long>(st.st_size));
  return 0;
}

/// FILE SIZE: writes blocks of SIZE bytes of 'w' until it is killed. Says "ready" first, on
/// standard error.
int write_forever(const Arguments& arguments) {
  const int fd = arguments[0] == "-" ? 1 : open_or_fail(arguments[0], O_WRONLY | O_CREAT);
  const std::string bytes = block('w', std::stoul(arguments[1]));
  fprintf(stderr, "ready\n");
  while (true) write_all(fd, bytes);
}

// --- descriptors -------------------------------------------------------------------------------

/// FILE: writes in turn through a descriptor and all ways to copy it.
int dup_write(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  std::vector<int> copies = {fd,
                             dup(fd),
                             dup2(fd, 50),
                             dup3(fd, 51, O_CLOEXEC),
                             fcntl(fd, F_DUPFD, 60),
                             fcntl(fd, F_DUPFD_CLOEXEC, 70),
                             static_cast<int>(syscall(SYS_dup, fd))};
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < copies.size(); ++i) {
      write_all(copies[i], block(static_cast<char>('a' + i), 5000));
    }
  }
  close(fd);
  for (size_t i = 1; i < copies.size(); ++i) {
    char back[4];
    const auto size = static_cast<off_t>(5000 + more_that_pays());
    if (pread(copies[i], back, 4, size * static_cast<off_t>(i)) != 4) fail("pread");
    printf("%.4s %ld\n", back, static_cast<long>(lseek(copies[i], 0, SEEK_CUR)));
  }
  return 0;
}

/// FD TEXT: writes TEXT to descriptor FD, and what it can read from offset 0 to standard output.
int write_fd(const Arguments& arguments) {
  const int fd = std::stoi(arguments[0]);
  write_all(fd, arguments[1]);
  char back[64] = {};
  const ssize_t got = pread(fd, back, sizeof(back), 0);
  printf("%.*s at %ld\n", static_cast<int>(got > 0 ? got : 0), back,
         static_cast<long>(lseek(fd, 0, SEEK_CUR)));
  return 0;
}

/// FILE: writes, then execs itself, which writes on through the inherited descriptor.
int exec_write(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  write_until_noticed(fd, 100'000, 'n');
  write_all(fd, "before exec,");
  const std::string number = std::to_string(fd);
  execl("/proc/self/exe", "booster_probe", "write-fd", number.c_str(), "after exec",
        static_cast<char*>(nullptr));
  fail("execl");
}

pid_t vfork_and_exec(char** argv) {
  const pid_t pid = vfork();
  if (pid == 0) {
    execv("/proc/self/exe", argv);
    _exit(127);
  }
  return pid;
}

/// FILE: the same with posix_spawn, fork and vfork; the parent writes between them.
int children_write(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  const std::string number = std::to_string(fd);
  const std::string words[] = {"spawned,", "forked,", "vforked,"};
  write_until_noticed(fd, 100'000, 'n');
  write_all(fd, "parent,");
  for (int way = 0; way < 3; ++way) {
    std::string word = words[way];
    char* argv[] = {const_cast<char*>("booster_probe"), const_cast<char*>("write-fd"),
                    const_cast<char*>(number.c_str()), word.data(), nullptr};
    pid_t pid = -1;
    fflush(stdout);
    if (way == 0) {
      if (posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, argv, environ) != 0) fail("spawn");
    } else if (way == 1) {
      pid = fork();
      if (pid == 0) _exit(write_fd({number, word}) + (fflush(stdout), 0));
    } else {
      pid = vfork_and_exec(argv);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("status %d\n", status);
    write_all(fd, "parent,");
  }
  printf("at %ld\n", static_cast<long>(lseek(fd, 0, SEEK_CUR)));
  return 0;
}

/// FILE: hands the descriptor to another process over a socket; both write.
int pass_write(const Arguments& arguments) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) fail("socketpair");
  const pid_t child = fork();
  booster::test::Envelope envelope;
  if (child == 0) {
    if (recvmsg(sockets[1], &envelope.message, 0) != 1) fail("recvmsg");
    const int fd = envelope.take();
    for (int i = 0; i < 50; ++i) write_all(fd, block('c', 3000));
    _exit(0);
  }
  const int fd = open_or_fail(arguments[0], O_WRONLY | O_CREAT | O_TRUNC);
  for (int i = 0; i < 50; ++i) write_all(fd, block('p', 3000));
  envelope.put(fd);
  if (sendmsg(sockets[0], &envelope.message, 0) != 1) fail("sendmsg");
  for (int i = 0; i < 50; ++i) write_all(fd, block('p', 3000));
  waitpid(child, nullptr, 0);
  printf("at %ld\n", static_cast<long>(lseek(fd, 0, SEEK_CUR)));
  return 0;
}

long raw_close(long fd) {
#if defined(__x86_64__)
  long result;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_close), "D"(fd) : "rcx", "r11", "memory");
  return result;
#else
  return syscall(SYS_close, fd);
#endif
}

/// A B HOW: a number that was A, closed by HOW, comes back as B.
int closed_number(const Arguments& arguments) {
  const std::string& how = arguments[2];
  const int fd = open_or_fail(arguments[0], O_RDWR);
  char bytes[16] = {};
  write_until_noticed(fd, 4096, 'a');
  if (pread(fd, bytes, 8, 0) != 8 || pwrite(fd, "A was here", 10, 100) != 10) fail("A");
  printf("%.8s ", bytes);
  FILE* stream = nullptr;
  const int b_elsewhere = how == "dup2" ? open_or_fail(arguments[1], O_RDWR) : -1;
  if (how == "close") close(fd);
  if (how == "syscall") syscall(SYS_close, fd);
  if (how == "raw") raw_close(fd);
  if (how == "close_range") close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd), 0);
  if (how == "closefrom") closefrom(fd);
  if (how == "fclose") {
    stream = fdopen(fd, "r+");
    fclose(stream);
  }
  if (how == "dup2") dup2(b_elsewhere, fd);
  if (how == "freopen") {
    stream = fdopen(fd, "r+");
    stream = freopen(arguments[1].c_str(), "r+", stream);
  }
  int again = fd;
  if (how != "dup2" && how != "freopen") again = open_or_fail(arguments[1], O_RDWR);
  printf("%s ", again == fd ? "same" : "other");
  if (pread(again, bytes, 8, 0) != 8) fail("B");
  printf("%.8s ", bytes);
  if (pwrite(again, "B was here", 10, 100) != 10) fail("B");
  if (read(again, bytes, 8) != 8) fail("B");
  printf("%.8s\n", bytes);
  return 0;
}

/// Whether the lock can be had within ten seconds. GlusterFS drops the locks of a closed
/// description a moment after close has returned, also without booster; one that is still held
/// never comes free.
bool gets_lock(int fd, bool ofd) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    if ((ofd ? fcntl(fd, F_OFD_SETLK, &lock) : flock(fd, LOCK_EX | LOCK_NB)) == 0) return true;
    if (errno != EAGAIN) fail("lock");
    usleep(10'000);
  }
  return false;
}

/// FILE HOW: locks the file, writes, closes; then says whether another description gets the lock,
/// without ending first.
int lock_free(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  const bool ofd = arguments[1] == "ofd";
  if (!gets_lock(fd, ofd)) fail("first lock");
  write_until_noticed(fd, 0, 'n');
  write_all(fd, block('l', 1 << 16));
  char back[4096];
  if (pread(fd, back, sizeof(back), 0) != sizeof(back)) fail("pread");
  close(fd);
  printf("%s\n", gets_lock(open_or_fail(arguments[0], O_RDWR), ofd) ? "free" : "held");
  return 0;
}

/// FILE: POSIX locks survive boosted I/O until the program itself closes a descriptor.
int posix_lock_kept(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  if (fcntl(fd, F_SETLK, &lock) != 0) fail("lock");
  write_until_noticed(fd, 0, 'n');
  write_all(fd, block('k', 1 << 16));
  char back[4096];
  if (pread(fd, back, sizeof(back), 0) != sizeof(back)) fail("pread");
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int other = open_or_fail(arguments[0], O_RDWR);
    printf("%s\n", fcntl(other, F_SETLK, &lock) == 0 ? "lost" : "kept");
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  return 0;
}

/// FILE: a write that FUSE accepts and no brick can keep, then ordinary calls. Some of them fails
/// with its error.
int accepted_error(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  char back[4096];
  memset(back, 'x', sizeof(back));
  if (pwrite(fd, back, sizeof(back), 0) != sizeof(back)) fail("pwrite");
  errno = 0;
  // So far out that it is left to the kernel.
  bool told = pwrite(fd, "x", 1, INT64_MAX - 50) != 1 && errno == EFBIG;
  told |= pread(fd, back, sizeof(back), 0) < 0 && errno == EFBIG;
  told |= pwrite(fd, back, sizeof(back), 0) < 0 && errno == EFBIG;
  told |= fsync(fd) != 0 && errno == EFBIG;
  told |= close(fd) != 0 && errno == EFBIG;
  printf("%s\n", told ? "told" : "lost");
  return 0;
}

/// FILE ROUNDS: writes through the kernel, overlapping so that FUSE's write-behind holds some back,
/// and reads elsewhere, which makes FUSE's client sure of the file's attributes; then a boosted
/// write in the same place, which must come after those writes, and a boosted read.
int held_back(const Arguments& arguments) {
  constexpr size_t kSpan = 1 << 20;  // a call that pays
  const int fd = open_or_fail(arguments[0], O_RDWR);
  struct stat status {};
  if (fstat(fd, &status) != 0 || status.st_size < static_cast<off_t>(4 * kSpan)) fail("size");
  const auto kernel_write = [&](off_t offset, size_t length, uint64_t seed) {
    const std::string bytes = block(static_cast<char>('a' + seed % 26), length);
    const iovec one = {const_cast<char*>(bytes.data()), length};
    if (pwritev2(fd, &one, 1, offset, RWF_HIPRI) != static_cast<ssize_t>(length)) fail("pwritev2");
  };
  off_t elsewhere = kSpan;
  std::string back(kSpan, '\0');
  const uint64_t rounds = std::stoull(arguments[1]);
  for (uint64_t i = 0; i < rounds; ++i) {
    for (const off_t offset : {0, 4096, 8192}) kernel_write(offset, 65536, i);
    kernel_write(8192, 4096, i + 1);
    elsewhere += 262144;
    if (elsewhere >= status.st_size) {
      elsewhere = kSpan;
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    const iovec aside = {back.data(), 4096};
    if (preadv2(fd, &aside, 1, elsewhere, RWF_HIPRI) != 4096) fail("preadv2");
    const auto expected = static_cast<char>('A' + i % 26);
    const std::string bytes = block(expected, kSpan);
    if (pwrite(fd, bytes.data(), kSpan, 0) != static_cast<ssize_t>(kSpan)) fail("pwrite");
    if (fdatasync(fd) != 0) fail("fdatasync");
    if (pread(fd, back.data(), kSpan, 0) != static_cast<ssize_t>(kSpan)) fail("pread");
    if (back.find_first_not_of(expected) != std::string::npos) {
      printf("round %lu: %c instead of %c\n", i, back[back.find_first_not_of(expected)], expected);
      return 1;
    }
  }
  return 0;
}

/// FILE: makes it standard input, writes through another number of it, and reads through the
/// stream.
int stream_on_zero(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  if (dup2(fd, 0) != 0) fail("dup2");
  setvbuf(stdin, nullptr, _IONBF, 0);
  write_until_noticed(fd, 0, 'n');
  constexpr int kRounds = 20;
  int stale = 0;
  for (int i = 0; i < kRounds; ++i) {
    const std::string bytes = block(static_cast<char>('a' + i), 65536);
    if (pwrite(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      fail("pwrite");
    }
    // Forgets what the stream itself has of it, which rewind alone does not.
    fflush(stdin);
    rewind(stdin);
    if (getc(stdin) != bytes[0]) ++stale;
  }
  printf("stale %d of %d\n", stale, kRounds);
  return 0;
}

/// FILE: writes through a descriptor, reads through streams, mappings and other descriptors, and
/// the other way round. What it sees goes to standard output.
int mixed_ways(const Arguments& arguments) {
  const std::string& path = arguments[0];
  const int fd = open_or_fail(path, O_RDWR | O_CREAT | O_TRUNC);
  char back[32] = {};
  struct stat st {};
  write_until_noticed(fd, 1 << 20, 'n');
  for (int round = 0; round < 20; ++round) {
    const std::string text = "round " + std::to_string(round) + ";";
    if (pwrite(fd, text.data(), text.size(), round * 4096) != static_cast<ssize_t>(text.size())) {
      fail("pwrite");
    }
    fstat(fd, &st);
    printf("%d: fstat %ld", round, static_cast<long>(st.st_size));
    stat(path.c_str(), &st);
    printf(" stat %ld", static_cast<long>(st.st_size));
    printf(" end %ld", static_cast<long>(lseek(fd, 0, SEEK_END)));
    const int other = open_or_fail(path, O_RDONLY);
    ssize_t got = pread(other, back, 9, round * 4096);
    printf(" pread %.*s", static_cast<int>(got), back);
    lseek(other, round * 4096, SEEK_SET);
    got = read(other, back, sizeof(back));  // comes up short at the end of the file
    printf(" read %.*s", static_cast<int>(got), back);
    close(other);
  }
  printf("\n");
  if (ftruncate(fd, 10000) != 0) fail("ftruncate");
  if (pwrite(fd, "tail", 4, 9998) != 4) fail("pwrite");
  fstat(fd, &st);
  printf("size %ld\n", static_cast<long>(st.st_size));
  FILE* stream = fopen(path.c_str(), "r");
  size_t total = 0;
  char buffer[512];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), stream)) > 0;) total += got;
  fclose(stream);
  printf("stream %zu\n", total);
  stream = fopen(path.c_str(), "a");
  fputs("appended by a stream", stream);
  fclose(stream);
  ssize_t got = pread(fd, back, sizeof(back), 10002);
  printf("after stream %.*s\n", static_cast<int>(got), back);
  void* map = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) fail("mmap");
  printf("map %.8s\n", static_cast<char*>(map) + 4096);
  memcpy(static_cast<char*>(map) + 4096, "MAPPED", 6);
  if (pread(fd, back, 8, 4096) != 8) fail("pread");
  printf("pread of map %.8s\n", back);
  if (pwrite(fd, "WRITTEN", 7, 4100) != 7) fail("pwrite");
  printf("map of pwrite %.12s\n", static_cast<char*>(map) + 4096);
  return 0;
}

/// FILE: the odd cases of read and write; every result and errno to standard output.
int odd_calls(const Arguments& arguments) {
  const std::string& path = arguments[0];
  char back[8192];
  auto say = [](const char* what, long result) {
    printf("%s %ld %s\n", what, result, result < 0 ? strerror(errno) : "");
  };
  const int fd = open_or_fail(path, O_RDWR | O_CREAT | O_TRUNC);
  write_until_noticed(fd, 1 << 20, 'n');
  if (ftruncate(fd, 0) != 0) fail("ftruncate");
  say("write 0", write(fd, back, 0));
  say("read 0", read(fd, back, 0));
  say("read empty", read(fd, back, 100));
  say("pread empty", pread(fd, back, 100, 0));
  say("pread -1", pread(fd, back, 100, -1));
  say("pwrite -1", pwrite(fd, back, 100, -1));
  say("pread far", pread(fd, back, 100, INT64_MAX - 50));
  say("pwrite max", pwrite(fd, "x", 1, INT64_MAX));
  say("hole", pwrite(fd, "end", 3, (5L << 30) + 7));
  memset(back, 1, sizeof(back));
  say("pread hole", pread(fd, back, 16, 5L << 30));
  printf("%d %d %.3s\n", back[0], back[6], back + 7);
  say("seek", lseek(fd, (5L << 30) + 5, SEEK_SET));
  say("read tail", read(fd, back, 100));
  say("at", lseek(fd, 0, SEEK_CUR));
  say("read end", read(fd, back, 100));
  say("ftruncate", ftruncate(fd, 100));
  say("read past", read(fd, back, 100));
  say("pread past", pread(fd, back, 100, 50));
  iovec many[1025];
  for (auto& vector : many) vector = {back, 3};
  say("pwritev 1024", pwritev(fd, many, 1024, 1));
  say("preadv 1024", preadv(fd, many, 1024, 0));
  say("preadv 1025", preadv(fd, many, 1025, 0));
  say("preadv 0", preadv(fd, many, 0, 0));
  volatile int negative = -1;  // hidden from the compiler, which would refuse it
  say("preadv -1", preadv(fd, many, negative, 0));
  many[0].iov_len = 0;
  many[2].iov_len = 0;
  say("preadv with holes", preadv(fd, many, 5, 0));
  many[1].iov_len = static_cast<size_t>(SSIZE_MAX);
  many[3].iov_len = static_cast<size_t>(SSIZE_MAX);
  say("preadv too long", preadv(fd, many, 5, 0));
  iovec one{back, 10};
  lseek(fd, 20, SEEK_SET);
  say("preadv2 -1", preadv2(fd, &one, 1, -1, 0));
  say("at", lseek(fd, 0, SEEK_CUR));
  say("pwritev2 -1", pwritev2(fd, &one, 1, -1, 0));
  say("at", lseek(fd, 0, SEEK_CUR));
  say("pwritev2 dsync", pwritev2(fd, &one, 1, 0, RWF_DSYNC));
  say("pwritev2 append", pwritev2(fd, &one, 1, 0, RWF_APPEND));
  say("preadv2 nowait?", preadv2(fd, &one, 1, 0, 0x40000000));
  struct stat st {};
  fstat(fd, &st);
  printf("size %ld\n", static_cast<long>(st.st_size));
  const int reader = open_or_fail(path, O_RDONLY);
  say("read", read(reader, back, 5));
  say("write on read-only", write(reader, back, 5));
  say("pwrite on read-only", pwrite(reader, back, 5, 0));
  say("at", lseek(reader, 0, SEEK_CUR));
  const int writer = open_or_fail(path, O_WRONLY);
  say("write", write(writer, back, 5));
  say("read on write-only", read(writer, back, 5));
  say("pread on write-only", pread(writer, back, 5, 0));
  say("at", lseek(writer, 0, SEEK_CUR));
  const int nothing = open_or_fail(path, O_PATH);
  say("read on O_PATH", read(nothing, back, 5));
  say("pwrite on O_PATH", pwrite(nothing, back, 5, 0));
  const int appender = open_or_fail(path, O_WRONLY | O_APPEND);
  say("append", write(appender, "appended", 8));
  say("at", lseek(appender, 0, SEEK_CUR));
  say("pwrite on O_APPEND", pwrite(appender, "too", 3, 0));
  fcntl(fd, F_SETFL, O_APPEND);
  say("after F_SETFL", write(fd, "set", 3));
  say("at", lseek(fd, 0, SEEK_CUR));
  say("read closed", (close(fd), read(fd, back, 5)));
  unlink(path.c_str());
  say("unlinked pwrite", pwrite(writer, "gone", 4, 0));
  say("unlinked pread", pread(reader, back, 4, 0));
  printf("%.4s\n", back);
  return 0;
}

/// FILE LIMIT: writes against RLIMIT_FSIZE.
int fsize_limit(const Arguments& arguments) {
  signal(SIGXFSZ, SIG_IGN);
  const rlim_t bytes = std::stoul(arguments[1]);
  const rlimit limit{bytes, bytes};
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT | O_TRUNC);
  write_until_noticed(fd, 0, 'n');
  write_all(fd, block('a', 1000));  // boosted, before there is a limit
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string more = block('b', 3000 + more_that_pays() * 8);
  for (int i = 0; i < 4; ++i) {
    const ssize_t wrote = write(fd, more.data(), more.size());
    printf("%zd %s at %ld\n", wrote, wrote < 0 ? strerror(errno) : "",
           static_cast<long>(lseek(fd, 0, SEEK_CUR)));
  }
  struct stat st {};
  fstat(fd, &st);
  printf("size %ld\n", static_cast<long>(st.st_size));
  return 0;
}

/// SOURCE TARGET: the descriptors of the program itself, after some work on TARGET: none is the
/// shim's for a program to see by listing or closing.
int close_everything(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR | O_CREAT);
  write_until_noticed(fd, 0, 'n');
  write_all(fd, block('x', 100000));
  for (int number = 3; number < 2000; ++number) close(number);
  const int again = open_or_fail(arguments[0], O_RDONLY);
  std::string back(100000, '\0');
  printf("%zd\n", read(again, back.data(), back.size()));
  closefrom(3);
  const int last = open_or_fail(arguments[0], O_RDWR);
  printf("%zd\n", pread(last, back.data(), back.size(), 1));
  dup2(last, 1000);  // the shim's own number, if the limit is 1024
  printf("%zd %zd\n", pread(1000, back.data(), 500, 1), pwrite(1000, "y", 1, 7));
  return 0;
}

// --- programs that last ------------------------------------------------------------------------

/// Does what its standard input says, a command a line, and answers each with one line: the call's
/// result, or -1 and errno. Files have names; bytes are those of bytes.h.
class Puppet {
 public:
  int run() {
    say("ready");
    for (std::string line; next_line(line);) {
      Words words(line);
      const std::string result = obey(words);
      say(result);
      if (result.starts_with("unknown command")) return 2;
    }
    return 0;
  }

 private:
  using Words = std::istringstream;

  static void say(const std::string& text) { write_all(1, text + "\n"); }

  bool next_line(std::string& line) const {
    line.clear();
    for (char letter; read(orders_, &letter, 1) == 1;) {
      if (letter == '\n') return true;
      line += letter;
    }
    return false;
  }

  std::string obey(Words& words) {
    const auto verb = next<std::string>(words);
    const auto found = verbs_.find(verb);
    if (found == verbs_.end()) return "unknown command " + verb;
    errno = 0;
    return found->second(words);
  }

  static std::string told(long result) {
    if (result >= 0) return std::to_string(result);
    return std::to_string(result) + " " + strerrorname_np(errno);
  }

  template <typename T>
  static T next(Words& words) {
    T value{};
    words >> value;
    return value;
  }

  int fd(Words& words) const {
    const auto found = files_.find(next<std::string>(words));
    return found == files_.end() ? -1 : found->second;
  }

  /// NAME HOW PATH; HOW is r, w or rw, then any of +creat +trunc +append +sync +dsync.
  std::string open_file(Words& words) {
    const auto name = next<std::string>(words);
    const auto how = next<std::string>(words);
    int flags = how[0] == 'w' ? O_WRONLY : how.starts_with("rw") ? O_RDWR : O_RDONLY;
    if (how.find("+creat") != std::string::npos) flags |= O_CREAT;
    if (how.find("+trunc") != std::string::npos) flags |= O_TRUNC;
    if (how.find("+sync") != std::string::npos) flags |= O_SYNC;
    if (how.find("+dsync") != std::string::npos) flags |= O_DSYNC;
    if (how.find("+append") != std::string::npos) flags |= O_APPEND;
    const int opened = open(next<std::string>(words).c_str(), flags, 0644);
    if (opened >= 0) files_[name] = opened;
    return told(opened < 0 ? -1 : 0);
  }

  /// NAME OFFSET LENGTH SEED, or without OFFSET where the descriptor stands.
  std::string put(Words& words, bool positional) {
    const int file = fd(words);
    const off_t offset = positional ? next<off_t>(words) : lseek(file, 0, SEEK_CUR);
    const auto length = next<size_t>(words);
    const std::string bytes =
        booster::test::bytes_at(static_cast<uint64_t>(offset), length, next<uint64_t>(words));
    return told(positional ? pwrite(file, bytes.data(), length, offset)
                           : write(file, bytes.data(), length));
  }

  std::string get(Words& words, bool positional) {
    const int file = fd(words);
    const off_t offset = positional ? next<off_t>(words) : lseek(file, 0, SEEK_CUR);
    std::string bytes(next<size_t>(words), '\0');
    const ssize_t got = positional ? pread(file, bytes.data(), bytes.size(), offset)
                                   : read(file, bytes.data(), bytes.size());
    if (got < 0) return told(got);
    const size_t right =
        booster::test::first_wrong(bytes.data(), static_cast<size_t>(got),
                                   static_cast<uint64_t>(offset), next<uint64_t>(words));
    return right == static_cast<size_t>(got) ? told(got)
                                             : told(got) + " wrong at " + std::to_string(right);
  }

  /// PATH LENGTH SEED: makes the file, writes it in two halves, reads it back; it stays open.
  static std::string make_and_check(Words& words) {
    const auto path = next<std::string>(words);
    const auto length = next<size_t>(words);
    const auto seed = next<uint64_t>(words);
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0) return told(-1);
    const std::string bytes = booster::test::bytes_at(0, length, seed);
    const size_t half = length / 2;
    if (write(file, bytes.data(), half) != static_cast<ssize_t>(half) ||
        pwrite(file, bytes.data() + half, length - half, static_cast<off_t>(half)) !=
            static_cast<ssize_t>(length - half)) {
      return told(-1);
    }
    std::string back(length, '\0');
    if (pread(file, back.data(), length, 0) != static_cast<ssize_t>(length)) return told(-1);
    return back == bytes ? "right" : "wrong";
  }

  std::string lock(Words& words, int command, short type) {
    struct flock whole {};
    whole.l_type = type;
    return told(fcntl(fd(words), command, &whole));
  }

  /// LENGTH PIECE OLD NEW: how much of a file is looked at, with calls of which size, and the seeds
  /// of the bytes that may be there. Answers are what calls return in all, and runs_of.
  struct Look {
    explicit Look(Words& words)
        : bytes(next<size_t>(words), '\0'),
          piece(next<size_t>(words)),
          seeds({next<uint64_t>(words), next<uint64_t>(words)}) {}
    std::string told(long got) {
      if (got < 0) return Puppet::told(got);
      bytes.resize(static_cast<size_t>(got));
      return Puppet::told(got) + ": " + booster::test::runs_of(bytes, 0, seeds);
    }
    std::string bytes;
    const size_t piece;
    const std::vector<uint64_t> seeds;
  };

  std::string look(Words& words, bool positional) {
    const int file = fd(words);
    Look look(words);
    if (!positional) lseek(file, 0, SEEK_SET);
    size_t done = 0;
    while (done < look.bytes.size()) {
      char* const to = look.bytes.data() + done;
      const size_t length = std::min(look.piece, look.bytes.size() - done);
      const ssize_t got =
          positional ? pread(file, to, length, static_cast<off_t>(done)) : read(file, to, length);
      if (got < 0) return look.told(got);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return look.told(static_cast<long>(done));
  }

  std::string load(Words& words) {
    const int file = fd(words);
    Look look(words);
    return look.told(views_.load(file, look.bytes));
  }

  std::string stream_get(Words& words) {
    const int file = fd(words);
    Look look(words);
    return look.told(views_.get(file, look.bytes, look.piece));
  }

  /// NAME OFFSET LENGTH SEED, through a mapping or a stream.
  std::string view_put(Words& words, bool mapped) {
    const int file = fd(words);
    const auto offset = next<uint64_t>(words);
    const auto length = next<size_t>(words);
    const std::string bytes = booster::test::bytes_at(offset, length, next<uint64_t>(words));
    return told(mapped ? views_.store(file, offset, bytes)
                       : views_.put(file, static_cast<off_t>(offset), bytes));
  }

  static bool is_writable(int file) {
    const int flags = fcntl(file, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) == O_RDWR;
  }

  static std::string told(long result, const struct stat& status) {
    if (result < 0) return told(result);
    return std::to_string(status.st_size) + " " + std::to_string(status.st_mtim.tv_sec) + "." +
           std::to_string(status.st_mtim.tv_nsec);
  }

  /// The file is standard input, as for a program that was started with `<`, and it is not.
  std::string as_stdin(Words& words) const {
    const int file = fd(words);
    return told(dup2(file, 0));
  }
  static std::string not_stdin() {
    __fpurge(stdin);
    clearerr(stdin);
    const int null = open("/dev/null", O_RDONLY);
    const int result = dup2(null, 0);
    close(null);
    return told(result);
  }

  /// Closes what there is of a file, its mapping and its stream, whatever it is.
  std::string drop(Words& words) {
    const auto name = next<std::string>(words);
    const int file = files_[name];
    files_.erase(name);
    return told(views_.drop(file) ? 0 : close(file));
  }

  std::string alias(Words& words) {
    const auto name = next<std::string>(words);
    files_[name] = fd(words);
    return "0";
  }

  /// NAME FD: a descriptor that the program was born with.
  std::string adopt(Words& words) {
    const auto name = next<std::string>(words);
    files_[name] = next<int>(words);
    return told(fcntl(files_[name], F_GETFD) < 0 ? -1 : 0);
  }

  static sockaddr_un address(Words& words) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, next<std::string>(words).c_str(), sizeof(address.sun_path) - 1);
    return address;
  }

  /// NAME SOCKET: the description goes to whoever is told to receive it there.
  std::string send_file(Words& words) const {
    const int file = fd(words);
    const sockaddr_un to = address(words);
    const int link = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    booster::test::Envelope envelope;
    envelope.put(file);
    envelope.message.msg_name = const_cast<sockaddr_un*>(&to);
    envelope.message.msg_namelen = sizeof(to);
    const std::string answer = told(sendmsg(link, &envelope.message, 0));
    close(link);
    return answer;
  }

  /// SOCKET, then NAME: a socket there is made, and what has been sent to it is taken.
  std::string listen_at(Words& words) {
    const sockaddr_un at = address(words);
    mailbox_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return told(bind(mailbox_, reinterpret_cast<const sockaddr*>(&at), sizeof(at)));
  }
  std::string receive(Words& words) {
    booster::test::Envelope envelope;
    const long got = recvmsg(mailbox_, &envelope.message, 0);
    if (got != 1) return told(got);
    const int file = envelope.take();
    files_[next<std::string>(words)] = file;
    return told(file < 0 ? -1 : 0);
  }

  /// VERB...: what a child answers that was forked for it.
  std::string in_child(Words& words) {
    int ends[2];
    if (pipe(ends) != 0) return told(-1);
    const pid_t child = fork();
    if (child == 0) {
      write_all(ends[1], obey(words));
      _exit(0);
    }
    close(ends[1]);
    std::string answer;
    for (char letter; read(ends[0], &letter, 1) == 1;) answer += letter;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return answer;
  }

  /// A child that holds the descriptors, as any child does, until it is killed.
  static std::string fork_holder() {
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) pause();
    }
    return told(child);
  }

  std::string close_by(Words& words) {
    const auto name = next<std::string>(words);
    const int file = files_[name];
    files_.erase(name);
    const auto how = next<std::string>(words);
    if (how == "close") return told(close(file));
    if (how == "syscall") return told(syscall(SYS_close, file));
    if (how == "close_range") {
      return told(close_range(static_cast<unsigned>(file), static_cast<unsigned>(file), 0));
    }
    if (how == "dup2") {
      const int null = open("/dev/null", O_RDWR);
      const int result = dup2(null, file) == file ? 0 : -1;
      close(null);
      close(file);
      return told(result);
    }
    if (how == "fclose") {
      FILE* stream = fdopen(file, "r+");
      return told(stream == nullptr ? -1 : fclose(stream));
    }
    return "unknown way " + how;
  }

  std::string set_times(Words& words) {
    const int file = fd(words);
    const auto seconds = next<time_t>(words);
    const timespec times[2] = {{seconds, 111}, {seconds, 222}};
    return told(futimens(file, times));
  }
  /// Forbids, under pain of death, what booster's client calls and this program does not.
  static std::string enter_seccomp() {
    std::vector<sock_filter> filter = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)}};
    for (const long number : {SYS_statx, SYS_fcntl, SYS_fadvise64, SYS_sendto, SYS_recvmsg,
                              SYS_ppoll, SYS_lseek, SYS_getsockopt}) {
      filter.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<unsigned>(number)});
      filter.push_back({BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS});
    }
    filter.push_back({BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW});
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    return told(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
  }
  static std::string set_times_of_path(Words& words) {
    const auto path = next<std::string>(words);
    const auto seconds = next<time_t>(words);
    const timespec times[2] = {{seconds, 111}, {seconds, 222}};
    return told(utimensat(AT_FDCWD, path.c_str(), times, 0));
  }

  std::map<std::string, int> files_;
  booster::test::Views views_;
  int mailbox_ = -1;
  // Not standard input itself: a file can become that.
  const int orders_ = fcntl(0, F_DUPFD_CLOEXEC, 100);
  const std::map<std::string, std::function<std::string(Words&)>> verbs_ = {
      {"open", [this](Words& w) { return open_file(w); }},
      {"pwrite", [this](Words& w) { return put(w, true); }},
      {"write", [this](Words& w) { return put(w, false); }},
      {"pread", [this](Words& w) { return get(w, true); }},
      {"read", [this](Words& w) { return get(w, false); }},
      {"look", [this](Words& w) { return look(w, true); }},
      {"look-in-order", [this](Words& w) { return look(w, false); }},
      {"load", [this](Words& w) { return load(w); }},
      {"fread", [this](Words& w) { return stream_get(w); }},
      {"store", [this](Words& w) { return view_put(w, true); }},
      {"fwrite", [this](Words& w) { return view_put(w, false); }},
      {"map",
       [this](Words& w) {
         const int f = fd(w);
         return told(views_.map(f, next<size_t>(w), is_writable(f)));
       }},
      {"stream",
       [this](Words& w) {
         const int f = fd(w);
         return told(views_.stream(f, is_writable(f)));
       }},
      {"fstat",
       [this](Words& w) {
         struct stat status {};
         const int result = fstat(fd(w), &status);
         return told(result, status);
       }},
      {"stat",
       [](Words& w) {
         struct stat status {};
         const int result = stat(next<std::string>(w).c_str(), &status);
         return told(result, status);
       }},
      {"as-stdin", [this](Words& w) { return as_stdin(w); }},
      {"not-stdin", [](Words&) { return not_stdin(); }},
      {"getchar",
       [](Words&) -> std::string {
         const int letter = getchar();
         return letter == EOF ? "end" : told(letter);
       }},
      {"drop", [this](Words& w) { return drop(w); }},
      {"alias", [this](Words& w) { return alias(w); }},
      {"adopt", [this](Words& w) { return adopt(w); }},
      {"send", [this](Words& w) { return send_file(w); }},
      {"listen", [this](Words& w) { return listen_at(w); }},
      {"receive", [this](Words& w) { return receive(w); }},
      {"in-child", [this](Words& w) { return in_child(w); }},
      {"where", [this](Words& w) { return told(lseek(fd(w), 0, SEEK_CUR)); }},
      {"make-and-check", [](Words& w) { return make_and_check(w); }},
      {"seek",
       [this](Words& w) {
         const int f = fd(w);
         return told(lseek(f, next<off_t>(w), SEEK_SET));
       }},
      {"truncate",
       [this](Words& w) {
         const int f = fd(w);
         return told(ftruncate(f, next<off_t>(w)));
       }},
      {"truncate-path",
       [](Words& w) {
         const auto path = next<std::string>(w);
         return told(truncate(path.c_str(), next<off_t>(w)));
       }},
      {"fsync", [this](Words& w) { return told(fsync(fd(w))); }},
      {"fdatasync", [this](Words& w) { return told(fdatasync(fd(w))); }},
      {"syncfs", [this](Words& w) { return told(syncfs(fd(w))); }},
      {"flock", [this](Words& w) { return told(flock(fd(w), LOCK_EX)); }},
      {"unflock", [this](Words& w) { return told(flock(fd(w), LOCK_UN)); }},
      {"posix-lock", [this](Words& w) { return lock(w, F_SETLKW, F_WRLCK); }},
      {"posix-unlock", [this](Words& w) { return lock(w, F_SETLKW, F_UNLCK); }},
      {"ofd-lock", [this](Words& w) { return lock(w, F_OFD_SETLKW, F_WRLCK); }},
      {"ofd-unlock", [this](Words& w) { return lock(w, F_OFD_SETLKW, F_UNLCK); }},
      {"close", [this](Words& w) { return close_by(w); }},
      {"times", [this](Words& w) { return set_times(w); }},
      {"times-of-path", [](Words& w) { return set_times_of_path(w); }},
      {"seccomp", [](Words&) { return enter_seccomp(); }},
      {"seccomp-in-child",
       [](Words&) {
         const pid_t child = fork();
         if (child == 0) _exit(enter_seccomp() == "0" ? 0 : 1);
         int status = -1;
         waitpid(child, &status, 0);
         return told(status);
       }},
      {"fork", [](Words&) { return fork_holder(); }},
      {"exec",
       [](Words&) {
         execl("/proc/self/exe", "booster_probe", "puppet", static_cast<char*>(nullptr));
         return told(-1);
       }},
      {"exit", [](Words&) -> std::string { exit(0); }},
      {"_exit", [](Words&) -> std::string { _exit(0); }},
  };
};

/// Obeys standard input (class Puppet).
int puppet(const Arguments&) {
  return Puppet().run();
}

/// Has standard input ended? Nobody writes to a worker's.
bool told_to_stop() {
  pollfd input{0, POLLIN, 0};
  return poll(&input, 1, 0) != 0;
}

/// KIND FILE START SIZE BLOCK SEED: reads or writes the SIZE bytes from START on, BLOCK at a time,
/// until standard input ends. Readers expect the bytes of SEED; writers write those of SEED and
/// higher, look at some of them again, and say at the end which bytes must be where.
class Worker {
 public:
  explicit Worker(const Arguments& arguments)
      : kind_(arguments[0]),
        start_(std::stoull(arguments[2])),
        size_(std::stoull(arguments[3])),
        block_(std::stoull(arguments[4])),
        seed_(std::stoull(arguments[5])),
        random_(seed_) {
    fd_ = open_or_fail(arguments[1], kind_.starts_with("read") ? O_RDONLY : O_RDWR);
  }

  int run() {
    if (kind_ == "read-in-order") until_told([this] { read_in_order(); });
    if (kind_ == "read-anywhere") until_told([this] { read_anywhere(); });
    if (kind_ == "write-in-order") {
      lseek(fd_, static_cast<off_t>(start_), SEEK_SET);
      until_told([this] { write_in_order(); });
    }
    if (kind_ == "write-anywhere") {
      seeds_.assign(size_ / block_, 0);
      for (size_t i = 0; i < seeds_.size(); ++i) write_block(i, seed_);
      until_told([this] { write_anywhere(); });
    }
    if (close(fd_) != 0) fail("close");
    printf("done %lu calls, slowest %ld ms\n", calls_, slowest_.count());
    if (kind_ == "write-in-order") {
      printf("extent %lu %lu %lu\n", start_, at_, seed_);
      if (at_ < size_ && seed_ > first_seed_) {
        printf("extent %lu %lu %lu\n", start_ + at_, size_ - at_, seed_ - 1);
      }
    }
    for (size_t i = 0; i < seeds_.size(); ++i) {
      printf("extent %lu %lu %lu\n", start_ + i * block_, block_, seeds_[i]);
    }
    return 0;
  }

 private:
  void until_told(const std::function<void()>& step) {
    step();
    printf("ready\n");
    fflush(stdout);
    while (!told_to_stop()) step();
  }

  /// Runs one call and judges its result.
  void call(const char* what, uint64_t offset, size_t length, const std::function<ssize_t()>& act) {
    const auto before = std::chrono::steady_clock::now();
    const ssize_t result = act();
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - before);
    if (took > slowest_) slowest_ = took;
    ++calls_;
    if (result == static_cast<ssize_t>(length)) return;
    printf("%s of %zu bytes at %lu: %zd %s\n", what, length, offset, result,
           result < 0 ? strerrorname_np(errno) : "");
    exit(1);
  }

  void judge(const std::string& bytes, uint64_t offset, uint64_t seed, const char* what) {
    const size_t right = booster::test::first_wrong(bytes.data(), bytes.size(), offset, seed);
    if (right == bytes.size()) return;
    printf("%s at %lu: wrong byte at %lu, seed should be %lu\n", what, offset, offset + right,
           seed);
    exit(1);
  }

  void check(uint64_t offset, size_t length, uint64_t seed) {
    std::string bytes(length, '\0');
    call("pread", offset, length,
         [&] { return pread(fd_, bytes.data(), length, static_cast<off_t>(offset)); });
    judge(bytes, offset, seed, "pread");
  }

  void read_in_order() {
    if (at_ + block_ > size_) at_ = 0;
    if (at_ == 0) lseek(fd_, static_cast<off_t>(start_), SEEK_SET);
    std::string bytes(block_, '\0');
    call("read", start_ + at_, block_, [&] { return read(fd_, bytes.data(), block_); });
    judge(bytes, start_ + at_, seed_, "read");
    at_ += block_;
  }

  void read_anywhere() {
    const size_t length = 1 + random_() % block_;
    check(start_ + random_() % (size_ - length + 1), length, seed_);
  }

  void write_in_order() {
    if (at_ == size_) {
      at_ = 0;
      ++seed_;
      lseek(fd_, static_cast<off_t>(start_), SEEK_SET);
    }
    const size_t length = std::min(block_, size_ - at_);
    const std::string bytes = booster::test::bytes_at(start_ + at_, length, seed_);
    call("write", start_ + at_, length, [&] { return write(fd_, bytes.data(), length); });
    if (random_() % 8 == 0) check(start_ + at_, length, seed_);
    at_ += length;
  }

  void write_block(size_t index, uint64_t seed) {
    const uint64_t offset = start_ + index * block_;
    const std::string bytes = booster::test::bytes_at(offset, block_, seed);
    call("pwrite", offset, block_,
         [&] { return pwrite(fd_, bytes.data(), block_, static_cast<off_t>(offset)); });
    seeds_[index] = seed;
  }

  void write_anywhere() {
    const size_t index = random_() % seeds_.size();
    write_block(index, seeds_[index] + 1);
    const size_t other = random_() % seeds_.size();
    if (random_() % 4 == 0) check(start_ + other * block_, block_, seeds_[other]);
  }

  const std::string kind_;
  const uint64_t start_;
  const uint64_t size_;
  const uint64_t block_;
  uint64_t seed_;
  const uint64_t first_seed_ = seed_;
  std::mt19937_64 random_;
  int fd_ = -1;
  uint64_t at_ = 0;              // in order: where the next call goes, from start_ on
  std::vector<uint64_t> seeds_;  // anywhere: of each block
  uint64_t calls_ = 0;
  std::chrono::milliseconds slowest_{0};
};

int worker(const Arguments& arguments) {
  return Worker(arguments).run();
}

const std::map<std::string, std::pair<size_t, int (*)(const Arguments&)>> kCommands = {
    {"alternate-read", {2, alternate_read}},
    {"threads-read", {3, threads_read}},
    {"grow", {3, grow}},
    {"threads-write", {3, threads_write}},
    {"write-forever", {2, write_forever}},
    {"dup-write", {1, dup_write}},
    {"write-fd", {2, write_fd}},
    {"exec-write", {1, exec_write}},
    {"children-write", {1, children_write}},
    {"pass-write", {1, pass_write}},
    {"closed-number", {3, closed_number}},
    {"lock-free", {2, lock_free}},
    {"posix-lock-kept", {1, posix_lock_kept}},
    {"accepted-error", {1, accepted_error}},
    {"held-back", {2, held_back}},
    {"stream-on-zero", {1, stream_on_zero}},
    {"mixed-ways", {1, mixed_ways}},
    {"odd-calls", {1, odd_calls}},
    {"fsize-limit", {2, fsize_limit}},
    {"close-everything", {1, close_everything}},
    {"puppet", {0, puppet}},
    {"worker", {6, worker}},
};

}  // namespace

int main(int argc, char** argv) {
  const auto command = argc < 2 ? kCommands.end() : kCommands.find(argv[1]);
  if (command == kCommands.end() || static_cast<size_t>(argc) != 2 + command->second.first) {
    fprintf(stderr, "usage: booster_probe COMMAND ARGUMENT...; commands (arguments):");
    for (const auto& [name, entry] : kCommands)
      fprintf(stderr, " %s(%zu)", name.c_str(), entry.first);
    fprintf(stderr, "\n");
    return 2;
  }
  return command->second.second(Arguments(argv + 2, argv + argc));
}
