// Whoever opens a file that booster has taken over gets what FUSE alone would give him: when a
// brick dies or hangs, when another host replaces or removes the file, when mounts come and go, and
// when the volume changes. FUSE is the oracle: beside each file there is a twin that booster never
// sees.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/load.h"
#include "tests/integration/puppet.h"
#include "tests/integration/watched.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using By = Openers::By;

const std::vector<std::string> kEveryWay = {"r", "w", "rw", "w+trunc"};
const std::string kOk = "0";
const std::string kNotConnected = "-1 ENOTCONN";
const std::string kStale = "-1 ESTALE";

/// Two clients of a volume on one host, which programs may be served by while the daemon has not
/// noticed a change, show each other's writes as two hosts do: the kernel and FUSE's client each
/// keep what they have for a second, from when the answer came.
constexpr seconds kBehind{3};

/// A brick is given up after it: network.ping-timeout of these labs.
constexpr seconds kPingTimeout{10};

/// Longer than anything takes beside programs that read and write without pause.
constexpr seconds kUnderLoad{120};

class WatchTest : public testing::Test {
 protected:
  // After the test before.
  void SetUp() override { ASSERT_TRUE(comes_true(has_all_bricks)); }

  /// Plain programs open every file and see what it holds; then all of it is boosted again, without
  /// a restart of anything.
  void expect_that_all_works() {
    // FUSE's client looks for a lost brick every three seconds.
    ASSERT_TRUE(comes_true(has_all_bricks)) << "FUSE has not all bricks again";
    for (const Watched& file : files_.all()) {
      const std::string bytes = read_file(file.twin);
      EXPECT_TRUE(read_file(file.path) == bytes) << file.path << ", " << bytes.size();
      // Whether who could not open it has cut it all the same is FUSE's affair.
      if (file.how.find("+trunc") != std::string::npos) continue;
      EXPECT_TRUE(bytes == WatchedFiles::content(file)) << file.twin;
    }
    for (Watched& file : files_.all()) {
      for (const std::string& path : {file.path, file.twin}) {
        EXPECT_EQ(plain_.tell("open", "it", file.how, path), kOk) << path;
        EXPECT_EQ(plain_.tell("close", "it", "close"), kOk) << path;
      }
    }
    files_.renew(++seed_);
    files_.hold();
    for (const Watched& file : files_.all()) {
      EXPECT_TRUE(read_file(file.path) == WatchedFiles::content(file)) << file.path;
    }
  }

  Daemon daemon_;
  ScratchDir dir_;
  WatchedFiles files_{daemon_, dir_};
  Puppet plain_{{.preload = false}};
  uint64_t seed_ = 1;
};

// --- a brick that dies -------------------------------------------------------------------------

using WatchOne = WatchTest;

TEST_F(WatchOne, WhoOpensAFileWhoseBrickHasJustDiedIsToldSo) {
  files_.add(kEveryWay);
  files_.hold();
  std::vector<Watched*> all;
  for (Watched& file : files_.all()) all.push_back(&file);
  // On a busy machine a second goes by too soon: once more.
  bool warm = false;
  for (int attempt = 0; attempt < 10 && !warm && !HasFailure(); ++attempt) {
    Openers openers(all);
    const Brick brick = bricks().front();
    std::unique_ptr<KilledBrick> killed;
    std::thread killer([&] { killed = std::make_unique<KilledBrick>(brick); });
    // What the kernel has looked up it believes for a second. Until the brick is gone it looks up
    // all names anew, so that the openers come through to the open itself.
    EXPECT_TRUE(comes_true(
        [&] { return !look_up_all_of(Lab::get().mount) || !look_up_all_of(dir_.path()); }));
    warm = true;
    for (const Watched* file : all) warm &= is_known(file->path) && is_known(file->twin);
    openers.open(By::kName);
    openers.expect_as_by_fuse(kNotConnected);
    killer.join();
    killed.reset();
    expect_that_all_works();
  }
  EXPECT_TRUE(warm) << "the kernel has forgotten the names: nobody came so far as to open a file"
                    << kTooLittle;
}

// --- a brick that hangs ------------------------------------------------------------------------

using WatchDistribute = WatchTest;

TEST_F(WatchDistribute, ABrickThatHangsHoldsUpWhoOpensItsFilesAndNobodyElse) {
  const std::vector<Brick> both = bricks();
  ASSERT_EQ(both.size(), 2U);
  const std::vector<std::string> ways = {"r", "rw"};
  const std::vector<Watched*> on_hung = files_.add(ways, &both[0]);
  const std::vector<Watched*> on_well = files_.add(ways, &both[1]);
  const std::vector<Watched*> on_well_later = files_.add(ways, &both[1]);
  bool compared = false;
  files_.hold();
  {
    Openers held_up(on_hung);
    Openers passing(on_well);
    Openers passing_later(on_well_later);
    const HungBrick hung(both[0]);
    const auto hung_at = steady_clock::now();
    // Not by name: to look up the directory FUSE asks all bricks.
    held_up.open(By::kHandle);
    for (Openers* openers : {&passing, &passing_later}) {
      openers->open(By::kHandle);
      for (Openers::Pair& pair : openers->pairs()) {
        const Opened twin = pair.of_twin.opened();
        const Opened file = pair.of_file.opened();
        EXPECT_EQ(twin.answer, kOk) << pair.file->twin;
        EXPECT_EQ(file.answer, kOk) << pair.file->path;
        // Then the brick is given up, and nobody waits any more.
        const bool still_waiting = held_up.all_wait();
        if (steady_clock::now() - hung_at > kPingTimeout) continue;
        compared = true;
        EXPECT_LT(twin.took, kPingTimeout) << pair.file->twin;
        EXPECT_LT(file.took, kPingTimeout) << pair.file->path;
        EXPECT_TRUE(still_waiting) << "nobody waited for the brick meanwhile";
      }
      std::this_thread::sleep_for(seconds(1));
    }
    held_up.expect_as_by_fuse(kNotConnected);
  }
  expect_that_all_works();
  EXPECT_TRUE(compared) << "all was over before anybody had opened a file" << kTooLittle;
}

// --- replicas ----------------------------------------------------------------------------------

using WatchReplica3 = WatchTest;

TEST_F(WatchReplica3, OneBrickThatDiesIsNoticedByNobody) {
  const std::vector<Watched*> all = files_.add(kEveryWay);
  files_.hold();
  {
    Openers openers(all);
    KilledBrick killed(bricks().front());
    openers.open(By::kHandle);
    openers.expect_as_by_fuse(kOk);
  }
  expect_that_all_works();
}

TEST_F(WatchReplica3, OneBrickThatHangsHoldsUpOpenersAsItDoesUnderFuse) {
  const std::vector<Watched*> all = files_.add({"r", "rw"});
  files_.hold();
  {
    Openers openers(all);
    const HungBrick hung(bricks().front());
    openers.open(By::kHandle);
    openers.expect_as_by_fuse(kOk);
  }
  expect_that_all_works();
}

// --- another host ------------------------------------------------------------------------------

using WatchHosts = WatchTest;

/// Renames and removes files on host 2, within milliseconds of being told.
class OtherHost {
 public:
  OtherHost() { EXPECT_EQ(program_.read_line(), "ready"); }
  void rename(const std::string& from, const std::string& to) {
    orders_.push_back(from + " " + to);
  }
  void remove(const std::string& path) { orders_.push_back(path); }
  /// All of what was said before.
  void act() {
    for (const std::string& order : orders_) program_.write_line(order);
    for (const std::string& order : orders_) EXPECT_EQ(program_.read_line(), "done") << order;
    orders_.clear();
  }

 private:
  Child program_{{"lab", "exec", "--host", "2", "--", "python3", "-c", R"(
import os, sys
print("ready", flush=True)
for line in sys.stdin:
  words = line.split()
  (os.rename if len(words) == 2 else os.unlink)(*words)
  print("done", flush=True)
)"},
                 {.preload = false}};
  std::vector<std::string> orders_;
};

uint64_t inode_of(const std::string& path) {
  struct statx status {};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_INO, &status) != 0) return 0;
  return status.stx_ino;
}

TEST_F(WatchHosts, WhoOpensAFileThatAnotherHostHasReplacedOrRemovedGetsWhatIsThere) {
  constexpr uint64_t kNew = 2;
  OtherHost other;
  size_t believed = 0;
  // What the kernel has looked up it believes for a second, which goes by too soon on a busy
  // machine: once more, with other files.
  for (int attempt = 0; attempt < 10 && believed == 0 && !HasFailure(); ++attempt) {
    const ScratchDir dir;
    WatchedFiles own(daemon_, dir);
    const std::vector<Watched*> replaced = own.add(kEveryWay);
    const std::vector<Watched*> removed = own.add(kEveryWay);
    const std::vector<Watched*> replaced_by_handle = own.add(kEveryWay);
    const std::vector<Watched*> removed_by_handle = own.add(kEveryWay);
    std::map<const Watched*, uint64_t> inodes;
    for (const std::vector<Watched*>* files : {&replaced, &replaced_by_handle}) {
      for (const Watched* file : *files) {
        for (const std::string& path : {file->path, file->twin}) {
          write_file(path + ".new", bytes_at(0, WatchedFiles::kSize, kNew));
          other.rename(path + ".new", path);
        }
        inodes[file] = inode_of(file->path);
      }
    }
    for (const std::vector<Watched*>* files : {&removed, &removed_by_handle}) {
      for (const Watched* file : *files) {
        for (const std::string& path : {file->path, file->twin}) other.remove(path);
      }
    }
    own.hold();
    {
      Openers to_replaced(replaced);
      Openers to_removed(removed);
      Openers to_replaced_by_handle(replaced_by_handle);
      Openers to_removed_by_handle(removed_by_handle);
      ASSERT_TRUE(look_up_all_of(Lab::get().mount) && look_up_all_of(dir.path()));
      other.act();
      for (const Watched* file : replaced) believed += inode_of(file->path) == inodes[file];
      to_replaced.open(By::kName);
      to_removed.open(By::kName);
      to_replaced_by_handle.open(By::kHandle);
      to_removed_by_handle.open(By::kHandle);
      // Who finds that a file is no more looks its name up again. FUSE's client can then still
      // believe in the old one, if it has heard of that within the last second. A handle has no
      // name.
      to_replaced.expect_as_by_fuse(kOk, kStale);
      to_removed.expect_as_by_fuse("-1 ENOENT", kStale);
      to_replaced_by_handle.expect_as_by_fuse(kStale);
      to_removed_by_handle.expect_as_by_fuse(kStale);
      for (Openers::Pair& pair : to_replaced.pairs()) {
        if (pair.file->how[0] != 'r' || pair.answer != kOk) continue;
        for (Opener* opener : {&pair.of_file, &pair.of_twin}) {
          EXPECT_EQ(opener->program().tell("pread", "it", 0, WatchedFiles::kSize, kNew),
                    WatchedFiles::kWhole)
              << pair.file->name();
        }
      }
    }
    // What was removed or cut comes back; the rest is what the other host has put there.
    for (const std::vector<Watched*>* files : {&replaced, &removed, &removed_by_handle}) {
      for (const Watched* file : *files) {
        if (files == &replaced && file->how != "w+trunc") continue;
        for (const std::string& path : {file->path, file->twin}) {
          std::string got;
          EXPECT_TRUE(comes_true(
              [&] { return (got = plain_.tell("open", "it", "rw+creat", path)) != kStale; }));
          EXPECT_EQ(got, kOk) << path;
          EXPECT_EQ(plain_.tell("pwrite", "it", 0, WatchedFiles::kSize, kNew),
                    WatchedFiles::kWhole);
          EXPECT_EQ(plain_.tell("close", "it", "close"), kOk) << path;
        }
      }
    }
    own.open_again(kNew);
    own.hold();
  }
  EXPECT_GT(believed, 0U) << "every name was looked up again: nobody tried to open an old file"
                          << kTooLittle;
}

// --- mounts that come and go -------------------------------------------------------------------

std::string source_of_mount() {
  return std::string(std::getenv("BOOSTER_LAB_SERVER")) + ":/" + std::getenv("BOOSTER_LAB_VOLUME");
}

TEST(WatchMounts, TheLastOfManyMountsIsServedAsTheFirstAndEachCanBeUnmounted) {
  constexpr size_t kSize = 2 << 20;
  constexpr int kWarmUp = 10;
  const std::string right = std::to_string(kSize);
  Daemon daemon;
  ScratchDir dir;
  write_file(dir.file("read"), bytes_at(0, kSize, 1));
  write_file(dir.file("written"), bytes_at(0, kSize, 1));
  const std::string place = Lab::get().dir + "/comes-and-goes";
  ASSERT_TRUE(std::filesystem::create_directory(place));
  const std::string there = place + dir.path().substr(Lab::get().mount.size());
  const auto process = [&] { return daemon.stats().process(); };
  admin::Process early;
  int retries = 0;
  const int all = rounds();
  ASSERT_GT(all, kWarmUp);
  for (int i = 1; i <= all; ++i) {
    const auto seed = static_cast<uint64_t>(i) + 1;
    const RunResult mounted =
        run({"mount", "-t", "glusterfs", source_of_mount(), place}, {.preload = false});
    ASSERT_EQ(mounted.status, 0) << i << mounted.err;
    // What was written through the mount before is there, and a new one keeps nothing.
    EXPECT_TRUE(read_file(there + "/written") == bytes_at(0, kSize, seed - 1)) << i;
    {
      Puppet program({.eager = false});
      ASSERT_EQ(program.tell("open", "r", "r", there + "/read"), kOk) << i;
      ASSERT_EQ(program.tell("open", "w", "rw", there + "/written"), kOk) << i;
      ASSERT_TRUE(comes_true([&] {
        const uint64_t before = daemon.stats().totals().cached_bytes();
        forget(there + "/read");
        EXPECT_EQ(program.tell("pread", "r", 0, kSize, 1), right) << i;
        return daemon.stats().totals().cached_bytes() >= before + kSize;
      })) << "mount "
          << i << " is not cached: " << daemon.stats().ShortDebugString() << kTooLittle;
      until_counted(
          daemon, [&] { return daemon.boosted_write_bytes(); },
          [&] { ASSERT_EQ(program.tell("pwrite", "w", 0, kSize, seed), right) << i; });
      program.leave();
    }
    // At once, as whoever ends a job does; all that is granted is time for the last close.
    RunResult gone;
    comes_true([&] {
      gone = run({"umount", place}, {.preload = false});
      retries += gone.status != 0;
      return gone.status == 0;
    });
    if (gone.status != 0) run({"umount", "--lazy", place}, {.preload = false});
    ASSERT_EQ(gone.status, 0) << "mount " << i << ": " << gone.err;
    ASSERT_FALSE(HasFailure()) << i;
    if (i == kWarmUp) {
      // Contexts take seconds to end: what is counted are those that have.
      EXPECT_TRUE(comes_true([&] { return daemon.stats().mounts_size() == 0; }));
      auto changed = steady_clock::now();
      early = process();
      EXPECT_TRUE(comes_true([&] {
        const admin::Process now = process();
        if (now.threads() != early.threads() || now.descriptors() != early.descriptors()) {
          early = now;
          changed = steady_clock::now();
        }
        return steady_clock::now() - changed > seconds(2);
      }));
    }
  }
  EXPECT_TRUE(comes_true([&] {
    const admin::Process now = process();
    return now.threads() <= early.threads() && now.descriptors() <= early.descriptors();
  })) << "after "
      << kWarmUp << " mounts " << early.ShortDebugString() << "; after all "
      << process().ShortDebugString();
  std::printf("%d mounts; umount had to be repeated %d times; first %s; last %s\n", all, retries,
              early.ShortDebugString().c_str(), process().ShortDebugString().c_str());
  ::rmdir(place.c_str());
}

// --- a volume that changes under load ----------------------------------------------------------

const admin::Session* session_of(const admin::Stats& stats, pid_t pid) {
  for (const admin::Session& session : stats.sessions()) {
    if (session.pid() == static_cast<uint32_t>(pid)) return &session;
  }
  return nullptr;
}

/// One fresh file after the other is written, or read, by a preloaded program until that is
/// boosted. Then a plain program opens the one and must see the last write, and writes the other,
/// which the reader must see.
class Follower {
 public:
  Follower(const Daemon& daemon, const ScratchDir& dir) : daemon_(daemon), dir_(dir) {
    thread_ = std::thread([this] {
      while (!stop_ && !testing::Test::HasFailure()) {
        follow_a_writer();
        follow_a_reader();
        ++rounds_;
      }
    });
  }
  ~Follower() {
    stop_ = true;
    thread_.join();
  }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  int rounds() const { return rounds_; }
  long slowest_ms() const { return slowest_ms_; }

 private:
  static constexpr size_t kSize = 2 << 20;
  inline static const std::string kWhole = std::to_string(kSize);

  uint64_t boosted_bytes() const {
    const admin::Stats stats = daemon_.stats();
    const admin::Session* const session = session_of(stats, program_.pid());
    return session == nullptr ? 0 : session->write_bytes() + session->cached_bytes();
  }

  /// Until as much as one such call is boosted; what is written is counted late.
  template <typename Call>
  void boost(const char* what, const Call& call) {
    const uint64_t before = boosted_bytes();
    EXPECT_TRUE(comes_true(
        [&] {
          EXPECT_EQ(call(), kWhole) << what;
          return boosted_bytes() >= before + kSize || testing::Test::HasFailure();
        },
        kUnderLoad))
        << what << " not boosted: " << daemon_.stats().ShortDebugString() << kTooLittle;
  }

  /// Asks `seen` until it answers `right`, which it does at the latest to who asks kBehind from
  /// now, and as much later as answers are.
  template <typename Seen>
  void expect_soon(const char* what, const std::string& right, const Seen& seen) {
    const auto written = steady_clock::now();
    steady_clock::duration slowest{0};
    while (true) {
      const auto asked = steady_clock::now();
      const std::string got = seen();
      if (got == right) return;
      slowest = std::max(slowest, steady_clock::now() - asked);
      slowest_ms_ = std::max<long>(
          slowest_ms_, std::chrono::duration_cast<milliseconds>(asked - written).count());
      if (asked - written > kBehind + 2 * slowest || !got.starts_with(kWhole)) {
        ADD_FAILURE() << what << ": " << got << " after " << slowest_ms_ << " ms";
        return;
      }
    }
  }

  void follow_a_writer() {
    const std::string path = dir_.file("followed");
    EXPECT_EQ(program_.tell("open", "w", "rw+creat", path), kOk);
    boost("a write", [&] { return program_.tell("pwrite", "w", 0, kSize, 1); });
    EXPECT_EQ(program_.tell("pwrite", "w", 0, kSize, 2), kWhole);
    // Two clients promise each other nothing of what has not come to the bricks yet.
    EXPECT_EQ(program_.tell("fsync", "w"), "0");
    expect_soon("a plain opener", kWhole, [&] {
      EXPECT_EQ(plain_.tell("open", "it", "r", path), kOk);
      const std::string got = plain_.tell("pread", "it", 0, kSize, 2);
      EXPECT_EQ(plain_.tell("close", "it", "close"), kOk);
      return got;
    });
    EXPECT_EQ(program_.tell("close", "w", "close"), kOk);
    EXPECT_EQ(::unlink(path.c_str()), 0);
  }

  void follow_a_reader() {
    const std::string path = dir_.file("led");
    write_file(path, bytes_at(0, kSize, 1));
    EXPECT_EQ(program_.tell("open", "r", "r", path), kOk);
    boost("a read", [&] {
      forget(path);
      return program_.tell("pread", "r", 0, kSize, 1);
    });
    EXPECT_EQ(plain_.tell("open", "it", "w", path), kOk);
    EXPECT_EQ(plain_.tell("pwrite", "it", 0, kSize, 2), kWhole);
    EXPECT_EQ(plain_.tell("close", "it", "close"), kOk);
    expect_soon("a boosted reader", kWhole,
                [&] { return program_.tell("pread", "r", 0, kSize, 2); });
    EXPECT_EQ(program_.tell("close", "r", "close"), kOk);
    EXPECT_EQ(::unlink(path.c_str()), 0);
  }

  const Daemon& daemon_;
  const ScratchDir& dir_;
  Puppet program_;  // asks at once: the load leaves it little time
  Puppet plain_{{.preload = false}};
  std::atomic<bool> stop_{false};
  std::atomic<int> rounds_{0};
  std::atomic<long> slowest_ms_{0};
  std::thread thread_;
};

void change_volume(const std::vector<std::string>& words) {
  std::vector<std::string> command{"lab", "gluster", "volume"};
  command.insert(command.end(), words.begin(), words.end());
  const RunResult result = run(command, {.preload = false});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

bool mount_has(const std::string& translator) {
  return read_file(Lab::get().mount + "/.meta/graphs/active/volfile").find(translator) !=
         std::string::npos;
}

/// A third brick of the first volume, from grow() on until this ends.
class ThirdBrick {
 public:
  ~ThirdBrick() {
    if (grown_) change_volume({"remove-brick", "vol1", brick_, "force"});
    EXPECT_TRUE(comes_true([] { return !mount_has("vol1-client-2"); }));
  }
  void grow() {
    grown_ = true;
    std::filesystem::create_directories(brick_.substr(brick_.find(':') + 1));
    change_volume({"add-brick", "vol1", brick_, "force"});
  }

 private:
  const std::string brick_ =
      std::string(std::getenv("BOOSTER_LAB_SERVER")) + ":" + Lab::get().dir + "/bricks/third/brick";
  bool grown_ = false;
};

class WatchChanges : public PolicyTest {
 protected:
  /// `act` changes the volume under load, until the mount's graph `has` it. Does nothing once
  /// something has failed.
  void under_load(const char* what, const std::function<void()>& act,
                  const std::function<bool()>& has) {
    if (HasFailure()) return;
    ScratchDir dir;
    {
      Load load(dir);
      // FUSE alone, for comparison.
      write_file(dir.file("plain"), "");
      Child plain({probe_path(), "worker", "write-in-order", dir.file("plain"), "0", "4194304",
                   "65536", "6000000"},
                  {.preload = false});
      EXPECT_EQ(plain.read_line(), "ready");
      ASSERT_TRUE(comes_true(
          [&] {
            if (policy() == Policy::kShipped) forget(load.read_by_some());
            return load.busy(daemon_) == load.delegable();
          },
          kUnderLoad))
          << what << ", before: " << daemon_.stats().ShortDebugString() << kTooLittle;
      const Follower follower(daemon_, dir);
      const auto followed = [&](int rounds) {
        // Each waits four times at most, and then says so itself.
        return comes_true([&] { return follower.rounds() >= rounds || HasFailure(); },
                          rounds * 5 * kUnderLoad);
      };
      EXPECT_TRUE(followed(1));
      ASSERT_FALSE(has()) << what;
      act();
      EXPECT_TRUE(comes_true(has, kUnderLoad)) << what;
      // Files that are opened now are boosted on the new graph.
      EXPECT_TRUE(followed(follower.rounds() + 2));
      std::printf("%s: %d files followed, the oldest bytes after %ld ms\n", what, follower.rounds(),
                  follower.slowest_ms());
      load.expect_right();
      const RunResult result = plain.wait();
      EXPECT_EQ(result.status, 0) << "FUSE alone: " << result.out.substr(0, 500);
    }
    EXPECT_EQ(daemon_.stats().pid(), static_cast<uint32_t>(pid_)) << read_file(daemon_.log_path());
  }

  Daemon daemon_;
  const pid_t pid_ = daemon_.pid();
};
INSTANTIATE_TEST_SUITE_P(, WatchChanges, testing::Values(Policy::kShipped),
                         [](const auto&) { return std::string("Shipped"); });

// The graph changes under open files (DESIGN section 9, upstream issue 4799).
TEST_P(WatchChanges, AVolumeThatChangesUnderLoadCostsNoError) {
  const auto set = [](const std::string& key, const std::string& value) {
    return [key, value] { change_volume({"set", "vol1", key, value}); };
  };
  const auto has = [](const std::string& translator, bool wanted) {
    return [translator, wanted] { return mount_has(translator) == wanted; };
  };
  ThirdBrick third;
  for (const auto& [key, translator] : {std::pair{"performance.write-behind", "write-behind"},
                                        std::pair{"performance.stat-prefetch", "md-cache"}}) {
    const std::string type = std::string("performance/") + translator;
    const VolumeOption back("vol1", key, "on");
    under_load(key, set(key, "off"), has(type, false));
    if (!full_run()) continue;
    under_load(key, set(key, "on"), has(type, true));
  }
  const auto grow = [&third] { third.grow(); };
  under_load("add-brick", grow, has("vol1-client-2", true));
}

}  // namespace
}  // namespace booster::test
