// Daemons that are killed, stopped, missing or not what they should be: the program sees no error
// and loses no byte, and is boosted again as soon as there is a daemon.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <random>
#include <thread>

#include "common/abi.h"
#include "proto/control.pb.h"
#include "tests/integration/harness.h"
#include "tests/integration/load.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

class Death : public PolicyTest {};
BOOSTER_UNDER_EACH_POLICY(Death);

/// Uniform, and different in every run.
milliseconds random_time(int from_ms, int to_ms) {
  static std::mt19937 random{std::random_device{}()};
  return milliseconds(std::uniform_int_distribution<int>(from_ms, to_ms)(random));
}

/// A section of the configuration that changes nothing; the harness's own is short.
constexpr const char* kDefaultQuarantine = "[failure]\n";

// --- killed under load -------------------------------------------------------------------------

/// All of the load that can goes through this daemon; of a disperse volume, where the kernel writes
/// parts of stripes, what needs none.
bool all_boosted(const Daemon& daemon, const Load& load) {
  // It does not pay to read past the kernel what it has.
  if (policy() == Policy::kShipped) forget(load.read_by_some());
  const int busy = load.busy(daemon);
  // Its two readers, and the writer in order of whole stripes.
  if (Lab::get().shape == "disperse") return busy >= 3;
  return busy == load.delegable();
}

void kill_under_load(const std::string& config, int kills) {
  Daemon daemon(config);
  ScratchDir dir;
  Load load(dir);
  // Nobody is boosted before what a dead daemon may have left at the bricks has had its time.
  const auto patience = [&] {
    return std::chrono::seconds(60 + daemon.stats().quarantine_ms() / 1000);
  };
  for (int kill = 1; kill <= kills; ++kill) {
    // One in four strikes while programs connect, engage and wait.
    if (kill % 4 != 0) {
      ASSERT_TRUE(comes_true([&] { return all_boosted(daemon, load); }, patience()))
          << "not boosted again after " << kill - 1
          << " kills: " << daemon.stats().ShortDebugString() << read_file(daemon.log_path())
          << kTooLittle;
    }
    std::this_thread::sleep_for(random_time(0, kill % 4 != 0 ? 400 : 1500));
    daemon.kill(SIGKILL);
    if (kill % 3 == 0) std::this_thread::sleep_for(random_time(0, 1500));
    daemon.start();
  }
  EXPECT_TRUE(comes_true([&] { return all_boosted(daemon, load); }, patience())) << kTooLittle;
  load.expect_right();
  std::printf("%d kills\n%s", kills, load.slowest().c_str());
}

TEST_P(Death, UnderLoadNoByteIsLostAndWorkIsBoostedAgain) {
  // With bricks that are not slowed, still ten times the slowest answer: the daemon sees to that.
  kill_under_load("[failure]\nquarantine_min_ms = 300\n", rounds());
}

TEST_P(Death, UnderLoadNoByteIsLostWithTheDefaultQuarantine) {
  kill_under_load(kDefaultQuarantine, rounds());
}

// --- killed with a slow brick ------------------------------------------------------------------

class SlowBrick {
 public:
  SlowBrick(milliseconds delay, int percent) {
    const RunResult result =
        run({"lab", "delay", "on", std::to_string(delay.count() * 1000), std::to_string(percent)},
            {.preload = false});
    EXPECT_EQ(result.status, 0) << result.out << result.err;
  }
  ~SlowBrick() {
    const RunResult result = run({"lab", "delay", "off"}, {.preload = false});
    EXPECT_EQ(result.status, 0) << result.out << result.err;
  }
  SlowBrick(const SlowBrick&) = delete;
  SlowBrick& operator=(const SlowBrick&) = delete;
};

/// What the bricks hold, past the kernel's cache.
std::string read_past_caches(const std::string& path, size_t size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  const size_t room = (size + 4095) / 4096 * 4096;
  std::unique_ptr<void, void (*)(void*)> buffer(std::aligned_alloc(4096, room), &std::free);
  size_t done = 0;
  ssize_t got;
  while (done < size && (got = ::pread(fd, static_cast<char*>(buffer.get()) + done, room - done,
                                       static_cast<off_t>(done))) > 0) {
    done += static_cast<size_t>(got);
  }
  ::close(fd);
  return std::string(static_cast<char*>(buffer.get()), std::min(done, size));
}

/// More than quick-read keeps.
size_t slow_size() {
  return paying(100 * 1024);
}
constexpr milliseconds kSlowness{1500};

/// Has them write until the daemon carries so much that all of them do it through it.
void boost_all(const Daemon& daemon, const std::vector<std::unique_ptr<Puppet>>& puppets) {
  const bool boosted = comes_true([&] {
    for (const auto& puppet : puppets) puppet->order("pwrite", "a", 0, slow_size(), 1);
    for (const auto& puppet : puppets) EXPECT_EQ(puppet->answer(), std::to_string(slow_size()));
    int busy = 0;
    const admin::Stats stats = daemon.stats();
    for (const admin::Session& session : stats.sessions()) busy += session.write_bytes() > 0;
    return busy == static_cast<int>(puppets.size());
  });
  if (!boosted) end_with_too_little("not all are boosted: " + daemon.stats().ShortDebugString());
}

/// Programs write through a daemon that is killed meanwhile; as soon as a write has returned,
/// another program writes the same place through FUSE. Returns how often that did not last: the
/// former came back, or, of a disperse volume's stripes, parts of it.
int old_bytes_that_come_back(Daemon& daemon, int kills, bool once_is_enough = false) {
  // Under the shipped policy all of them write through the slow brick until they are boosted.
  const int files = policy() == Policy::kShipped ? 4 : 12;
  int old = 0;
  for (int kill = 0; kill < kills && !(old > 0 && once_is_enough); ++kill) {
    ScratchDir dir;
    std::vector<std::unique_ptr<Puppet>> puppets;
    for (int i = 0; i < files; ++i) {
      write_file(dir.file(std::to_string(i)), "");
      puppets.push_back(std::make_unique<Puppet>());
      EXPECT_EQ(puppets.back()->tell("open", "a", "rw", dir.file(std::to_string(i))), "0");
      if (policy() == Policy::kSooner) {
        // Engages; at the end of the file the kernel answers.
        EXPECT_EQ(puppets.back()->tell("pread", "a", 0, 100, 1), "0");
      }
    }
    if (policy() == Policy::kShipped) boost_all(daemon, puppets);
    for (const auto& puppet : puppets) puppet->order("pwrite", "a", 0, slow_size(), 2);
    std::this_thread::sleep_for(random_time(50, 450));
    daemon.kill(SIGKILL);

    std::vector<std::thread> others;
    for (int i = 0; i < files; ++i) {
      others.emplace_back([&, i] {
        EXPECT_EQ(puppets[static_cast<size_t>(i)]->answer(), std::to_string(slow_size()));
        const int fd = ::open(dir.file(std::to_string(i)).c_str(), O_WRONLY | O_CLOEXEC);
        const std::string bytes = bytes_at(0, slow_size(), 3);
        EXPECT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
        EXPECT_EQ(::close(fd), 0);
      });
    }
    daemon.start();
    for (auto& other : others) other.join();
    // Time for whatever is still queued.
    std::this_thread::sleep_for(2 * kSlowness + milliseconds(500));
    for (int i = 0; i < files; ++i) {
      const std::string bytes = read_past_caches(dir.file(std::to_string(i)), slow_size());
      EXPECT_EQ(bytes.size(), slow_size());
      if (bytes != bytes_at(0, slow_size(), 3)) ++old;
    }
    for (const auto& puppet : puppets) puppet->leave();
  }
  return old;
}

TEST_P(Death, NothingOldComesBackFromASlowBrick) {
  if (!full_run() && Lab::get().shape != "one") GTEST_SKIP() << "only in full runs";
  const SlowBrick slow(kSlowness, 50);
  Daemon daemon(kDefaultQuarantine);
  EXPECT_EQ(old_bytes_that_come_back(daemon, rounds()), 0);
}

// If this fails, the one before proves nothing.
TEST_P(Death, WithoutAQuarantineOldBytesWouldComeBack) {
  if (!full_run()) GTEST_SKIP() << "only in full runs";
  const SlowBrick slow(kSlowness, 50);
  Daemon daemon("[failure]\nquarantine_min_ms = 100\n");
  // A daemon that lives long enough to see how slow the brick is asks for a longer wait: 0 of 5
  // happens on a busy machine.
  EXPECT_GT(old_bytes_that_come_back(daemon, 40, true), 0) << kTooLittle;
}

TEST_P(Death, TheQuarantineFollowsTheSlowestAnswer) {
  if (!full_run()) GTEST_SKIP() << "only in full runs";
  const SlowBrick slow(kSlowness, 100);
  Daemon daemon("[failure]\nquarantine_min_ms = 100\n");
  ScratchDir dir;
  write_file(dir.file("a"), "");
  Puppet puppet;
  ASSERT_EQ(puppet.tell("open", "a", "rw", dir.file("a")), "0");
  until_boosted(daemon, Moves::kWrites, [&] {
    ASSERT_EQ(puppet.tell("pwrite", "a", 0, slow_size(), 1), std::to_string(slow_size()));
  });
  std::this_thread::sleep_for(milliseconds(1000));  // the daemon tells its clients twice a second
  puppet.order("pwrite", "a", 0, slow_size(), 2);
  std::this_thread::sleep_for(milliseconds(200));
  daemon.kill(SIGKILL);
  const auto killed = Clock::now();
  EXPECT_EQ(puppet.answer(), std::to_string(slow_size()));
  EXPECT_GE(Clock::now() - killed, 10 * kSlowness);
  daemon.start();
}

// --- its connections break -------------------------------------------------------------------

void cut_connections(const Daemon& daemon) {
  const RunResult result =
      shell("ports=$(ss -Htnp | grep 'pid=" + std::to_string(daemon.pid()) +
                ",' | awk '{ sub(/.*:/, \"\", $4); print $4 }'); test \"$ports\" || exit 1; "
                "for port in $ports; do ss -HK sport = :$port; done",
            kPlain);
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

/// Of some writes without booster, each of which waits for the bricks.
Clock::duration slowest_plain_write(const ScratchDir& dir) {
  const std::string bytes = bytes_at(0, slow_size(), 1);
  const int fd = ::open(dir.file("plain").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  Clock::duration slowest{0};
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    EXPECT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(::fsync(fd), 0);
    slowest = std::max(slowest, Clock::now() - start);
  }
  ::close(fd);
  return slowest;
}

/// The brick has the write and does it later, whatever the daemon was told of it.
TEST_P(Death, WhatTheProgramWritesAfterAConnectionHasBrokenStays) {
  if (!full_run() && (Lab::get().shape != "one" || policy() != Policy::kShipped)) {
    GTEST_SKIP() << "only in full runs";
  }
  Daemon daemon(kDefaultQuarantine);
  // Every write, so that some are under way whatever else the machine does meanwhile.
  constexpr milliseconds kDelay{1000};
  const SlowBrick slow(kDelay, 100);
  constexpr int kFiles = 6;
  // Whether a write of them is under way when the connections break, which is what this is about.
  bool held = false;
  for (int attempt = 0; attempt < 5 && !held; ++attempt) {
    ScratchDir dir;
    std::vector<std::unique_ptr<Puppet>> puppets;
    for (int i = 0; i < kFiles; ++i) {
      write_file(dir.file(std::to_string(i)), "");
      puppets.push_back(std::make_unique<Puppet>());
      ASSERT_EQ(puppets.back()->tell("open", "a", "rw", dir.file(std::to_string(i))), "0");
    }
    boost_all(daemon, puppets);
    const std::string done = std::to_string(slow_size());
    for (const auto& puppet : puppets) puppet->order("pwrite", "a", 0, slow_size(), 2);
    std::this_thread::sleep_for(milliseconds(200));
    const uint64_t errors = daemon.stats().totals().errors();
    cut_connections(daemon);
    held = comes_true([&] { return daemon.stats().held_answers() > 0; }, std::chrono::seconds(3));
    for (const auto& puppet : puppets) {
      EXPECT_EQ(puppet->answer(), done);
      // An error of a logged write is told once, and the program decides.
      EXPECT_TRUE(comes_true([&] {
        return puppet->tell("pwrite", "a", 0, slow_size(), 3) == done &&
               puppet->tell("fsync", "a") == "0";
      }));
    }
    if (held) {
      EXPECT_GT(daemon.stats().totals().errors(), errors);
    }
    EXPECT_EQ(daemon.stats().held_answers(), 0U);
    // That it was kept back is no sign of slow bricks; that writes without booster are slow is.
    const auto usual = std::chrono::ceil<milliseconds>(12 * slowest_plain_write(dir));
    EXPECT_LT(daemon.stats().quarantine_ms(),
              static_cast<uint64_t>(std::max(milliseconds(20'000), usual).count()));
    for (const auto& puppet : puppets) puppet->leave();
    // Time for whatever is still queued.
    std::this_thread::sleep_for(2 * kDelay + milliseconds(500));
    for (int i = 0; i < kFiles; ++i) {
      EXPECT_TRUE(read_past_caches(dir.file(std::to_string(i)), slow_size()) ==
                  bytes_at(0, slow_size(), 3))
          << i;
    }
  }
  EXPECT_TRUE(held) << kTooLittle;
}

// --- stopped -----------------------------------------------------------------------------------

TEST_P(Death, AStoppedDaemonIsWaitedForAndNothingIsDoneTwice) {
  Daemon daemon;
  ScratchDir dir;
  Puppet writer;
  Puppet reader;
  // What it reads, and what it writes while the daemon is stopped.
  constexpr size_t kRead = 2 << 20;
  const size_t size = paying(51200);
  const std::string right = std::to_string(size);
  write_file(dir.file("a"), bytes_at(0, kRead, 1));
  ASSERT_EQ(writer.tell("open", "w", "rw+creat", dir.file("w")), "0");
  until_boosted(daemon, Moves::kWrites,
                [&] { ASSERT_EQ(writer.tell("pwrite", "w", 0, size, 1), right); });
  ASSERT_EQ(writer.tell("fsync", "w"), "0");
  ASSERT_EQ(reader.tell("open", "a", "r", dir.file("a")), "0");
  until_boosted(daemon, Moves::kReads, [&] {
    forget(dir.file("a"));
    ASSERT_EQ(reader.tell("pread", "a", 0, kRead, 1), std::to_string(kRead));
  });
  const admin::Totals before = daemon.stats().totals();
  // On a disperse volume a client keeps its lock on the file for a second, and while it is stopped
  // it gives nothing back: every other client waits, this test's FUSE included.
  if (Lab::get().shape == "disperse") std::this_thread::sleep_for(milliseconds(1500));

  daemon.signal(SIGSTOP);
  EXPECT_EQ(writer.tell("pwrite", "w", size, size, 1), right);  // into the log
  writer.order("fsync", "w");
  auto written = std::async(std::launch::async, [&] { return writer.answer(); });
  EXPECT_EQ(written.wait_for(milliseconds(3000)), std::future_status::timeout);
  EXPECT_EQ(file_size(dir.file("w")), size) << "something went through FUSE";
  // A cache that nobody keeps valid is not read; FUSE is.
  if (Lab::get().shape != "disperse") {
    EXPECT_EQ(reader.tell("pread", "a", 0, kRead, 1), std::to_string(kRead));
  }

  // Programs that start now use FUSE, unless they are told to wait.
  write_file(dir.file("c"), bytes_at(0, 51200, 1));
  const RunResult other = run({"dd", "if=" + dir.file("c"), "of=" + dir.file("b"), "bs=1000",
                               "conv=notrunc", "status=none"},
                              {.eager = false});
  EXPECT_EQ(other.status, 0) << other.err;
  EXPECT_EQ(other.err, "");
  EXPECT_TRUE(read_file(dir.file("b")) == bytes_at(0, 51200, 1));

  daemon.signal(SIGCONT);
  EXPECT_EQ(written.get(), "0");
  const admin::Totals after = daemon.stats().totals();
  EXPECT_GT(after.logged_calls(), before.logged_calls());
  EXPECT_EQ(after.write_bytes() - before.write_bytes(), size);
  writer.leave();
  EXPECT_TRUE(read_file(dir.file("w")) == bytes_at(0, 2 * size, 1));
}

TEST_P(Death, AStoppedDaemonThatIsKilledIsADeadDaemon) {
  Daemon daemon("[failure]\nquarantine_min_ms = 300\n");
  ScratchDir dir;
  Puppet puppet;
  const size_t size = paying(51200);
  const size_t little = paying(1024);
  ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
  until_boosted(daemon, Moves::kWrites,
                [&] { ASSERT_EQ(puppet.tell("pwrite", "a", 0, size, 1), std::to_string(size)); });
  daemon.signal(SIGSTOP);
  puppet.order("pwrite", "a", 20480, size, 1);
  std::this_thread::sleep_for(milliseconds(300));
  daemon.kill(SIGKILL);
  EXPECT_EQ(puppet.answer(), std::to_string(size));
  EXPECT_EQ(puppet.tell("pread", "a", 0, size + 20480, 1), std::to_string(size + 20480));
  daemon.start();
  until_boosted(daemon, Moves::kWrites, [&] {
    ASSERT_EQ(puppet.tell("pwrite", "a", 0, little, 1), std::to_string(little));
  });
  puppet.leave();
  EXPECT_TRUE(read_file(dir.file("a")) == bytes_at(0, size + 20480, 1));
}

// --- missing, or not a daemon ------------------------------------------------------------------

/// Whoever answers on the control socket instead of boosterd.
class FakeDaemon {
 public:
  enum Manner { kWrongAbi, kTooManySessions, kHangsUp, kSilent, kGarbage, kWrongMemory };

  explicit FakeDaemon(Manner manner, uid_t uid = 0) : manner_(manner) {
    ::mkdir("/run/booster", 0755);
    ::unlink(common::kControlSocket);
    listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, common::kControlSocket);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    // Clients are told who listened, as of now.
    EXPECT_EQ(::seteuid(uid), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    EXPECT_EQ(::seteuid(0), 0);
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeDaemon() {
    stop_ = true;
    thread_.join();
    for (int client : clients_) ::close(client);
    ::close(listener_);
    ::unlink(common::kControlSocket);
  }
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;

  int connections() const { return connections_; }
  int packets() const { return packets_; }
  uint32_t abi_seen() const { return abi_seen_; }

 private:
  void serve() {
    while (!stop_) {
      pollfd waiting{listener_, POLLIN, 0};
      if (::poll(&waiting, 1, 20) != 1) continue;
      const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) continue;
      ++connections_;
      char packet[common::kMaxPacket];
      const ssize_t got = ::recv(client, packet, sizeof(packet), 0);
      control::ToDaemon hello;
      if (got > 0) {
        ++packets_;
        if (hello.ParseFromArray(packet, static_cast<int>(got))) {
          abi_seen_ = hello.hello().abi_version();
        }
      }
      answer(client);
      if (manner_ == kSilent) {
        clients_.push_back(client);
      } else {
        ::close(client);
      }
    }
  }

  void answer(int client) const {
    control::FromDaemon message;
    switch (manner_) {
      case kWrongAbi: message.mutable_refusal()->set_code(control::Refusal::WRONG_ABI); break;
      case kTooManySessions:
        message.mutable_refusal()->set_code(control::Refusal::TOO_MANY_SESSIONS);
        break;
      case kWrongMemory:  // and no descriptor
        message.mutable_welcome()->set_abi_version(common::kAbiVersion);
        message.mutable_welcome()->set_memory_bytes(common::kSessionBytes);
        break;
      case kGarbage: ::send(client, "\377\377\377\377 what?", 10, MSG_NOSIGNAL); return;
      case kHangsUp:
      case kSilent: return;
    }
    const std::string packet = message.SerializeAsString();
    ::send(client, packet.data(), packet.size(), MSG_NOSIGNAL);
  }

  const Manner manner_;
  int listener_ = -1;
  std::atomic<bool> stop_{false};
  std::atomic<int> connections_{0};
  std::atomic<int> packets_{0};
  std::atomic<uint32_t> abi_seen_{0};
  std::vector<int> clients_;
  std::thread thread_;
};

/// A program's day, which must be the same whatever answers: writes, reads, copies, appends.
void expect_right_through_fuse(const RunOptions& options) {
  ScratchDir dir;
  const std::string source = Lab::get().dir + "/death-source";
  write_file(source, bytes_at(0, 300'000, 7));
  RunOptions in_dir = options;
  in_dir.cwd = dir.path();
  const RunResult result =
      shell("dd if='" + source +
                "' of=a bs=7000 status=none && cat a a > b && cp b c && "
                "echo end >> c && dd if=a of=c bs=1000 seek=3 count=5 conv=notrunc status=none && "
                "tail -c 4 c && cmp a <(head -c 300000 b)",
            in_dir);
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out, "end\n");
  EXPECT_EQ(result.err, "");
  const std::string bytes = bytes_at(0, 300'000, 7);
  EXPECT_TRUE(read_file(dir.file("a")) == bytes);
  EXPECT_TRUE(read_file(dir.file("b")) == bytes + bytes);
  std::string c = bytes + bytes + "end\n";
  c.replace(3000, 5000, bytes.substr(0, 5000));
  EXPECT_TRUE(read_file(dir.file("c")) == c);
}

/// Until one of the programs has found that it pays to ask, and the answering thread has seen it.
void until_asked(const FakeDaemon& fake, const RunOptions& options) {
  const auto asked = [&] { return fake.connections() > 0; };
  for (int i = 0; i < 5 && !asked(); ++i) expect_right_through_fuse(options);
  if (!comes_true(asked)) end_with_too_little("nobody has asked");
}

TEST_P(Death, WithoutADaemonProgramsUseFuse) {
  ::unlink(common::kControlSocket);
  expect_right_through_fuse({});
}

TEST_P(Death, WithWhateverAnswersProgramsUseFuse) {
  for (const auto manner : {FakeDaemon::kTooManySessions, FakeDaemon::kHangsUp,
                            FakeDaemon::kGarbage, FakeDaemon::kWrongMemory}) {
    const FakeDaemon fake(manner);
    for (int i = 0; i < 3 && fake.packets() == 0; ++i) expect_right_through_fuse({});
    ASSERT_GT(fake.packets(), 0) << manner << ", " << fake.connections() << " connections"
                                 << kTooLittle;
    EXPECT_EQ(fake.abi_seen(), common::kAbiVersion) << manner;
  }
  const FakeDaemon silent(FakeDaemon::kSilent);
  until_asked(silent, {.eager = false});
}

TEST_P(Death, ADaemonOfAnotherVersionIsToldOfOnceAndLeftAlone) {
  const FakeDaemon fake(FakeDaemon::kWrongAbi);
  const std::string log = Lab::get().dir + "/wrong-version.log";
  ScratchDir dir;
  Puppet puppet({.env = {{"GLFS_BOOSTER_LOGFILE", log}}});
  const auto until = Clock::now() + milliseconds(3500);
  for (int i = 0; Clock::now() < until; ++i) {
    ASSERT_EQ(puppet.tell("make-and-check", dir.file("a"), paying(20480), i), "right");
  }
  puppet.leave();
  EXPECT_LE(fake.connections(), 1);
  ASSERT_GE(fake.connections(), 1) << "nobody has asked" << kTooLittle;
  const std::string lines = read_file(log);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << lines;
  EXPECT_NE(lines.find("version"), std::string::npos) << lines;
  ::unlink(log.c_str());
}

TEST_P(Death, AMissingDaemonIsLookedForAtMostOnceASecond) {
  const FakeDaemon fake(FakeDaemon::kHangsUp);
  ScratchDir dir;
  const auto start = Clock::now();
  Puppet puppet;
  while (Clock::now() - start < milliseconds(4500)) {
    ASSERT_EQ(puppet.tell("make-and-check", dir.file("a"), paying(20480), 1), "right");
  }
  puppet.leave();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start);
  EXPECT_GE(fake.connections(), 2) << "it is not looked for again" << kTooLittle;
  EXPECT_LE(fake.connections(), seconds.count() + 2);
}

TEST_P(Death, ADaemonThatIsNotRootsIsToldNothing) {
  const FakeDaemon fake(FakeDaemon::kHangsUp, 65534);
  until_asked(fake, {});
  EXPECT_EQ(fake.packets(), 0);
}

TEST_P(Death, WhenADaemonComesLateRunningProgramsAreBoosted) {
  ::unlink(common::kControlSocket);
  ScratchDir dir;
  Puppet puppet({.eager = false});
  ASSERT_EQ(puppet.tell("open", "a", "rw+creat", dir.file("a")), "0");
  ASSERT_EQ(puppet.tell("pwrite", "a", 0, 102400, 1), "102400");
  Daemon daemon;
  EXPECT_TRUE(comes_true([&] {
    EXPECT_EQ(puppet.tell("pwrite", "a", 0, 102400, 2), "102400");
    EXPECT_EQ(puppet.tell("pread", "a", 0, 102400, 2), "102400");
    return daemon.boosted_write_bytes() > 0 && daemon.boosted_read_bytes() > 0;
  })) << kTooLittle;
  puppet.leave();
  EXPECT_TRUE(read_file(dir.file("a")) == bytes_at(0, 102400, 2));
}

}  // namespace
}  // namespace booster::test
