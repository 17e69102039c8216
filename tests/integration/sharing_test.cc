// Ways to share a file that opens do not tell of: one description in two processes, inherited,
// forked or passed, with booster in one of them or in both; mappings whose descriptor is closed;
// and files of other users. Where programs can be compared, FUSE is the oracle: the same is done
// without booster, and every answer must be the same.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;

constexpr size_t kLarge = 1 << 20;
constexpr size_t kFew = 100;
constexpr uint64_t kWarm = 1;  // a seed; others come after it

RunOptions with(bool preload) {
  return {.preload = preload, .eager = false};
}

/// Writes [0, kLarge) of kWarm until such a write is boosted. Ends the test if that does not come
/// to be.
void warm(const Daemon& daemon, Puppet& puppet) {
  until_counted(
      daemon, [&] { return daemon.boosted_write_bytes(); },
      [&] { ASSERT_EQ(puppet.tell("pwrite", "f", 0, kLarge, kWarm), std::to_string(kLarge)); },
      milliseconds(2));
}

enum Way { kInherited, kForked, kPassed, kWays };
constexpr std::array<const char*, kWays> kWayNames = {"Inherited", "Forked", "Passed"};

struct Sharing {
  Way way;
  bool write_only;
  bool first_preloaded;
  bool second_preloaded;

  std::string name() const {
    return std::string(kWayNames[way]) + (write_only ? "_WriteOnly" : "_ReadWrite") +
           (!second_preloaded  ? "_FirstPreloaded"
            : !first_preloaded ? "_SecondPreloaded"
                               : "_BothPreloaded");
  }
};

/// Names in failures.
void PrintTo(const Sharing& sharing, std::ostream* out) {
  *out << sharing.name();
}

std::vector<Sharing> all_sharings() {
  std::vector<Sharing> all;
  for (const bool write_only : {false, true}) {
    for (const Way way : {kInherited, kPassed}) {
      all.push_back({way, write_only, true, false});
      all.push_back({way, write_only, false, true});
      all.push_back({way, write_only, true, true});
    }
    // A child has what its parent has.
    all.push_back({kForked, write_only, true, true});
  }
  return all;
}

/// Two processes that hold one description, each as its file "f".
class Pair {
 public:
  Pair(const Sharing& sharing, std::string path) : sharing_(sharing), path_(std::move(path)) {}

  /// The first one opens the file (or both are born with it), `before` that it is shared.
  template <typename Before>
  void share(const Before& before) {
    write_file(path_, bytes_at(0, 2 * kLarge, kWarm));
    if (sharing_.way == kInherited) return inherit();
    first_ = std::make_unique<Puppet>(with(sharing_.first_preloaded));
    ASSERT_EQ(first_->tell("open", "f", sharing_.write_only ? "w" : "rw", path_), "0");
    before(*first_);
    if (sharing_.way == kForked) {
      ASSERT_NE(first_->tell("fork").substr(0, 2), "-1");
      return;
    }
    second_ = std::make_unique<Puppet>(with(sharing_.second_preloaded));
    const std::string socket = Lab::get().dir + "/pass-" + std::to_string(second_->pid());
    ASSERT_EQ(second_->tell("listen", socket), "0");
    ASSERT_EQ(first_->tell("send", "f", socket), "1");
    ASSERT_EQ(second_->tell("receive", "f"), "0");
    ::unlink(socket.c_str());
  }

  /// Both work with the file, by turns. Returns every answer, with the question.
  std::vector<std::string> work() {
    std::vector<std::string> answers;
    uint64_t seed = kWarm;
    for (const size_t length : {kLarge, kFew, 3 * kLarge / 2}) {
      for (const bool second : {false, true}) {
        answers.push_back(tell(second, "write", length, ++seed));
        answers.push_back(tell(!second, "where"));
        answers.push_back(tell(!second, "write", kFew, ++seed));
        answers.push_back(tell(second, "pwrite", length / 2, length, ++seed));
        for (const bool who : {false, true}) {
          const std::string status = tell(who, "fstat");
          answers.push_back(status.substr(0, status.rfind(' ')));  // without the time
        }
        if (sharing_.write_only) continue;
        answers.push_back(tell(!second, "pread", length / 2, length, seed));
        answers.push_back(tell(second, "pread", length / 2, length, seed));
        answers.push_back(tell(!second, "seek", kFew));
        answers.push_back(tell(second, "read", length, seed));
        answers.push_back(tell(!second, "read", kFew, seed));
        answers.push_back(tell(second, "where"));
      }
    }
    return answers;
  }

  /// All of the file, when nobody has it open any more.
  std::string end() {
    if (second_) second_->leave();
    first_.reset();  // the forked child goes with it
    return read_file(path_);
  }

 private:
  void inherit() {
    // Without O_CLOEXEC: it is left to those who are started.
    const int fd = ::open(path_.c_str(), sharing_.write_only ? O_WRONLY : O_RDWR);
    first_ = std::make_unique<Puppet>(with(sharing_.first_preloaded));
    second_ = std::make_unique<Puppet>(with(sharing_.second_preloaded));
    ::close(fd);
    ASSERT_EQ(first_->tell("adopt", "f", fd), "0");
    ASSERT_EQ(second_->tell("adopt", "f", fd), "0");
  }

  template <typename... Words>
  std::string tell(bool second, const std::string& verb, const Words&... words) {
    std::string question = (second ? "second: " : "first: ") + verb;
    ((question += " " + std::to_string(words)), ...);
    std::string answer;
    if (!second) {
      answer = first_->tell(verb, "f", words...);
    } else if (sharing_.way == kForked) {
      answer = first_->tell("in-child", verb, "f", words...);
    } else {
      answer = second_->tell(verb, "f", words...);
    }
    return question + ": " + answer;
  }

  const Sharing sharing_;
  const std::string path_;
  std::unique_ptr<Puppet> first_;
  std::unique_ptr<Puppet> second_;  // none: a child of the first one
};

class OneDescription : public testing::TestWithParam<Sharing> {
 protected:
  ScratchDir dir_;
  Daemon daemon_;
};

TEST_P(OneDescription, IsInTwoProcessesAsOnFuse) {
  const Sharing& sharing = GetParam();
  Pair plain({sharing.way, sharing.write_only, false, false}, dir_.file("plain"));
  plain.share([](Puppet& first) {
    ASSERT_EQ(first.tell("pwrite", "f", 0, kLarge, kWarm), std::to_string(kLarge));
  });
  const std::vector<std::string> expected = plain.work();

  Pair pair(sharing, dir_.file("shared"));
  pair.share([&](Puppet& first) {
    if (!sharing.first_preloaded) return;
    warm(daemon_, first);
  });
  EXPECT_EQ(pair.work(), expected);
  EXPECT_TRUE(pair.end() == plain.end()) << "other bytes in the end";
}

INSTANTIATE_TEST_SUITE_P(All, OneDescription, testing::ValuesIn(all_sharings()),
                         [](const auto& info) { return info.param.name(); });

// --- mappings alone ----------------------------------------------------------------------------

/// A shared mapping of this program, which has no booster. No descriptor is left.
class Mapping {
 public:
  Mapping(const std::string& path, size_t length) : length_(length) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    // What the kernel has is not worth the daemon's way.
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    void* const start = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_NE(start, MAP_FAILED);
    start_ = static_cast<char*>(start);
    ::close(fd);
  }
  ~Mapping() { ::munmap(start_, length_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  char* at(size_t offset) const { return start_ + offset; }

 private:
  const size_t length_;
  char* start_ = nullptr;
};

class MappingAlone : public testing::Test {
 protected:
  static constexpr size_t kCount = 30;

  std::string make_file(size_t size) {
    const std::string path = dir_.file("file");
    write_file(path, bytes_at(0, size, kWarm));
    return path;
  }

  ScratchDir dir_;
  Daemon daemon_;
};

TEST_F(MappingAlone, ShowsWhatAnotherWrites) {
  const std::string path = make_file(kLarge);
  Puppet writer(with(true));
  ASSERT_EQ(writer.tell("open", "f", "rw", path), "0");
  {
    const Mapping mapping(path, kLarge);
    for (uint64_t seed = kWarm + 1; seed < kWarm + kCount; ++seed) {
      ASSERT_EQ(writer.tell("pwrite", "f", 0, kLarge, seed), std::to_string(kLarge));
      ASSERT_EQ(first_wrong(mapping.at(0), kLarge, 0, seed), kLarge) << seed;
      std::this_thread::sleep_for(milliseconds(10));
    }
    EXPECT_EQ(daemon_.boosted_write_bytes(), 0U);
  }
  warm(daemon_, writer);
}

TEST_F(MappingAlone, IsReadByOthersAsItIs) {
  const std::string path = make_file(kCount * kLarge);
  const Mapping mapping(path, kCount * kLarge);
  Puppet reader(with(true));
  ASSERT_EQ(reader.tell("open", "f", "r", path), "0");
  for (size_t i = 0; i < kCount; ++i) {
    const size_t at = i * kLarge + kLarge / 2;
    const std::string bytes = bytes_at(at, kFew, kWarm + 1);
    std::copy(bytes.begin(), bytes.end(), mapping.at(at));
    ASSERT_EQ(reader.tell("pread", "f", i * kLarge, kLarge, kWarm),
              std::to_string(kLarge) + " wrong at " + std::to_string(kLarge / 2));
    ASSERT_EQ(reader.tell("pread", "f", at, kFew, kWarm + 1), std::to_string(kFew));
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(daemon_.boosted_read_bytes(), 0U);
}

// --- files of others ---------------------------------------------------------------------------

constexpr uid_t kOwner = 2000;
constexpr uid_t kOther = 1000;

class OthersFile : public testing::Test {
 protected:
  std::string make_file(const std::string& name, mode_t mode) {
    const std::string path = dir_.file(name);
    write_file(path, bytes_at(0, 2 * kLarge, kWarm));
    EXPECT_EQ(::chown(path.c_str(), kOwner, kOwner), 0);
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return path;
  }

  static RunOptions as(uid_t uid, bool preload = true) {
    return {.preload = preload, .eager = false, .uid = uid};
  }

  ScratchDir dir_;
  Daemon daemon_;
};

TEST_F(OthersFile, IsBoostedForWhoeverMayWriteIt) {
  for (const std::string how : {"rw", "w"}) {
    const std::string path = make_file(how, 0666);
    Puppet other(as(kOther));
    ASSERT_EQ(other.tell("open", "f", how, path), "0");
    warm(daemon_, other);
    ASSERT_EQ(other.tell("pwrite", "f", kLarge, kLarge, kWarm + 1), std::to_string(kLarge));
    const std::string bytes = read_file(path);
    EXPECT_TRUE(bytes == bytes_at(0, kLarge, kWarm) + bytes_at(kLarge, kLarge, kWarm + 1)) << how;
  }
}

TEST_F(OthersFile, IsRefusedByTheKernelToWhoeverMayNotWriteIt) {
  const std::string readable = make_file("readable", 0644);
  const std::string secret = make_file("secret", 0600);
  // Both are boosted for their owner meanwhile.
  Puppet owner(as(kOwner));
  for (const std::string& path : {readable, secret}) {
    ASSERT_EQ(owner.tell("open", "f", "rw", path), "0");
    warm(daemon_, owner);
    // From now on none of it is still to be counted.
    EXPECT_EQ(owner.tell("fsync", "f"), "0");
  }
  Puppet plain(as(kOther, false));
  Puppet other(as(kOther));
  for (Puppet* program : {&plain, &other}) {
    const std::string who = program == &plain ? "plain" : "preloaded";
    for (const std::string how : {"rw", "w", "w+trunc"}) {
      EXPECT_EQ(program->tell("open", "f", how, readable), "-1 EACCES") << who << how;
      EXPECT_EQ(program->tell("open", "f", how, secret), "-1 EACCES") << who << how;
    }
    EXPECT_EQ(program->tell("open", "f", "r", secret), "-1 EACCES") << who;
    EXPECT_EQ(program->tell("truncate-path", readable, 0), "-1 EACCES") << who;
    EXPECT_EQ(program->tell("times-of-path", readable, 1), "-1 EPERM") << who;
    ASSERT_EQ(program->tell("open", "f", "r", readable), "0") << who;
    const uint64_t before = daemon_.boosted_write_bytes();
    for (const size_t length : {kFew, kLarge}) {
      EXPECT_EQ(program->tell("pwrite", "f", 0, length, kWarm + 1), "-1 EBADF") << who;
    }
    EXPECT_EQ(daemon_.boosted_write_bytes(), before) << who;
    EXPECT_EQ(program->tell("pread", "f", 0, kLarge, kWarm), std::to_string(kLarge)) << who;
  }
  for (const std::string& path : {readable, secret}) {
    EXPECT_TRUE(read_file(path) == bytes_at(0, 2 * kLarge, kWarm)) << path;
  }
}

}  // namespace
}  // namespace booster::test
