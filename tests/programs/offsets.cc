// Reads a file in order, and between two reads has the offset used, or looked at, in another way
// than by read: by this process, a child, or whoever it hands the descriptor to.
//
//   offsets FILE SEED ROUNDS
//
// FILE has kSize bytes of that seed. Ends with status 0 and "lagged N": at so many looks into
// fdinfo the kernel had not heard of all that was read yet. Or with 1, and a line that says what
// was wrong.
//
//   offsets check FD OFFSET SEED
//
// is what a child becomes: reads on at that offset.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "tests/programs/bare_call.h"
#include "tests/programs/bytes.h"
#include "tests/programs/envelope.h"

namespace {

using booster::test::Envelope;
using booster::test::first_wrong;

constexpr uint64_t kSize = 4 << 20;
constexpr size_t kPart = 1000;  // what those read whom the descriptor is handed to

std::string g_path;
uint64_t g_seed;
uint64_t g_round;
const char* g_what = "";
int g_fd = -1;
uint64_t g_at = 0;  // where the offset has to be
uint64_t g_lagged = 0;

[[noreturn]] void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[256];
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  printf("round %lu, %s: %s (%s)\n", g_round, g_what, text, strerror(errno));
  fflush(stdout);
  _exit(1);
}

void require(bool ok, const char* call) {
  if (!ok) fail("%s fails", call);
}

/// `got` bytes are those at the offset, as many as were asked for. Moves on behind them.
void expect(const char* bytes, ssize_t got, size_t asked) {
  const size_t there = std::min<uint64_t>(asked, kSize - g_at);
  if (got != static_cast<ssize_t>(there)) fail("%zd of %zu bytes at %lu", got, there, g_at);
  const size_t right = first_wrong(bytes, there, g_at, g_seed);
  if (right != there) fail("wrong byte %zu of what was read at %lu", right, g_at);
  g_at += there;
}

void read_on(int fd, size_t length) {
  std::string bytes(length, '\0');
  const ssize_t got = read(fd, bytes.data(), length);
  expect(bytes.data(), got, length);
}

/// Where the kernel thinks that the offset is, by a way that the shim does not see.
uint64_t kernels_offset(int fd) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
  const int info = open(path, O_RDONLY | O_CLOEXEC);
  char text[64] = {};
  require(info >= 0 && read(info, text, sizeof(text) - 1) > 5, "fdinfo");
  close(info);
  return strtoull(text + strlen("pos:"), nullptr, 10);
}

/// Reads all of it so often that what pays is boosted.
void read_noticed() {
  static char bytes[128 << 10];
  for (int i = 0; i < 6; ++i) {
    for (uint64_t at = 0; at < kSize; at += sizeof(bytes)) {
      require(pread(g_fd, bytes, sizeof(bytes), static_cast<off_t>(at)) == sizeof(bytes), "pread");
    }
    usleep(1000);
  }
}

void open_again() {
  if (g_fd >= 0) close(g_fd);
  g_fd = open(g_path.c_str(), O_RDONLY | O_CLOEXEC);
  require(g_fd >= 0, "open");
  if (getenv("PROBE_PAYS") != nullptr) read_noticed();
  require(lseek(g_fd, static_cast<off_t>(g_at), SEEK_SET) == static_cast<off_t>(g_at), "lseek");
}

void await(pid_t child) {
  int status = 0;
  require(child > 0 && waitpid(child, &status, 0) == child, "waitpid");
  if (status != 0) fail("the child has ended with status %d", status);
}

/// A shell's words that read the next kPart bytes of the descriptor.
std::string reader() {
  return "dd status=none bs=" + std::to_string(kPart) + " count=1 <&" + std::to_string(g_fd);
}

void look() {
  require(lseek(g_fd, 0, SEEK_CUR) == static_cast<off_t>(g_at), "lseek(0, SEEK_CUR)");
}
void look_by_number() {
  require(syscall(SYS_lseek, g_fd, 0, SEEK_CUR) == static_cast<long>(g_at), "SYS_lseek");
}
void step() {
  const off_t by = g_round % 2 == 0 ? 777 : -static_cast<off_t>(g_at / 2);
  g_at += static_cast<uint64_t>(by);
  require(lseek(g_fd, by, SEEK_CUR) == static_cast<off_t>(g_at), "lseek(SEEK_CUR)");
}
void bad_seeks() {
  require(lseek(g_fd, -1, SEEK_SET) < 0 && errno == EINVAL, "EINVAL of lseek(-1)");
  require(lseek(g_fd, -static_cast<off_t>(g_at) - 1, SEEK_CUR) < 0 && errno == EINVAL,
          "EINVAL of lseek before the start");
  require(lseek(g_fd, INT64_MAX, SEEK_CUR) < 0, "lseek too far");
  require(lseek(g_fd, 0, 77) < 0 && errno == EINVAL, "EINVAL of lseek(77)");
}
void seek_to() {
  g_at = g_round * 12'345 % (kSize / 2);
  require(lseek(g_fd, static_cast<off_t>(g_at), SEEK_SET) == static_cast<off_t>(g_at), "lseek");
}
void to_the_end() {
  require(lseek(g_fd, -5000, SEEK_END) == static_cast<off_t>(kSize - 5000), "lseek(SEEK_END)");
  g_at = kSize - 5000;
  for (int i = 0; i < 4; ++i) read_on(g_fd, 2000);  // the third is short, and the last empty
}
void as_vectors() {
  char bytes[3000];
  const iovec parts[2] = {{bytes, 7}, {bytes + 7, sizeof(bytes) - 7}};
  expect(bytes, readv(g_fd, parts, 2), sizeof(bytes));
  expect(bytes, preadv2(g_fd, parts, 2, -1, 0), sizeof(bytes));
}
void elsewhere() {
  char bytes[500];
  require(pread(g_fd, bytes, sizeof(bytes), 123'456) == sizeof(bytes), "pread");
  require(first_wrong(bytes, sizeof(bytes), 123'456, g_seed) == sizeof(bytes), "pread's bytes");
}
void by_another_number() {
  const int other = g_round % 2 == 0 ? dup(g_fd) : fcntl(g_fd, F_DUPFD_CLOEXEC, 6);
  read_on(other, 3333);
  read_on(g_fd, 3333);
  close(std::exchange(g_fd, other));
}
void by_an_unseen_number() {
  const long other = booster::test::bare_call(SYS_dup, g_fd);
  require(other >= 0, "dup");
  close(std::exchange(g_fd, static_cast<int>(other)));
  read_on(g_fd, 500);
  open_again();
}
void by_a_number_that_stays() {
  const int other = dup(g_fd);
  require(dup3(1, other, 1) < 0 && errno == EINVAL, "EINVAL of dup3");
  for (int i = 0; i < 10; ++i) read_on(g_fd, 400);
  for (int i = 0; i < 3; ++i) {
    read_on(g_fd, 400);
    require(lseek(other, 0, SEEK_CUR) == static_cast<off_t>(g_at), "lseek of the other number");
    read_on(g_fd, 400);
    read_on(other, 400);
  }
  close(other);
  open_again();
}
void by_numbers_in_turn() {
  const int other = dup(g_fd);
  const int none = open("/dev/null", O_RDONLY | O_CLOEXEC);
  require(dup2(none, g_fd) == g_fd, "dup2");
  read_on(other, 600);
  require(dup2(other, g_fd) == g_fd, "dup2 back");
  close(none);
  read_on(g_fd, 600);
  close(other);
}
void by_a_thread() {
  std::thread([] { read_on(g_fd, kPart); }).join();
}
void by_a_child() {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    read_on(g_fd, kPart);
    _exit(0);
  }
  await(child);
  g_at += kPart;
  read_on(g_fd, kPart);
  open_again();
}
[[noreturn]] void become(const char* number) {
  execl("/proc/self/exe", "offsets", "check", number, std::to_string(g_at).c_str(),
        std::to_string(g_seed).c_str(), static_cast<char*>(nullptr));
  _exit(3);
}
void by_what_a_child_becomes() {
  const std::string number = std::to_string(g_fd);
  fcntl(g_fd, F_SETFD, 0);
  const pid_t child = g_round % 2 == 0 ? fork() : vfork();
  if (child == 0) become(number.c_str());
  await(child);
  g_at += 2 * kPart;
  read_on(g_fd, kPart);
  open_again();
}
void by_a_command() {
  fcntl(g_fd, F_SETFD, 0);
  const std::string command = reader() + " > /dev/null";
  require(system(command.c_str()) == 0, "system");
  g_at += kPart;
  open_again();
}
void by_a_pipe() {
  fcntl(g_fd, F_SETFD, 0);
  FILE* pipe = popen(reader().c_str(), "r");
  require(pipe != nullptr, "popen");
  char bytes[kPart];
  const size_t got = fread(bytes, 1, kPart, pipe);
  require(pclose(pipe) == 0, "pclose");
  expect(bytes, static_cast<ssize_t>(got), kPart);
  open_again();
}
void by_words() {
  fcntl(g_fd, F_SETFD, 0);
  wordexp_t words;
  require(wordexp(("$(" + reader() + " | od -An -v -tu1)").c_str(), &words, 0) == 0, "wordexp");
  std::string bytes;
  for (size_t i = 0; i < words.we_wordc; ++i) {
    bytes += static_cast<char>(atoi(words.we_wordv[i]));
  }
  wordfree(&words);
  expect(bytes.data(), static_cast<ssize_t>(bytes.size()), kPart);
  open_again();
}
void by_message() {
  int ends[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
  Envelope envelope;
  envelope.put(g_fd);
  require(sendmsg(ends[0], &envelope.message, 0) == 1, "sendmsg");
  // The number is one that was opened by the program, and closed by libc.
  require(closedir(fdopendir(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC))) == 0, "closedir");
  require(recvmsg(ends[1], &envelope.message, MSG_CMSG_CLOEXEC) == 1, "recvmsg");
  const int other = envelope.take();
  // The first time until the bricks have been asked anew, so that booster serves it, too.
  static bool waited = false;
  for (int i = 0; i < (waited ? 1 : 100); ++i) {
    if (kernels_offset(other) != g_at) break;
    usleep(10'000);
    for (int part = 0; part < 5; ++part) read_on(other, 99);
  }
  waited = true;
  read_on(g_fd, 999);
  read_on(other, 999);
  close(other);
  close(ends[0]);
  close(ends[1]);
  open_again();
}
/// `copy` moves the next kPart bytes to its argument.
template <typename Copy>
void by_pipe_copy(Copy copy) {
  int ends[2];
  require(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
  require(copy(ends[1]) == static_cast<ssize_t>(kPart), "the copy");
  char bytes[kPart];
  const ssize_t got = read(ends[0], bytes, kPart);
  expect(bytes, got, kPart);
  close(ends[0]);
  close(ends[1]);
  read_on(g_fd, 100);
  open_again();
}
void by_sendfile() {
  by_pipe_copy([](int to) { return sendfile(to, g_fd, nullptr, kPart); });
}
void by_splice() {
  by_pipe_copy([](int to) { return splice(g_fd, nullptr, to, nullptr, kPart, 0); });
}
void by_splice_by_number() {
  by_pipe_copy([](int to) { return syscall(SYS_splice, g_fd, nullptr, to, nullptr, kPart, 0); });
}
void by_a_copy_of_the_file() {
  const int to = open((g_path + ".copy").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(copy_file_range(g_fd, nullptr, to, nullptr, kPart, 0) == static_cast<ssize_t>(kPart),
          "copy_file_range");
  char bytes[kPart];
  require(pread(to, bytes, kPart, 0) == static_cast<ssize_t>(kPart), "pread of the copy");
  expect(bytes, kPart, kPart);
  close(to);
  read_on(g_fd, 100);
  open_again();
}
void what_is_left() {
  int left = 0;
  require(ioctl(g_fd, FIONREAD, &left) == 0, "FIONREAD");
  if (left != static_cast<int>(kSize - g_at)) fail("FIONREAD is %d at %lu", left, g_at);
  read_on(g_fd, 100);
  open_again();
}
void lock_from_here() {
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_CUR;
  lock.l_len = 10;
  require(fcntl(g_fd, F_OFD_SETLK, &lock) == 0, "F_OFD_SETLK");
  const int other = open(g_path.c_str(), O_RDWR | O_CLOEXEC);
  struct flock seen {};
  seen.l_type = F_WRLCK;
  require(fcntl(other, F_OFD_GETLK, &seen) == 0, "F_OFD_GETLK");
  if (seen.l_start != static_cast<off_t>(g_at)) {
    fail("locked from %ld on, not from %lu", seen.l_start, g_at);
  }
  close(other);
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 0;
  require(fcntl(g_fd, F_OFD_SETLK, &lock) == 0, "F_OFD_SETLK");
  read_on(g_fd, 100);
  open_again();
}
void as_a_stream() {
  FILE* stream = fdopen(dup(g_fd), "r");
  require(stream != nullptr, "fdopen");
  char bytes[300];
  const size_t got = fread(bytes, 1, sizeof(bytes), stream);
  expect(bytes, static_cast<ssize_t>(got), sizeof(bytes));
  require(ftell(stream) == static_cast<long>(g_at), "ftell");
  require(fflush(stream) == 0, "fflush");  // puts the offset where the program has read to
  require(fclose(stream) == 0, "fclose");
}

struct Use {
  const char* what;
  void (*make)();
};
/// After these the offset is this process's alone, as before.
constexpr Use kOwnUses[] = {
    {"a look", look},
    {"a look by number", look_by_number},
    {"a step", step},
    {"bad seeks", bad_seeks},
    {"a seek", seek_to},
    {"the end", to_the_end},
    {"vectors", as_vectors},
    {"pread", elsewhere},
    {"another number", by_another_number},
    {"numbers in turn", by_numbers_in_turn},
    {"a stream", as_a_stream},
};
/// After these it is not, and so the file is opened again.
constexpr Use kOtherUses[] = {
    {"an unseen number", by_an_unseen_number},
    {"a number that stays", by_a_number_that_stays},
    {"a child", by_a_child},
    {"what a child becomes", by_what_a_child_becomes},
    {"a command", by_a_command},
    {"a pipe", by_a_pipe},
    {"words", by_words},
    {"a message", by_message},
    {"sendfile", by_sendfile},
    {"splice", by_splice},
    {"splice by number", by_splice_by_number},
    {"a copy of the file", by_a_copy_of_the_file},
    {"what is left", what_is_left},
    {"a lock", lock_from_here},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && strcmp(argv[1], "check") == 0) {
    g_at = strtoull(argv[3], nullptr, 10);
    g_seed = strtoull(argv[4], nullptr, 10);
    g_what = "read on";
    g_fd = atoi(argv[2]);
    read_on(g_fd, kPart);
    by_a_thread();
    return 0;
  }
  if (argc != 4) return 2;
  g_path = argv[1];
  g_seed = strtoull(argv[2], nullptr, 10);
  std::minstd_rand random(static_cast<unsigned>(g_seed));
  open_again();
  for (uint64_t rounds = strtoull(argv[3], nullptr, 10); g_round < rounds; ++g_round) {
    constexpr uint64_t kRarely = 8;
    const Use& use = g_round % kRarely == 0 ? kOtherUses[g_round / kRarely % std::size(kOtherUses)]
                                            : kOwnUses[random() % std::size(kOwnUses)];
    g_what = use.what;
    if (g_at > kSize * 3 / 4) {
      g_at = random() % (kSize / 2);
      open_again();
    }
    // More than one tick of the clock long now and then.
    const uint64_t reads = 2 + random() % (random() % 8 == 0 ? 200 : 20);
    for (uint64_t i = 0; i < reads; ++i) read_on(g_fd, 1 + random() % 5000);
    if (kernels_offset(g_fd) != g_at) ++g_lagged;
    use.make();
    read_on(g_fd, 1 + random() % 5000);
  }
  g_what = "the end";
  open_again();
  printf("lagged %lu\n", g_lagged);
  fflush(stdout);
  g_at = 0;
  open_again();
  // Until the kernel does not know where it is, if that comes to be.
  for (int i = 0; i < 1000 && kernels_offset(g_fd) == g_at; ++i) {
    if (i % 100 == 99) usleep(1000);
    for (int part = 0; part < 3; ++part) read_on(g_fd, 1000);
  }
  fcntl(g_fd, F_SETFD, 0);
  become(std::to_string(g_fd).c_str());
}
