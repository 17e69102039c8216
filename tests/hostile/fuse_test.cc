// A user's own file system against the daemon: it calls itself GlusterFS, answers any gfid, takes
// over a device number, or never answers at all. The daemon must neither believe it nor wait for
// it.
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <list>
#include <sstream>

#include "tests/hostile/fixture.h"

namespace booster::test {
namespace {

using common::Op;

/// FUSE for users, as on a machine with udev, and with allow_other; in this lab host alone.
void let_users_mount() {
  static const bool once = [] {
    const std::string dir = "/run/hostile";
    ::mkdir(dir.c_str(), 0755);
    ::mknod((dir + "/fuse").c_str(), S_IFCHR | 0666, makedev(10, 229));
    ::chmod((dir + "/fuse").c_str(), 0666);
    write_file(dir + "/fuse.conf", "user_allow_other\n");
    // fusermount3 wants to know the name of its caller.
    write_file(dir + "/passwd", read_file("/etc/passwd") + "mallory:x:" + std::to_string(kMallory) +
                                    ":" + std::to_string(kMallory) + "::/:/bin/sh\n");
    const auto cover = [&dir](const char* name, const char* path) {
      return ::mount((dir + "/" + name).c_str(), path, nullptr, MS_BIND, nullptr) == 0;
    };
    return cover("fuse", "/dev/fuse") && cover("fuse.conf", "/etc/fuse.conf") &&
           cover("passwd", "/etc/passwd");
  }();
  ASSERT_TRUE(once);
}

dev_t device_of(const std::string& path) {
  struct statx status {};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, 0, &status) != 0) return 0;
  return makedev(status.stx_dev_major, status.stx_dev_minor);
}

std::string gfid_of(const std::string& path) {
  std::string gfid(16, '\0');
  EXPECT_EQ(::getxattr(path.c_str(), "glusterfs.gfid", gfid.data(), gfid.size()), 16) << path;
  return gfid;
}

std::string hex(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[(static_cast<unsigned char>(byte) >> 4)];
    text += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

/// A directory of a user's outside the volume.
std::string new_directory(uid_t owner) {
  std::string path = Lab::get().dir + "/hostile.XXXXXX";
  EXPECT_NE(::mkdtemp(path.data()), nullptr);
  EXPECT_EQ(::chown(path.c_str(), owner, owner), 0);
  return path;
}

/// Mallory's file system, mounted with fusermount3, which claims that its "file" is `model`.
class FakeGluster {
 public:
  explicit FakeGluster(const std::string& model, const std::vector<std::string>& options = {},
                       const std::string& at = new_directory(kMallory))
      : mount_point_(at), log_(new_directory(kMallory) + "/log") {
    let_users_mount();
    std::vector<std::string> words{
        hostile_program("fake_gluster"), mount_point_, hex(gfid_of(model)),
        std::to_string(inode_of(model)), "65536",      log_};
    words.insert(words.end(), options.begin(), options.end());
    server_.emplace(words, RunOptions{.preload = false, .uid = kMallory});
    if (server_->read_line() != "ready") {
      throw std::runtime_error("fake_gluster: " + server_->wait().err);
    }
  }
  ~FakeGluster() { end(); }
  FakeGluster(const FakeGluster&) = delete;
  FakeGluster& operator=(const FakeGluster&) = delete;

  std::string file() const { return mount_point_ + "/file"; }
  const std::string& mount_point() const { return mount_point_; }

  void tell(const std::string& command) {
    server_->write_line(command);
    ASSERT_EQ(server_->read_line(), command);
  }
  std::string log() const { return read_file(log_); }
  /// Whether so many requests come to wait for an answer that it does not give.
  bool holds(int count = 1) const {
    return within(kPatience, [&] {
      int waiting = 0;
      std::istringstream lines(log());
      for (std::string line; std::getline(lines, line);) waiting += line.ends_with(" silent");
      return waiting >= count;
    });
  }

  /// First the server, which frees everybody who waits for it; then the mount.
  void end() {
    if (!server_) return;
    server_.reset();
    ::umount2(mount_point_.c_str(), MNT_DETACH);
  }

 private:
  const std::string mount_point_;
  const std::string log_;
  std::optional<Child> server_;
};

std::string mount_line(const std::string& mount_point) {
  std::istringstream table(read_file("/proc/self/mountinfo"));
  for (std::string line; std::getline(table, line);) {
    if (line.find(" " + mount_point + " ") != std::string::npos) return line;
  }
  return "";
}

/// Told to stop, the daemon does: neither a thread nor a client of it waits for the FUSE.
void expect_ends_on_sigterm(const Daemon& daemon, const DaemonClient& client) {
  daemon.signal(SIGTERM);
  EXPECT_TRUE(within(kPatience, [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(daemon.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid == daemon.pid();
  })) << "boosterd does not end";
  EXPECT_TRUE(client.wait_hung_up(kPatience)) << "clients do not see that boosterd has ended";
}

// --- not believed ------------------------------------------------------------------------

/// Engages `file` read-write and reads from whatever that gave.
void engage_and_read(Talk& talk, const std::string& file) {
  const auto client = new_session();
  const Fd fd(file, O_RDWR);
  talk.say(engage(*client, fd.get()));
  if (!client->hung_up()) talk.say(request(*client, Op::kRead, 0, 4096));
  const std::string zeroes(4096, '\0');
  talk.say(std::memcmp(client->payload(0), zeroes.data(), zeroes.size()) == 0 ? "nothing"
                                                                              : "bytes");
}

TEST_F(Hostile, AUsersOwnMountIsNotBelieved) {
  Daemon& daemon = boosterd();
  EXPECT_EQ(as_user(kMallory, [&](Talk& talk) { engage_and_read(talk, open_file()); }),
            "granted rw; 4096 bytes; bytes");
  for (const char* option : {"rw", "allow_other"}) {
    const FakeGluster fake(secret(), {option});
    const std::string line = mount_line(fake.mount_point());
    EXPECT_NE(line.find(" - fuse.glusterfs 10.89.0.1:/vol1 "), std::string::npos) << line;
    EXPECT_NE(line.find("user_id=12345"), std::string::npos) << line;
    const std::string gfid = gfid_of(secret());
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        talk.say(gfid_of(fake.file()) == gfid &&
                                         inode_of(fake.file()) == inode_of(secret())
                                     ? "passes for the secret"
                                     : "is another");
                      }),
              "passes for the secret");
    EXPECT_EQ(as_user(kMallory, [&](Talk& talk) { engage_and_read(talk, fake.file()); }),
              "not-genuine-mount; EBADF; nothing")
        << option;
    // Nor with the number of a descriptor that is the real thing, or the other way round.
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const Fd real(open_file(), O_RDWR);
                        const Fd unreal(fake.file(), O_RDWR);
                        talk.say(engage_with(*client, unreal.get(), real.get(), 0));
                        talk.say(engage_with(*client, real.get(), unreal.get(), 1));
                        talk.say(engage_with(*client, Fd(secret(), O_PATH).get(), unreal.get(), 2));
                        talk.say(engage_with(*client, real.get(), real.get(), 3));
                      }),
              strcmp(option, "rw") == 0
                  ? "not-proven; not-genuine-mount; not-genuine-mount; granted rw"
                  : "not-proven; not-proven; not-proven; granted rw")
        << option;
    const std::string asked = "pid=" + std::to_string(daemon.pid()) + " ";
    EXPECT_EQ(fake.log().find(asked), std::string::npos)
        << "the daemon has asked it: " << fake.log();
    EXPECT_NE(fake.log().find("pid="), std::string::npos);
  }
}

TEST_F(Hostile, ARootsOwnMountInItsOwnNamespaceIsNotBelieved) {
  boosterd();
  let_users_mount();
  const std::string mount_point = new_directory(kMallory);
  const std::string log = new_directory(kMallory) + "/log";
  const std::string gfid = hex(gfid_of(secret()));
  const std::string inode = std::to_string(inode_of(secret()));
  EXPECT_EQ(
      as_user(kMallory,
              [&](Talk& talk) {
                if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
                  throw std::runtime_error("unshare");
                write_file("/proc/self/setgroups", "deny");
                write_file("/proc/self/uid_map", "0 12345 1");
                write_file("/proc/self/gid_map", "0 12345 1");
                Child server(
                    {hostile_program("fake_gluster"), mount_point, gfid, inode, "65536", log},
                    {.preload = false});
                talk.say(server.read_line());
                // The kernel shows the owner as seen from the mount's user namespace.
                const std::string line = mount_line(mount_point);
                talk.say(line.find("fuse.glusterfs") != std::string::npos &&
                                 line.find("user_id=0") != std::string::npos
                             ? "looks genuine"
                             : line);
                engage_and_read(talk, open_file());
                engage_and_read(talk, mount_point + "/file");
              }),
      "ready; looks genuine; granted rw; 4096 bytes; bytes; not-genuine-mount; EBADF; nothing");
}

// --- not waited for ----------------------------------------------------------------------

TEST_F(Hostile, AMountThatNeverAnswersIsNotAskedAnything) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*honest_client, honest_fd.get()), "granted r");
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(fake.file(), O_RDWR);
    talk.say("open");
    talk.hear();
    for (uint32_t slot = 0; slot < 8; ++slot) {
      talk.say(engage_with(*client, file.get(), file.get(), slot));
    }
    talk.hear();
    // Closing sends FLUSH, which is not answered: this process stays until the server has gone.
    ::_exit(0);
  });
  ASSERT_EQ(mallory.hear(), "open");
  fake.tell("silent");
  mallory.say("");
  for (int i = 0; i < 8; ++i) EXPECT_EQ(mallory.hear(), "not-genuine-mount");
  EXPECT_EQ(still_honest(*honest_client), "served");
  EXPECT_EQ(honest(), "served");
  const std::string asked = "pid=" + std::to_string(daemon.pid()) + " ";
  EXPECT_EQ(fake.log().find(asked), std::string::npos) << "the daemon has asked it: " << fake.log();

  expect_ends_on_sigterm(daemon, *honest_client);
  fake.end();
  daemon.kill();
  daemon.start();
}

/// Engages a descriptor and sends it along, which newer kernels refuse on the daemon's behalf.
std::string engage_and_send(DaemonClient& client, int fd) {
  if (!client.send(client.engage_message(0, 1, fd, fd), {fd})) return "refused";
  return outcome(client, 0, 1);
}

TEST_F(Hostile, AnOpenDescriptorOfAMountThatNeverAnswersHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*honest_client, honest_fd.get()), "granted r");
  FakeGluster fake(secret(), {"allow_other"});
  // Whoever closes it waits for the answer to FLUSH, beyond SIGKILL.
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const Fd file(fake.file(), O_RDWR);
    talk.say("open");
    talk.hear();
    for (int i = 0; i < 8; ++i) {
      try {
        const auto client = new_session();
        talk.say(engage_and_send(*client, file.get()));
      } catch (const std::exception& e) {
        talk.say("refused");
      }
    }
    talk.hear();
    ::_exit(0);
  });
  ASSERT_EQ(mallory.hear(), "open");
  fake.tell("silent");
  mallory.say("");
  for (int i = 0; i < 8; ++i) {
    const std::string said = mallory.hear();
    EXPECT_TRUE(said == "ended" || said == "refused") << said;
  }
  EXPECT_EQ(still_honest(*honest_client), "served");
  EXPECT_EQ(honest(), "served");
  expect_ends_on_sigterm(daemon, *honest_client);
  fake.end();
  daemon.kill();
  daemon.start();
}

TEST_F(Hostile, ADaemonThatIsKilledWithSuchADescriptorIsSeenToBeDead) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const Fd file(fake.file(), O_RDWR);
    talk.say("open");
    talk.hear();
    const auto client = new_session();
    talk.say(engage_and_send(*client, file.get()));
    talk.hear();
    ::_exit(0);
  });
  ASSERT_EQ(mallory.hear(), "open");
  fake.tell("silent");
  mallory.say("");
  const std::string said = mallory.hear();
  EXPECT_TRUE(said == "ended" || said == "refused") << said;
  daemon.signal(SIGKILL);
  EXPECT_TRUE(honest_client->wait_hung_up(kPatience))
      << "clients of a daemon that was killed do not see it, and wait for its answers";
  fake.end();
  daemon.kill();
  daemon.start();
}

/// A thread in epoll_wait whose buffer is a page that never comes holds the epoll's lock, and so
/// does whoever asks the kernel about that epoll in /proc.
TEST_F(Hostile, ADescriptorWhoseFdinfoHangsHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*honest_client, honest_fd.get()), "granted r");
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd mine(open_file(), O_RDWR);
    const Fd file(fake.file(), O_RDWR);
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
    const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    const Fd event(::eventfd(1, EFD_CLOEXEC));
    epoll_event wanted{EPOLLIN, {}};
    if (page == MAP_FAILED || ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &wanted) != 0) {
      throw std::runtime_error("cannot prepare");
    }
    talk.say(std::to_string(epoll.get()));
    talk.hear();
    std::thread([&] { ::epoll_wait(epoll.get(), static_cast<epoll_event*>(page), 1, 0); }).detach();
    std::this_thread::sleep_for(milliseconds(100));
    talk.say("stuck");
    talk.hear();
    talk.say(engage_with(*client, mine.get(), epoll.get()));
    talk.say(engage_with(*client, mine.get(), mine.get(), 1));
    talk.hear();
    ::_exit(0);
  });
  const std::string number = mallory.hear();
  fake.tell("silent");
  mallory.say("");
  ASSERT_EQ(mallory.hear(), "stuck");
  ASSERT_TRUE(fake.holds()) << "nobody holds the epoll's lock: the test shows nothing";
  const std::string fdinfo = "/proc/" + std::to_string(mallory.pid()) + "/fdinfo/" + number;
  UserProcess probe(0, [&](Talk& talk) { talk.say(read_file(fdinfo).empty() ? "?" : "read"); });
  const auto probe_state = [&] {
    const std::string stat = read_file("/proc/" + std::to_string(probe.pid()) + "/stat");
    return stat.substr(stat.rfind(')') + 2, 1);
  };
  EXPECT_TRUE(within(kPatience, [&] { return probe_state() == "D"; }))
      << "this kernel has no such trap: the test shows nothing";

  mallory.say("");
  const bool served = honest() == "served" && still_honest(*honest_client) == "served";
  EXPECT_TRUE(served) << "one client holds up all others";
  if (served) expect_ends_on_sigterm(daemon, *honest_client);
  fake.end();
  EXPECT_EQ(mallory.hear(), "not-proven");
  daemon.kill();
  daemon.start();
}

/// The same descriptor, but at a number that is a good one when the daemon looks for the first
/// time: now and then it is the trap when the daemon looks again.
TEST_F(Hostile, ANumberThatBecomesSuchADescriptorHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*honest_client, honest_fd.get()), "granted r");
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const Fd mine(open_file(), O_RDWR);
    const Fd file(fake.file(), O_RDWR);
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
    const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    const Fd event(::eventfd(1, EFD_CLOEXEC));
    epoll_event wanted{EPOLLIN, {}};
    if (page == MAP_FAILED || ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &wanted) != 0) {
      throw std::runtime_error("cannot prepare");
    }
    talk.say("open");
    talk.hear();
    std::thread([&] { ::epoll_wait(epoll.get(), static_cast<epoll_event*>(page), 1, 0); }).detach();
    std::this_thread::sleep_for(milliseconds(100));
    constexpr int kNumber = 77;
    ::dup2(mine.get(), kNumber);
    std::thread([&] {
      while (true) {
        ::dup2(epoll.get(), kNumber);
        ::dup2(mine.get(), kNumber);
      }
    }).detach();
    do {
      const auto client = new_session();
      for (uint32_t slot = 0; slot < 4000; ++slot) {
        client->send(client->engage_message(slot, 1, kNumber, mine.get()));
        outcome(*client, slot, 1);
      }
      talk.say("done");
    } while (talk.hear() == "again");
    ::_exit(0);
  });
  ASSERT_EQ(mallory.hear(), "open");
  fake.tell("silent");
  mallory.say("");
  EXPECT_EQ(mallory.hear(), "done");
  const auto met = [&daemon] {
    return read_file(daemon.log_path()).find("event=helper-hangs") != std::string::npos;
  };
  constexpr int kTries = 10;
  for (int i = 0; i < kTries && !met(); ++i) {
    mallory.say("again");
    EXPECT_EQ(mallory.hear(), "done");
  }
  EXPECT_TRUE(met()) << "the trap was never met: the test shows nothing" << kTooLittle;
  EXPECT_EQ(still_honest(*honest_client), "served");
  EXPECT_EQ(honest(), "served");
  expect_ends_on_sigterm(daemon, *honest_client);
  fake.end();
  daemon.kill();
  daemon.start();
}

/// A write(2) whose source never comes holds the kernel's lock on the file that is written for
/// ever: here on the session memory and on two files that the daemon has to fence.
TEST_F(Hostile, AWriteThatNeverEndsHoldsUpNoPumpAndNoFence) {
  Daemon& daemon = boosterd();
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*honest_client, honest_fd.get()), "granted r");
  const std::string other = make_file("other", pattern(64 << 10, 80), 0666);
  const std::string victim = make_file("victim", pattern(64 << 10, 81), 0666);
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd one(open_file(), O_RDWR);
    const Fd two(other, O_RDWR);
    std::vector<char*> pages;
    for (int i = 0; i < 3; ++i) {
      const Fd file(fake.file(), O_RDWR);  // closed while the server still answers
      void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0x4000 * i);
      // Or one request would bring all three.
      if (page == MAP_FAILED || ::madvise(page, 4096, MADV_RANDOM) != 0) {
        throw std::runtime_error("mmap");
      }
      pages.push_back(static_cast<char*>(page));
    }
    if (engage(*client, one.get(), 0) != "granted rw" ||
        engage(*client, two.get(), 1) != "granted rw" ||
        write_through(*client, 0, std::string(4096, 'm'), 0) != "4096 bytes" ||
        write_through(*client, 0, std::string(4096, 'm'), 1) != "4096 bytes") {
      throw std::runtime_error("cannot prepare");
    }
    client->memory().state.unsettled_in[0] = 1;
    client->memory().state.unsettled_in[1] = 1;
    talk.say("written");
    talk.hear();
    const int targets[] = {client->memory_fd(), one.get(), two.get()};
    for (size_t i = 0; i < 3; ++i) {
      if (::fork() != 0) continue;
      ::close(client->socket());
      ::pwrite(targets[i], pages[i], 4096, 0);
      ::_exit(0);
    }
    talk.say("started");
    talk.hear();
  });
  ASSERT_EQ(mallory.hear(), "written");
  fake.tell("silent");
  mallory.say("");
  ASSERT_EQ(mallory.hear(), "started");
  EXPECT_TRUE(fake.holds(3)) << "not all three wait: the test shows nothing" << kTooLittle;
  mallory.kill();
  EXPECT_EQ(still_honest(*honest_client), "served");
  EXPECT_EQ(honest(), "served");

  // Somebody else is killed: what he wrote is seen all the same.
  EXPECT_EQ(read_file(victim), pattern(64 << 10, 81));
  {
    UserProcess bob(kBob, [&](Talk& talk) {
      const auto client = new_session();
      const Fd mine(victim, O_RDWR);
      if (engage(*client, mine.get()) != "granted rw") throw std::runtime_error("engage");
      if (write_through(*client, 0, std::string(4096, 'b')) != "4096 bytes") {
        throw std::runtime_error("write");
      }
      client->memory().state.unsettled_in[0] = 1;
      talk.say("written");
      talk.hear();
    });
    ASSERT_EQ(bob.hear(), "written");
  }
  EXPECT_TRUE(within(
      kPatience,
      [&] { return read_file(daemon.log_path()).find("event=worker-stuck") != std::string::npos; }))
      << "no fence is stuck: the test shows nothing" << kTooLittle;
  EXPECT_TRUE(within(kPatience, [&] { return read_file(victim).starts_with("bbbb"); }));

  // It can end only when the lock is free, but its programs must not wait for that.
  daemon.signal(SIGTERM);
  EXPECT_TRUE(honest_client->wait_hung_up(kPatience));
  fake.end();
  daemon.kill();
  daemon.start();
}

/// Makes a file large enough to be cached, for as long as this lives.
class Large {
 public:
  explicit Large(std::string path)
      : path_(std::move(path)), size_(std::filesystem::file_size(path_)) {
    EXPECT_EQ(::truncate(path_.c_str(), 2 << 20), 0);
  }
  ~Large() { EXPECT_EQ(::truncate(path_.c_str(), static_cast<off_t>(size_)), 0); }
  Large(const Large&) = delete;
  Large& operator=(const Large&) = delete;

 private:
  const std::string path_;
  const uintmax_t size_;
};

/// Engages `fd` for reading in slot 0 and waits until the daemon has its page cache valid, so that
/// whoever opens the file is held up until the daemon has looked at him.
bool cached(DaemonClient& client, int fd) {
  return engage(client, fd) == "granted r" &&
         within(kPatience, [&] { return request(client, Op::kFill, 0, 4096) == "4096 bytes"; });
}

/// Whether a program of `uid` gets `file` open for reading. It is not told to close it.
bool can_open(uid_t uid, const std::string& file, std::list<UserProcess>& openers) {
  openers.emplace_back(uid, [&](Talk& talk) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    talk.say(fd >= 0 ? "open" : "cannot");
    talk.hear();
    ::pause();
  });
  return openers.back().hear() == "open";
}

TEST_F(Hostile, NobodyWhoOpensACachedFileWaitsForWhoHoldsItsLock) {
  Daemon& daemon = boosterd("[cache]\nbytes = 67108864\n");
  const Large honest(honest_file());
  const Large open(open_file());
  const auto honest_client = new_session();
  const Fd honest_fd(honest_file(), O_RDONLY);
  ASSERT_TRUE(cached(*honest_client, honest_fd.get()));
  FakeGluster fake(secret(), {"allow_other"});
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    void* page = nullptr;
    {
      const Fd file(fake.file(), O_RDWR);  // closed while the server still answers
      page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0);
    }
    {
      const Fd reader(open_file(), O_RDONLY);
      if (page == MAP_FAILED || !cached(*client, reader.get())) throw std::runtime_error("cached");
    }
    const int writer = ::open(open_file().c_str(), O_RDWR | O_CLOEXEC);
    talk.say("open");
    talk.hear();
    if (::fork() == 0) {
      ::close(client->socket());
      ::pwrite(writer, page, 4096, 0);
      ::_exit(0);
    }
    std::this_thread::sleep_for(milliseconds(300));
    talk.say("stuck");
    talk.hear();
  });
  ASSERT_EQ(mallory.hear(), "open");
  fake.tell("silent");
  mallory.say("");
  ASSERT_EQ(mallory.hear(), "stuck");

  std::list<UserProcess> openers;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(can_open(kBob, open_file(), openers));
  EXPECT_TRUE(can_open(kBob, honest_file(), openers));
  EXPECT_EQ(still_honest(*honest_client), "served");
  // The daemon's end frees everybody, whatever its threads wait for.
  daemon.signal(SIGKILL);
  EXPECT_TRUE(honest_client->wait_hung_up(kPatience));
  EXPECT_TRUE(can_open(kBob, honest_file(), openers));
  fake.end();
  daemon.kill();
  daemon.start();
}

TEST_F(Hostile, OnlyWhoMayReadGetsAPageCache) {
  boosterd("[cache]\nbytes = 67108864\n");
  const Large open(open_file());
  const auto client = new_session();
  const Fd reader(open_file(), O_RDONLY);
  const Fd writer(open_file(), O_WRONLY);
  const Fd both(open_file(), O_RDWR);
  EXPECT_EQ(engage(*client, reader.get(), 0), "granted r");
  EXPECT_EQ(engage(*client, writer.get(), 1), "granted w");
  EXPECT_EQ(engage(*client, both.get(), 2), "granted rw");
  EXPECT_NE(client->slot(0).flags & common::kHandleCached, 0U);
  EXPECT_EQ(client->slot(1).flags & common::kHandleCached, 0U);
  // For when he has it delegated for writing: nothing is filled, or valid, before.
  EXPECT_NE(client->slot(2).flags & common::kHandleCached, 0U);
  EXPECT_EQ(request(*client, Op::kFill, 0, 4096, 2), "ENODATA");
  // Asking for a fill without the right is a lie.
  EXPECT_NE(request(*client, Op::kFill, 0, 4096, 1), "4096 bytes");
  EXPECT_TRUE(client->wait_hung_up(kPatience));
}

// --- mounts that are replaced ------------------------------------------------------------

/// A mount of the lab's volume `volume` of the test's own.
class GlusterMount {
 public:
  explicit GlusterMount(const std::string& volume)
      : mount_point_(Lab::get().dir + "/mount-" + volume) {
    ::mkdir(mount_point_.c_str(), 0755);
    mount(volume);
  }
  ~GlusterMount() { ::umount2(mount_point_.c_str(), MNT_DETACH); }
  GlusterMount(const GlusterMount&) = delete;
  GlusterMount& operator=(const GlusterMount&) = delete;

  /// EBUSY is the test's or the daemon's fault.
  void unmount() const {
    EXPECT_TRUE(within(kPatience, [&] { return ::umount2(mount_point_.c_str(), 0) == 0; }))
        << mount_point_ << " is busy";
  }
  void mount(const std::string& volume) const {
    must("mount -t glusterfs 10.89.0.1:/" + volume + " " + mount_point_);
  }
  std::string file(const std::string& name) const { return mount_point_ + "/" + name; }
  dev_t device() const { return device_of(mount_point_); }

 private:
  const std::string mount_point_;
};

TEST_F(Hostile, AUsersMountAfterAnotherIsNotTakenForTheOldOne) {
  boosterd();
  const GlusterMount real("vol1");
  const std::string name = open_file().substr(Lab::get().mount.size() + 1);
  const std::string bytes = read_file(open_file());
  const dev_t device = real.device();
  const auto holder = new_session();
  {
    const Fd file(real.file(name), O_RDWR);
    ASSERT_EQ(engage(*holder, file.get()), "granted rw");
  }
  // Mallory has engaged a file of the real mount before, in the same session.
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    {
      const Fd file(real.file(name), O_RDWR);
      talk.say(engage(*client, file.get(), 0));
    }
    const Fd file(talk.hear(), O_RDWR);
    talk.say(engage(*client, file.get(), 1));
    talk.say(read_through(*client, 0, 4096, 0) == bytes.substr(0, 4096) ? "old" : "new");
    talk.say(request(*client, Op::kRead, 0, 4096, 1));
  });
  ASSERT_EQ(mallory.hear(), "granted rw");
  real.unmount();
  FakeGluster fake(secret(), {"allow_other"});
  // As long as anybody uses files of the old one, the daemon's own mount of it keeps the number.
  EXPECT_NE(device_of(fake.mount_point()), device);
  mallory.say(fake.file());
  EXPECT_EQ(mallory.hear(), "not-genuine-mount");
  EXPECT_EQ(mallory.hear(), "old");
  EXPECT_EQ(mallory.hear(), "EBADF");
  EXPECT_EQ(read_through(*holder, 4096, 4096), bytes.substr(4096, 4096));
  EXPECT_EQ(fake.log().find("pid=" + std::to_string(boosterd().pid()) + " "), std::string::npos)
      << fake.log();
  fake.end();
  real.mount("vol1");
  // The real one again, whatever its number is now.
  const Fd file(real.file(name), O_RDWR);
  EXPECT_EQ(engage(*holder, file.get(), 1), "granted rw");
  EXPECT_EQ(read_through(*holder, 0, 4096, 1), bytes.substr(0, 4096));
}

/// Puts a file with the gfid of another volume's file straight into a brick of a volume.
void plant(const std::string& volume, const std::string& name, const std::string& gfid,
           const std::string& bytes) {
  std::istringstream bricks(read_file(Lab::get().dir + "/bricks.list"));
  for (std::string line; std::getline(bricks, line);) {
    std::istringstream words(line);
    std::string number;
    std::string of;
    std::string path;
    words >> number >> of >> path;
    if (of != volume) continue;
    const std::string file = path + "/" + name;
    write_file(file, bytes);
    ::chmod(file.c_str(), 0666);
    ASSERT_EQ(::setxattr(file.c_str(), "trusted.gfid", gfid.data(), gfid.size(), 0), 0);
    std::string uuid = hex(gfid);
    for (const size_t at : {8U, 13U, 18U, 23U}) uuid.insert(at, "-");
    const std::string dir = path + "/.glusterfs/" + uuid.substr(0, 2) + "/" + uuid.substr(2, 2);
    std::filesystem::create_directories(dir);
    ASSERT_EQ(::link(file.c_str(), (dir + "/" + uuid).c_str()), 0);
  }
}

TEST_F(Hostile, AnotherVolumeInItsPlaceIsNotTakenForTheOldOne) {
  if (Lab::get().mounts.size() < 2) GTEST_SKIP() << "needs a second volume (lab run --volumes 2)";
  if (Lab::get().shape != "one") GTEST_SKIP() << "plants a file in a single brick";
  boosterd();
  // The same gfid on both volumes, so that a mistake reads the other volume's bytes and not ESTALE.
  const std::string first_bytes = pattern(64 << 10, 33);
  const std::string second_bytes = pattern(64 << 10, 34);
  const std::string name = "twin";
  const std::string path = Lab::get().mount + "/" + name;
  write_file(path, first_bytes);
  ::chmod(path.c_str(), 0666);
  plant("vol2", name, gfid_of(path), second_bytes);
  ASSERT_EQ(read_file(Lab::get().mounts[1] + "/" + name), second_bytes);
  ASSERT_EQ(gfid_of(Lab::get().mounts[1] + "/" + name), gfid_of(path));

  const GlusterMount mount("vol1");
  const dev_t device = mount.device();
  const auto client = new_session();
  {
    const Fd file(mount.file(name), O_RDWR);
    ASSERT_EQ(engage(*client, file.get()), "granted rw");
    ASSERT_EQ(read_through(*client, 0, 4096), first_bytes.substr(0, 4096));
  }
  mount.unmount();
  mount.mount("vol2");
  // As long as anybody uses files of the old one, the daemon's own mount of it keeps the number.
  EXPECT_NE(mount.device(), device);
  {
    const Fd file(mount.file(name), O_RDWR);
    ASSERT_EQ(engage(*client, file.get(), 1), "granted rw");
    EXPECT_EQ(read_through(*client, 0, 4096, 1), second_bytes.substr(0, 4096));
    EXPECT_EQ(read_through(*client, 0, 4096, 0), first_bytes.substr(0, 4096));
    // Each mount has its log.
    EXPECT_NE(client->log_of(0), client->log_of(1));
    EXPECT_EQ(write_through(*client, 0, std::string(4096, 'N'), 1), "4096 bytes");
    EXPECT_EQ(read_through(*client, 0, 4096, 0), first_bytes.substr(0, 4096));
    EXPECT_EQ(read_through(*client, 0, 4096, 1), std::string(4096, 'N'));
    // The first mount is gone, and with it what could be proven of its files.
    const std::string old(4096, 'O');
    EXPECT_EQ(write_through(*client, 4096, old, 0), "not delegated");
    EXPECT_EQ(read_through(*client, 4096, 4096, 1), second_bytes.substr(4096, 4096));
    // Who logs it all the same has lied, whichever log he takes.
    client->log_anyway(client->log_of(0), 0, 1, 4096, old);
    EXPECT_TRUE(client->wait_hung_up(kPatience));
    EXPECT_EQ(lies(), 1U);
  }
  {
    const auto other = new_session();
    const Fd file(mount.file(name), O_RDWR);
    ASSERT_EQ(engage(*other, file.get()), "granted rw");
    ASSERT_EQ(write_through(*other, 0, std::string(4096, 'N')), "4096 bytes");
    EXPECT_EQ(read_through(*other, 4096, 4096), second_bytes.substr(4096, 4096));
    other->log_anyway(1 - other->log_of(0), 0, 1, 4096, std::string(4096, 'O'));
    EXPECT_TRUE(other->wait_hung_up(kPatience));
    EXPECT_EQ(lies(), 2U);
  }
  EXPECT_TRUE(read_past_fuse(mount.file(name)) ==
              std::string(4096, 'N') + second_bytes.substr(4096));
  EXPECT_TRUE(read_past_fuse(path) == first_bytes);
  mount.unmount();
  mount.mount("vol1");
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace booster::test
