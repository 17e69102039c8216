// A ladder of odd arguments over the calls that booster stands before: bad addresses, lengths that
// overflow, negative offsets, numbers that are no files. For tests: the same program must print the
// same lines without and with the shim.
//
//   arguments KIND DIRECTORY OUTSIDE FIRST
//
// KIND is what the calls get for a descriptor, or "names" for the calls that take a path. DIRECTORY
// is a scratch directory on the mount, OUTSIDE one that is not. Prints "KIND CALL CASE -> RESULT",
// with what is there afterwards, for each case from number FIRST on. What comes before the arrow is
// printed before the call: of a program that was killed the last line says by which case, and it is
// started again with the next one. No case runs in a child, where nothing would be boosted.
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/programs/bytes.h"

// Names that no header has (any more).
extern "C" {
ssize_t __read(int, void*, size_t);
ssize_t __write(int, const void*, size_t);
ssize_t __pread64(int, void*, size_t, off_t);
ssize_t __pwrite64(int, const void*, size_t, off_t);
ssize_t __read_chk(int, void*, size_t, size_t);
ssize_t __pread_chk(int, void*, size_t, off_t, size_t);
ssize_t __pread64_chk(int, void*, size_t, off_t, size_t);
off_t __lseek(int, off_t, int);
int __close(int);
int __dup2(int, int);
int __fcntl(int, int, ...);
int __open(const char*, int, ...);
int __open64(const char*, int, ...);
int __open_2(const char*, int);
int __open64_2(const char*, int);
int __openat_2(int, const char*, int);
int __openat64_2(int, const char*, int);
int __xstat(int, const char*, struct stat*);
int __lxstat(int, const char*, struct stat*);
int __fxstat(int, int, struct stat*);
int __fxstatat(int, int, const char*, struct stat*, int);
int __xstat64(int, const char*, struct stat64*);
int __lxstat64(int, const char*, struct stat64*);
int __fxstat64(int, int, struct stat64*);
int __fxstatat64(int, int, const char*, struct stat64*, int);
}

namespace {

using booster::test::bytes_at;
using booster::test::bytes_of;

constexpr size_t kPage = 4096;
constexpr size_t kSize = 20'000;       // of a file that is written
constexpr size_t kReadSize = 2 << 20;  // of one that is read: large enough for the page cache
constexpr off_t kStart = 1000;         // where the offset is before each case
constexpr size_t kArena = 64 << 10;
constexpr int kClosed = 60;  // a number that nobody opens
constexpr int64_t kLeast = INT64_MIN;
constexpr int64_t kMost = INT64_MAX;

[[noreturn]] void fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

uint64_t digest(const void* bytes, size_t length, uint64_t sum = 14695981039346656037U) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  for (size_t i = 0; i < length; ++i) sum = (sum ^ at[i]) * 1099511628211U;
  return sum;
}

// --- addresses ---------------------------------------------------------------------------------

/// Memory that may be used, up to a page that may not.
struct Arena {
  char* good = nullptr;
  char* end = nullptr;  // of what may be used
  char* read_only = nullptr;

  explicit Arena(uint64_t seed) {
    void* memory = mmap(nullptr, kArena + 2 * kPage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    read_only = static_cast<char*>(memory);
    good = read_only + kPage;
    end = good + kArena;
    const std::string bytes = bytes_at(0, kPage + kArena, seed);
    memcpy(read_only, bytes.data(), bytes.size());
    if (mprotect(read_only, kPage, PROT_READ) != 0 || mprotect(end, kPage, PROT_NONE) != 0) {
      fail("mprotect");
    }
  }
  /// The last `bytes` that may be used, and what may not behind them.
  template <typename T = void>
  T* edge(size_t bytes) const {
    return reinterpret_cast<T*>(end - bytes);
  }
  template <typename T = void>
  T* none() const {
    return reinterpret_cast<T*>(end);
  }
};

template <typename T = void>
T* address(uint64_t word) {
  return reinterpret_cast<T*>(word);
}
/// A null pointer of which the compiler does not know.
template <typename T>
T* null() {
  static T* volatile nothing = nullptr;
  return nothing;
}
constexpr uint64_t kLow = 0x1000;                  // never mapped
constexpr uint64_t kHigh = 0x0000'8000'0000'0000;  // of no program
constexpr uint64_t kKernel = ~uint64_t{0} - 8 * kPage + 1;

const Arena& source() {
  static const Arena arena(2);
  return arena;
}
const Arena& sink() {
  static const Arena arena(3);
  return arena;
}
/// For structures that calls get.
const Arena& words() {
  static const Arena arena(4);
  return arena;
}
/// For vectors.
const Arena& vector_words(bool reads) {
  static const std::array<Arena, 2> arenas = {Arena(5), Arena(6)};
  return arenas.at(reads ? 1 : 0);
}
/// More than the kernel moves in one call.
char* vast() {
  static void* memory = mmap(nullptr, 3UL << 30, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return static_cast<char*>(memory);
}

// --- cases -------------------------------------------------------------------------------------

enum Effect : unsigned {
  kNothing = 0,
  kAnew = 1,          // the descriptor may not be boosted any more afterwards
  kAttributes = 2,    // may change mode, owner or times, which are shown
  kSynced = 4,        // what was written fails later: fsync is shown
  kNotNegative = 8,   // would do something else with a number below zero
  kNotOutside = 16,   // takes long on a disk
  kAnotherFile = 33,  // kAnew, and not the file either
};

/// Where bytes have come that a call has moved.
std::vector<iovec> g_moved;

struct Case {
  std::string name;
  std::function<long(int)> call;
  unsigned effect = kNothing;
};
std::vector<Case> g_cases;

void add(std::string name, std::function<long(int)> call, unsigned effect = kNothing) {
  g_cases.push_back({std::move(name), std::move(call), effect});
}

template <typename T>
long as_long(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// --- what the calls get for a descriptor -------------------------------------------------------

std::string g_kind;
std::string g_directory;
std::string g_outside;
int g_fd = -1;
int g_peer = -1;   // other end of a pipe or a socket
int g_other = -1;  // a file outside the mount, for calls with two descriptors
constexpr size_t kOtherSize = 5000;

bool is(const char* kind) {
  return g_kind == kind;
}
bool on_mount_and_written() {
  return is("written") || is("write-only") || is("append") || is("untouched");
}
bool has_bytes() {
  return on_mount_and_written() || is("outside");
}
bool is_number() {
  return is("closed") || is("minus") || is("huge") || is("least");
}

void put_all(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put =
        pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (put <= 0) fail("pwrite");
    done += static_cast<size_t>(put);
  }
}

/// By writes that are not boosted: only those of the cases, and before them, are to be counted.
void make_file(const std::string& path, size_t size) {
  unlink(path.c_str());
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (fd < 0) fail(path.c_str());
  put_all(fd, bytes_at(0, size, 1));
  if (close(fd) != 0) fail("close");
}

std::string subject_path() {
  return (is("outside") ? g_outside : g_directory) + "/subject";
}

int open_subject(int flags) {
  const int fd = open(subject_path().c_str(), flags);
  if (fd < 0) fail("open");
  return fd;
}

/// A new file, or whatever it is, and nothing of the last one.
void make_subject() {
  if (!is_number() && g_fd >= 0) close(g_fd);
  if (g_peer >= 0) close(g_peer);
  g_peer = -1;
  if (is("read")) {
    struct stat status {};
    if (stat(subject_path().c_str(), &status) != 0 || status.st_size != kReadSize ||
        status.st_mode != (S_IFREG | 0644) || status.st_uid != 0) {
      make_file(subject_path(), kReadSize);
    }
    g_fd = open_subject(O_RDONLY);
  } else if (has_bytes()) {
    make_file(subject_path(), kSize);
    g_fd = open_subject(is("write-only") ? O_WRONLY : is("append") ? O_RDWR | O_APPEND : O_RDWR);
  } else if (is("path")) {
    make_file(subject_path(), kSize);
    g_fd = open_subject(O_PATH);
  } else if (is("directory")) {
    mkdir(subject_path().c_str(), 0755);
    chmod(subject_path().c_str(), 0755);
    if (chown(subject_path().c_str(), 0, 0) != 0) fail("chown");
    g_fd = open_subject(O_RDONLY | O_DIRECTORY);
  } else if (is("pipe-reader") || is("pipe-writer")) {
    int ends[2];
    if (pipe2(ends, O_NONBLOCK) != 0) fail("pipe2");
    const bool reads = is("pipe-reader");
    g_fd = ends[reads ? 0 : 1];
    g_peer = ends[reads ? 1 : 0];
    if (reads && write(g_peer, source().good, 300) != 300) fail("write");
  } else if (is("socket")) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) fail("socketpair");
    g_fd = ends[0];
    g_peer = ends[1];
    if (write(g_peer, source().good, 300) != 300) fail("write");
  } else {
    g_fd = is("closed") ? kClosed : is("minus") ? -1 : is("huge") ? INT32_MAX : INT32_MIN;
  }
}

/// Brings the descriptor to where each case begins, by one call that booster serves if it
/// serves any.
void begin() {
  if (is("untouched")) {
    close(g_fd);
    g_fd = open_subject(O_RDWR);
  }
  if (is("written") || is("write-only")) {
    const std::string bytes = bytes_at(0, 64, 1);
    if (pwrite(g_fd, bytes.data(), bytes.size(), 0) != 64) fail("pwrite");
  }
  if (is("read")) {
    char bytes[64];
    if (pread(g_fd, bytes, sizeof bytes, 0) != 64) fail("pread");
  }
  if (has_bytes() || is("read") || is("directory"))
    lseek(g_fd, is("directory") ? 0 : kStart, SEEK_SET);
  lseek(g_other, 0, SEEK_SET);
}

/// Everything about the descriptor that a call may have changed.
std::string state() {
  char text[256];
  const long offset = lseek(g_fd, 0, SEEK_CUR);
  const int flags = fcntl(g_fd, F_GETFL);
  std::string all = " at " + std::to_string(offset) + " flags " + std::to_string(flags);
  if (is_number()) return all;
  if (has_bytes() && !is("write-only")) {
    const std::string bytes = bytes_of(g_fd, 2 * kArena);
    snprintf(text, sizeof text, " holds %zu %016lx", bytes.size(),
             digest(bytes.data(), bytes.size()));
    all += text;
  }
  if (is("write-only")) {
    struct stat status {};
    if (fstat(g_fd, &status) == 0) all += " size " + std::to_string(status.st_size);
  }
  if (g_peer >= 0) {
    int mine = -1;
    int other = -1;
    ioctl(g_fd, FIONREAD, &mine);
    ioctl(g_peer, FIONREAD, &other);
    all += " queued " + std::to_string(mine) + " " + std::to_string(other);
  }
  struct stat status {};
  fstat(g_other, &status);
  all += " other " + std::to_string(lseek(g_other, 0, SEEK_CUR)) + "/" +
         std::to_string(status.st_size);
  return all;
}

std::string attributes() {
  struct stat status {};
  if (fstat(g_fd, &status) != 0) return " no attributes";
  char text[128];
  // A time of now differs, and a socket has none.
  const long time = is("socket") ? -1
                    : status.st_mtim.tv_sec > 1'600'000'000 && status.st_mtim.tv_sec < 4'000'000'000
                        ? -1
                        : static_cast<long>(status.st_mtim.tv_sec);
  snprintf(text, sizeof text, " mode %o owner %u:%u time %ld", status.st_mode, status.st_uid,
           status.st_gid, time);
  return text;
}

// --- reads and writes --------------------------------------------------------------------------

template <typename... Arguments>
long call_number(long number, Arguments... arguments) {
  return ::syscall(number, arguments...);
}

/// All of the ladder for a call; for its other names, which do the same, some rungs of it.
bool is_skipped(const std::string& call, size_t index) {
  constexpr size_t kEvery = 6;
  const bool other =
      call.starts_with("__") || call.starts_with("SYS_") || call.find("64") != std::string::npos;
  return other && index % kEvery != 4;
}

using Plain = std::function<long(int, char*, size_t)>;
using PlainAt = std::function<long(int, char*, size_t, off_t)>;
using Vectored = std::function<long(int, const iovec*, int)>;
using VectoredAt = std::function<long(int, const iovec*, int, off_t)>;
using VectoredWith = std::function<long(int, const iovec*, int, off_t, int)>;

struct Buffer {
  const char* name;
  char* start;
  size_t length;
};

std::vector<Buffer> buffers(bool reads) {
  const Arena& arena = reads ? sink() : source();
  std::vector<Buffer> all = {
      {"good 0", arena.good, 0},
      {"good 1", arena.good, 1},
      {"good 300", arena.good, 300},
      {"good 4096", arena.good, 4096},
      {"good SSIZE_MAX", arena.good, SSIZE_MAX},
      {"good SSIZE_MAX+1", arena.good, size_t{SSIZE_MAX} + 1},
      {"good SIZE_MAX", arena.good, SIZE_MAX},
      {"good SIZE_MAX-300", arena.good, SIZE_MAX - 300},
      {"good 2^46", arena.good, size_t{1} << 46},
      {"null 0", nullptr, 0},
      {"null 1", nullptr, 1},
      {"null 300", nullptr, 300},
      {"null SIZE_MAX", nullptr, SIZE_MAX},
      {"none 0", arena.none<char>(), 0},
      {"none 300", arena.none<char>(), 300},
      {"none SSIZE_MAX", arena.none<char>(), SSIZE_MAX},
      {"low 300", address<char>(kLow), 300},
      {"high 0", address<char>(kHigh), 0},
      {"high 300", address<char>(kHigh), 300},
      {"kernel 0", address<char>(kKernel), 0},
      {"kernel 300", address<char>(kKernel), 300},
      {"edge 100 of 100", arena.edge<char>(100), 100},
      {"edge 100 of 101", arena.edge<char>(100), 101},
      {"edge 5000 of 6000", arena.edge<char>(5000), 6000},
      {"read-only 300", arena.read_only, 300},
  };
  if (reads) all.push_back({"vast 2^31+5", vast(), (size_t{1} << 31) + 5});
  return all;
}

struct Offset {
  const char* name;
  off_t at;
};
const std::vector<Offset> kOffsets = {
    {"0", 0},
    {"1000", 1000},
    {"near end", kSize - 10},
    {"-1", -1},
    {"-2", -2},
    {"least", kLeast},
    {"most", kMost},
    {"most-10", kMost - 10},
    {"most-300", kMost - 300},
};

bool is_far(off_t at) {
  return at > off_t{1} << 40;
}

struct Vectors {
  std::string name;
  const iovec* array;
  int count;
};

std::vector<Vectors> make_vector_lists(bool reads) {
  const Arena& arena = reads ? sink() : source();
  char* good = arena.good;
  // The arrays live as long as the program, which ends soon.
  static std::deque<std::vector<iovec>> kept;
  std::vector<Vectors> all;
  const auto list = [&](const std::string& name, const std::vector<iovec>& vectors) {
    const iovec* array = kept.emplace_back(vectors).data();
    all.push_back({name, array, static_cast<int>(vectors.size())});
    return array;
  };
  const size_t quarter = size_t{1} << 62;
  const iovec* two = list("{100,200}", {{good, 100}, {good + 100, 200}});
  list("{300}", {{good, 300}});
  list("{0}", {{good, 0}});
  list("{0,0}", {{good, 0}, {nullptr, 0}});
  list("{300,0,5}", {{good, 300}, {nullptr, 0}, {good + 300, 5}});
  list("{100,SIZE_MAX-50}", {{good, 100}, {good, SIZE_MAX - 50}});
  list("{SIZE_MAX-50,100}", {{good, SIZE_MAX - 50}, {good, 100}});
  list("{100,SSIZE_MAX}", {{good, 100}, {good, SSIZE_MAX}});
  list("{100,SSIZE_MAX-50}", {{good, 100}, {good, SSIZE_MAX - 50}});
  list("{SSIZE_MAX,SSIZE_MAX,2}", {{good, SSIZE_MAX}, {good, SSIZE_MAX}, {good, 2}});
  list("{2^62 four times}", {{good, quarter}, {good, quarter}, {good, quarter}, {good, quarter}});
  list("{2^62 four times,100}",
       {{good, quarter}, {good, quarter}, {good, quarter}, {good, quarter}, {good, 100}});
  list("{2^63 twice,100}", {{good, quarter * 2}, {good, quarter * 2}, {good, 100}});
  list("{SSIZE_MAX}", {{good, SSIZE_MAX}});
  list("{SIZE_MAX}", {{good, SIZE_MAX}});
  list("{2^46}", {{good, size_t{1} << 46}});
  list("{null 300}", {{nullptr, 300}});
  list("{good 100,null 100}", {{good, 100}, {nullptr, 100}});
  list("{good 100,none 100,good 100}", {{good, 100}, {arena.none(), 100}, {good + 100, 100}});
  list("{none 0,good 100}", {{arena.none(), 0}, {good, 100}});
  list("{edge 100 of 200}", {{arena.edge(100), 200}});
  list("{good 50,edge 100 of 200}", {{good, 50}, {arena.edge(100), 200}});
  list("{kernel 10,good 10}", {{address(kKernel), 10}, {good, 10}});
  list("{good 10,kernel 0}", {{good, 10}, {address(kKernel), 0}});
  list("{read-only 10,good 10}", {{arena.read_only, 10}, {good, 10}});
  if (reads) {
    list("{vast 2^31,100}", {{vast(), size_t{1} << 31}, {good, 100}});
    list("{100,vast 2^31}", {{good, 100}, {vast(), size_t{1} << 31}});
  }
  std::vector<iovec> many(1025);
  for (size_t i = 0; i < many.size(); ++i) many[i] = {good + i, 1};
  const iovec* thousand = list("1025 of 1", many);
  all.push_back({"1024 of 1", thousand, 1024});
  for (const int count : {-1, 0, INT32_MAX, INT32_MIN}) {
    all.push_back({"good count " + std::to_string(count), two, count});
  }
  for (const int count : {-1, 0, 1, 2, 1025}) {
    all.push_back({"null count " + std::to_string(count), nullptr, count});
    all.push_back(
        {"none count " + std::to_string(count), vector_words(reads).none<iovec>(), count});
  }
  all.push_back({"low count 1", address<iovec>(kLow), 1});
  all.push_back({"kernel count 1", address<iovec>(kKernel), 1});
  auto* last = vector_words(reads).edge<iovec>(sizeof(iovec));
  *last = {good, 100};
  all.push_back({"edge 1 count 1", last, 1});
  all.push_back({"edge 1 count 2", last, 2});
  all.push_back({"edge half count 1", vector_words(reads).edge<iovec>(8), 1});
  return all;
}

const std::vector<Vectors>& vector_lists(bool reads) {
  static const std::array<std::vector<Vectors>, 2> lists = {make_vector_lists(false),
                                                            make_vector_lists(true)};
  return lists.at(reads ? 1 : 0);
}

void moved(const iovec* vectors, int count) {
  g_moved.clear();
  for (int i = 0; i < count; ++i) g_moved.push_back(vectors[i]);
}

/// What a call that moves bytes at a far offset changes is found out later.
unsigned effect_at(bool reads, off_t at) {
  return !reads && is_far(at) ? kSynced | kAnew : kNothing;
}

void add_plain(const std::string& call, bool reads, const Plain& plain) {
  size_t index = 0;
  for (const Buffer& buffer : buffers(reads)) {
    if (is_skipped(call, index++)) continue;
    add(call + " " + buffer.name, [=](int fd) {
      const long result = plain(fd, buffer.start, buffer.length);
      if (reads && result > 0) g_moved = {{buffer.start, static_cast<size_t>(result)}};
      return result;
    });
  }
}

void add_plain_at(const std::string& call, bool reads, const PlainAt& plain) {
  const auto one = [&](const Buffer& buffer, const Offset& offset) {
    add(
        call + " " + buffer.name + " at " + offset.name,
        [=](int fd) {
          const long result = plain(fd, buffer.start, buffer.length, offset.at);
          if (reads && result > 0) g_moved = {{buffer.start, static_cast<size_t>(result)}};
          return result;
        },
        effect_at(reads, offset.at));
  };
  size_t index = 0;
  for (const Buffer& buffer : buffers(reads)) {
    if (!is_skipped(call, index++)) one(buffer, {"500", 500});
  }
  const Arena& arena = reads ? sink() : source();
  if (reads) one({"good 300", arena.good, 300}, {"near 2 MiB", kReadSize - 10});
  index = 0;
  for (const Offset& offset : kOffsets) {
    if (is_skipped(call, index++)) continue;
    one({"good 300", arena.good, 300}, offset);
    one({"good 0", arena.good, 0}, offset);
    // What is written there would have to be looked at.
    if (is_far(offset.at) && !reads) continue;
    one({"null 300", nullptr, 300}, offset);
    one({"good SIZE_MAX", arena.good, SIZE_MAX}, offset);
  }
}

/// The vectors as they are when the case runs: only arrays that may be read, and results above 0,
/// say where bytes have gone.
void note_vectors(bool reads, const Vectors& vectors, long result) {
  if (!reads || result <= 0) return;
  moved(vectors.array, vectors.count);
}

void add_vectored(const std::string& call, bool reads, const Vectored& vectored) {
  size_t index = 0;
  for (const Vectors& vectors : vector_lists(reads)) {
    if (is_skipped(call, index++)) continue;
    add(call + " " + vectors.name, [=](int fd) {
      const long result = vectored(fd, vectors.array, vectors.count);
      note_vectors(reads, vectors, result);
      return result;
    });
  }
}

void add_vectored_at(const std::string& call, bool reads, const VectoredAt& vectored) {
  const std::vector<Vectors>& lists = vector_lists(reads);
  const auto one = [&](const Vectors& vectors, const Offset& offset) {
    add(
        call + " " + vectors.name + " at " + offset.name,
        [=](int fd) {
          const long result = vectored(fd, vectors.array, vectors.count, offset.at);
          note_vectors(reads, vectors, result);
          return result;
        },
        effect_at(reads, offset.at));
  };
  size_t index = 0;
  for (const Vectors& vectors : lists) {
    if (is_skipped(call, index++)) continue;
    one(vectors, {"500", 500});
    if (vectors.count <= 0 || vectors.array == nullptr) one(vectors, {"-1", -1});
  }
  index = 0;
  for (const Offset& offset : kOffsets) {
    if (is_skipped(call, index++)) continue;
    one(lists[0], offset);
    one(lists[3], offset);
  }
}

void add_vectored_with(const std::string& call, bool reads, const VectoredWith& vectored) {
  for (const auto& [name, flags] :
       std::vector<std::pair<std::string, int>>{{"0", 0},
                                                {"HIPRI", RWF_HIPRI},
                                                {"DSYNC", RWF_DSYNC},
                                                {"SYNC", RWF_SYNC},
                                                {"NOWAIT", RWF_NOWAIT},
                                                {"APPEND", RWF_APPEND},
                                                {"NOAPPEND", 0x20},
                                                {"ATOMIC", 0x40},
                                                {"DONTCACHE", 0x80},
                                                {"0x100", 0x100},
                                                {"0x10000", 0x10000},
                                                {"SYNC|0x100", RWF_SYNC | 0x100},
                                                {"least", INT32_MIN},
                                                {"-1", -1}}) {
    const std::vector<Vectors>& lists = vector_lists(reads);
    for (const Offset& offset : std::vector<Offset>{{"-1", -1}, {"500", 500}, {"-2", -2}}) {
      for (size_t i = 0; i < lists.size(); ++i) {
        // All of them without flags, and a few with each.
        if (flags != 0 && i != 0 && i != 3 && i != 5) continue;
        if ((offset.at == -2 && i != 0) || is_skipped(call, i)) continue;
        add(call + " " + lists[i].name + " at " + offset.name + " flags " + name,
            [=, vectors = lists[i], value = flags](int fd) {
              const long result = vectored(fd, vectors.array, vectors.count, offset.at, value);
              note_vectors(reads, vectors, result);
              return result;
            });
      }
    }
  }
}

void add_reads() {
  add_plain("read", true, [](int fd, char* b, size_t n) { return read(fd, b, n); });
  add_plain("__read", true, [](int fd, char* b, size_t n) { return __read(fd, b, n); });
  add_plain("__read_chk", true,
            [](int fd, char* b, size_t n) { return __read_chk(fd, b, n, SIZE_MAX); });
  add_plain("SYS_read", true,
            [](int fd, char* b, size_t n) { return call_number(SYS_read, fd, b, n); });
  add_plain_at("pread", true,
               [](int fd, char* b, size_t n, off_t at) { return pread(fd, b, n, at); });
  add_plain_at("pread64", true,
               [](int fd, char* b, size_t n, off_t at) { return pread64(fd, b, n, at); });
  add_plain_at("__pread64", true,
               [](int fd, char* b, size_t n, off_t at) { return __pread64(fd, b, n, at); });
  add_plain_at("__pread_chk", true, [](int fd, char* b, size_t n, off_t at) {
    return __pread_chk(fd, b, n, at, SIZE_MAX);
  });
  add_plain_at("__pread64_chk", true, [](int fd, char* b, size_t n, off_t at) {
    return __pread64_chk(fd, b, n, at, SIZE_MAX);
  });
  add_plain_at("SYS_pread64", true, [](int fd, char* b, size_t n, off_t at) {
    return call_number(SYS_pread64, fd, b, n, at);
  });
  add_vectored("readv", true, [](int fd, const iovec* v, int n) { return readv(fd, v, n); });
  add_vectored("SYS_readv", true,
               [](int fd, const iovec* v, int n) { return call_number(SYS_readv, fd, v, n); });
  add_vectored("SYS_readv 2^32+", true, [](int fd, const iovec* v, int n) {
    return call_number(SYS_readv, fd, v, (1L << 32) + n);
  });
  add_vectored_at("preadv", true,
                  [](int fd, const iovec* v, int n, off_t at) { return preadv(fd, v, n, at); });
  add_vectored_at("preadv64", true,
                  [](int fd, const iovec* v, int n, off_t at) { return preadv64(fd, v, n, at); });
  add_vectored_at("SYS_preadv", true, [](int fd, const iovec* v, int n, off_t at) {
    return call_number(SYS_preadv, fd, v, n, at, 0);
  });
  add_vectored_with("preadv2", true, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return preadv2(fd, v, n, at, flags);
  });
  add_vectored_with("preadv64v2", true, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return preadv64v2(fd, v, n, at, flags);
  });
  add_vectored_with("SYS_preadv2", true, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return call_number(SYS_preadv2, fd, v, n, at, 0, flags);
  });
}

void add_writes() {
  add_plain("write", false, [](int fd, char* b, size_t n) { return write(fd, b, n); });
  add_plain("__write", false, [](int fd, char* b, size_t n) { return __write(fd, b, n); });
  add_plain("SYS_write", false,
            [](int fd, char* b, size_t n) { return call_number(SYS_write, fd, b, n); });
  add_plain_at("pwrite", false,
               [](int fd, char* b, size_t n, off_t at) { return pwrite(fd, b, n, at); });
  add_plain_at("pwrite64", false,
               [](int fd, char* b, size_t n, off_t at) { return pwrite64(fd, b, n, at); });
  add_plain_at("__pwrite64", false,
               [](int fd, char* b, size_t n, off_t at) { return __pwrite64(fd, b, n, at); });
  add_plain_at("SYS_pwrite64", false, [](int fd, char* b, size_t n, off_t at) {
    return call_number(SYS_pwrite64, fd, b, n, at);
  });
  add_vectored("writev", false, [](int fd, const iovec* v, int n) { return writev(fd, v, n); });
  add_vectored("SYS_writev", false,
               [](int fd, const iovec* v, int n) { return call_number(SYS_writev, fd, v, n); });
  add_vectored("SYS_writev 2^32+", false, [](int fd, const iovec* v, int n) {
    return call_number(SYS_writev, fd, v, (1L << 32) + n);
  });
  add_vectored_at("pwritev", false,
                  [](int fd, const iovec* v, int n, off_t at) { return pwritev(fd, v, n, at); });
  add_vectored_at("pwritev64", false,
                  [](int fd, const iovec* v, int n, off_t at) { return pwritev64(fd, v, n, at); });
  add_vectored_at("SYS_pwritev", false, [](int fd, const iovec* v, int n, off_t at) {
    return call_number(SYS_pwritev, fd, v, n, at, 0);
  });
  add_vectored_with("pwritev2", false, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return pwritev2(fd, v, n, at, flags);
  });
  add_vectored_with("pwritev64v2", false, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return pwritev64v2(fd, v, n, at, flags);
  });
  add_vectored_with("SYS_pwritev2", false, [](int fd, const iovec* v, int n, off_t at, int flags) {
    return call_number(SYS_pwritev2, fd, v, n, at, 0, flags);
  });
}

// --- calls that get nothing but numbers --------------------------------------------------------

void add_numbers() {
  using Seek = long (*)(int, off_t, int);
  for (const auto& [name, seek] : std::vector<std::pair<std::string, Seek>>{
           {"lseek", [](int fd, off_t to, int whence) -> long { return lseek(fd, to, whence); }},
           {"lseek64",
            [](int fd, off_t to, int whence) -> long { return lseek64(fd, to, whence); }},
           {"__lseek",
            [](int fd, off_t to, int whence) -> long { return __lseek(fd, to, whence); }},
           {"SYS_lseek",
            [](int fd, off_t to, int whence) { return call_number(SYS_lseek, fd, to, whence); }}}) {
    for (const int whence : {SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, 5, 77, -1}) {
      for (const off_t to : {off_t{0}, off_t{1}, off_t{-1}, off_t{-2000}, off_t{1} << 40,
                             off_t{kMost}, off_t{kMost} - 2000, off_t{kLeast}}) {
        add(name + " " + std::to_string(to) + " whence " + std::to_string(whence),
            [=, seek = seek](int fd) { return seek(fd, to, whence); });
      }
    }
  }
  // A read and a write where the offset cannot go further.
  for (const off_t to : {off_t{kMost}, off_t{kMost} - 10, off_t{1} << 50}) {
    add("read at its offset " + std::to_string(to), [=](int fd) {
      lseek(fd, to, SEEK_SET);
      return read(fd, sink().good, 300);
    });
    if (to == off_t{1} << 50) continue;
    add(
        "write at its offset " + std::to_string(to),
        [=](int fd) {
          lseek(fd, to, SEEK_SET);
          return write(fd, source().good, 300);
        },
        kSynced | kAnew);
  }

  add(
      "fsync", [](int fd) { return fsync(fd); }, kNotOutside);
  add(
      "fdatasync", [](int fd) { return fdatasync(fd); }, kNotOutside);
  add(
      "syncfs", [](int fd) { return syncfs(fd); }, kNotOutside);
  add(
      "SYS_fsync", [](int fd) { return call_number(SYS_fsync, fd); }, kNotOutside);
  add(
      "SYS_fdatasync", [](int fd) { return call_number(SYS_fdatasync, fd); }, kNotOutside);
  add(
      "SYS_syncfs", [](int fd) { return call_number(SYS_syncfs, fd); }, kNotOutside);

  for (const off_t size : {off_t{0}, off_t{1}, off_t{kSize} + 1, off_t{-1}, off_t{kLeast}}) {
    const std::string text = " " + std::to_string(size);
    add("ftruncate" + text, [=](int fd) { return ftruncate(fd, size); });
    add("ftruncate64" + text, [=](int fd) { return ftruncate64(fd, size); });
    add("SYS_ftruncate" + text, [=](int fd) { return call_number(SYS_ftruncate, fd, size); });
  }
  for (const auto& range : std::vector<std::pair<off_t, off_t>>{{0, 0},
                                                                {0, -1},
                                                                {-1, 10},
                                                                {0, 10},
                                                                {kSize, 10},
                                                                {kLeast, 10},
                                                                {10, kLeast},
                                                                {10, kMost},
                                                                {kMost, 10}}) {
    const off_t offset = range.first;
    const off_t length = range.second;
    const std::string text = " " + std::to_string(offset) + " " + std::to_string(length);
    for (const int mode :
         {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
          FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE, 0x400, -1}) {
      // GlusterFS leaves the bytes as they are, and the kernel clears those that it has in memory.
      if (mode == FALLOC_FL_ZERO_RANGE && offset >= 0 && length == 10) continue;
      const std::string with = text + " mode " + std::to_string(mode);
      add("fallocate" + with, [=](int fd) { return fallocate(fd, mode, offset, length); });
      if (mode != 0 && mode != -1) continue;
      add("fallocate64" + with, [=](int fd) { return fallocate64(fd, mode, offset, length); });
      add("SYS_fallocate" + with,
          [=](int fd) { return call_number(SYS_fallocate, fd, mode, offset, length); });
    }
    add("posix_fallocate" + text, [=](int fd) { return posix_fallocate(fd, offset, length); });
    add("posix_fallocate64" + text, [=](int fd) { return posix_fallocate64(fd, offset, length); });
  }

  for (const mode_t mode : {mode_t{0}, mode_t{04755}, mode_t{0177777}, ~mode_t{0}}) {
    add(
        "fchmod " + std::to_string(mode), [=](int fd) { return fchmod(fd, mode); }, kAttributes);
    add(
        "SYS_fchmod " + std::to_string(mode),
        [=](int fd) { return call_number(SYS_fchmod, fd, mode); }, kAttributes);
  }
  for (const uid_t user : {~uid_t{0}, uid_t{0}, uid_t{12345}, ~uid_t{0} - 1}) {
    add(
        "fchown " + std::to_string(user), [=](int fd) { return fchown(fd, user, user); },
        kAttributes);
    add(
        "fchownat empty " + std::to_string(user),
        [=](int fd) { return fchownat(fd, "", user, ~gid_t{0}, AT_EMPTY_PATH); }, kAttributes);
  }
}

// --- times, attributes -------------------------------------------------------------------------

template <typename T>
T* placed(const Arena& arena, const T& value, size_t more = 0) {
  T* at = arena.edge<T>(sizeof(T) + more);
  memcpy(static_cast<void*>(at), &value, sizeof(T));
  return at;
}

using TimesCall = std::function<long(int, const timespec*)>;

void add_times(const std::string& call, const TimesCall& set) {
  struct Times {
    const char* name;
    std::array<timespec, 2> times;
  };
  for (const Times& times : std::vector<Times>{
           {"1000", {timespec{1000, 0}, timespec{1000, 0}}},
           {"now", {timespec{0, UTIME_NOW}, timespec{0, UTIME_NOW}}},
           {"omitted", {timespec{0, UTIME_OMIT}, timespec{0, UTIME_OMIT}}},
           {"1000000000 ns", {timespec{1000, 1'000'000'000}, timespec{1000, 0}}},
           {"-1 ns", {timespec{1000, 0}, timespec{1000, -1}}},
           {"least", {timespec{kLeast, 0}, timespec{kLeast, 0}}},
       }) {
    add(
        call + " " + times.name, [=](int fd) { return set(fd, times.times.data()); }, kAttributes);
  }
  add(
      call + " null", [=](int fd) { return set(fd, nullptr); }, kAttributes);
  add(
      call + " none", [=](int fd) { return set(fd, words().none<timespec>()); }, kAttributes);
  add(
      call + " low", [=](int fd) { return set(fd, address<timespec>(kLow)); }, kAttributes);
  add(
      call + " edge",
      [=](int fd) {
        return set(fd, placed(words(), timespec{1000, 0}));
      },
      kAttributes);
}

template <typename Stat>
void add_looks(const std::string& call, const std::function<long(int, Stat*)>& look) {
  const auto size_of = [](const Stat* stat) {
    if constexpr (std::is_same_v<Stat, struct statx>) {
      return static_cast<long>(stat->stx_size);
    } else {
      return static_cast<long>(stat->st_size);
    }
  };
  add(call + " good", [=](int fd) {
    auto* stat = words().edge<Stat>(sizeof(Stat));
    const long result = look(fd, stat);
    // A directory's size is its file system's.
    return result == 0 && !is("directory") ? size_of(stat) : result;
  });
  add(call + " null", [=](int fd) { return look(fd, nullptr); });
  add(call + " none", [=](int fd) { return look(fd, words().none<Stat>()); });
  add(call + " edge", [=](int fd) { return look(fd, words().edge<Stat>(sizeof(Stat) - 8)); });
  add(call + " kernel", [=](int fd) { return look(fd, address<Stat>(kKernel)); });
  add(call + " read-only",
      [=](int fd) { return look(fd, reinterpret_cast<Stat*>(words().read_only)); });
}

void add_attributes() {
  add_looks<struct stat>("fstat", [](int fd, auto* st) { return fstat(fd, st); });
  add_looks<struct stat64>("fstat64", [](int fd, auto* st) { return fstat64(fd, st); });
  for (const int version : {1, 0, 77}) {
    const std::string text = " version " + std::to_string(version);
    add_looks<struct stat>("__fxstat" + text,
                           [=](int fd, auto* st) { return __fxstat(version, fd, st); });
    add_looks<struct stat64>("__fxstat64" + text,
                             [=](int fd, auto* st) { return __fxstat64(version, fd, st); });
    add_looks<struct stat>("__fxstatat" + text, [=](int fd, auto* st) {
      return __fxstatat(version, fd, "", st, AT_EMPTY_PATH);
    });
    add_looks<struct stat64>("__fxstatat64" + text, [=](int fd, auto* st) {
      return __fxstatat64(version, fd, "", st, AT_EMPTY_PATH);
    });
  }
  for (const int flags : {AT_EMPTY_PATH, 0, 1, -1}) {
    const std::string text = " flags " + std::to_string(flags);
    add_looks<struct stat>("fstatat" + text,
                           [=](int fd, auto* st) { return fstatat(fd, "", st, flags); });
    add_looks<struct stat64>("fstatat64" + text,
                             [=](int fd, auto* st) { return fstatat64(fd, "", st, flags); });
    add_looks<struct stat>("SYS_newfstatat" + text, [=](int fd, auto* st) {
      return call_number(SYS_newfstatat, fd, "", st, flags);
    });
    for (const unsigned mask : {unsigned{STATX_BASIC_STATS}, 0U, 1U << 31}) {
      add_looks<struct statx>("statx" + text + " mask " + std::to_string(mask),
                              [=](int fd, auto* st) { return statx(fd, "", flags, mask, st); });
    }
  }
  add_looks<struct stat>("SYS_fstat",
                         [](int fd, auto* st) { return call_number(SYS_fstat, fd, st); });
  // What is asked for, and nothing else, is told.
  for (const unsigned mask :
       {0U, unsigned{STATX_SIZE}, unsigned{STATX_BASIC_STATS}, unsigned{STATX_ALL}}) {
    add("statx's mask of " + std::to_string(mask), [=](int fd) {
      struct statx status {};
      const long result = statx(fd, "", AT_EMPTY_PATH, mask, &status);
      return result != 0 ? result : static_cast<long>(status.stx_mask);
    });
  }

  add_times("futimens", [](int fd, const timespec* times) { return futimens(fd, times); });
  add_times("utimensat null", [](int fd, const timespec* times) {
    return call_number(SYS_utimensat, fd, nullptr, times, 0);
  });
  add_times("utimensat empty",
            [](int fd, const timespec* times) { return utimensat(fd, "", times, AT_EMPTY_PATH); });
  using Micro = std::array<timeval, 2>;
  for (const auto& [name, times] : std::vector<std::pair<std::string, Micro>>{
           {"1000", {timeval{1000, 0}, timeval{1000, 0}}},
           {"1000000 us", {timeval{1000, 0}, timeval{1000, 1'000'000}}},
           {"-1 us", {timeval{1000, -1}, timeval{1000, 0}}}}) {
    add(
        "futimes " + name, [times = times](int fd) { return futimes(fd, times.data()); },
        kAttributes);
    add(
        "futimesat null " + name,
        [times = times](int fd) { return futimesat(fd, nullptr, times.data()); }, kAttributes);
  }
  add(
      "futimes null", [](int fd) { return futimes(fd, nullptr); }, kAttributes);
  add(
      "futimes none", [](int fd) { return futimes(fd, words().none<timeval>()); }, kAttributes);

  struct Attribute {
    std::string name;
    const char* key;
    const void* value;
    size_t size;
    int flags;
  };
  for (const Attribute& attribute : std::vector<Attribute>{
           {"good", "user.key", "value", 5, 0},
           {"empty", "user.key", "", 0, 0},
           {"of nothing", "user.key", nullptr, 0, 0},
           {"null", "user.key", nullptr, 5, 0},
           {"none", "user.key", words().none(), 5, 0},
           {"edge", "user.key", words().edge(3), 5, 0},
           {"SIZE_MAX", "user.key", "value", SIZE_MAX, 0},
           {"65537", "user.key", source().good, 65537, 0},
           {"flags", "user.key", "value", 5, 77},
           {"replaces", "user.missing", "value", 5, XATTR_REPLACE},
           {"key null", nullptr, "value", 5, 0},
           {"key none", words().none<char>(), "value", 5, 0},
           {"key empty", "", "value", 5, 0},
           {"key nowhere", "nowhere.key", "value", 5, 0},
       }) {
    add("fsetxattr " + attribute.name, [=](int fd) {
      return fsetxattr(fd, attribute.key, attribute.value, attribute.size, attribute.flags);
    });
    add("SYS_fsetxattr " + attribute.name, [=](int fd) {
      return call_number(SYS_fsetxattr, fd, attribute.key, attribute.value, attribute.size,
                         attribute.flags);
    });
  }
}

// --- numbers for numbers -----------------------------------------------------------------------

/// The number, and whether it can be used; closed again.
long looked_at(int fd) {
  if (fd < 0) return fd;
  const int error = errno;
  const long flags = fcntl(fd, F_GETFL);
  if (fd != g_fd) close(fd);
  errno = error;
  return fd * 100'000'000L + flags;
}

void add_duplicates() {
  add("dup", [](int fd) { return looked_at(dup(fd)); });
  add("SYS_dup", [](int fd) { return looked_at(static_cast<int>(call_number(SYS_dup, fd))); });
  for (const int to : {70, -1, INT32_MAX, INT32_MIN, 1 << 20}) {
    const std::string text = " to " + std::to_string(to);
    add("dup2" + text, [=](int fd) { return looked_at(dup2(fd, to)); });
    add("__dup2" + text, [=](int fd) { return looked_at(__dup2(fd, to)); });
    add("SYS_dup2" + text,
        [=](int fd) { return looked_at(static_cast<int>(call_number(SYS_dup2, fd, to))); });
    for (const int flags : {0, O_CLOEXEC, O_NONBLOCK, -1}) {
      add("dup3" + text + " flags " + std::to_string(flags),
          [=](int fd) { return looked_at(dup3(fd, to, flags)); });
    }
    for (const int command : {F_DUPFD, F_DUPFD_CLOEXEC}) {
      add("fcntl " + std::to_string(command) + text,
          [=](int fd) { return looked_at(fcntl(fd, command, to)); });
    }
  }
  add("dup2 to itself", [](int fd) { return looked_at(dup2(fd, fd)); });
  add("dup3 to itself", [](int fd) { return looked_at(dup3(fd, fd, 0)); });
  // Onto it: what is refused leaves it what it was.
  add("dup2 of a closed one onto it", [](int fd) { return dup2(kClosed + 1, fd); });
  add("dup2 of -1 onto it", [](int fd) { return dup2(-1, fd); });
  add("dup3 with odd flags onto it", [](int fd) { return dup3(g_other, fd, 77); });
  add("dup3 of a closed one onto it", [](int fd) { return dup3(kClosed + 1, fd, 0); });
  add(
      "dup2 of another onto it",
      [](int fd) {
        const long result = dup2(g_other, fd);
        if (is("closed")) close(fd);
        return result;
      },
      kAnew);
}

void add_fcntl() {
  for (const int command :
       {F_GETFD, F_GETFL, F_GETLEASE, F_GETPIPE_SZ, F_GET_SEALS, F_GETOWN, F_GETSIG, 9999, -1}) {
    add("fcntl " + std::to_string(command), [=](int fd) { return fcntl(fd, command); });
    add("fcntl64 " + std::to_string(command), [=](int fd) { return fcntl64(fd, command); });
    add("__fcntl " + std::to_string(command), [=](int fd) { return __fcntl(fd, command); });
    add("SYS_fcntl " + std::to_string(command),
        [=](int fd) { return call_number(SYS_fcntl, fd, command, 0); });
  }
  for (const long argument : {0L, -1L, long{O_APPEND}, long{O_NONBLOCK}, long{O_DIRECT},
                              long{O_RDWR | O_CREAT | O_TRUNC}, 1L << 40}) {
    add("fcntl F_SETFL " + std::to_string(argument),
        [=](int fd) { return fcntl(fd, F_SETFL, argument); });
    add("SYS_fcntl F_SETFL " + std::to_string(argument),
        [=](int fd) { return call_number(SYS_fcntl, fd, F_SETFL, argument); });
  }
  add(
      "fcntl F_SETFD -1", [](int fd) { return fcntl(fd, F_SETFD, -1); }, kAnew);
  add(
      "fcntl F_SETLEASE 77", [](int fd) { return fcntl(fd, F_SETLEASE, 77); }, kAnew);
  add(
      "fcntl F_SETLEASE F_UNLCK", [](int fd) { return fcntl(fd, F_SETLEASE, F_UNLCK); }, kAnew);
  add("fcntl F_SETSIG 1000", [](int fd) { return fcntl(fd, F_SETSIG, 1000); });
  add("fcntl F_SETOWN least", [](int fd) { return fcntl(fd, F_SETOWN, INT32_MIN); });
  add("fcntl F_ADD_SEALS -1", [](int fd) { return fcntl(fd, F_ADD_SEALS, -1); });
  add("fcntl F_SETPIPE_SZ -1", [](int fd) { return fcntl(fd, F_SETPIPE_SZ, -1); });
  add("fcntl F_GETOWN_EX none", [](int fd) { return fcntl(fd, F_GETOWN_EX, words().none()); });
  for (const unsigned long request : {static_cast<unsigned long>(FIONREAD), 0UL, ~0UL}) {
    const std::string text = "ioctl " + std::to_string(request);
    add(text + " null", [=](int fd) { return ioctl(fd, request, nullptr); });
    add(text + " none", [=](int fd) { return ioctl(fd, request, words().none()); });
    add(text + " edge", [=](int fd) { return ioctl(fd, request, words().edge(2)); });
    add("SYS_" + text + " none",
        [=](int fd) { return call_number(SYS_ioctl, fd, request, words().none()); });
  }
  add("ioctl FIONREAD", [](int fd) {
    int left = -1;
    return ioctl(fd, FIONREAD, &left) == 0 ? left : -1;
  });

  struct Lock {
    const char* name;
    short type;
    short whence;
    off_t start;
    off_t length;
    pid_t pid;
  };
  const std::vector<Lock> locks = {
      {"read", F_RDLCK, SEEK_SET, 0, 0, 0},
      {"write", F_WRLCK, SEEK_SET, 0, 10, 0},
      {"unlock", F_UNLCK, SEEK_SET, 0, 0, 0},
      {"type 77", 77, SEEK_SET, 0, 0, 0},
      {"whence 77", F_RDLCK, 77, 0, 0, 0},
      {"start -1", F_RDLCK, SEEK_SET, -1, 0, 0},
      {"start least", F_RDLCK, SEEK_CUR, kLeast, 0, 0},
      {"start most", F_RDLCK, SEEK_CUR, kMost, 10, 0},
      {"length -1", F_RDLCK, SEEK_SET, 10, -1, 0},
      {"length least", F_RDLCK, SEEK_SET, 10, kLeast, 0},
      {"length most", F_RDLCK, SEEK_SET, 10, kMost, 0},
      {"pid", F_RDLCK, SEEK_SET, 0, 0, 77},
  };
  for (const int command : {F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW}) {
    const std::string call = "fcntl " + std::to_string(command);
    const auto unlock = [](int fd) {
      const int error = errno;
      struct flock all {};
      all.l_type = F_UNLCK;
      fcntl(fd, F_SETLK, &all);
      fcntl(fd, F_OFD_SETLK, &all);
      errno = error;
    };
    for (const Lock& lock : locks) {
      add(call + " " + lock.name, [=](int fd) {
        struct flock block {};
        block.l_type = lock.type;
        block.l_whence = lock.whence;
        block.l_start = lock.start;
        block.l_len = lock.length;
        block.l_pid = lock.pid;
        const long result = fcntl(fd, command, &block);
        const long type = block.l_type;
        unlock(fd);
        return result == 0 ? type : result;
      });
    }
    add(call + " null", [=](int fd) { return fcntl(fd, command, nullptr); });
    add(call + " none", [=](int fd) { return fcntl(fd, command, words().none()); });
    add(call + " edge", [=](int fd) { return fcntl(fd, command, words().edge(8)); });
    add("SYS_" + call + " none",
        [=](int fd) { return call_number(SYS_fcntl, fd, command, words().none()); });
  }
  for (const int operation : {LOCK_SH, LOCK_EX | LOCK_NB, LOCK_UN, 0, 32, 77, -1}) {
    add("flock " + std::to_string(operation), [=](int fd) {
      const long result = flock(fd, operation);
      const int error = errno;
      flock(fd, LOCK_UN);
      errno = error;
      return result;
    });
  }
  for (const int command : {F_LOCK, F_TLOCK, F_TEST, F_ULOCK, 77, -1}) {
    for (const off_t length :
         {off_t{0}, off_t{10}, off_t{-10}, off_t{-2000}, off_t{kMost}, off_t{kLeast}}) {
      const std::string text = " " + std::to_string(command) + " " + std::to_string(length);
      add("lockf" + text, [=](int fd) {
        const long result = lockf(fd, command, length);
        const int error = errno;
        lockf(fd, F_ULOCK, length);
        errno = error;
        return result;
      });
      if (length == 0) add("lockf64" + text, [=](int fd) { return lockf64(fd, command, length); });
    }
  }
}

void add_closes() {
  add("close", [](int fd) { return close(fd); });
  add("__close", [](int fd) { return __close(fd); });
  add("SYS_close", [](int fd) { return call_number(SYS_close, fd); });
  add("close twice", [](int fd) { return close(fd) * 10 + close(fd); });
  for (const unsigned flags : {0U, 2U, 4U, 6U, 1U, 8U, ~0U}) {
    const std::string text = " flags " + std::to_string(flags);
    const auto flag = static_cast<int>(flags);
    const auto number = [](int fd) { return static_cast<unsigned>(fd); };
    add("close_range of it" + text,
        [=](int fd) { return close_range(number(fd), number(fd), flag); });
    add(
        "close_range backwards" + text,
        [=](int fd) { return close_range(number(fd), number(fd) - 1, flag); }, kNotNegative);
    add("close_range of nothing" + text, [=](int) { return close_range(~0U, ~0U, flag); });
    add("SYS_close_range" + text,
        [=](int fd) { return call_number(SYS_close_range, fd, fd, flags); });
    add("close_range of what is not open" + text,
        [=](int) { return close_range(1 << 20, ~0U, flag); });
  }
  add(
      "closefrom",
      [](int fd) {
        closefrom(fd);
        return 0;
      },
      kNotNegative);
}

// --- from file to file -------------------------------------------------------------------------

void add_copies() {
  struct Length {
    const char* name;
    size_t length;
  };
  for (const Length& length : std::vector<Length>{
           {"0", 0}, {"10", 10}, {"SSIZE_MAX", SSIZE_MAX}, {"SIZE_MAX", SIZE_MAX}}) {
    const auto offset_of = [](off_t at) { return placed<off_t>(words(), at); };
    struct At {
      std::string name;
      std::function<off_t*()> place;
    };
    const std::vector<At> places = {
        {"its own", [] { return nullptr; }},
        {"100", [=] { return offset_of(100); }},
        {"-1", [=] { return offset_of(-1); }},
        {"least", [=] { return offset_of(kLeast); }},
        {"most", [=] { return offset_of(kMost); }},
        {"none", [] { return words().none<off_t>(); }},
        {"low", [] { return address<off_t>(kLow); }},
    };
    for (const At& at : places) {
      const std::string text = std::string(" ") + length.name + " at " + at.name;
      const size_t n = length.length;
      const auto place = at.place;
      add("sendfile from it" + text, [=](int fd) { return sendfile(g_other, fd, place(), n); });
      add("sendfile to it" + text, [=](int fd) { return sendfile(fd, g_other, place(), n); });
      add("sendfile64 to it" + text, [=](int fd) { return sendfile64(fd, g_other, place(), n); });
      add("SYS_sendfile to it" + text,
          [=](int fd) { return call_number(SYS_sendfile, fd, g_other, place(), n); });
      add("copy_file_range from it" + text,
          [=](int fd) { return copy_file_range(fd, place(), g_other, nullptr, n, 0); });
      add("copy_file_range to it" + text,
          [=](int fd) { return copy_file_range(g_other, nullptr, fd, place(), n, 0); });
      add("SYS_copy_file_range to it" + text, [=](int fd) {
        return call_number(SYS_copy_file_range, g_other, nullptr, fd, place(), n, 0);
      });
      if (n == 0 || n == 10) {
        add("copy_file_range to itself" + text,
            [=](int fd) { return copy_file_range(fd, nullptr, fd, place(), n, 0); });
        add("copy_file_range flags" + text,
            [=](int fd) { return copy_file_range(fd, place(), g_other, nullptr, n, 77); });
        add("splice from it to a file" + text,
            [=](int fd) { return splice(fd, place(), g_other, nullptr, n, SPLICE_F_NONBLOCK); });
        add("splice from a file to it" + text,
            [=](int fd) { return splice(g_other, nullptr, fd, place(), n, SPLICE_F_NONBLOCK); });
        add("splice flags" + text,
            [=](int fd) { return splice(fd, place(), g_other, nullptr, n, ~0U); });
        // The pipe has 20 bytes, and room for more.
        const auto with_pipe = [](const std::function<long(int, int)>& call) {
          int ends[2];
          if (pipe2(ends, O_NONBLOCK) != 0) fail("pipe2");
          if (write(ends[1], source().good, 20) != 20) fail("write");
          const long result = call(ends[0], ends[1]);
          const int error = errno;
          close(ends[0]);
          close(ends[1]);
          errno = error;
          return result;
        };
        add("splice from it" + text, [=](int fd) {
          return with_pipe([=](int, int writer) {
            return splice(fd, place(), writer, nullptr, n, SPLICE_F_NONBLOCK);
          });
        });
        add("splice to it" + text, [=](int fd) {
          return with_pipe([=](int reader, int) {
            return splice(reader, nullptr, fd, place(), n, SPLICE_F_NONBLOCK);
          });
        });
        add("SYS_splice to it" + text, [=](int fd) {
          return with_pipe([=](int reader, int) {
            return call_number(SYS_splice, reader, nullptr, fd, place(), n, SPLICE_F_NONBLOCK);
          });
        });
      }
    }
  }
}

void add_maps() {
  struct Mapping {
    std::string name;
    void* at;
    size_t length;
    int protection;
    int flags;
    off_t offset;
  };
  for (const Mapping& mapping : std::vector<Mapping>{
           {"good", nullptr, kPage, PROT_READ, MAP_SHARED, 0},
           {"writable", nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0},
           {"private", nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0},
           {"length 0", nullptr, 0, PROT_READ, MAP_SHARED, 0},
           {"length SIZE_MAX", nullptr, SIZE_MAX, PROT_READ, MAP_SHARED, 0},
           {"offset 1", nullptr, kPage, PROT_READ, MAP_SHARED, 1},
           {"offset -4096", nullptr, kPage, PROT_READ, MAP_SHARED, -off_t{kPage}},
           {"offset least", nullptr, kPage, PROT_READ, MAP_SHARED, kLeast},
           {"no flags", nullptr, kPage, PROT_READ, 0, 0},
           {"all flags", nullptr, kPage, PROT_READ, -1 & ~MAP_ANONYMOUS & ~MAP_FIXED, 0},
           {"fixed at 1", address(1), kPage, PROT_READ, MAP_SHARED | MAP_FIXED, 0},
           {"anonymous", nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, 0},
           {"protection -1", nullptr, kPage, -1, MAP_SHARED, 0},
       }) {
    using Map = std::function<void*(int)>;
    const Map plain = [=](int fd) {
      return mmap(mapping.at, mapping.length, mapping.protection, mapping.flags, fd,
                  mapping.offset);
    };
    const Map large = [=](int fd) {
      return mmap64(mapping.at, mapping.length, mapping.protection, mapping.flags, fd,
                    mapping.offset);
    };
    const Map numbered = [=](int fd) {
      return address(static_cast<uint64_t>(call_number(SYS_mmap, mapping.at, mapping.length,
                                                       mapping.protection, mapping.flags, fd,
                                                       mapping.offset)));
    };
    for (const auto& [name, map] : std::vector<std::pair<std::string, Map>>{
             {"mmap", plain}, {"mmap64", large}, {"SYS_mmap", numbered}}) {
      if (name != "mmap" && mapping.name.find("offset") != 0) continue;
      add(
          name + " " + mapping.name,
          [=, map = map](int fd) -> long {
            void* memory = map(fd);
            if (memory == MAP_FAILED) return -1;
            munmap(memory, kPage);
            return 0;
          },
          kAnotherFile);
    }
  }
}

// --- messages ----------------------------------------------------------------------------------

/// A cmsghdr with room for two numbers.
struct Control {
  size_t length;
  int level;
  int type;
  int numbers[2];
};

void add_messages() {
  static iovec ten = {source().good, 10};
  using Message = std::function<const msghdr*()>;
  std::vector<std::pair<std::string, Message>> messages = {
      {"null", [] { return nullptr; }},
      {"none", [] { return words().none<msghdr>(); }},
      {"low", [] { return address<msghdr>(kLow); }},
      {"kernel", [] { return address<msghdr>(kKernel); }},
  };
  const auto message = [&](const std::string& name, const msghdr& header) {
    messages.emplace_back(name, [=] { return placed(words(), header); });
  };
  const auto with = [](void* control, size_t length) {
    msghdr header{};
    header.msg_iov = &ten;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = length;
    return header;
  };
  message("of 10", with(nullptr, 0));
  msghdr vectors = with(nullptr, 0);
  vectors.msg_iovlen = 1025;
  message("of 1025", vectors);
  vectors.msg_iovlen = SIZE_MAX;
  message("of SIZE_MAX", vectors);
  vectors.msg_iovlen = 1;
  vectors.msg_iov = words().none<iovec>();
  message("of vectors none", vectors);
  msghdr name = with(nullptr, 0);
  name.msg_name = words().none();
  name.msg_namelen = 10;
  message("name none", name);
  messages.emplace_back("edge", [] {
    // What would be the control data lies behind.
    return words().edge<msghdr>(40);
  });
  message("control null 100", with(nullptr, 100));
  message("control none 0", with(words().none(), 0));
  message("control none 24", with(words().none(), 24));
  message("control low 24", with(address(kLow), 24));
  message("control kernel 24", with(address(kKernel), 24));
  message("control edge 8 of 24", with(source().edge(8), 24));
  message("control good SIZE_MAX", with(source().good, SIZE_MAX));
  message("control good 5", with(source().good, 5));
  // Static: they are read when the case runs.
  static std::deque<std::array<Control, 2>> controls;
  const auto control = [&](const std::string& text, size_t length, int number, size_t second) {
    std::array<Control, 2>& both = controls.emplace_back();
    both[0] = {length, SOL_SOCKET, SCM_RIGHTS, {number, 0}};
    both[1] = {second, SOL_SOCKET, SCM_RIGHTS, {number, 0}};
    message(text, with(&both, second == 0 ? sizeof(Control) : sizeof both));
  };
  control("control length 0", 0, 0, 0);
  control("control length 3", 3, 0, 0);
  control("control length 1000", 1000, 0, 0);
  control("control length SIZE_MAX", SIZE_MAX, 0, 0);
  control("control length SIZE_MAX-7", SIZE_MAX - 7, 0, 0);
  control("control length SSIZE_MAX", SSIZE_MAX, 0, 0);
  control("control length -4096", static_cast<size_t>(-4096), 0, 0);
  control("control length -2^40", static_cast<size_t>(-(1L << 40)), 0, 0);
  control("control of -1", CMSG_LEN(sizeof(int)), -1, 0);
  control("control of a closed one", CMSG_LEN(sizeof(int)), kClosed, 0);
  control("control of another", CMSG_LEN(sizeof(int)), 1, 0);
  control("control of nothing", CMSG_LEN(0), 1, 0);
  control("control of one, second 3", CMSG_LEN(sizeof(int)), 1, 3);
  control("control of one, second SIZE_MAX", CMSG_LEN(sizeof(int)), 1, SIZE_MAX);
  // Nothing is handed on, and what follows cannot be read.
  static Control other = {static_cast<size_t>(-(1L << 40)), SOL_SOCKET, 77, {0, 0}};
  message("control of another kind, -2^40", with(&other, sizeof other));

  for (const auto& [text, make] : messages) {
    // Whatever has been handed on, or tried to, is not boosted any more.
    const unsigned effect = text.find("control of") == 0 ? kAnew : kNothing;
    for (const int flags : {0, 77 << 16, -1}) {
      if (flags != 0 && text != "of 10") continue;
      add(
          "sendmsg " + text + " flags " + std::to_string(flags),
          [=, make = make](int fd) {
            return sendmsg(fd, make(), flags | MSG_DONTWAIT | MSG_NOSIGNAL);
          },
          effect);
    }
    add(
        "SYS_sendmsg " + text,
        [make = make](int fd) {
          return call_number(SYS_sendmsg, fd, make(), MSG_DONTWAIT | MSG_NOSIGNAL);
        },
        effect);
    // It ends where it may be read, and the last word of an mmsghdr is the call's to write.
    add(
        "sendmmsg " + text,
        [make = make](int fd) {
          auto* both = words().edge<mmsghdr>(sizeof(mmsghdr));
          const msghdr* one = make();
          if (as_long(one) < as_long(words().good) || as_long(one) >= as_long(words().end)) {
            both = address<mmsghdr>(static_cast<uint64_t>(as_long(one)));
          } else {
            memmove(static_cast<void*>(&both->msg_hdr), one, 40);
            both->msg_len = 0;
          }
          return sendmmsg(fd, both, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        },
        effect);
  }
  for (const auto& [text, make] : messages) {
    add("recvmsg " + text, [make = make](int fd) {
      return recvmsg(fd, const_cast<msghdr*>(make()), MSG_DONTWAIT | MSG_PEEK);
    });
    add("SYS_recvmsg " + text, [make = make](int fd) {
      return call_number(SYS_recvmsg, fd, make(), MSG_DONTWAIT | MSG_PEEK);
    });
  }
  for (const unsigned count : {0U, 1U, 1025U, 0x80000000U, ~0U}) {
    const std::string text = "recvmmsg " + std::to_string(count);
    const auto many = [=](int fd, mmsghdr* all) {
      return recvmmsg(fd, all, count, MSG_DONTWAIT | MSG_PEEK, nullptr);
    };
    add(text + " null", [=](int fd) { return many(fd, nullptr); });
    add(text + " none", [=](int fd) { return many(fd, words().none<mmsghdr>()); });
    add("SYS_" + text + " none", [=](int fd) {
      return call_number(SYS_recvmmsg, fd, words().none<mmsghdr>(), count, MSG_DONTWAIT, nullptr);
    });
  }
  for (const unsigned flags : {0U, 77U, ~0U}) {
    add("SYS_pidfd_getfd flags " + std::to_string(flags),
        [=](int fd) { return call_number(SYS_pidfd_getfd, fd, 0, flags); });
  }
  for (const unsigned count : {0U, 2U, 1024U, 1025U, 0x80000000U, ~0U}) {
    const auto many = [=](int fd, mmsghdr* all) {
      return sendmmsg(fd, all, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    };
    const std::string text = "sendmmsg " + std::to_string(count);
    add(text + " null", [=](int fd) { return many(fd, nullptr); });
    add(text + " none", [=](int fd) { return many(fd, words().none<mmsghdr>()); });
    add(text + " edge 1", [=](int fd) {
      mmsghdr one{};
      one.msg_hdr.msg_iov = &ten;
      one.msg_hdr.msg_iovlen = 1;
      return many(fd, placed(words(), one));
    });
    add("SYS_" + text + " none", [=](int fd) {
      return call_number(SYS_sendmmsg, fd, words().none<mmsghdr>(), count, MSG_DONTWAIT);
    });
  }
}

// --- libc's own I/O ----------------------------------------------------------------------------

/// What an asynchronous call has come to; its own answer if it was refused.
long awaited(aiocb* block, int begun) {
  if (begun != 0) return begun;
  const aiocb* one = block;
  while (aio_error(block) == EINPROGRESS) aio_suspend(&one, 1, nullptr);
  const int error = aio_error(block);
  const long result = aio_return(block);
  errno = error;
  return result;
}

/// Made once: to end one takes long.
aio_context_t io_context() {
  static const aio_context_t context = [] {
    const int error = errno;
    aio_context_t made = 0;
    call_number(SYS_io_setup, 4, &made);
    errno = error;
    return made;
  }();
  return context;
}

void add_libc() {
  struct Block {
    std::string name;
    size_t length;
    off_t offset;
    int priority;
  };
  for (const Block& odd : std::vector<Block>{{"10 at 500", 10, 500, 0},
                                             {"0 at 500", 0, 500, 0},
                                             {"10 at -1", 10, -1, 0},
                                             {"10 at least", 10, kLeast, 0},
                                             {"SIZE_MAX at 0", SIZE_MAX, 0, 0},
                                             {"SSIZE_MAX at 0", SSIZE_MAX, 0, 0},
                                             {"priority -1", 10, 500, -1},
                                             {"priority 1000", 10, 500, 1000}}) {
    const auto block = [=](int fd, char* buffer, int code) {
      static aiocb made;
      made = {};
      made.aio_fildes = fd;
      made.aio_buf = buffer;
      made.aio_nbytes = odd.length;
      made.aio_offset = odd.offset;
      made.aio_reqprio = odd.priority;
      made.aio_lio_opcode = code;
      made.aio_sigevent.sigev_notify = SIGEV_NONE;
      return &made;
    };
    add(
        "aio_read " + odd.name,
        [=](int fd) {
          aiocb* made = block(fd, sink().good, LIO_READ);
          return awaited(made, aio_read(made));
        },
        kAnotherFile);
    add(
        "aio_write " + odd.name,
        [=](int fd) {
          aiocb* made = block(fd, source().good, LIO_WRITE);
          return awaited(made, aio_write(made));
        },
        kAnotherFile);
    add(
        "lio_listio " + odd.name,
        [=](int fd) -> long {
          aiocb* made = block(fd, source().good, LIO_WRITE);
          return lio_listio(LIO_WAIT, &made, 1, nullptr);
        },
        kAnotherFile);
    add(
        "aio_fsync " + odd.name,
        [=](int fd) {
          aiocb* made = block(fd, nullptr, LIO_NOP);
          return awaited(made, aio_fsync(O_DSYNC, made));
        },
        kAnotherFile | kNotOutside);
  }
  add("aio_fsync operation 77 of null", [](int) { return aio_fsync(77, null<aiocb>()); });
  add("aio_fsync operation 77 of none", [](int) { return aio_fsync(77, words().none<aiocb>()); });
  add("aio_fsync64 operation 77 of none",
      [](int) { return aio_fsync64(77, words().none<aiocb64>()); });
  add("aio_read none", [](int) { return aio_read(words().none<aiocb>()); });
  for (const int mode : {int{LIO_WAIT}, 77}) {
    for (const int count : {-1, 0, 1, INT32_MAX}) {
      const std::string text =
          "lio_listio mode " + std::to_string(mode) + " count " + std::to_string(count);
      add(text + " null", [=](int) { return lio_listio(mode, null<aiocb*>(), count, nullptr); });
      add(text + " none",
          [=](int) { return lio_listio(mode, words().none<aiocb*>(), count, nullptr); });
      add(text + " 64 none",
          [=](int) { return lio_listio64(mode, words().none<aiocb64*>(), count, nullptr); });
    }
  }
  for (const long count : {-1L, 0L, 1L, kMost}) {
    const std::string text = "io_submit " + std::to_string(count);
    add(text + " without a context",
        [=](int) { return call_number(SYS_io_submit, 0, count, words().none()); });
    add(text + " null",
        [=](int) { return call_number(SYS_io_submit, io_context(), count, nullptr); });
    for (const uint64_t block : {uint64_t{0}, kLow, static_cast<uint64_t>(as_long(words().end)),
                                 static_cast<uint64_t>(as_long(words().end)) - 24}) {
      add(text + " of " +
              (block == 0        ? "null"
               : block == kLow   ? "low"
               : block % 32 == 0 ? "none"
                                 : "edge"),
          [=](int) {
            auto* list = placed(vector_words(false), block);
            return call_number(SYS_io_submit, io_context(), count, list);
          });
    }
  }

  add("dprintf", [](int fd) { return dprintf(fd, "%d", 12345); });
  add("dprintf null", [](int fd) { return dprintf(fd, null<const char>(), 1); });
  for (const char* mode : {"r", "w", "a", "r+", "z", "", "rm", "r,ccs=none"}) {
    add(std::string("fdopen ") + mode, [=](int fd) -> long {
      FILE* stream = fdopen(fd, mode);
      if (stream == nullptr) return -1;
      return fclose(stream) == 0 ? 1 : 2;
    });
  }
  add("fclose after close", [](int fd) -> long {
    FILE* stream = fdopen(fd, "r");
    if (stream == nullptr) return -1;
    close(fd);
    return fclose(stream);
  });
  add("freopen of a missing file", [](int fd) -> long {
    FILE* stream = fdopen(fd, "r");
    if (stream == nullptr) return -1;
    return freopen((g_directory + "/missing/file").c_str(), "r", stream) == nullptr ? 0 : 1;
  });
  char* const argv[] = {nullptr};
  add("fexecve without arguments", [](int fd) { return fexecve(fd, null<char*>(), environ); });
  add("fexecve", [argv](int fd) { return fexecve(fd, argv, environ); });
  add("fexecve arguments none", [](int fd) { return fexecve(fd, words().none<char*>(), environ); });
  for (const int flags : {AT_EMPTY_PATH, 0, -1}) {
    add("execveat flags " + std::to_string(flags),
        [argv, flags](int fd) { return execveat(fd, "", argv, environ, flags); });
  }
  add("openat from it", [](int fd) {
    const long result = openat(fd, "missing", O_RDONLY);
    return result >= 0 ? looked_at(static_cast<int>(result)) : result;
  });
  add("openat64 from it", [](int fd) { return openat64(fd, "missing", O_RDONLY); });
  add("__openat_2 from it", [](int fd) { return __openat_2(fd, "missing", O_RDONLY); });
  add("__openat64_2 from it", [](int fd) { return __openat64_2(fd, "missing", O_RDONLY); });
  add("openat of nothing from it", [](int fd) { return openat(fd, "", O_RDONLY); });
  add("openat of null from it", [](int fd) { return call_number(SYS_openat, fd, nullptr, 0, 0); });
  add("fchmodat from it", [](int fd) { return fchmodat(fd, "missing", 0644, 0); });
  add("fchmodat flags", [](int fd) { return fchmodat(fd, "missing", 0644, 77); });
  add("fchownat flags", [](int fd) { return fchownat(fd, "", 0, 0, 77); });
  add("utimensat flags", [](int fd) { return utimensat(fd, "missing", nullptr, 77); });
}

// --- calls that take a path --------------------------------------------------------------------

using ByName = std::function<long(const char*)>;

void add_names() {
  const std::string base = g_directory + "/";
  static std::string kept[8];
  kept[0] = base + "subject";
  kept[1] = base + "missing";
  kept[2] = base + "subject/below";
  kept[3] = base + "missing/below";
  kept[4] = base + std::string(300, 'n');
  kept[5] = base + std::string(5000, '/') + "subject";
  kept[6] = base + "loop";
  kept[7] = base + "subject/";
  // A name without an end.
  char* edge = words().edge<char>(base.size());
  struct Name {
    std::string name;
    const char* path;
  };
  const std::vector<Name> names = {
      {"null", nullptr},
      {"none", words().none<char>()},
      {"low", address<char>(kLow)},
      {"kernel", address<char>(kKernel)},
      {"edge", edge},
      {"empty", ""},
      {"good", kept[0].c_str()},
      {"missing", kept[1].c_str()},
      {"below a file", kept[2].c_str()},
      {"below nothing", kept[3].c_str()},
      {"long", kept[4].c_str()},
      {"longer", kept[5].c_str()},
      {"loop", kept[6].c_str()},
      {"file/", kept[7].c_str()},
      {"directory", g_directory.c_str()},
  };
  const auto call = [&](const std::string& text, const ByName& by_name,
                        unsigned effect = kNothing) {
    for (const Name& name : names) {
      add(
          text + " " + name.name,
          [=](int) {
            if (name.path == edge) memcpy(edge, (g_directory + "/").data(), g_directory.size() + 1);
            return by_name(name.path);
          },
          // Whoever opens the file takes it away from booster for a while.
          effect | (name.path == kept[0].c_str() || name.path == kept[7].c_str() ? kAnew : 0U));
    }
  };
  const auto opens = [&](const std::string& text, const std::function<int(const char*)>& by_name) {
    call(text, [=](const char* path) { return looked_at(by_name(path)); });
  };
  for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_PATH, O_RDONLY | O_DIRECTORY,
                          O_RDONLY | O_NOFOLLOW, O_RDONLY | O_CREAT | O_EXCL, O_TMPFILE | O_RDONLY,
                          O_ACCMODE, 0x7fffffff & ~(O_CREAT | O_TRUNC | O_TMPFILE)}) {
    const std::string with = " flags " + std::to_string(flags);
    // What is not there is made.
    if ((flags & O_CREAT) != 0) {
      opens("open" + with, [=](const char* path) {
        const int fd = open(path, flags, 0600);
        if (fd >= 0) unlink(path);
        return fd;
      });
      continue;
    }
    opens("open" + with, [=](const char* path) { return open(path, flags); });
    opens("openat" + with, [=](const char* path) { return openat(-77, path, flags); });
    opens("SYS_open" + with, [=](const char* path) {
      return static_cast<int>(call_number(SYS_open, path, flags, 0));
    });
  }
  opens("open64", [](const char* path) { return open64(path, O_RDONLY); });
  opens("__open", [](const char* path) { return __open(path, O_RDONLY); });
  opens("__open64", [](const char* path) { return __open64(path, O_RDONLY); });
  opens("__open_2", [](const char* path) { return __open_2(path, O_RDONLY); });
  opens("__open64_2", [](const char* path) { return __open64_2(path, O_RDONLY); });
  opens("openat64", [](const char* path) { return openat64(AT_FDCWD, path, O_RDONLY); });
  opens("__openat_2", [](const char* path) { return __openat_2(AT_FDCWD, path, O_RDONLY); });
  opens("creat without a way to write", [](const char* path) {
    // Only where nothing can come of it.
    const bool exists = path != nullptr && path == kept[0].c_str();
    return exists || path == kept[1].c_str() || path == kept[7].c_str() ? -1 : creat(path, 0600);
  });
  opens("SYS_openat2 none", [](const char* path) {
    return static_cast<int>(call_number(SYS_openat2, AT_FDCWD, path, words().none(), 24));
  });
  opens("SYS_openat2 size 1", [](const char* path) {
    return static_cast<int>(call_number(SYS_openat2, AT_FDCWD, path, source().good, 1));
  });

  struct Two {
    const char* name;
    struct stat* status;
  };
  for (const Two& two : {Two{"good", words().edge<struct stat>(sizeof(struct stat))},
                         Two{"null", nullptr}, Two{"none", words().none<struct stat>()},
                         Two{"read-only", reinterpret_cast<struct stat*>(words().read_only)}}) {
    const std::string to = std::string(" to ") + two.name;
    struct stat* st = two.status;
    auto* st64 = reinterpret_cast<struct stat64*>(st);
    // A name without an end lies where the good one is.
    auto* place = reinterpret_cast<struct statx*>(
        two.name == std::string("good") ? static_cast<void*>(sink().good) : st);
    if (two.name == std::string("good")) {
      st = reinterpret_cast<struct stat*>(sink().good);
      st64 = reinterpret_cast<struct stat64*>(sink().good);
    }
    call("stat" + to, [=](const char* path) { return stat(path, st); });
    if (st == nullptr || st == reinterpret_cast<struct stat*>(words().read_only)) continue;
    call("stat64" + to, [=](const char* path) { return stat64(path, st64); });
    call("lstat" + to, [=](const char* path) { return lstat(path, st); });
    call("lstat64" + to, [=](const char* path) { return lstat64(path, st64); });
    call("fstatat" + to, [=](const char* path) { return fstatat(AT_FDCWD, path, st, 0); });
    call("fstatat64 of -77" + to, [=](const char* path) { return fstatat64(-77, path, st64, 0); });
    call("__xstat" + to, [=](const char* path) { return __xstat(1, path, st); });
    call("__xstat64" + to, [=](const char* path) { return __xstat64(77, path, st64); });
    call("__lxstat" + to, [=](const char* path) { return __lxstat(1, path, st); });
    call("__lxstat64" + to, [=](const char* path) { return __lxstat64(77, path, st64); });
    call("statx" + to, [=](const char* path) { return statx(AT_FDCWD, path, 0, 0, place); });
    call("statx flags" + to,
         [=](const char* path) { return statx(AT_FDCWD, path, 77 << 20, 0, place); });
    call("statx mask" + to,
         [=](const char* path) { return statx(AT_FDCWD, path, 0, 1U << 31, place); });
    call("SYS_stat" + to, [=](const char* path) { return call_number(SYS_stat, path, st); });
  }
  for (const off_t size : {off_t{kSize}, off_t{10}, off_t{-1}, off_t{kLeast}}) {
    call("truncate " + std::to_string(size),
         [=](const char* path) { return truncate(path, size); });
    call("truncate64 " + std::to_string(size),
         [=](const char* path) { return truncate64(path, size); });
    call("SYS_truncate " + std::to_string(size),
         [=](const char* path) { return call_number(SYS_truncate, path, size); });
  }
  const auto attribute = [&](const std::string& text, const ByName& by_name) {
    call(text, by_name, kAttributes);
  };
  static const timespec good_times[2] = {{1000, 0}, {1000, 0}};
  static const timespec bad_times[2] = {{1000, -1}, {1000, 0}};
  static const timeval good_micro[2] = {{1000, 0}, {1000, 0}};
  static const timeval bad_micro[2] = {{1000, 0}, {1000, 1'000'000}};
  static const utimbuf good_seconds = {1000, 1000};
  for (const auto& [text, times] : std::vector<std::pair<std::string, const timespec*>>{
           {"good", good_times}, {"bad", bad_times}, {"none", words().none<timespec>()}}) {
    attribute("utimensat " + text,
              [times = times](const char* path) { return utimensat(AT_FDCWD, path, times, 0); });
    attribute("SYS_utimensat flags " + text, [times = times](const char* path) {
      return call_number(SYS_utimensat, AT_FDCWD, path, times, 77);
    });
  }
  for (const auto& [text, times] : std::vector<std::pair<std::string, const timeval*>>{
           {"good", good_micro}, {"bad", bad_micro}}) {
    attribute("utimes " + text, [times = times](const char* path) { return utimes(path, times); });
    attribute("lutimes " + text,
              [times = times](const char* path) { return lutimes(path, times); });
    attribute("futimesat " + text,
              [times = times](const char* path) { return futimesat(AT_FDCWD, path, times); });
  }
  attribute("utime", [](const char* path) { return utime(path, &good_seconds); });
  attribute("SYS_utime none",
            [](const char* path) { return call_number(SYS_utime, path, words().none()); });
  attribute("chmod", [](const char* path) { return chmod(path, 04755); });
  attribute("chmod -1", [](const char* path) { return chmod(path, ~mode_t{0}); });
  attribute("fchmodat flags", [](const char* path) { return fchmodat(AT_FDCWD, path, 0600, 77); });
  attribute("fchmodat", [](const char* path) { return fchmodat(AT_FDCWD, path, 0600, 0); });
  attribute("fchmodat of a link",
            [](const char* path) { return fchmodat(AT_FDCWD, path, 0600, AT_SYMLINK_NOFOLLOW); });
  attribute("chown", [](const char* path) { return chown(path, 12, 13); });
  attribute("fchownat", [](const char* path) { return fchownat(AT_FDCWD, path, 12, 13, 0); });
  attribute("fchownat flags", [](const char* path) { return fchownat(AT_FDCWD, path, 1, 1, 77); });
  attribute("setxattr", [](const char* path) { return setxattr(path, "user.key", "value", 5, 0); });
  attribute("setxattr none",
            [](const char* path) { return setxattr(path, "user.key", words().none(), 5, 0); });
  attribute("setxattr SIZE_MAX", [size = size_t{SIZE_MAX}](const char* path) {
    const volatile size_t unknown = size;
    return setxattr(path, "user.key", "value", unknown, 0);
  });
  attribute("setxattr key null",
            [](const char* path) { return setxattr(path, nullptr, "value", 5, 0); });

  for (const char* mode : {"r", "z", "", "rm", "r,ccs=none"}) {
    call(std::string("fopen ") + mode, [=](const char* path) -> long {
      FILE* stream = fopen(path, mode);
      return stream == nullptr ? -1 : fclose(stream);
    });
    call(std::string("fopen64 ") + mode, [=](const char* path) -> long {
      FILE* stream = fopen64(path, mode);
      return stream == nullptr ? -1 : fclose(stream);
    });
  }
  static char* const no_arguments[] = {nullptr};
  call("execve", [](const char* path) { return execve(path, no_arguments, environ); });
  call("execve arguments none",
       [](const char* path) { return execve(path, words().none<char*>(), environ); });
  call("execv", [](const char* path) { return execv(path, no_arguments); });
  call("execl", [](const char* path) { return execl(path, "name", nullptr); });
  call("execle",
       [](const char* path) { return execle(path, "name", nullptr, words().none<char*>()); });
  call("execveat",
       [](const char* path) { return execveat(AT_FDCWD, path, no_arguments, environ, 77 << 20); });
  call(
      "posix_spawn",
      [](const char* path) {
        pid_t pid = 0;
        return posix_spawn(&pid, path, nullptr, nullptr, no_arguments, environ);
      },
      kAnew);

  // Calls with neither path nor descriptor.
  for (const char* type : {"z", "", "rw"}) {
    add(
        std::string("popen ") + type,
        [=](int) -> long { return popen("true", type) == nullptr ? -1 : 0; }, kAnew);
  }
  add(
      "system null", [](int) { return system(nullptr); }, kAnew);
  add(
      "clone null", [](int) { return clone(nullptr, nullptr, 0, nullptr); }, kAnew);
  add(
      "clone flags",
      [](int) { return clone([](void*) { return 0; }, words().end, CLONE_SIGHAND, nullptr); },
      kAnew);
  add("prctl 7777", [](int) { return prctl(7777, 0, 0, 0, 0); });
  add("prctl seccomp filter null",
      [](int) { return prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, nullptr, 0, 0); });
  for (const auto& [text, limit] : std::vector<std::pair<std::string, rlimit*>>{
           {"null", nullptr}, {"none", words().none<rlimit>()}, {"low", address<rlimit>(kLow)}}) {
    const auto* limit64 = reinterpret_cast<rlimit64*>(limit);
    for (const int resource : {static_cast<int>(RLIMIT_FSIZE), 77, -1}) {
      const std::string of = " " + std::to_string(resource) + " " + text;
      const auto which = static_cast<__rlimit_resource>(resource);
      if (limit != nullptr) {
        add("setrlimit" + of, [=, limit = limit](int) { return setrlimit(which, limit); });
        add("setrlimit64" + of, [=](int) { return setrlimit64(which, limit64); });
      }
      add("prlimit" + of, [=, limit = limit](int) { return prlimit(0, which, limit, nullptr); });
      add("prlimit64" + of, [=](int) { return prlimit64(-77, which, limit64, nullptr); });
    }
  }
  add("syscall 77777", [](int) { return call_number(77777); });
  add("syscall -1", [](int) { return call_number(-1); });
}

// --- running them ------------------------------------------------------------------------------

bool applies(const Case& one) {
  if ((one.effect & kNotNegative) != 0 && g_fd < 0) return false;
  return (one.effect & kNotOutside) == 0 || !is("outside");
}

void run(const Case& one) {
  constexpr int kUntouched = 4242;
  printf("%s %s -> ", g_kind.c_str(), one.name.c_str());
  fflush(stdout);
  g_moved.clear();
  errno = kUntouched;
  const long result = one.call(g_fd);
  const int error = errno;
  std::string text = std::to_string(result);
  if (error != kUntouched) text += std::string(" ") + (strerrorname_np(error) ?: "?");
  if (result > 0 && !g_moved.empty()) {
    uint64_t sum = 0;
    auto left = static_cast<size_t>(result);
    for (const iovec& vector : g_moved) {
      const size_t part = vector.iov_len < left ? vector.iov_len : left;
      if (part > 0) sum = digest(vector.iov_base, part, sum);
      left -= part;
    }
    char bytes[32];
    snprintf(bytes, sizeof bytes, " bytes %016lx", sum);
    text += bytes;
  }
  printf("%s", text.c_str());
}

/// What a fresh descriptor shows.
std::string begin_anew() {
  make_subject();
  if (ftruncate(g_other, 0) != 0) fail("ftruncate");
  put_all(g_other, bytes_at(0, kOtherSize, 7));
  begin();
  return state();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: arguments KIND DIRECTORY OUTSIDE FIRST\n");
    return 2;
  }
  g_kind = argv[1];
  g_directory = argv[2];
  g_outside = argv[3];
  const size_t first = std::stoul(argv[4]);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  const bool names = is("names");
  if (names) {
    add_names();
    g_kind = "written";
    const int ignored = symlink("loop", (g_directory + "/loop").c_str());
    static_cast<void>(ignored);
  } else {
    add_reads();
    add_writes();
    add_numbers();
    add_attributes();
    add_duplicates();
    add_fcntl();
    add_closes();
    add_copies();
    add_maps();
    add_messages();
    add_libc();
  }
  g_other = open((g_outside + "/other").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (g_other < 0) fail("open");

  std::string right = begin_anew();
  std::string right_attributes = attributes();
  bool begun = true;
  size_t number = 0;
  for (const Case& one : g_cases) {
    if (!applies(one) || number++ < first) continue;
    if (!begun) begin();
    begun = false;
    run(one);
    std::string text;
    if ((one.effect & kSynced) != 0) {
      errno = 0;
      const long synced = fsync(g_fd);
      text += " fsync " + std::to_string(synced) + " " + std::to_string(errno);
    } else {
      text += state();
    }
    const bool other = (one.effect & kAnew) != 0 || text != right;
    const std::string shown = (one.effect & kAttributes) != 0 ? attributes() : right_attributes;
    printf("%s%s\n", text.c_str(), shown == right_attributes ? "" : shown.c_str());
    fflush(stdout);
    if (other || shown != right_attributes) {
      if ((one.effect & kAnotherFile) == kAnotherFile && is("read")) unlink(subject_path().c_str());
      right = begin_anew();
      right_attributes = attributes();
      begun = true;
    }
  }
  printf("%zu cases\n", number);
  return 0;
}
