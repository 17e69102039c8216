// Contexts and sessions: one context a mount, whoever asks and however many at once; and nothing is
// left of a client, a file or a mount that has gone.
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "tests/integration/carried.h"
#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

const admin::Mount* mount_of(const admin::Stats& stats, const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return nullptr;
  for (const admin::Mount& mount : stats.mounts()) {
    if (mount.dev_major() == major(st.st_dev) && mount.dev_minor() == minor(st.st_dev)) {
      return &mount;
    }
  }
  return nullptr;
}

const admin::Session* session_of(const admin::Stats& stats, pid_t pid) {
  for (const admin::Session& session : stats.sessions()) {
    if (session.pid() == static_cast<uint32_t>(pid)) return &session;
  }
  return nullptr;
}

uint64_t handles(const admin::Stats& stats) {
  uint64_t sum = 0;
  for (const admin::Mount& mount : stats.mounts()) sum += mount.handles();
  return sum;
}

uint64_t refused(const admin::Stats& stats, const std::string& reason) {
  for (const admin::Refused& refused : stats.totals().refused()) {
    if (refused.reason() == reason) return refused.count();
  }
  return 0;
}

/// A program works on the mount, boosted, with the right bytes.
void expect_boosted(const Daemon& daemon, const std::string& dir, size_t size = 100000) {
  until_carried(daemon, {.written = size, .read = size}, [&] {
    {
      Puppet puppet;
      EXPECT_EQ(puppet.tell("make-and-check", dir + "/boosted", size, 5), "right");
      puppet.leave();
    }
    EXPECT_TRUE(read_file(dir + "/boosted") == bytes_at(0, size, 5));
    ::unlink((dir + "/boosted").c_str());
  });
}

/// The puppet makes files until one is boosted as a whole. They stay open.
void make_boosted(const Daemon& daemon, Puppet& puppet, const ScratchDir& dir, size_t size) {
  until_carried(daemon, {.written = size}, [&] {
    static int count = 0;
    const std::string path = dir.file("boosted" + std::to_string(++count));
    EXPECT_EQ(puppet.tell("make-and-check", path, size, 1), "right");
  });
}

/// One more FUSE mount in this lab host.
class ExtraMount {
 public:
  /// `command` mounts on its last argument, which is added here.
  explicit ExtraMount(std::vector<std::string> command) : path_(Lab::get().dir + "/mnt.XXXXXX") {
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
    command.push_back(path_);
    const RunResult result = run(command, {.preload = false});
    EXPECT_EQ(result.status, 0) << result.out << result.err;
    EXPECT_TRUE(comes_true([&] { return is_mounted(); })) << command[0];
  }
  ~ExtraMount() {
    run({"umount", "--lazy", path_}, {.preload = false});
    ::rmdir(path_.c_str());
  }
  ExtraMount(const ExtraMount&) = delete;
  ExtraMount& operator=(const ExtraMount&) = delete;
  const std::string& path() const { return path_; }
  bool is_mounted() const {
    return run({"findmnt", "-n", "-t", "fuse.glusterfs", path_}, {.preload = false}).status == 0;
  }

 private:
  std::string path_;
};

std::string server_volume() {
  return std::string(std::getenv("BOOSTER_LAB_SERVER")) + ":/" + std::getenv("BOOSTER_LAB_VOLUME");
}

TEST(Context, AHundredProcessesAtOnceShareOne) {
  Daemon daemon;
  ScratchDir dir;
  constexpr int kProcesses = 100;
  constexpr size_t kSize = 50000;
  std::vector<std::unique_ptr<Puppet>> puppets;
  for (int i = 0; i < kProcesses; ++i) puppets.push_back(std::make_unique<Puppet>());
  EXPECT_EQ(daemon.stats().totals().sessions_opened(), 0U);  // none has touched the mount

  for (int i = 0; i < kProcesses; ++i) {
    puppets[static_cast<size_t>(i)]->order("make-and-check", dir.file(std::to_string(i)), kSize, i);
  }
  for (const auto& puppet : puppets) EXPECT_EQ(puppet->answer(), "right");

  const admin::Stats stats = daemon.stats();
  ASSERT_EQ(stats.mounts_size(), 1);
  EXPECT_EQ(stats.mounts(0).contexts_built(), 1U);
  EXPECT_EQ(stats.mounts(0).context(), admin::Mount::READY);
  EXPECT_EQ(stats.mounts(0).mount_point(), Lab::get().mount);
  EXPECT_LE(stats.mounts(0).handles(), static_cast<uint64_t>(kProcesses));
  EXPECT_LE(stats.mounts(0).engaged_inodes(), static_cast<uint64_t>(kProcesses));
  EXPECT_LE(stats.sessions_size(), kProcesses);
  EXPECT_LE(stats.totals().sessions_opened(), static_cast<uint64_t>(kProcesses));
  EXPECT_GE(stats.mounts(0).handles(), static_cast<uint64_t>(kProcesses)) << kTooLittle;
  EXPECT_GE(stats.mounts(0).engaged_inodes(), static_cast<uint64_t>(kProcesses)) << kTooLittle;
  EXPECT_GE(stats.sessions_size(), kProcesses) << kTooLittle;
  EXPECT_GE(stats.totals().sessions_opened(), static_cast<uint64_t>(kProcesses)) << kTooLittle;
  // FUSE may have done a call of one or the other.
  const auto all_boosted = [&] {
    const admin::Stats now = daemon.stats();
    return std::count_if(puppets.begin(), puppets.end(), [&](const auto& puppet) {
      const admin::Session* session = session_of(now, puppet->pid());
      return session && session->write_bytes() == kSize && session->read_bytes() == kSize;
    });
  };
  EXPECT_TRUE(comes_true([&] { return all_boosted() >= kProcesses * 95 / 100; }))
      << all_boosted() << kTooLittle;
  const admin::Stats counted = daemon.stats();
  for (const auto& puppet : puppets) {
    const admin::Session* session = session_of(counted, puppet->pid());
    if (session == nullptr) continue;  // counted above
    EXPECT_LE(session->write_bytes(), kSize);
    EXPECT_LE(session->read_bytes(), kSize);
  }
  for (const auto& puppet : puppets) puppet->leave();
  for (int i = 0; i < kProcesses; ++i) {
    EXPECT_TRUE(read_file(dir.file(std::to_string(i))) ==
                bytes_at(0, kSize, static_cast<uint64_t>(i)));
  }
  EXPECT_TRUE(comes_true([&] { return daemon.stats().sessions_size() == 0; }));
  EXPECT_TRUE(comes_true([&] { return handles(daemon.stats()) == 0; }));
}

TEST(Context, EachMountHasItsOwnAndFilesOfOneMountShareIt) {
  ASSERT_GE(Lab::get().mounts.size(), 2U) << "needs lab run --volumes 2";
  Daemon daemon;
  ScratchDir first(Lab::get().mounts[0]);
  ScratchDir second(Lab::get().mounts[1]);
  Puppet puppet;
  EXPECT_EQ(puppet.tell("make-and-check", first.file("a"), 10000, 1), "right");
  EXPECT_EQ(puppet.tell("make-and-check", first.file("b"), 10000, 2), "right");
  EXPECT_LE(daemon.stats().mounts_size(), 1);
  EXPECT_EQ(puppet.tell("make-and-check", second.file("a"), 10000, 3), "right");
  EXPECT_EQ(puppet.tell("make-and-check", second.file("b"), 10000, 4), "right");

  // A second mount of the first volume is a mount like any other.
  ExtraMount again({"mount", "-t", "glusterfs", server_volume()});
  ScratchDir third(again.path());
  EXPECT_EQ(puppet.tell("make-and-check", third.file("a"), 10000, 5), "right");

  const admin::Stats stats = daemon.stats();
  EXPECT_LE(stats.mounts_size(), 3);
  for (const std::string& dir : {first.path(), second.path(), third.path()}) {
    const admin::Mount* mount = mount_of(stats, dir);
    ASSERT_NE(mount, nullptr) << dir << kTooLittle;
    EXPECT_EQ(mount->contexts_built(), 1U) << dir;
    const uint64_t files = dir == third.path() ? 1 : 2;
    EXPECT_LE(mount->engaged_inodes(), files) << dir;
    ASSERT_GE(mount->engaged_inodes(), files) << dir << kTooLittle;
  }
  EXPECT_LE(stats.totals().write_bytes(), 50000U);
  for (const std::string& dir : {first.path(), second.path(), third.path()}) {
    expect_boosted(daemon, dir);
    EXPECT_EQ(mount_of(daemon.stats(), dir)->contexts_built(), 1U) << dir;
  }
  puppet.leave();
  EXPECT_EQ(read_file(third.file("a")), bytes_at(0, 10000, 5));
}

TEST(Context, AnIdleOneClosesAndComesBackWhenItIsNeeded) {
  Daemon daemon("[context]\nidle_seconds = 1\n");
  ScratchDir dir;
  expect_boosted(daemon, dir.path());
  EXPECT_TRUE(comes_true([&] {
    const admin::Stats stats = daemon.stats();
    return stats.mounts_size() == 1 && stats.mounts(0).context() == admin::Mount::NONE;
  }));
  expect_boosted(daemon, dir.path());
  EXPECT_GE(daemon.stats().mounts(0).contexts_built(), 2U);

  // One that is used stays, however long nothing is asked of it.
  Puppet puppet;
  make_boosted(daemon, puppet, dir, 10000);
  const uint64_t built = daemon.stats().mounts(0).contexts_built();
  std::this_thread::sleep_for(std::chrono::milliseconds(3500));
  EXPECT_EQ(daemon.stats().mounts(0).context(), admin::Mount::READY);
  EXPECT_EQ(daemon.stats().mounts(0).contexts_built(), built);
}

TEST(Context, TheVolfileComesFromTheServers) {
  Daemon daemon;
  ScratchDir dir;
  expect_boosted(daemon, dir.path());
  const admin::Stats stats = daemon.stats();
  ASSERT_EQ(stats.mounts_size(), 1);
  EXPECT_EQ(stats.mounts(0).volfile_from(), "server");
  EXPECT_EQ(stats.mounts(0).source(), server_volume());
}

TEST(Context, AMountMadeFromAVolfileIsServedFromTheMountItself) {
  // As glusterd would send it to a client.
  const std::string volfile =
      Lab::get().dir + "/server/glusterd/vols/vol1/trusted-vol1.tcp-fuse.vol";
  ASSERT_FALSE(read_file(volfile).empty()) << volfile;
  Daemon daemon;
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"mount", "-t", "glusterfs", volfile},
        std::vector<std::string>{"glusterfs", "--volfile=" + volfile}}) {
    ExtraMount extra(command);
    ScratchDir dir(extra.path());
    expect_boosted(daemon, dir.path());
    const admin::Stats stats = daemon.stats();
    const admin::Mount* mount = mount_of(stats, extra.path());
    ASSERT_NE(mount, nullptr) << command[0];
    EXPECT_EQ(mount->volfile_from(), "mount") << command[0];
    EXPECT_EQ(mount->context(), admin::Mount::READY) << command[0] << ": " << mount->error();
  }
}

TEST(Context, AMountWhoseFilesAreClosedCanBeUnmountedAndComeBack) {
  Daemon daemon;
  ExtraMount extra({"mount", "-t", "glusterfs", server_volume()});
  const std::string name = "/umount-test." + std::to_string(::getpid());
  Puppet puppet;  // lives on: it is the files that hold a mount, not the process or the context
  for (int round = 0; round < rounds(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    until_carried(daemon, {.written = 70000U}, [&] {
      ASSERT_EQ(puppet.tell("open", "a", "rw+creat", extra.path() + name), "0");
      ASSERT_EQ(puppet.tell("pwrite", "a", 0, 70000, round), "70000");
      ASSERT_EQ(puppet.tell("pread", "a", 0, 70000, round), "70000");
      ASSERT_EQ(puppet.tell("close", "a", "close"), "0");
    });
    const admin::Stats stats = daemon.stats();
    ASSERT_NE(mount_of(stats, extra.path()), nullptr);
    EXPECT_EQ(mount_of(stats, extra.path())->context(), admin::Mount::READY);

    // The daemon may still be at what the close has left it to do.
    RunResult gone;
    const auto unmount = [&] {
      gone = run({"umount", extra.path()}, {.preload = false});
      return gone.status == 0;
    };
    ASSERT_TRUE(comes_true(unmount))
        << gone.err
        << shell("fuser -vm '" + extra.path() + "' 2>&1; ls -l /proc/" +
                     std::to_string(daemon.pid()) + "/fd",
                 {.preload = false})
               .out;
    ASSERT_FALSE(extra.is_mounted());
    EXPECT_TRUE(comes_true([&] { return daemon.stats().mounts_size() == 0; }))
        << "the context of a mount that has gone is kept";
    const RunResult back =
        run({"mount", "-t", "glusterfs", server_volume(), extra.path()}, {.preload = false});
    ASSERT_EQ(back.status, 0) << back.err;
    EXPECT_TRUE(read_file(extra.path() + name) == bytes_at(0, 70000, static_cast<uint64_t>(round)));
  }
  ::unlink((extra.path() + name).c_str());
}

// --- a volume that changes ---------------------------------------------------------------------

// A file without a name cannot be opened again on the new graph, and libgfapi dies of that
// (daemon/gluster/gfapi_guard.cc).
TEST(Context, ANewGraphOnWhichAFileCannotBeOpenedAgainDoesNotEndTheDaemon) {
  Daemon daemon;
  ScratchDir dir;
  const pid_t pid = daemon.pid();
  constexpr size_t kSize = 50000;
  write_file(dir.file("a"), bytes_at(0, kSize, 1));
  Puppet puppet;
  ASSERT_EQ(puppet.tell("open", "a", "r", dir.file("a")), "0");
  until_carried(daemon, {.read = kSize},
                [&] { ASSERT_EQ(puppet.tell("pread", "a", 0, kSize, 1), std::to_string(kSize)); });
  ::unlink(dir.file("a").c_str());

  // Whether a translator is in the graph: a new graph for every client.
  const VolumeOption changed("vol1", "performance.read-ahead", "on");
  EXPECT_TRUE(comes_true([&] {
    const uint64_t before = daemon.boosted_read_bytes();
    // What FUSE's client makes of such a file is its own affair: it may end early.
    EXPECT_EQ(puppet.tell("pread", "a", 0, kSize, 1).find("wrong"), std::string::npos);
    return daemon.stats().pid() != static_cast<uint32_t>(pid) ||
           daemon.boosted_read_bytes() == before;
  })) << "the graph is still the old one";
  EXPECT_EQ(daemon.stats().pid(), static_cast<uint32_t>(pid)) << read_file(daemon.log_path());
  expect_boosted(daemon, dir.path());
  EXPECT_EQ(daemon.stats().mounts(0).contexts_built(), 1U);
}

/// As the mount's own client sees it.
bool has_shards(const std::string& mount) {
  return read_file(mount + "/.meta/graphs/active/volfile").find("features/shard") !=
         std::string::npos;
}

TEST(Context, AVolumeThatBecomesShardedIsLeftToFuseFromThenOn) {
  ASSERT_GE(Lab::get().mounts.size(), 2U) << "needs lab run --volumes 2";
  Daemon daemon;
  ScratchDir other(Lab::get().mounts[0]);
  ScratchDir dir(Lab::get().mounts[1]);
  constexpr size_t kSize = 50000;
  Puppet puppet;
  ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
  until_carried(daemon, {.written = kSize, .read = kSize}, [&] {
    ASSERT_EQ(puppet.tell("pwrite", "a", 0, kSize, 1), std::to_string(kSize));
    ASSERT_EQ(puppet.tell("pread", "a", 0, kSize, 1), std::to_string(kSize));
  });
  {
    const VolumeOption sharded("vol2", "features.shard", "on");
    EXPECT_TRUE(comes_true([&] {
      const admin::Stats stats = daemon.stats();
      const admin::Mount* mount = mount_of(stats, dir.path());
      return mount && mount->error().find("sharded") != std::string::npos;
    })) << daemon.stats().ShortDebugString();
    const admin::Totals before = daemon.stats().totals();
    // What is engaged is served by FUSE, and nothing more is engaged.
    EXPECT_EQ(puppet.tell("pwrite", "a", 1000, kSize, 2), std::to_string(kSize));
    EXPECT_EQ(puppet.tell("pread", "a", 1000, kSize, 2), std::to_string(kSize));
    // A file that is made while FUSE's own client changes graphs may be read short there.
    EXPECT_TRUE(comes_true([] { return has_shards(Lab::get().mounts[1]); }));
    EXPECT_EQ(puppet.tell("make-and-check", dir.file("b"), kSize, 3), "right");
    Puppet late;
    EXPECT_EQ(late.tell("make-and-check", dir.file("c"), kSize, 4), "right");
    const admin::Totals after = daemon.stats().totals();
    EXPECT_EQ(after.read_bytes(), before.read_bytes());
    EXPECT_EQ(after.write_bytes(), before.write_bytes());
    EXPECT_EQ(after.engaged(), before.engaged());
    // Other volumes are another matter.
    expect_boosted(daemon, other.path());

    // A daemon that comes now finds it so, whatever the mount has heard of it yet.
    daemon.kill();
    daemon.start();
    EXPECT_EQ(late.tell("make-and-check", dir.file("d"), kSize, 5), "right");
    EXPECT_EQ(daemon.boosted_write_bytes(), 0U);
  }
  // The mounts of the tests to come are to have their old graph.
  EXPECT_TRUE(comes_true([] { return !has_shards(Lab::get().mounts[1]); }));
}

// --- sessions ----------------------------------------------------------------------------------

TEST(Context, NothingIsLeftOfAClientThatHasGone) {
  Daemon daemon;
  ScratchDir dir;
  for (const char* how : {"exit", "kill", "exec", "close"}) {
    Puppet puppet;
    ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
    ASSERT_EQ(puppet.tell("open", "b", "rw+creat", dir.file("b")), "0");
    until_carried(daemon, {.written = 10000U}, [&] {
      ASSERT_EQ(puppet.tell("pwrite", "a", 0, 5000, 1), "5000");
      ASSERT_EQ(puppet.tell("pwrite", "b", 0, 5000, 2), "5000");
    });
    {
      const admin::Stats stats = daemon.stats();
      const admin::Session* session = session_of(stats, puppet.pid());
      ASSERT_NE(session, nullptr) << how;
      EXPECT_EQ(session->handles(), 2U) << how;
      EXPECT_EQ(session->files_size(), 2) << how;
      EXPECT_EQ(handles(stats), 2U) << how;
    }
    const std::string what = how;
    if (what == "exit") puppet.order("exit");
    if (what == "kill") puppet.child().signal(SIGKILL);
    if (what == "exec") {
      EXPECT_EQ(puppet.tell("exec"), "ready");
    }
    if (what == "close") {
      ASSERT_EQ(puppet.tell("close", "a", "close"), "0");
      ASSERT_EQ(puppet.tell("close", "b", "close"), "0");
    }
    EXPECT_TRUE(comes_true([&] {
      const admin::Stats stats = daemon.stats();
      const bool session_gone = session_of(stats, puppet.pid()) == nullptr;
      return handles(stats) == 0 && session_gone == (what != "close");
    })) << how
        << ": " << daemon.stats().ShortDebugString();
    EXPECT_TRUE(comes_true([&] {
      const admin::Stats stats = daemon.stats();
      return stats.mounts(0).engaged_inodes() == 0;
    })) << how;
  }
}

TEST(Context, ManyShortSessionsLeaveNothingInTheDaemon) {
  Daemon daemon;
  ScratchDir dir;
  expect_boosted(daemon, dir.path());
  EXPECT_TRUE(comes_true([&] { return daemon.stats().sessions_size() == 0; }));
  const uint32_t before = daemon.stats().process().descriptors();
  for (int i = 0; i < rounds(); ++i) {
    Puppet puppet;
    ASSERT_EQ(puppet.tell("make-and-check", dir.file("file"), 3000, i), "right");
    if (i % 3 == 0) puppet.child().signal(SIGKILL);
  }
  EXPECT_TRUE(comes_true([&] {
    const admin::Stats stats = daemon.stats();
    return stats.sessions_size() == 0 && handles(stats) == 0 &&
           stats.process().descriptors() <= before;
  })) << before
      << " descriptors before, now " << daemon.stats().process().descriptors();
}

// --- limits ------------------------------------------------------------------------------------

TEST(Context, BeyondTheLimitOfSessionsProgramsUseFuse) {
  Daemon daemon("[limits]\nsessions = 2\n");
  ScratchDir dir;
  std::vector<std::unique_ptr<Puppet>> puppets;
  for (int i = 0; i < 2; ++i) {
    puppets.push_back(std::make_unique<Puppet>());
    make_boosted(daemon, *puppets.back(), dir, 30000);
  }
  const uint64_t before = daemon.boosted_write_bytes();
  for (int i = 2; i < 5; ++i) {
    puppets.push_back(std::make_unique<Puppet>());
    EXPECT_EQ(puppets.back()->tell("make-and-check", dir.file(std::to_string(i)), 30000, i),
              "right");
  }
  const admin::Stats stats = daemon.stats();
  EXPECT_EQ(stats.sessions_size(), 2);
  EXPECT_GE(stats.totals().sessions_refused(), 3U);
  EXPECT_EQ(stats.totals().write_bytes(), before);

  // A place that becomes free is taken.
  puppets.front()->leave();
  puppets.erase(puppets.begin());
  EXPECT_TRUE(comes_true([&] { return daemon.stats().sessions_size() == 1; }));
  EXPECT_TRUE(comes_true([&] {
    EXPECT_EQ(puppets.back()->tell("make-and-check", dir.file("late"), 30000, 9), "right");
    return session_of(daemon.stats(), puppets.back()->pid()) != nullptr;
  }));
  for (const auto& puppet : puppets) puppet->leave();
  EXPECT_EQ(read_file(dir.file("3")), bytes_at(0, 30000, 3));
}

TEST(Context, BeyondAUsersLimitOnlyThatUserUsesFuse) {
  Daemon daemon("[limits]\nsessions_per_uid = 1\n");
  ScratchDir dir;
  const RunOptions nobody{.uid = 65534};
  Puppet first(nobody);
  Puppet second(nobody);
  Puppet root;
  make_boosted(daemon, first, dir, 30000);
  const uint64_t before = daemon.boosted_write_bytes();
  EXPECT_EQ(second.tell("make-and-check", dir.file("2"), 30000, 2), "right");
  EXPECT_EQ(daemon.boosted_write_bytes(), before);
  make_boosted(daemon, root, dir, 30000);
  const admin::Stats stats = daemon.stats();
  EXPECT_EQ(stats.sessions_size(), 2);
  EXPECT_NE(session_of(stats, first.pid()), nullptr);
  EXPECT_EQ(session_of(stats, second.pid()), nullptr);
  EXPECT_NE(session_of(stats, root.pid()), nullptr);
  EXPECT_GE(stats.totals().sessions_refused(), 1U);
}

TEST(Context, BeyondTheLimitOfHandlesFilesUseFuse) {
  Daemon daemon("[limits]\nhandles = 3\n");
  until_carried(daemon, {.written = 3U * 30000}, [&] {
    ScratchDir dir;
    Puppet puppet;
    const uint64_t before = refused(daemon.stats(), "limit");
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(puppet.tell("make-and-check", dir.file(std::to_string(i)), 30000, i), "right");
    }
    EXPECT_TRUE(comes_true([&] {
      const admin::Stats stats = daemon.stats();
      // One that was refused may be asked for again later.
      return handles(stats) == 3 && refused(stats, "limit") >= before + 3;
    })) << daemon.stats().ShortDebugString();
    puppet.leave();
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(read_file(dir.file(std::to_string(i))),
                bytes_at(0, 30000, static_cast<uint64_t>(i)));
    }
    EXPECT_TRUE(comes_true([&] { return handles(daemon.stats()) == 0; }));
  });
}

}  // namespace
}  // namespace booster::test
