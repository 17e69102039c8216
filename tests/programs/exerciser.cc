// Does to one file what a program can do to it, at random, and compares each answer with what a
// file of its own memory says: writes, reads, cuts, mappings, and opens again.
//
//   exerciser PATH SEED MILLISECONDS
//
// Prints "done N calls"; or which call was answered wrongly, the calls before it, and status 1.
// Sizes, and how often something is done, are such that booster serves most of it: what has FUSE
// look at the file is rare, and after a cut there is time to be boosted again.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>

#include "tests/programs/bytes.h"

namespace {

constexpr uint64_t kMost = 6 << 20;
constexpr size_t kLongest = 96 << 10;

class Exerciser {
 public:
  Exerciser(std::string path, uint64_t seed) : path_(std::move(path)), random_(seed) {
    open(O_CREAT | O_TRUNC);
  }
  Exerciser(const Exerciser&) = delete;
  Exerciser& operator=(const Exerciser&) = delete;
  ~Exerciser() { ::close(fd_); }

  void step() {
    ++calls_;
    switch (const uint64_t die = below(4000)) {
      case 0: return cut();
      case 1: return map();
      case 2: return reopen();
      case 3: return cut_by_name();
      case 4: return look();
      default:
        if (die < 240) return append();
        if (die < 320) return sync();
        if (die < 1200) return write_at();
        if (die < 1680) return write_here();
        if (die < 2800) return read_at();
        return read_on();
    }
  }

  /// What another look at the file, through a new descriptor, says.
  void judge() {
    begin("fsync, and a look at all of it", 0, 0);
    require(::fsync(fd_) == 0, errno);
    ::close(fd_);
    open(0);
    compare(booster::test::bytes_of(fd_, content_.size() + 1), content_);
  }

  uint64_t calls() const { return calls_; }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }
  off_t offset(uint64_t at) const { return static_cast<off_t>(at); }

  std::string fresh_bytes(size_t length) {
    std::string bytes(length, '\0');
    for (size_t i = 0; i < length; i += 8) {
      const uint64_t word = random_() | 0x0101010101010101;  // no zero: holes are
      std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, length - i));
    }
    return bytes;
  }

  size_t length() {
    static constexpr std::array<size_t, 5> kUpTo = {16, 512, 4096, 20'000, kLongest};
    return 1 + below(kUpTo.at(below(kUpTo.size())));
  }
  /// Pages and the places next to them more often than others.
  uint64_t place(uint64_t end) {
    const uint64_t at = below(end + 1);
    return below(3) == 0 ? at / 4096 * 4096 : at;
  }

  void begin(const char* what, uint64_t at, uint64_t bytes) {
    char line[128];
    std::snprintf(line, sizeof line, "%llu %s at %llu, %llu bytes, of %zu",
                  static_cast<unsigned long long>(calls_), what,
                  static_cast<unsigned long long>(at), static_cast<unsigned long long>(bytes),
                  content_.size());
    history_.emplace_back(line);
    if (history_.size() > 40) history_.pop_front();
  }
  [[noreturn]] void fail(const std::string& why) {
    for (const std::string& line : history_) std::printf("%s\n", line.c_str());
    std::printf("wrong: %s\n", why.c_str());
    std::exit(1);
  }
  void require(bool ok, int error) {
    if (!ok) fail(std::string("fails: ") + ::strerror(error));
  }
  void compare(const std::string& got, const std::string& right) {
    if (got == right) return;
    size_t at = 0;
    while (at < got.size() && at < right.size() && got[at] == right[at]) ++at;
    fail(std::to_string(got.size()) + " of " + std::to_string(right.size()) +
         " bytes, other from byte " + std::to_string(at) + " on");
  }

  void open(int flags) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | flags, 0600);
    require(fd_ >= 0, errno);
    position_ = 0;
  }
  void put(uint64_t at, const std::string& bytes) {
    if (content_.size() < at + bytes.size()) content_.resize(at + bytes.size());
    content_.replace(at, bytes.size(), bytes);
  }
  std::string part(uint64_t at, size_t bytes) const {
    return at >= content_.size() ? "" : content_.substr(at, bytes);
  }

  void write_at() {
    const size_t bytes = length();
    const uint64_t at = place(std::min<uint64_t>(content_.size() + 5000, kMost - bytes));
    const std::string text = fresh_bytes(bytes);
    if (below(2) == 0) {
      begin("pwrite", at, bytes);
      require(::pwrite(fd_, text.data(), bytes, offset(at)) == static_cast<ssize_t>(bytes), errno);
    } else {
      begin("pwritev", at, bytes);
      const size_t first = below(bytes + 1);
      const std::array<iovec, 2> vectors = {
          iovec{const_cast<char*>(text.data()), first},
          iovec{const_cast<char*>(text.data()) + first, bytes - first}};
      require(::pwritev(fd_, vectors.data(), 2, offset(at)) == static_cast<ssize_t>(bytes), errno);
    }
    put(at, text);
  }
  void append() {
    const size_t bytes = length();
    if (content_.size() + bytes > kMost) return;
    const std::string text = fresh_bytes(bytes);
    begin("seek to the end and write", content_.size(), bytes);
    require(::lseek(fd_, 0, SEEK_END) == offset(content_.size()), errno);
    require(::write(fd_, text.data(), bytes) == static_cast<ssize_t>(bytes), errno);
    position_ = content_.size() + bytes;
    put(content_.size(), text);
  }
  void write_here() {
    const size_t bytes = length();
    if (position_ + bytes > kMost) return seek();
    const std::string text = fresh_bytes(bytes);
    begin("write", position_, bytes);
    require(::write(fd_, text.data(), bytes) == static_cast<ssize_t>(bytes), errno);
    put(position_, text);
    position_ += bytes;
  }
  void seek() {
    position_ = place(content_.size());
    begin("seek", position_, 0);
    require(::lseek(fd_, offset(position_), SEEK_SET) == offset(position_), errno);
  }
  void read_at() {
    const size_t bytes = length();
    // Hot places come again.
    const uint64_t at = below(2) == 0 ? place(content_.size()) : place(200'000);
    begin("pread", at, bytes);
    std::string text(bytes, '\0');
    const ssize_t got = ::pread(fd_, text.data(), bytes, offset(at));
    require(got >= 0, errno);
    text.resize(static_cast<size_t>(got));
    compare(text, part(at, bytes));
  }
  /// Some reads in a row.
  void read_on() {
    if (below(3) == 0) seek();
    const size_t bytes = length();
    for (uint64_t left = 1 + below(4); left > 0; --left) {
      begin("read", position_, bytes);
      std::string text(bytes, '\0');
      const ssize_t got = ::read(fd_, text.data(), bytes);
      require(got >= 0, errno);
      text.resize(static_cast<size_t>(got));
      compare(text, part(position_, bytes));
      position_ += text.size();
    }
  }
  void sync() {
    begin("fsync", 0, 0);
    require((below(2) == 0 ? ::fsync(fd_) : ::fdatasync(fd_)) == 0, errno);
  }
  uint64_t new_size() { return place(std::min<uint64_t>(content_.size() + 50'000, kMost)); }
  void cut() {
    const uint64_t size = new_size();
    begin("ftruncate", size, 0);
    require(::ftruncate(fd_, offset(size)) == 0, errno);
    content_.resize(size);
  }
  void cut_by_name() {
    const uint64_t size = new_size();
    begin("truncate", size, 0);
    require(::truncate(path_.c_str(), offset(size)) == 0, errno);
    content_.resize(size);
  }
  void look() {
    begin("fstat and stat", 0, 0);
    struct stat status {};
    require(::fstat(fd_, &status) == 0, errno);
    if (static_cast<uint64_t>(status.st_size) != content_.size()) {
      fail("fstat: " + std::to_string(status.st_size));
    }
    require(::stat(path_.c_str(), &status) == 0, errno);
    if (static_cast<uint64_t>(status.st_size) != content_.size()) {
      fail("stat: " + std::to_string(status.st_size));
    }
  }
  void reopen() {
    begin("close and open", 0, 0);
    require(::close(fd_) == 0, errno);
    open(0);
  }
  /// Reads through a mapping, writes through it, and lets go of it and of the descriptor: as long
  /// as a file is mapped it is FUSE's.
  void map() {
    if (content_.empty()) return;
    const size_t size = content_.size();
    begin("mapping", 0, size);
    void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    require(memory != MAP_FAILED, errno);
    compare(std::string(static_cast<const char*>(memory), size), content_);
    const size_t at = below(size);
    const std::string text = fresh_bytes(std::min(length(), size - at));
    std::memcpy(static_cast<char*>(memory) + at, text.data(), text.size());
    put(at, text);
    read_at();
    require(::msync(memory, size, MS_SYNC) == 0, errno);
    require(::munmap(memory, size) == 0, errno);
    reopen();
  }

  const std::string path_;
  std::mt19937_64 random_;
  int fd_ = -1;
  std::string content_;
  uint64_t position_ = 0;
  uint64_t calls_ = 0;
  std::deque<std::string> history_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: exerciser PATH SEED MILLISECONDS\n");
    return 2;
  }
  Exerciser exerciser(argv[1], std::strtoull(argv[2], nullptr, 10));
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(std::atoi(argv[3]));
  while (std::chrono::steady_clock::now() < end) exerciser.step();
  exerciser.judge();
  std::printf("done %llu calls\n", static_cast<unsigned long long>(exerciser.calls()));
}
