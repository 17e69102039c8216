// The fence: when a boosted writer has closed, synced, unlocked or left, FUSE shows what it wrote
// to programs without booster. This test program itself is such a program, with its caches primed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <list>
#include <thread>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

/// Longer than FUSE's client keeps what it knows: what is asked after it is asked of the bricks,
/// and kept for another second.
constexpr std::chrono::milliseconds kAllForgotten{1200};

enum View { kSize, kFreshOpen, kOpenDescriptor, kMapping, kViews };
constexpr std::array<const char*, kViews> kViewNames = {"stat", "fresh open", "open descriptor",
                                                        "mapping"};

/// A file as a program without booster has it: known by path, or open as well, and perhaps mapped.
/// Only the first can be delegated to who writes it.
class Watched {
 public:
  enum Held { kByPath, kOpen, kMapped };
  Watched(std::string path, size_t size, uint64_t seed, Held held) : path_(std::move(path)) {
    content_ = bytes_at(0, size, seed);
    write_file(path_, content_);
    if (held == kByPath) return;
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(fd_, 0);
    if (held == kMapped) map_ = ::mmap(nullptr, kMapBytes, PROT_READ, MAP_SHARED, fd_, 0);
    EXPECT_NE(map_, MAP_FAILED);
  }
  ~Watched() {
    if (map_ != nullptr) ::munmap(map_, kMapBytes);
    if (fd_ >= 0) ::close(fd_);
  }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  const std::string& path() const { return path_; }
  size_t size() const { return content_.size(); }
  bool delegable() const { return fd_ < 0; }
  const char* held() const { return map_ != nullptr ? "mapped" : fd_ >= 0 ? "open" : "by path"; }

  /// What the file must hold from now on.
  void expect_cut(size_t size) { content_.resize(size); }
  void expect_bytes(size_t offset, size_t length, uint64_t seed) {
    if (content_.size() < offset + length) content_.resize(offset + length);
    content_.replace(offset, length, bytes_at(offset, length, seed));
  }

  /// Looks at the file in every way, so that whatever can be kept is kept.
  void prime() const {
    for (int view = 0; view < kViews; ++view) {
      EXPECT_EQ(look(static_cast<View>(view)), "") << path_ << " before anything was boosted";
    }
  }

  /// "" if that view shows what it must, else what is wrong.
  std::string look(View view) const {
    switch (view) {
      case kSize: {
        struct stat st {};
        if (::stat(path_.c_str(), &st) != 0) return "cannot be found";
        const auto size = static_cast<size_t>(st.st_size);
        return size == content_.size() ? "" : "size " + std::to_string(size);
      }
      case kFreshOpen: return judge(read_file(path_));
      case kOpenDescriptor: {
        if (fd_ < 0) return "";
        return judge(bytes_of(fd_, content_.size() + 1));
      }
      case kMapping: {
        if (map_ == nullptr) return "";
        // The kernel copies, and stops where a touch would be a SIGBUS.
        std::string bytes(content_.size(), '\0');
        const iovec from{map_, bytes.size()};
        const iovec to{bytes.data(), bytes.size()};
        const ssize_t got = ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);
        bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
        return judge(bytes);
      }
      case kViews: break;
    }
    return "no such view";
  }

 private:
  static constexpr size_t kMapBytes = 16 << 20;

  std::string judge(const std::string& bytes) const {
    if (bytes == content_) return "";
    size_t at = 0;
    while (at < bytes.size() && at < content_.size() && bytes[at] == content_[at]) ++at;
    return std::to_string(bytes.size()) + " of " + std::to_string(content_.size()) +
           " bytes, other from " + std::to_string(at) + " on";
  }

  std::string path_;
  std::string content_;
  int fd_ = -1;
  void* map_ = nullptr;
};

/// What `stat` by name shows may be as old as what the kernel keeps of what FUSE's client keeps.
constexpr std::chrono::milliseconds kSizeMayBeLate{2200};

/// Which looks were stale, by view, and the first few in words.
struct Stale {
  std::array<int, kViews> count{};
  std::string examples;
  int total() const { return count[0] + count[1] + count[2] + count[3]; }

  /// For people who look for the cause.
  static std::string until_right(const Watched& file, View view) {
    const auto start = std::chrono::steady_clock::now();
    while (!file.look(view).empty()) {
      if (std::chrono::steady_clock::now() - start > std::chrono::seconds(5)) return "for ever";
    }
    return "right after " +
           std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(
                              std::chrono::steady_clock::now() - start)
                              .count()) +
           " ms";
  }

  /// The first look disturbs the others (an open makes the kernel drop its pages), so each view is
  /// first in turn.
  void look(const Watched& file, int turn, const std::string& when, bool explain = true,
            std::chrono::milliseconds size_may_be_late = {}) {
    for (int i = 0; i < kViews; ++i) {
      const auto view = static_cast<View>((turn + i) % kViews);
      std::string wrong = file.look(view);
      if (wrong.empty()) continue;
      const bool may_be_late = view == kSize && size_may_be_late.count() > 0;
      if (may_be_late &&
          comes_true_soon(size_may_be_late, [&] { return file.look(view).empty(); })) {
        continue;
      }
      if (++count[view] <= 3 && explain) {
        examples += file.path() + " (" + file.held() + ") " + when + ": " + kViewNames[view] +
                    " (look " + std::to_string(i + 1) + "): " + wrong + ", " +
                    until_right(file, view) + "\n";
      }
    }
  }
};

/// Rounded up to whole stripes: a disperse volume is boosted only in those.
size_t whole(size_t bytes) {
  static const size_t unit = Lab::get().shape == "disperse" ? 1024 : 1;
  return (bytes + unit - 1) / unit * unit;
}

enum Change { kOverwrite, kPatch, kExtend, kCutAndGrow, kRewrite, kChanges };
constexpr std::array<const char*, kChanges> kChangeNames = {"overwritten", "patched", "extended",
                                                            "cut and grown", "rewritten"};

class Fence : public PolicyTest {
 protected:
  void write_at(Puppet& writer, Watched& file, size_t offset, size_t length, uint64_t seed) {
    offset = whole(offset);
    length = whole(paying(length));
    EXPECT_EQ(writer.tell("pwrite", "w", offset, length, seed), std::to_string(length));
    file.expect_bytes(offset, length, seed);
    if (file.delegable()) written_ += length;
  }

  /// Under the shipped policy: writes until that is boosted, and looks at the file without opening
  /// it, so that it is known as it was before what follows.
  void warm(Puppet& writer, Watched& file, uint64_t seed) {
    if (policy() == Policy::kSooner || !file.delegable()) return;
    until_boosted(daemon_, Moves::kWrites, [&] { write_at(writer, file, 0, 1, seed); });
    EXPECT_EQ(writer.tell("fsync", "w"), "0");
    EXPECT_TRUE(comes_true([&] { return file.look(kSize).empty(); }));
  }

  /// The puppet opens `file` as "w" and changes it.
  void change(Puppet& writer, Watched& file, Change how, uint64_t seed) {
    const std::string mode = seed % 2 == 0 ? "w" : "rw";
    EXPECT_EQ(writer.tell("open", "w", how == kRewrite ? mode + "+trunc" : mode, file.path()), "0");
    const size_t size = file.size();
    if (how == kRewrite) file.expect_cut(0);
    warm(writer, file, seed + 1);
    switch (how) {
      case kOverwrite: write_at(writer, file, 0, size, seed); break;
      case kPatch: write_at(writer, file, size / 3, size / 3 + 1, seed); break;
      case kExtend: write_at(writer, file, size, 4321, seed); break;
      case kCutAndGrow:
        // Not to a half: of a file that is cut to 512 bytes on a disperse volume of 2 + 1,
        // GlusterFS 10.3 brings old bytes back when it grows, with FUSE alone.
        EXPECT_EQ(writer.tell("truncate", "w", size / 3), "0");
        file.expect_cut(size / 3);
        write_at(writer, file, size / 3 + 1000, size / 3 + 5000, seed);
        break;
      case kRewrite: {
        const size_t piece = whole(paying(size / 4 + 1));
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(writer.tell("write", "w", piece, seed), std::to_string(piece));
          file.expect_bytes(i * piece, piece, seed);
          if (file.delegable()) written_ += piece;
        }
        break;
      }
      case kChanges: break;
    }
  }

  static size_t size_of(int index) {
    static constexpr std::array<size_t, 9> kSmall = {1,     700,   4096,  5000, 20000,
                                                     40000, 60000, 65535, 65536};
    if (index % 10 != 9) {
      // Under the shipped policy three writes that pay fit in.
      return kSmall[static_cast<size_t>(index) % 10] + 4 * (paying(1) - 1);
    }
    // Beyond one shard of 4 MB now and then.
    return (index % 50 == 49 ? 5U << 20 : 1U << 20) + static_cast<size_t>(index);
  }
  /// Four of six by path.
  static Watched::Held held_of(int index) {
    // On a disperse volume FUSE alone now and then shows the size from the middle of a write that
    // another descriptor has made.
    if (Lab::get().shape == "disperse") return Watched::kByPath;
    return index % 3 != 0 ? Watched::kByPath : index % 2 == 0 ? Watched::kOpen : Watched::kMapped;
  }
  static Change change_of(int index) {
    return static_cast<Change>((index + index / 10) % kChanges);
  }

  /// What a writer, which has just changed the file, does so that others see it.
  using Settle = std::function<void(Puppet& writer, Watched& file, int index)>;

  /// Whether all that was written to a file was boosted: `before` is what was boosted, and what was
  /// written, before that. Nobody asks it of the shipped policy, under which a file that was cut is
  /// asked for again only after a while.
  bool was_boosted(const std::pair<uint64_t, uint64_t>& before) const {
    if (policy() != Policy::kSooner) return true;
    // What was logged is counted when the bricks have it.
    return comes_true(
        [&] { return daemon_.boosted_write_bytes() - before.first >= written_ - before.second; },
        std::chrono::seconds(5));
  }

  /// `count` files, primed, each changed and settled by a boosted writer; the stale looks right
  /// after that. Whoever is asked late on a busy machine lets FUSE do a write, or is let in before
  /// FUSE knows: then the same is done with a fresh file, at most three times.
  Stale looks_after(int count, const std::string& when, const Settle& settle,
                    bool one_writer = true, bool explain = true,
                    std::chrono::milliseconds size_may_be_late = {}) {
    constexpr int kPerRound = 100;
    constexpr int kAgain = 3;
    Stale stale;
    std::vector<int> due;
    for (int first = 0; first < count; first += kPerRound) {
      for (int i = first; i < std::min(first + kPerRound, count); ++i) due.push_back(i);
      for (int attempt = 0; attempt <= kAgain && !due.empty(); ++attempt) {
        ScratchDir dir;
        std::list<Watched> files;
        std::unique_ptr<Puppet> writer;
        for (const int i : due) {
          files.emplace_back(dir.file(std::to_string(i)), whole(size_of(i)), 1, held_of(i));
        }
        std::this_thread::sleep_for(kAllForgotten);
        std::vector<int> again;
        auto next = files.begin();
        for (const int index : due) {
          Watched& file = *next++;
          file.prime();
          if (!writer || !one_writer) writer = std::make_unique<Puppet>(logged());
          const std::pair before(daemon_.boosted_write_bytes(), written_);
          const int let_in = daemon_.let_in_early();
          change(*writer, file, change_of(index), 100 + static_cast<uint64_t>(index));
          settle(*writer, file, index);
          Stale seen = stale;
          seen.look(file, index, when + ", " + kChangeNames[change_of(index)], explain,
                    size_may_be_late);
          if (testing::Test::HasFailure()) return seen;
          const bool excused =
              attempt < kAgain && seen.total() > stale.total() && daemon_.let_in_early() != let_in;
          if (!excused) stale = seen;
          if (excused || !was_boosted(before)) again.push_back(index);
        }
        due = again;
      }
      EXPECT_TRUE(due.empty()) << when << ": not all was boosted\n"
                               << daemon_.stats().totals().ShortDebugString() << kTooLittle;
      due.clear();
    }
    if (policy() == Policy::kSooner) {
      EXPECT_LE(daemon_.boosted_write_bytes(), written_) << when;
    }
    EXPECT_GT(daemon_.boosted_write_bytes(), 0U) << when << kTooLittle;
    return stale;
  }

  void expect_none_stale(int count, const std::string& when, const Settle& settle,
                         bool one_writer = true, std::chrono::milliseconds size_may_be_late = {}) {
    const Stale stale = looks_after(count, when, settle, one_writer, true, size_may_be_late);
    EXPECT_EQ(stale.total(), 0) << stale.examples;
  }

  /// A fence that fails says so in the shim's log.
  void TearDown() override { EXPECT_EQ(read_file(log_), ""); }
  RunOptions logged() const { return {.env = {{"GLFS_BOOSTER_LOGFILE", log_}}}; }

  Daemon daemon_;
  const std::string log_ = Lab::get().dir + "/fence-" + std::to_string(::getpid()) + ".log";
  uint64_t written_ = 0;  // by puppets
};
BOOSTER_UNDER_EACH_POLICY(Fence);

/// The one look that is no open, and so takes no delegation back. If this fails, the other tests of
/// this file prove nothing.
TEST_P(Fence, WithoutItFuseShowsAnOldSizeToWhoDoesNotOpenTheFile) {
  const Stale stale = looks_after(
      rounds(), "not settled", [](Puppet&, Watched&, int) {}, true, false);
  EXPECT_GT(stale.count[kSize], 0) << kTooLittle;
  EXPECT_EQ(stale.total(), stale.count[kSize]) << stale.examples;
}

TEST_P(Fence, AnotherProcessSeesAWriteThatHasReturned) {
  ScratchDir dir;
  Puppet writer(logged());
  int made = 0;
  for (int i = 0; i < rounds(); ++i) {
    expect_nothing_old(daemon_, [&](std::string& old) {
      Watched file(dir.file(std::to_string(made++)), whole(size_of(i)), 1, held_of(i));
      file.prime();
      change(writer, file, change_of(i), 100 + static_cast<uint64_t>(i));
      // In this order: the open takes the delegation back.
      for (const View view : {kFreshOpen, kSize, kOpenDescriptor, kMapping}) {
        const std::string wrong = file.look(view);
        if (wrong.empty()) continue;
        old += std::to_string(i) + file.held() + " " + kViewNames.at(view) + ": " + wrong + "\n";
      }
    });
  }
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U) << kTooLittle;
}

/// The other way round.
TEST_P(Fence, AStoreToAMappingIsSeenByABoostedReaderOfAnotherProcess) {
  ScratchDir dir;
  const std::string path = dir.file("file");
  constexpr size_t kLong = 4 << 20;
  write_file(path, bytes_at(0, kLong, 1));
  Puppet reader(logged());
  ASSERT_EQ(reader.tell("open", "r", "r", path), "0");
  constexpr size_t kPiece = 64 << 10;
  const auto read_all = [&](uint64_t seed) {
    for (size_t offset = 0; offset < kLong; offset += kPiece) {
      ASSERT_EQ(reader.tell("pread", "r", offset, kPiece, seed), std::to_string(kPiece));
    }
  };
  for (uint64_t seed = 1; seed < 8; seed += 2) {
    // A moment after the last writer has gone.
    until_counted(
        daemon_, [&] { return daemon_.stats().totals().cached_bytes(); },
        [&] {
          forget(path);
          read_all(seed);
        },
        std::chrono::milliseconds(2));
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    void* map = ::mmap(nullptr, kLong, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(map, MAP_FAILED);
    ::close(fd);
    for (const uint64_t stored : {seed + 1, seed + 2}) {
      const std::string bytes = bytes_at(0, kLong, stored);
      std::memcpy(map, bytes.data(), kLong);
      read_all(stored);
    }
    ::munmap(map, kLong);
  }
}

TEST_P(Fence, NothingIsStaleAfterClose) {
  expect_none_stale(rounds(), "after close", [](Puppet& writer, Watched&, int) {
    EXPECT_EQ(writer.tell("close", "w", "close"), "0");
  });
}

TEST_P(Fence, NothingIsStaleAfterAnyWayToClose) {
  const std::array<const char*, 4> ways = {"syscall", "close_range", "dup2", "fclose"};
  expect_none_stale(rounds(), "after another way to close",
                    [&](Puppet& writer, Watched&, int index) {
                      // A stream that can also be read is not made of a descriptor that cannot.
                      const char* way = ways[static_cast<size_t>(index) % (index % 2 == 0 ? 3 : 4)];
                      EXPECT_EQ(writer.tell("close", "w", way), "0") << way;
                    });
}

// A sync and an unlock leave FUSE as it is, since nobody else has the file open: who opens it sees
// everything at once.

TEST_P(Fence, NothingIsStaleAfterSync) {
  const std::array<const char*, 3> ways = {"fsync", "fdatasync", "syncfs"};
  expect_none_stale(
      rounds(), "after a sync",
      [&](Puppet& writer, Watched&, int index) {
        EXPECT_EQ(writer.tell(ways[static_cast<size_t>(index) % 3], "w"), "0");
      },
      true, kSizeMayBeLate);
}

TEST_P(Fence, NothingIsStaleAfterUnlock) {
  const std::array<std::pair<const char*, const char*>, 3> locks = {
      {{"flock", "unflock"}, {"posix-lock", "posix-unlock"}, {"ofd-lock", "ofd-unlock"}}};
  expect_none_stale(
      rounds(), "after unlocking",
      [&](Puppet& writer, Watched& file, int index) {
        const auto& [lock, unlock] = locks[static_cast<size_t>(index) % 3];
        EXPECT_EQ(writer.tell(lock, "w"), "0");
        write_at(writer, file, file.size() / 2, 3000, 99);
        EXPECT_EQ(writer.tell(unlock, "w"), "0");
      },
      true, kSizeMayBeLate);
}

TEST_P(Fence, NothingIsStaleAfterExitWithoutClose) {
  expect_none_stale(
      rounds(), "after exit",
      [](Puppet& writer, Watched&, int index) {
        writer.order(index % 2 == 0 ? "exit" : "_exit");
        EXPECT_EQ(writer.child().wait().status, 0);
      },
      false);
}

TEST_P(Fence, NothingIsStaleAfterFork) {
  expect_none_stale(
      rounds(), "after fork",
      [](Puppet& writer, Watched&, int) { EXPECT_GT(std::stoi(writer.tell("fork")), 0); }, false);
}

TEST_P(Fence, NothingIsStaleAfterExec) {
  expect_none_stale(
      rounds(), "after exec",
      [](Puppet& writer, Watched&, int) { EXPECT_EQ(writer.tell("exec"), "ready"); }, false);
}

TEST_P(Fence, AWriterThatWasKilledIsSeenWithinASecondAndALittle) {
  ScratchDir dir;
  std::list<Watched> files;
  const int count = rounds();
  for (int i = 0; i < count; ++i) {
    files.emplace_back(dir.file(std::to_string(i)), whole(size_of(i)), 1, Watched::kByPath);
  }
  std::this_thread::sleep_for(kAllForgotten);
  int index = 0;
  std::chrono::steady_clock::duration slowest{0};
  for (Watched& file : files) {
    const auto start = std::chrono::steady_clock::now();
    file.prime();
    slowest = std::max(slowest, std::chrono::steady_clock::now() - start);
    Puppet writer;
    change(writer, file, change_of(index++), 7);
    writer.child().signal(SIGKILL);
    EXPECT_EQ(writer.child().wait().status, 128 + SIGKILL);
  }
  // The daemon does what is left in their logs, and notices their end, when its turn comes.
  was_boosted({0, 0});
  EXPECT_TRUE(comes_true([this] { return daemon_.stats().sessions_size() == 0; }));
  // Answers that are slow are kept as much longer.
  std::this_thread::sleep_for(kAllForgotten + 2 * slowest);
  Stale stale;
  index = 0;
  for (Watched& file : files) stale.look(file, index++, "after SIGKILL and 1.2 s");
  EXPECT_EQ(stale.total(), 0) << stale.examples;
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U) << kTooLittle;
}

TEST_P(Fence, WhatOthersClosedIsSeenByABoostedReaderAtOnce) {
  ScratchDir dir;
  write_file(dir.file("file"), std::string(size_t{4} << 20, 'x'));
  Puppet reader(logged());
  ASSERT_EQ(reader.tell("open", "r", "r", dir.file("file")), "0");
  until_boosted(daemon_, Moves::kReads, [&] {
    forget(dir.file("file"));
    for (int piece = 0; piece < 4; ++piece) {
      reader.tell("pread", "r", static_cast<size_t>(piece) << 20, 1 << 20, 0);
    }
  });
  int stale = 0;
  const int count = rounds();
  for (int i = 0; i < count; ++i) {
    const size_t size = i % 3 == 0 ? 700 : i % 3 == 1 ? 70'000 : size_t{3} << 20;
    const uint64_t seed = static_cast<uint64_t>(i) + 1;
    const std::string bytes = bytes_at(0, size, seed);
    const int fd = ::open(dir.file("file").c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(::write(fd, bytes.data(), size), static_cast<ssize_t>(size));
    ASSERT_EQ(::close(fd), 0);
    if (reader.tell("pread", "r", 0, size, seed) != std::to_string(size)) ++stale;
  }
  EXPECT_EQ(stale, 0) << "of " << count;
  EXPECT_GT(daemon_.boosted_read_bytes(), 0U) << kTooLittle;
}

// An appender's kernel looks for the end of the file in what it knows, not in what it is told.
TEST_P(Fence, WhatIsAppendedWithoutBoosterRightAfterCloseStandsAtTheEnd) {
  ScratchDir dir;
  Puppet writer(logged());
  int made = 0;
  for (int i = 0; i < rounds(); ++i) {
    expect_nothing_old(daemon_, [&](std::string& old) {
      const std::string path = dir.file(std::to_string(made++));
      write_file(path, std::string(3000, 'x'));
      // Who has it open already keeps it from being boosted; who opens it then takes that back.
      const bool early = i % 2 == 0;
      const auto open_to_append = [&] {
        return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
      };
      int fd = early ? open_to_append() : -1;
      const size_t size = paying(5000 + 70000 * static_cast<size_t>(i % 3));
      ASSERT_EQ(writer.tell("open", "w", "w", path), "0");
      if (policy() == Policy::kShipped && !early) {
        until_boosted(daemon_, Moves::kWrites, [&] {
          ASSERT_EQ(writer.tell("pwrite", "w", 0, paying(1), i), std::to_string(paying(1)));
        });
      }
      ASSERT_EQ(writer.tell("pwrite", "w", 0, size, i), std::to_string(size));
      if (!early && i % 4 == 1) fd = open_to_append();
      ASSERT_EQ(writer.tell("close", "w", "close"), "0");
      if (fd < 0) fd = open_to_append();
      ASSERT_EQ(::write(fd, "the end", 7), 7);
      const std::string expected = bytes_at(0, size, static_cast<uint64_t>(i)) + "the end";
      const auto look = [&](const std::string& when) {
        const std::string bytes = read_file(path);
        if (bytes == expected) return;
        old += std::to_string(i) + ", " + when + ": " + std::to_string(bytes.size()) + " bytes\n";
      };
      look("before close");
      ::close(fd);
      look("after close");
    });
  }
  EXPECT_GT(daemon_.boosted_write_bytes(), 0U) << kTooLittle;
}

// --- times -------------------------------------------------------------------------------------

struct timespec modified(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(::stat(path.c_str(), &st), 0) << path;
  return st.st_mtim;
}

TEST_P(Fence, TimesThatAProgramSetsStay) {
  ScratchDir dir;
  const std::string path = dir.file("file");
  Puppet writer;
  for (const char* how : {"times", "times-of-path"}) {
    const std::string whom = how == std::string("times") ? "w" : path;
    const auto write = [&](size_t length) {
      ASSERT_EQ(writer.tell("pwrite", "w", 0, paying(length), 1), std::to_string(paying(length)));
    };
    ASSERT_EQ(writer.tell("open", "w", "rw+creat", path), "0");
    until_boosted(daemon_, Moves::kWrites, [&] { write(102400); });
    ASSERT_EQ(writer.tell(how, whom, 1'000'000'000), "0");
    EXPECT_EQ(modified(path).tv_sec, 1'000'000'000) << how << ", while open";
    ASSERT_EQ(writer.tell("close", "w", "close"), "0");
    EXPECT_EQ(modified(path).tv_sec, 1'000'000'000) << how << ", closed";
    EXPECT_EQ(modified(path).tv_nsec, 222) << how;

    // A write after that counts, as without booster.
    ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
    ASSERT_EQ(writer.tell("pread", "w", 0, 1024, 1), "1024");
    ASSERT_EQ(writer.tell("close", "w", "close"), "0");
    EXPECT_EQ(modified(path).tv_sec, 1'000'000'000) << how << ", read";
    ASSERT_EQ(writer.tell("open", "w", "rw", path), "0");
    until_boosted(daemon_, Moves::kWrites, [&] {
      ASSERT_EQ(writer.tell(how, whom, 1'000'000'000), "0");
      write(1024);
    });
    ASSERT_EQ(writer.tell("close", "w", "close"), "0");
    EXPECT_GT(modified(path).tv_sec, 1'000'000'000) << how << ", written";
  }
  if (policy() == Policy::kSooner) {
    EXPECT_GE(daemon_.boosted_write_bytes(), 2U * (102400 + 1024)) << kTooLittle;
  }
}

/// A tree outside the mount with times long ago.
class OldTree {
 public:
  OldTree() : path_(Lab::get().dir + "/old-tree-" + std::to_string(::getpid())) {
    ::mkdir(path_.c_str(), 0755);
    for (int i = 0; i < 20; ++i) {
      const std::string file = path_ + "/" + std::to_string(i);
      const size_t large = policy() == Policy::kSooner ? 2U << 20 : 32U << 20;
      const size_t size = i % 10 == 9 ? large : static_cast<size_t>(i) * 5001 + 1;
      write_file(file, bytes_at(0, size, static_cast<uint64_t>(i)));
      const timespec times[2] = {{900'000'000 + i, 5}, {950'000'000 + i, 987'654'321 - i}};
      ::utimensat(AT_FDCWD, file.c_str(), times, 0);
      bytes_ += size;
    }
  }
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::string path_;
  uint64_t bytes_ = 0;
};

std::string names_sizes_and_times(const std::string& dir) {
  return shell("cd '" + dir + "' && find . -type f -printf '%P %s %T@\\n' | sort",
               {.preload = false})
      .out;
}

TEST_P(Fence, CopyingToolsKeepTimes) {
  const OldTree tree;
  const std::string expected = names_sizes_and_times(tree.path());
  const RunResult tar =
      run({"tar", "--format=posix", "-C", tree.path(), "-cf", tree.path() + ".tar", "."},
          {.preload = false});
  ASSERT_EQ(tar.status, 0) << tar.err;
  std::vector<std::string> scripts = {
      "cp -p '" + tree.path() + "'/* '%'",
      "tar -C '%' -xf '" + tree.path() + ".tar'",
      "cp -a '" + tree.path() + "'/. '%' && mv '%'/3 '%'/x && mv '%'/x '%'/3",
  };
  // Under the shipped policy these leave their writes to the kernel, and this does not.
  const std::string pays = "for f in '" + tree.path() +
                           "'/*; do dd if=\"$f\" of='%'/\"${f##*/}\" bs=1M status=none && touch "
                           "-r \"$f\" '%'/\"${f##*/}\"; done";
  scripts.push_back(pays);
  if (shell("command -v rsync", {.preload = false}).status == 0) {
    scripts.push_back("rsync -a '" + tree.path() + "'/ '%'/");
  }
  const bool sooner = policy() == Policy::kSooner;
  for (const std::string& with : scripts) {
    // Whoever is asked late on a busy machine lets the kernel do a call.
    uint64_t boosted = 0;
    const auto enough = [&] {
      return sooner ? boosted == tree.bytes() : with != pays || boosted > tree.bytes() / 4;
    };
    const uint64_t before_all = daemon_.boosted_write_bytes();
    uint64_t attempts = 0;
    do {
      ScratchDir dir;
      const uint64_t before = daemon_.boosted_write_bytes();
      std::string script = with;
      for (size_t at; (at = script.find('%')) != std::string::npos;) {
        script.replace(at, 1, dir.path());
      }
      const RunResult result = shell(script);
      EXPECT_EQ(result.status, 0) << script << result.err;
      EXPECT_EQ(names_sizes_and_times(dir.path()), expected) << script;
      boosted = daemon_.boosted_write_bytes() - before;
      const RunResult same = run({"diff", "-r", tree.path(), dir.path()}, {.preload = false});
      EXPECT_EQ(same.out + same.err, "") << script;
      EXPECT_LE(daemon_.boosted_write_bytes() - before_all, ++attempts * tree.bytes()) << script;
    } while (!enough() && attempts < 10);
    EXPECT_TRUE(enough()) << with << ": " << boosted << " of " << tree.bytes() << " boosted"
                          << kTooLittle;
  }
}

}  // namespace
}  // namespace booster::test
