// Small programs for tests, one per subcommand, each doing one thing with descriptors that shell
// tools do not do. Tests run them once without and once with the shim and compare. They print what
// they saw; errors of the kernel are printed, not hidden.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

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

std::string block(char letter, size_t size) { return std::string(size, letter); }

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
  std::vector<int> copies = {fd, dup(fd), dup2(fd, 50), dup3(fd, 51, O_CLOEXEC),
                             fcntl(fd, F_DUPFD, 60), fcntl(fd, F_DUPFD_CLOEXEC, 70),
                             static_cast<int>(syscall(SYS_dup, fd))};
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < copies.size(); ++i) {
      write_all(copies[i], block(static_cast<char>('a' + i), 5000));
    }
  }
  close(fd);
  for (size_t i = 1; i < copies.size(); ++i) {
    char back[4];
    if (pread(copies[i], back, 4, 5000 * static_cast<off_t>(i)) != 4) fail("pread");
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
  char byte = 'x';
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (child == 0) {
    if (recvmsg(sockets[1], &message, 0) != 1) fail("recvmsg");
    int fd = -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    for (int i = 0; i < 50; ++i) write_all(fd, block('c', 3000));
    _exit(0);
  }
  const int fd = open_or_fail(arguments[0], O_WRONLY | O_CREAT | O_TRUNC);
  for (int i = 0; i < 50; ++i) write_all(fd, block('p', 3000));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof(int));
  if (sendmsg(sockets[0], &message, 0) != 1) fail("sendmsg");
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

/// FILE HOW: locks the file, writes, closes; then says whether another description gets the lock,
/// without ending first.
int lock_free(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  const bool ofd = arguments[1] == "ofd";
  struct flock lock {};
  lock.l_type = F_WRLCK;
  if (ofd ? fcntl(fd, F_OFD_SETLK, &lock) != 0 : flock(fd, LOCK_EX | LOCK_NB) != 0) fail("lock");
  write_all(fd, block('l', 1 << 16));
  char back[4096];
  if (pread(fd, back, sizeof(back), 0) != sizeof(back)) fail("pread");
  close(fd);
  const int other = open_or_fail(arguments[0], O_RDWR);
  const int got = ofd ? fcntl(other, F_OFD_SETLK, &lock) : flock(other, LOCK_EX | LOCK_NB);
  printf("%s\n", got == 0 ? "free" : strerror(errno));
  return 0;
}

/// FILE: POSIX locks survive boosted I/O until the program itself closes a descriptor.
int posix_lock_kept(const Arguments& arguments) {
  const int fd = open_or_fail(arguments[0], O_RDWR);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  if (fcntl(fd, F_SETLK, &lock) != 0) fail("lock");
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

/// FILE: writes through a descriptor, reads through streams, mappings and other descriptors, and
/// the other way round. What it sees goes to standard output.
int mixed_ways(const Arguments& arguments) {
  const std::string& path = arguments[0];
  const int fd = open_or_fail(path, O_RDWR | O_CREAT | O_TRUNC);
  char back[32] = {};
  struct stat st {};
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
  say("write 0", write(fd, back, 0));
  say("read 0", read(fd, back, 0));
  say("read empty", read(fd, back, 100));
  say("pread empty", pread(fd, back, 100, 0));
  say("pread -1", pread(fd, back, 100, -1));
  say("pwrite -1", pwrite(fd, back, 100, -1));
  say("pread far", pread(fd, back, 100, INT64_MAX - 50));
  say("pwrite far", pwrite(fd, "x", 1, INT64_MAX - 50));
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
  write_all(fd, block('a', 1000));  // boosted, before there is a limit
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string more = block('b', 3000);
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

const std::map<std::string, std::pair<size_t, int (*)(const Arguments&)>> kCommands = {
    {"alternate-read", {2, alternate_read}}, {"threads-read", {3, threads_read}},
    {"grow", {3, grow}},                     {"threads-write", {3, threads_write}},
    {"write-forever", {2, write_forever}},   {"dup-write", {1, dup_write}},
    {"write-fd", {2, write_fd}},             {"exec-write", {1, exec_write}},
    {"children-write", {1, children_write}}, {"pass-write", {1, pass_write}},
    {"closed-number", {3, closed_number}},   {"lock-free", {2, lock_free}},
    {"posix-lock-kept", {1, posix_lock_kept}}, {"mixed-ways", {1, mixed_ways}},
    {"odd-calls", {1, odd_calls}},           {"fsize-limit", {2, fsize_limit}},
    {"close-everything", {1, close_everything}},
};

}  // namespace

int main(int argc, char** argv) {
  const auto command = argc < 2 ? kCommands.end() : kCommands.find(argv[1]);
  if (command == kCommands.end() ||
      static_cast<size_t>(argc) != 2 + command->second.first) {
    fprintf(stderr, "usage: booster_probe COMMAND ARGUMENT...; commands (arguments):");
    for (const auto& [name, entry] : kCommands) fprintf(stderr, " %s(%zu)", name.c_str(), entry.first);
    fprintf(stderr, "\n");
    return 2;
  }
  return command->second.second(Arguments(argv + 2, argv + argc));
}
