// Files that booster has taken over, twins of them that it never sees, plain programs that open
// both, and bricks that a test kills or stops: what it takes to compare openers with what FUSE
// alone gives.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <future>
#include <list>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {

// --- bricks ------------------------------------------------------------------------------------

struct Brick {
  int number = 0;
  pid_t pid = -1;
  std::string path;
};

/// Those of a volume, by default the first one, which run.
inline std::vector<Brick> bricks(const std::string& of = "vol1") {
  const RunResult told = run({"lab", "bricks"}, {.preload = false});
  EXPECT_EQ(told.status, 0) << told.err;
  std::vector<Brick> all;
  std::istringstream lines(told.out);
  std::string volume;
  for (Brick brick; lines >> brick.number >> volume >> brick.pid >> brick.path;) {
    if (volume == of) all.push_back(brick);
  }
  EXPECT_FALSE(all.empty()) << told.out;
  return all;
}

/// Where the first brick has the file at `path` of the first mount: what lies there no cache hides.
inline std::string path_on_brick(const std::string& path) {
  return bricks().front().path + path.substr(Lab::get().mount.size());
}

/// Whether it is there, and not only a pointer to another brick, that a file of a distributed
/// volume lies.
inline bool is_on(const Brick& brick, const std::string& path) {
  struct stat status {};
  return ::stat((brick.path + path.substr(Lab::get().mount.size())).c_str(), &status) == 0 &&
         (status.st_mode & S_ISVTX) == 0;
}

/// SIGKILL, and started again at the latest when this ends.
class KilledBrick {
 public:
  explicit KilledBrick(const Brick& brick) : number_(std::to_string(brick.number)) {
    const RunResult stopped = run({"lab", "stop-brick", number_}, {.preload = false});
    EXPECT_EQ(stopped.status, 0) << stopped.err;
  }
  ~KilledBrick() { start(); }
  KilledBrick(const KilledBrick&) = delete;
  KilledBrick& operator=(const KilledBrick&) = delete;

  /// Returns when the mounts have it again.
  void start() {
    if (std::exchange(started_, true)) return;
    const RunResult started = run({"lab", "start-brick", number_}, {.preload = false});
    EXPECT_EQ(started.status, 0) << started.err;
  }

 private:
  const std::string number_;
  bool started_ = false;
};

/// SIGSTOP, for as long as this lives.
class HungBrick {
 public:
  explicit HungBrick(const Brick& brick) : pid_(brick.pid) { EXPECT_EQ(::kill(pid_, SIGSTOP), 0); }
  ~HungBrick() { EXPECT_EQ(::kill(pid_, SIGCONT), 0); }
  HungBrick(const HungBrick&) = delete;
  HungBrick& operator=(const HungBrick&) = delete;

 private:
  const pid_t pid_;
};

/// Lists a directory: the kernel looks up anew what is in it. False when the bricks do not answer.
inline bool look_up_all_of(const std::string& dir) {
  DIR* const listing = ::opendir(dir.c_str());
  if (listing == nullptr) return false;
  do {
    errno = 0;
  } while (::readdir(listing) != nullptr);
  const bool whole = errno == 0;
  ::closedir(listing);
  return whole;
}

/// Whether the kernel would come to open a file of that name, without asking anybody for it.
inline bool is_known(const std::string& path) {
  struct statx status {};
  return ::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0;
}

/// Whether the first mount has a connection to every brick of its volume, as it says itself.
inline bool has_all_bricks() {
  for (int i = 0;; ++i) {
    const std::string client = read_file(Lab::get().mount + "/.meta/graphs/active/vol1-client-" +
                                         std::to_string(i) + "/private");
    if (client.empty()) return i > 0;
    if (client.find("\nconnected = 1") == std::string::npos) return false;
  }
}

// --- files -------------------------------------------------------------------------------------

enum class Service { kCached, kDelegated };

/// A file for one opener: what he does to a delegation is nothing to another's file.
struct Watched {
  Service service;
  std::string how;        // he opens it, in the words of Puppet
  std::string path;       // booster serves it
  std::string twin = {};  // booster never sees it; a plain program has it open in the same way
  uint64_t seed = 1;
  int handle = -1;       // O_PATH of `path`: opened through it, no name is looked up
  int twin_handle = -1;  // the same of `twin`

  std::string name() const { return path.substr(path.rfind('/') + 1); }
};

/// Where a program opens what another has as `handle`.
inline std::string through(int handle) {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(handle);
}

class WatchedFiles {
 public:
  static constexpr size_t kSize = 2 << 20;  // less than 1 MiB is never cached
  inline static const std::string kWhole = std::to_string(kSize);

  WatchedFiles(const Daemon& daemon, const ScratchDir& dir) : daemon_(daemon), dir_(dir) {}
  ~WatchedFiles() {
    for (const Watched& file : all_) {
      ::close(file.handle);
      ::close(file.twin_handle);
    }
  }
  WatchedFiles(const WatchedFiles&) = delete;
  WatchedFiles& operator=(const WatchedFiles&) = delete;

  /// One for each of `ways` to open it and each service; on that brick, if it is not null.
  std::vector<Watched*> add(const std::vector<std::string>& ways, const Brick* brick = nullptr) {
    std::vector<Watched*> added;
    for (const Service service : {Service::kCached, Service::kDelegated}) {
      for (const std::string& how : ways) {
        const std::string stem = (service == Service::kCached ? "cached-" : "delegated-") + how;
        Watched file{.service = service, .how = how, .path = make(stem, brick)};
        file.twin = make("twin-of-" + stem, brick);
        file.handle = ::open(file.path.c_str(), O_PATH | O_CLOEXEC);
        file.twin_handle = ::open(file.twin.c_str(), O_PATH | O_CLOEXEC);
        all_.push_back(file);
        added.push_back(&all_.back());
        open_in_programs(file);
      }
    }
    return added;
  }

  std::list<Watched>& all() { return all_; }

  /// Has the programs use their files until booster has served every single one in one go. Ends the
  /// test if that does not come to be, or a call fails.
  void hold() {
    for (const Watched& file : all_) {
      until_served([&] { return use(file, std::chrono::milliseconds(5)); });
      // What the log still holds is not to be counted as what is written later.
      if (file.service == Service::kDelegated) {
        EXPECT_EQ(writer_.tell("fsync", file.name()), "0");
      }
    }
    until_served([&] {
      Use worst = Use::kServed;
      for (const Watched& file : all_) worst = std::max(worst, use(file, std::chrono::seconds(5)));
      return worst;
    });
  }

  /// Closes everything, and opens it by its name again: files of that seed.
  void open_again(uint64_t seed) {
    for (Watched& file : all_) {
      file.seed = seed;
      // Of a file that another host has removed while FUSE was still putting off to open it, even
      // FUSE alone says ESTALE at the end. What was written must not be said to be lost.
      plain_.tell("close", "twin-of-" + file.name(), "close");
      const std::string closed = program_of(file).tell("close", file.name(), "close");
      if (file.service == Service::kDelegated) {
        EXPECT_EQ(closed, "0") << file.name();
      }
      open_in_programs(file);
    }
  }

  /// Other bytes: a plain program writes what is read, hold() the rest.
  void renew(uint64_t seed) {
    for (Watched& file : all_) {
      file.seed = seed;
      if (file.service == Service::kCached) write_file(file.path, content(file));
    }
  }

  static std::string content(const Watched& file) { return bytes_at(0, kSize, file.seed); }

 private:
  Puppet& program_of(const Watched& file) {
    return file.service == Service::kCached ? reader_ : writer_;
  }

  static std::string verb_of(const Watched& file) {
    return file.service == Service::kCached ? "pread" : "pwrite";
  }

  /// The plain one uses its twin, too.
  void open_in_programs(const Watched& file) {
    open_and_use(program_of(file), file, file.name(), file.path);
    open_and_use(plain_, file, "twin-of-" + file.name(), file.twin);
  }

  void open_and_use(Puppet& program, const Watched& file, const std::string& name,
                    const std::string& path) {
    const std::string how = file.service == Service::kCached ? "r" : "rw";
    // What another host has replaced just now is ESTALE to whoever has used it within the last
    // second: FUSE's client believes for so long that the name means the old file.
    std::string got;
    EXPECT_TRUE(comes_true([&] {
      got = program.tell("open", name, how, path);
      if (got == "0") {
        got = program.tell(verb_of(file), name, 0, kSize, file.seed);
        if (got == "-1 ESTALE") program.tell("close", name, "close");
      }
      return got != "-1 ESTALE";
    }));
    EXPECT_EQ(got, kWhole) << path;
    EXPECT_EQ(program.tell(verb_of(file), name, 0, kSize, file.seed), kWhole) << path;
  }

  std::string make(const std::string& stem, const Brick* brick) {
    while (true) {
      const std::string path = dir_.file(stem + "-" + std::to_string(++made_));
      write_file(path, bytes_at(0, kSize, 1));
      if (brick == nullptr || is_on(*brick, path)) return path;
      ::unlink(path.c_str());
    }
  }

  enum class Use { kServed, kNotServed, kWrong };

  template <typename Try>
  void until_served(const Try& attempt) const {
    Use use = Use::kNotServed;
    comes_true([&] { return (use = attempt()) != Use::kNotServed; }, std::chrono::seconds(120));
    if (use == Use::kWrong) throw std::runtime_error("a wrong answer before it was served");
    if (use == Use::kServed) return;
    end_with_too_little("not served: " + daemon_.stats().ShortDebugString());
  }

  /// A call on the file, and whether booster has served it. A cache that nobody has read for a
  /// second lapses, and it takes some reads until it is back.
  Use use(const Watched& file, std::chrono::milliseconds patience) {
    Use got = use_once(file, patience);
    for (int i = 0; i < 10 && got == Use::kNotServed && file.service == Service::kCached; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      got = use_once(file, patience);
    }
    return got;
  }

  Use use_once(const Watched& file, std::chrono::milliseconds patience) {
    const admin::Totals before = daemon_.stats().totals();
    const std::string got = program_of(file).tell(verb_of(file), file.name(), 0, kSize, file.seed);
    EXPECT_EQ(got, kWhole) << file.path;
    if (got != kWhole) return Use::kWrong;
    const auto counted = [&] {
      const admin::Totals after = daemon_.stats().totals();
      return file.service == Service::kCached
                 ? after.cached_bytes() == before.cached_bytes() + kSize
                 : after.write_bytes() == before.write_bytes() + kSize;
    };
    // A write is counted when the bricks have it.
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!counted()) {
      if (file.service == Service::kCached || std::chrono::steady_clock::now() > end) {
        return Use::kNotServed;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return Use::kServed;
  }

  const Daemon& daemon_;
  const ScratchDir& dir_;
  Puppet reader_;
  Puppet writer_{{.eager = false}};
  Puppet plain_{{.preload = false}};
  std::list<Watched> all_;
  int made_ = 0;
};

// --- openers -----------------------------------------------------------------------------------

struct Opened {
  std::string answer;  // Puppet's
  std::chrono::milliseconds took{0};
};

/// A plain program that opens one file. It is ready before that, so that all can do it at once.
class Opener {
 public:
  void open(const std::string& how, const std::string& path) {
    opened_ = std::async(std::launch::async, [this, how, path] {
      const auto start = std::chrono::steady_clock::now();
      Opened result{.answer = program_.tell("open", "it", how, path)};
      result.took = std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::steady_clock::now() - start);
      return result;
    });
  }
  bool waits() const {
    return opened_.wait_for(std::chrono::seconds(0)) == std::future_status::timeout;
  }
  Opened opened() { return opened_.get(); }
  Puppet& program() { return program_; }

 private:
  // Longer than any brick takes to be given up.
  Puppet program_{{.preload = false, .timeout = std::chrono::seconds(60)}};
  std::future<Opened> opened_;  // ends first
};

/// Openers of files and of their twins.
class Openers {
 public:
  enum class By { kName, kHandle };

  explicit Openers(std::vector<Watched*> files) {
    for (Watched* file : files) pairs_.emplace_back().file = file;
  }

  /// All at once; returns at once.
  void open(By by) {
    for (Pair& pair : pairs_) {
      const Watched& file = *pair.file;
      pair.of_file.open(file.how, by == By::kName ? file.path : through(file.handle));
      pair.of_twin.open(file.how, by == By::kName ? file.twin : through(file.twin_handle));
    }
  }

  bool all_wait() const {
    bool all = true;
    for (const Pair& pair : pairs_) all = all && pair.of_file.waits() && pair.of_twin.waits();
    return all;
  }

  struct Pair {
    Watched* file = nullptr;
    Opener of_file;
    Opener of_twin;
    std::string answer;  // what of_file got
  };
  std::list<Pair>& pairs() { return pairs_; }

  /// Every file's opener got what its twin's got, about as late, and that is `answer`; or
  /// `or_else`, if FUSE alone would say that, too.
  void expect_as_by_fuse(const std::string& answer, const std::string& or_else = "") {
    std::chrono::milliseconds slowest{0};
    for (Pair& pair : pairs_) {
      const Opened twin = meaning(pair.of_twin.opened());
      const Opened file = meaning(pair.of_file.opened());
      EXPECT_EQ(twin.answer, answer) << "FUSE alone, " << pair.file->name();
      if (or_else.empty() || file.answer != or_else) {
        EXPECT_EQ(file.answer, twin.answer) << pair.file->name() << " after " << file.took.count()
                                            << " ms; its twin after " << twin.took.count() << " ms";
      }
      pair.answer = file.answer;
      EXPECT_LT(file.took, twin.took + kAbout) << pair.file->name();
      EXPECT_LT(twin.took, file.took + kAbout) << pair.file->name();
      slowest = std::max({slowest, file.took, twin.took});
    }
    std::printf("%zu openers: %s, the slowest after %ld ms\n", 2 * pairs_.size(), answer.c_str(),
                static_cast<long>(slowest.count()));
  }

 private:
  /// To the kernel, which asks for the attributes of a file before it opens it, FUSE's client says
  /// EBADFD in place of ENOTCONN when it has the file open already (fuse_getattr_resume: FSTAT of
  /// any descriptor of the inode; client_pre_fstat_v2: "remote_fd is -1"). Whether the kernel has
  /// to ask hangs on whether it was told to forget them within the second before, as each fence
  /// does.
  static Opened meaning(Opened opened) {
    if (opened.answer == "-1 EBADFD") opened.answer = "-1 ENOTCONN";
    return opened;
  }

  static constexpr std::chrono::seconds kAbout{5};
  std::list<Pair> pairs_;
};

}  // namespace booster::test
