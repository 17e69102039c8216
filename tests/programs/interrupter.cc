// Is interrupted in the middle of a call by a signal handler that makes calls itself, on the same
// files, and leaves in every way that there is. Then everything has to be as on a file system whose
// calls are over when the handler runs: done or not begun, and nothing between.
//
//   interrupter DIRECTORY STATE CALL LEAVE
//
// works off what STATE (a file outside of the mount, see State) asks for, and ends with status 0
// when that is done, with kAgain when it has left so that it has to be started again, and with 1,
// and a line that says why, when something was not as it must be. `check` as CALL only looks.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "tests/programs/bytes.h"

namespace {

using booster::test::bytes_at;
using booster::test::first_wrong;

constexpr int kAgain = 42;
constexpr size_t kLength = 1000;        // of what is written in order
constexpr size_t kSlot = 4096;          // of what is written in place
constexpr uint64_t kSlots = 16;         // of the program's; as many of the handler's behind them
constexpr uint64_t kStart = 256 << 10;  // of what is written in order, in the first file
constexpr uint64_t kMost = 2 << 20;     // where that begins again
constexpr uint64_t kSteady = 2 << 20;   // bytes of the file that nobody writes
constexpr int kAttempts = 2000;         // until a signal comes in the middle of a call

/// What outlives the process. What was acknowledged, and what a call that was interrupted may have
/// done besides.
struct State {
  uint64_t rounds;  // still to do
  uint64_t hits;    // signals that came in the middle of a call
  uint64_t place;   // end of what is written in order
  uint64_t second;  // the same, of the second file
  uint64_t versions[2 * kSlots];
  uint64_t asked;  // slot that is being written, in versions[] already; else 2 * kSlots
  uint64_t random;
};

State* g_state;
std::string g_directory;
std::string g_call;
std::string g_leave;
int g_main = -1;
int g_second = -1;
int g_steady = -1;
volatile sig_atomic_t g_in_call = 0;
volatile sig_atomic_t g_hit = 0;
volatile sig_atomic_t g_child = 0;
uint64_t g_round = 0;
off_t g_read_at = 0;
sigjmp_buf g_before;
char** g_argv;

[[noreturn]] void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[256];
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  printf("%s, %s, round %lu: %s (%s)\n", g_call.c_str(), g_leave.c_str(), g_round, text,
         strerror(errno));
  fflush(stdout);
  _exit(1);
}

uint64_t random_number() {
  uint64_t& x = g_state->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

std::string path(const char* name) {
  return g_directory + "/" + name;
}

int open_or_fail(const char* name, int flags) {
  const int fd = open(path(name).c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) fail("open %s", name);
  return fd;
}

/// [offset, offset + length) of `fd` has the bytes of that seed.
void expect_bytes(int fd, uint64_t offset, size_t length, uint64_t seed, const char* what) {
  char bytes[kSlot];
  const ssize_t got = pread(fd, bytes, length, static_cast<off_t>(offset));
  if (got != static_cast<ssize_t>(length)) fail("%s: %zd of %zu at %lu", what, got, length, offset);
  const size_t right = first_wrong(bytes, length, offset, seed);
  if (right != length) fail("%s: wrong byte at %lu", what, offset + right);
}

/// The end of the file as the call that is under way may have left it, and as it is for `seen`.
void expect_end(uint64_t seen, const char* what) {
  const uint64_t place = g_state->place;
  const bool grows = g_call == "write" || g_call == "writev";
  if (seen != place && !(grows && seen == place + kLength)) {
    fail("%s: %lu, written were %lu", what, seen, place);
  }
}

void expect_tail(int fd, uint64_t end) {
  const uint64_t from = end - kStart > kSlot ? end - kSlot : kStart;
  if (end > from) expect_bytes(fd, from, static_cast<size_t>(end - from), 1, "tail");
}

uint64_t size_of(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) fail("fstat");
  return static_cast<uint64_t>(status.st_size);
}

void write_slot(uint64_t slot) {
  const uint64_t version = g_state->versions[slot] + 1;
  const std::string bytes = bytes_at(slot * kSlot, kSlot, 100 + version);
  if (pwrite(g_main, bytes.data(), kSlot, static_cast<off_t>(slot * kSlot)) != kSlot) {
    fail("pwrite of slot %lu", slot);
  }
  g_state->versions[slot] = version;
}

void expect_slot(int fd, uint64_t slot) {
  const uint64_t version = g_state->versions[slot];
  char bytes[kSlot];
  if (pread(fd, bytes, kSlot, static_cast<off_t>(slot * kSlot)) != kSlot) fail("slot %lu", slot);
  const uint64_t offset = slot * kSlot;
  if (first_wrong(bytes, kSlot, offset, 100 + version) == kSlot) return;
  // Its write was interrupted, and it is not known yet whether before or after.
  if (g_state->asked == slot && first_wrong(bytes, kSlot, offset, 101 + version) == kSlot) return;
  fail("slot %lu is not of version %lu", slot, version);
}

void write_second() {
  const std::string bytes = bytes_at(g_state->second, kLength, 2);
  if (write(g_second, bytes.data(), kLength) != static_cast<ssize_t>(kLength)) fail("second write");
  g_state->second += kLength;
}

// --- the handler ---------------------------------------------------------------------------------

constexpr int kActions = 26;

/// One call of each kind that a handler may make.
void act(uint64_t number) {
  switch (number % kActions) {
    case 0: break;
    case 1: expect_tail(g_main, g_state->place); break;
    case 2: write_slot(kSlots + number % kSlots); break;
    case 3: write_second(); break;
    case 4: {
      const uint64_t end = size_of(g_main);
      expect_end(end, "size");
      expect_tail(g_main, end);
      break;
    }
    case 5: {
      const off_t at = lseek(g_main, 0, SEEK_CUR);
      expect_end(static_cast<uint64_t>(at), "position");
      break;
    }
    case 6:
      if (fsync(g_main) != 0 || fdatasync(g_second) != 0) fail("fsync");
      break;
    case 7: {
      const int fd = open_or_fail("main", O_RDONLY);
      expect_end(size_of(fd), "size of what is opened");
      expect_tail(fd, g_state->place);
      expect_slot(fd, kSlots);
      close(fd);
      break;
    }
    case 8: {
      const int fd = dup(g_second);
      if (fd < 0 || dup2(g_steady, fd) != fd) fail("dup2");
      expect_bytes(fd, 8192, kSlot, 77, "steady through another number");
      close(fd);
      break;
    }
    case 9: {
      struct stat status;
      if (stat(path("main").c_str(), &status) != 0) fail("stat");
      expect_end(static_cast<uint64_t>(status.st_size), "size by name");
      break;
    }
    case 10:
      if (close(g_second) != 0) fail("close");
      g_second = open_or_fail("second", O_RDWR);
      if (size_of(g_second) < g_state->second) fail("second is short");
      lseek(g_second, static_cast<off_t>(g_state->second), SEEK_SET);
      write_second();
      break;
    case 11: expect_bytes(g_steady, number * 4096 % (kSteady - kSlot), kSlot, 77, "steady"); break;
    case 12:
      if (ftruncate(g_second, 0) != 0 || lseek(g_second, 0, SEEK_SET) != 0) fail("ftruncate");
      g_state->second = 0;
      write_second();
      break;
    case 13: {
      void* map = mmap(nullptr, kSlot, PROT_READ, MAP_PRIVATE, g_steady, 0);
      if (map == MAP_FAILED) fail("mmap");
      if (first_wrong(static_cast<char*>(map), kSlot, 0, 77) != kSlot) fail("mapped bytes");
      munmap(map, kSlot);
      break;
    }
    case 14: {
      char first[16], rest[64];
      const iovec parts[2] = {{first, sizeof(first)}, {rest, sizeof(rest)}};
      if (preadv(g_steady, parts, 2, 4096) != 80) fail("preadv");
      if (first_wrong(first, 16, 4096, 77) != 16 || first_wrong(rest, 64, 4112, 77) != 64) {
        fail("wrong bytes of preadv");
      }
      break;
    }
    case 15: {
      const uint64_t slot = kSlots + 1;
      const std::string bytes = bytes_at(slot * kSlot, kSlot, 101 + g_state->versions[slot]);
      const iovec parts[2] = {{const_cast<char*>(bytes.data()), 96},
                              {const_cast<char*>(bytes.data()) + 96, kSlot - 96}};
      if (pwritev2(g_main, parts, 2, static_cast<off_t>(slot * kSlot), 0) != kSlot)
        fail("pwritev2");
      ++g_state->versions[slot];
      break;
    }
    case 16:
      if (flock(g_second, LOCK_EX) != 0) fail("flock");
      write_second();
      if (flock(g_second, LOCK_UN) != 0) fail("flock");
      break;
    case 17: {
      struct flock lock {};
      lock.l_type = F_WRLCK;
      if (fcntl(g_second, F_SETLKW, &lock) != 0) fail("lock");
      write_second();
      lock.l_type = F_UNLCK;
      if (fcntl(g_second, F_SETLK, &lock) != 0) fail("unlock");
      break;
    }
    case 18: {
      const int copy = open_or_fail("copy", O_RDWR | O_CREAT | O_TRUNC);
      off_t from = 8192;
      if (copy_file_range(g_steady, &from, copy, nullptr, kSlot, 0) != kSlot) fail("copy");
      if (sendfile(copy, g_steady, &from, kSlot) != kSlot) fail("sendfile");
      char bytes[2 * kSlot];
      if (pread(copy, bytes, sizeof(bytes), 0) != sizeof(bytes)) fail("copy is short");
      if (first_wrong(bytes, sizeof(bytes), 8192, 77) != sizeof(bytes)) fail("copy is wrong");
      close(copy);
      break;
    }
    case 19:
      if (fallocate(g_second, FALLOC_FL_KEEP_SIZE, 0, 1 << 20) != 0) fail("fallocate");
      if (size_of(g_second) != g_state->second) fail("size after fallocate");
      break;
    case 20:
      if (futimens(g_second, nullptr) != 0 || fchmod(g_second, 0640) != 0) fail("futimens");
      write_second();
      break;
    case 21:
      if (truncate(path("second").c_str(), 0) != 0) fail("truncate");
      g_state->second = 0;
      lseek(g_second, 0, SEEK_SET);
      write_second();
      break;
    case 22: {
      const int fd = fcntl(g_second, F_DUPFD_CLOEXEC, 400);
      if (fd < 400) fail("F_DUPFD");
      if (close_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd), 0) != 0) {
        fail("close_range");
      }
      write_second();
      break;
    }
    case 23: {
      const int fd = open_or_fail("main", O_RDONLY);
      expect_end(static_cast<uint64_t>(lseek(fd, 0, SEEK_END)), "end");
      close(fd);
      break;
    }
    case 24:
      if (syncfs(g_second) != 0) fail("syncfs");
      expect_tail(g_main, g_state->place);
      break;
    case 25: {
      const int fd = open_or_fail("appended", O_WRONLY | O_CREAT | O_APPEND);
      const uint64_t size = size_of(fd);
      if (write(fd, "appended", 8) != 8 || size_of(fd) != size + 8) fail("append");
      close(fd);
      break;
    }
    default: break;
  }
}

void leave() {
  if (g_leave == "jump") siglongjmp(g_before, 1);
  if (g_leave == "exit") _exit(kAgain);
  if (g_leave == "exec") {
    execv("/proc/self/exe", g_argv);
    fail("exec");
  }
  if (g_leave != "fork") return;
  // The child would do once more what the call has not done yet, at the offset of both.
  const bool grows = g_call == "write" || g_call == "writev";
  const bool may_return =
      grows ? lseek(g_main, 0, SEEK_CUR) == static_cast<off_t>(g_state->place + kLength)
            : g_call != "read" || lseek(g_steady, 0, SEEK_CUR) != g_read_at;
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    if (g_round % 4 == 0 || !may_return) _exit(0);
    g_child = 1;  // returns into the call
    return;
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) fail("child: status %d", status);
}

void on_signal(int) {
  const int error = errno;
  if (g_in_call != 0 && g_hit == 0 && g_child == 0) {
    g_hit = 1;
    ++g_state->hits;
    --g_state->rounds;
    act(g_round);
    leave();
  }
  errno = error;
}

/// Each way to install it.
void install(uint64_t number) {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  switch (number % 4) {
    case 0: action.sa_flags = SA_RESTART; break;
    case 1: action.sa_flags = SA_NODEFER; break;
    case 2: action.sa_flags = static_cast<int>(SA_RESETHAND); break;
    default: signal(SIGALRM, on_signal); return;
  }
  if (sigaction(SIGALRM, &action, nullptr) != 0) fail("sigaction");
}

void arm(uint64_t us) {
  const itimerval when{{0, 0}, {0, static_cast<suseconds_t>(us)}};
  setitimer(ITIMER_REAL, &when, nullptr);
}

// --- the calls that are interrupted --------------------------------------------------------------

/// Makes a call in which the handler counts. Nothing else: it may not come in the middle of
/// malloc().
template <typename Make>
auto interruptible(Make make) {
  g_in_call = 1;
  if (g_hit == 0 && g_child == 0) arm(1 + random_number() % (random_number() % 2 != 0 ? 20 : 120));
  const auto result = make();
  g_in_call = 0;
  arm(0);
  return result;
}

void call() {
  char read_bytes[kSlot];
  if (g_call == "write" || g_call == "writev") {
    const std::string bytes = bytes_at(g_state->place, kLength, 1);
    const iovec parts[2] = {{const_cast<char*>(bytes.data()), 300},
                            {const_cast<char*>(bytes.data()) + 300, kLength - 300}};
    const bool one = g_call == "write";
    const ssize_t done = interruptible(
        [&] { return one ? write(g_main, bytes.data(), kLength) : writev(g_main, parts, 2); });
    if (done != static_cast<ssize_t>(kLength)) fail("write: %zd", done);
    if (g_child == 0) g_state->place += kLength;
  } else if (g_call == "pwrite") {
    const uint64_t slot = g_round % kSlots;
    g_state->asked = slot;
    const uint64_t version = g_state->versions[slot] + 1;
    const std::string bytes = bytes_at(slot * kSlot, kSlot, 100 + version);
    const ssize_t done = interruptible(
        [&] { return pwrite(g_main, bytes.data(), kSlot, static_cast<off_t>(slot * kSlot)); });
    if (done != kSlot) fail("pwrite: %zd", done);
    if (g_child == 0) g_state->versions[slot] = version;
    g_state->asked = 2 * kSlots;
  } else if (g_call == "read") {
    const off_t at = lseek(g_steady, static_cast<off_t>(g_round * 8192 % (kSteady / 2)), SEEK_SET);
    g_read_at = at;
    const ssize_t done = interruptible([&] { return read(g_steady, read_bytes, kSlot); });
    if (done != kSlot) fail("read: %zd", done);
    if (first_wrong(read_bytes, kSlot, static_cast<uint64_t>(at), 77) != kSlot) fail("read: wrong");
    if (lseek(g_steady, 0, SEEK_CUR) != at + static_cast<off_t>(kSlot)) fail("read: position");
  } else if (g_call == "pread") {
    const uint64_t at = g_round * 8192 % (kSteady / 2);
    const ssize_t done =
        interruptible([&] { return pread(g_steady, read_bytes, kSlot, static_cast<off_t>(at)); });
    if (done != kSlot) fail("pread: %zd", done);
    if (first_wrong(read_bytes, kSlot, at, 77) != kSlot) fail("pread: wrong");
  } else if (g_call == "own-pread") {
    const uint64_t slot = g_round % kSlots;
    const ssize_t done = interruptible(
        [&] { return pread(g_main, read_bytes, kSlot, static_cast<off_t>(slot * kSlot)); });
    if (done != kSlot) fail("own pread: %zd", done);
    const uint64_t seed = 100 + g_state->versions[slot];
    if (first_wrong(read_bytes, kSlot, slot * kSlot, seed) != kSlot) fail("own pread: wrong");
  } else if (g_call == "fsync") {
    if (interruptible([] { return fsync(g_main); }) != 0) fail("fsync");
  } else if (g_call == "close") {
    const int other = open_or_fail("third", O_RDWR | O_CREAT);
    if (write(other, "third", 5) != 5) fail("third");
    if (interruptible([=] { return close(other); }) != 0) fail("close");
  } else {
    fail("no such call");
  }
}

/// After a call of which it is not known whether it was done.
void look_what_was_done() {
  g_in_call = 0;
  const off_t at = lseek(g_main, 0, SEEK_CUR);
  expect_end(static_cast<uint64_t>(at), "position after the call");
  if (size_of(g_main) != static_cast<uint64_t>(at)) fail("size is not the position %ld", at);
  g_state->place = static_cast<uint64_t>(at);
  expect_tail(g_main, g_state->place);
  if (g_state->asked < 2 * kSlots) {
    expect_slot(g_main, g_state->asked);
    write_slot(g_state->asked);
    g_state->asked = 2 * kSlots;
  }
}

/// The forked child has returned from the call that its parent's handler interrupted.
[[noreturn]] void end_child() {
  const uint64_t end = size_of(g_main);
  expect_end(end, "size in the child");
  expect_tail(g_main, end);
  expect_slot(g_main, kSlots);
  expect_bytes(g_steady, 0, kSlot, 77, "steady in the child");
  _exit(0);
}

void expect_own_mask() {
  sigset_t mask;
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int number = 1; number < 32; ++number) {
    if (sigismember(&mask, number) != 0) fail("signal %d is blocked", number);
  }
}

/// Opens the first file, to write behind what is there, and makes sure that it is served by booster
/// if it can be, also when only what pays is.
void open_main() {
  if (g_main >= 0) close(g_main);
  g_main = open_or_fail("main", O_RDWR);
  lseek(g_main, static_cast<off_t>(size_of(g_main)), SEEK_SET);
  if (getenv("PROBE_PAYS") == nullptr) return;
  for (uint64_t i = 0; i < 64; ++i) {
    if (i % kSlots != g_state->asked) write_slot(i % kSlots);
  }
}

void round() {
  g_hit = 0;
  if (g_leave == "fork") open_main();  // what children have is not boosted any more
  if (g_state->place > kMost) {
    if (ftruncate(g_main, kStart) != 0) fail("ftruncate");
    g_state->place = kStart;
    lseek(g_main, kStart, SEEK_SET);
  }
  volatile int attempts = 0;
  while (g_hit == 0) {
    attempts = attempts + 1;
    if (attempts > kAttempts) fail("no signal came in the middle of a call");
    install(g_round);
    if (sigsetjmp(g_before, 1) == 0) {
      call();
      if (g_child != 0) end_child();
    } else {
      look_what_was_done();
    }
    arm(0);  // of a call that was jumped out of
    expect_own_mask();
  }
  // The same again, undisturbed.
  call();
  expect_tail(g_main, g_state->place);
}

void check_all() {
  const uint64_t end = size_of(g_main);
  if (end != g_state->place) fail("size %lu, written were %lu", end, g_state->place);
  for (uint64_t at = kStart; at < end; at += kSlot) {
    expect_bytes(g_main, at, static_cast<size_t>(end - at < kSlot ? end - at : kSlot), 1, "main");
  }
  for (uint64_t slot = 0; slot < 2 * kSlots; ++slot) expect_slot(g_main, slot);
  for (uint64_t at = 0; at < g_state->second; at += kLength) {
    expect_bytes(g_second, at, kLength, 2, "second");
  }
}

/// The files as they are before the first round.
void make() {
  g_main = open_or_fail("main", O_RDWR | O_CREAT);
  g_second = open_or_fail("second", O_RDWR | O_CREAT);
  g_steady = open_or_fail("steady", O_RDWR | O_CREAT);
  const std::string bytes = bytes_at(0, kSteady, 77);
  if (pwrite(g_steady, bytes.data(), kSteady, 0) != static_cast<ssize_t>(kSteady)) fail("steady");
  for (uint64_t slot = 0; slot < 2 * kSlots; ++slot) write_slot(slot);
  if (ftruncate(g_main, kStart) != 0) fail("ftruncate");
  close(g_main);
  close(g_second);
  close(g_steady);
  g_state->place = kStart;
  g_state->second = 0;
  g_state->asked = 2 * kSlots;
  g_state->random = 88172645463325252ULL;
}

int run() {
  if (g_call == "make") {
    make();
    return 0;
  }
  // A handler has become this program.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const bool looks = g_call == "check";
  if (looks) {
    g_main = open_or_fail("main", O_RDONLY);
  } else {
    open_main();
  }
  g_second = open_or_fail("second", looks ? O_RDONLY : O_RDWR);
  g_steady = open_or_fail("steady", O_RDONLY);
  if (looks) {
    check_all();
    return 0;
  }
  // A process before this one may have left in the middle of a call.
  look_what_was_done();
  lseek(g_second, static_cast<off_t>(g_state->second), SEEK_SET);
  while (g_state->rounds > 0) {
    g_round = g_state->rounds;
    round();
  }
  check_all();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  g_argv = argv;
  g_directory = argv[1];
  g_call = argv[3];
  g_leave = argv[4];
  const int fd = open(argv[2], O_RDWR | O_CREAT, 0644);
  if (fd < 0 || ftruncate(fd, sizeof(State)) != 0) fail("state");
  void* map = mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) fail("state");
  close(fd);
  g_state = static_cast<State*>(map);
  return run();
}
