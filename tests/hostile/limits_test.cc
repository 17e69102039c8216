// A client that wants everything, says too much, listens to nothing, or stands still: refused or
// ended, at bounded cost, while another client works.
#include <sys/resource.h>

#include <atomic>
#include <random>
#include <set>

#include "tests/hostile/fixture.h"

namespace booster::test {
namespace {

using common::kHandleSlots;
using common::Op;

uint64_t resident_bytes(pid_t pid) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
  const size_t at = status.find("VmRSS:");
  return at == std::string::npos ? 0 : std::stoull(status.substr(at + 6)) * 1024;
}

/// An honest client at work in the background; how much it gets done shows what an attack costs
/// others.
class Worker {
 public:
  Worker(const std::string& path, const std::string& bytes) {
    const timeval patience{kPatience.count(), 0};
    client_ = new_session();
    ::setsockopt(client_->socket(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    file_ = Fd(path, O_RDONLY);
    const std::string said = engage(*client_, file_.get());
    if (said != "granted r") throw std::runtime_error(said);
    thread_ = std::thread([this, bytes] {
      uint64_t offset = 0;
      while (!stop_) {
        offset = (offset + 4096) % bytes.size();
        if (read_through(*client_, offset, 4096) != bytes.substr(offset, 4096)) {
          ++wrong_;
          if (client_->hung_up()) return;
        }
        ++done_;
      }
    });
  }
  ~Worker() {
    stop_ = true;
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Requests served since the last call; all of them must have been right.
  uint64_t done() {
    EXPECT_EQ(wrong_.load(), 0U);
    return done_.exchange(0);
  }
  /// It is served now, not only before and after.
  bool makes_progress() {
    done_ = 0;
    return within(kPatience, [&] { return done_ >= 100; }) && wrong_ == 0;
  }

 private:
  std::unique_ptr<DaemonClient> client_;
  Fd file_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0};
  std::atomic<uint64_t> wrong_{0};
  std::thread thread_;
};

std::string release_message(uint32_t slot) {
  control::ToDaemon message;
  message.mutable_release()->set_slot(slot);
  return message.SerializeAsString();
}

// --- handles -----------------------------------------------------------------------------

TEST_F(Hostile, ThousandsOfHandlesOfOneClientCostTheOthersNothing) {
  Daemon& daemon = boosterd();
  Worker worker(honest_file(), honest_bytes());
  const uint64_t before = resident_bytes(daemon.pid());
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(open_file(), O_RDWR);
    std::map<std::string, int> answers;
    for (uint32_t slot = 0; slot < kHandleSlots; ++slot) {
      client->send(client->engage_message(slot, 1, file.get(), file.get()));
      // Some of them all at once, to reach the limit of pending ones.
      if (slot % 512 == 511) {
        for (uint32_t back = slot - 511; back <= slot; ++back) {
          ++answers[outcome(*client, back, 1)];
        }
      }
    }
    const int granted = answers["granted rw"];
    const int limited = answers["limit"];
    talk.say(granted + limited == kHandleSlots ? "granted or limit" : "odd");
    talk.say(granted > 100 ? "many" : "few: " + std::to_string(granted));
    // What was refused is granted when it is asked for one by one.
    int asked_again = 0;
    for (uint32_t slot = 0; slot < kHandleSlots && asked_again < rounds(); ++slot) {
      if (client->slot(slot).state == common::HandleSlot::kReady) continue;
      ++asked_again;
      client->send(client->engage_message(slot, 2, file.get(), file.get()));
      if (outcome(*client, slot, 2) != "granted rw") talk.say("not granted");
    }
    talk.say("all");
    talk.hear();
  });
  EXPECT_EQ(mallory.hear(), "granted or limit");
  EXPECT_EQ(mallory.hear(), "many");
  EXPECT_EQ(mallory.hear(), "all");
  EXPECT_GT(handles(), 400U);
  EXPECT_TRUE(worker.makes_progress());
  EXPECT_LT(resident_bytes(daemon.pid()), before + (64U << 20));
  mallory.kill();
  EXPECT_TRUE(within(kPatience, [] { return handles() == 1; }));
  EXPECT_TRUE(worker.makes_progress());
}

TEST_F(Hostile, TheLimitOfHandlesHoldsAndIsGivenBack) {
  boosterd("[limits]\nhandles = 100\n");
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(open_file(), O_RDWR);
    std::map<std::string, int> answers;
    for (uint32_t slot = 0; slot < 150; ++slot) ++answers[engage(*client, file.get(), slot)];
    talk.say(std::to_string(answers["granted rw"]) + " granted, " +
             std::to_string(answers["limit"]) + " limit");
    client->release(0, 1);
    talk.say(engage(*client, file.get(), 120, 2));
    talk.say(engage(*client, file.get(), 121, 2));
    talk.hear();
  });
  EXPECT_EQ(mallory.hear(), "100 granted, 50 limit");
  EXPECT_EQ(mallory.hear(), "granted rw");
  EXPECT_EQ(mallory.hear(), "limit");
  EXPECT_EQ(honest(), "limit");
  mallory.kill();
  EXPECT_TRUE(within(kPatience, [&] { return honest() == "served"; }));
}

/// A GlusterFS mount whose client can be made to stand still.
class FrozenMount {
 public:
  FrozenMount() : path_(Lab::get().dir + "/frozen.XXXXXX") {
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
    must("mount -t glusterfs $BOOSTER_LAB_SERVER:/$BOOSTER_LAB_VOLUME " + path_);
    pid_ = std::stoi(shell("pgrep -f 'glusterfs.* " + path_ + "$'", {.preload = false}).out);
  }
  ~FrozenMount() {
    thaw();
    must("umount --lazy " + path_);
  }
  FrozenMount(const FrozenMount&) = delete;
  FrozenMount& operator=(const FrozenMount&) = delete;

  const std::string& path() const { return path_; }
  void freeze() const {
    ::kill(pid_, SIGSTOP);
    const std::string status = "/proc/" + std::to_string(pid_) + "/status";
    EXPECT_TRUE(within(kPatience,
                       [&] { return read_file(status).find("State:\tT") != std::string::npos; }));
  }
  void thaw() const { ::kill(pid_, SIGCONT); }

 private:
  std::string path_;
  pid_t pid_ = -1;
};

// What waits for a mount that hangs costs the daemon a descriptor, and counts until it is gone.
TEST_F(Hostile, OrdersForAMountThatHangsCountEvenWhenNobodyWantsThemAnyMore) {
  Daemon& daemon = boosterd("[limits]\npending_engages = 8\nsessions_per_uid = 3\n");
  FrozenMount frozen;
  const std::string path = frozen.path() + dir().file("open").substr(Lab::get().mount.size());
  std::vector<std::unique_ptr<UserProcess>> programs;
  for (int i = 0; i < 4; ++i) {
    programs.push_back(std::make_unique<UserProcess>(kMallory, [&](Talk& talk) {
      const Fd file(path, O_RDWR);
      talk.say("open");
      talk.hear();
      try {
        const auto client = new_session();
        talk.say("welcome");
        for (uint32_t slot = 1; slot <= 100; ++slot) {
          client->send(client->engage_message(slot, 1, file.get(), file.get()));
          // The first two make the threads hang that would drop the others.
          if (slot > 2) client->release(slot, 1);
        }
        talk.say(engage(*client, file.get(), 200));
      } catch (const std::exception&) {
        talk.say("no session");
      }
      talk.hear();
    }));
    EXPECT_EQ(programs.back()->hear(), "open");
  }
  EXPECT_EQ(as_user(kAlice,
                    [&](Talk& talk) {
                      const Fd file(path, O_RDWR);
                      const auto client = new_session();
                      talk.say(engage(*client, file.get()));
                    }),
            "granted rw");
  const size_t before = descriptors_of(daemon.pid()).size();
  frozen.freeze();
  for (int i = 0; i < 3; ++i) {
    programs[static_cast<size_t>(i)]->say("");
    EXPECT_EQ(programs[static_cast<size_t>(i)]->hear(), "welcome");
    EXPECT_EQ(programs[static_cast<size_t>(i)]->hear(), "limit");
  }
  // They have hung up, and left their orders.
  EXPECT_TRUE(within(kPatience, [] { return stats()->sessions_size() == 0; }));
  programs[3]->say("");
  EXPECT_EQ(programs[3]->hear(), "no session");
  // Of each its orders' files, its memory, and the hold on its process, which is two.
  EXPECT_LE(descriptors_of(daemon.pid()).size(), before + 3 * (8 + 3));
  EXPECT_EQ(honest(), "served");
  frozen.thaw();
  programs.clear();
  EXPECT_TRUE(within(kPatience, [&] {
    return as_user(kMallory, [&](Talk& talk) {
             const Fd file(path, O_RDWR);
             const auto client = new_session();
             talk.say(engage(*client, file.get()));
           }) == "granted rw";
  }));
}

// Nobody but the daemon can make FUSE forget what a killed program has changed.
TEST_F(Hostile, ADaemonThatIsStoppedFirstFencesWhatTheKilledHaveWritten) {
  Daemon& daemon = boosterd("[daemon]\ndrain_ms = 10000\n");
  FrozenMount frozen;
  const std::string path = frozen.path() + dir().file("open").substr(Lab::get().mount.size());
  UserProcess writer(kAlice, [&](Talk& talk) {
    const auto client = new_session();
    Fd file(path, O_RDWR);
    talk.say(engage(*client, file.get()));
    client->memory().state.unsettled_in[0].store(1);
    talk.say(write_through(*client, 0, std::string(4096, 'w')));
    file.close();  // it would wait for the mount in its end
    talk.say("closed");
    talk.hear();
  });
  EXPECT_EQ(writer.hear(), "granted rw");
  EXPECT_EQ(writer.hear(), "4096 bytes");
  EXPECT_EQ(writer.hear(), "closed");
  frozen.freeze();
  writer.kill();
  EXPECT_TRUE(without_sessions());
  const auto ended = [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(daemon.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid == daemon.pid();
  };
  daemon.signal(SIGTERM);
  EXPECT_FALSE(within(milliseconds(300), ended));
  frozen.thaw();
  EXPECT_TRUE(within(kPatience, ended));
  const std::string log = read_file(daemon.log_path());
  EXPECT_NE(log.find("event=stopped drained=true"), std::string::npos) << log;
  EXPECT_EQ(log.find("event=fence-failed"), std::string::npos) << log;
  daemon.kill();
  daemon.start();
}

TEST_F(Hostile, ASlotThatIsInUseCannotBeEngagedAgain) {
  boosterd();
  const uint64_t before = lies();
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      const auto client = new_session();
                      const Fd file(open_file(), O_RDWR);
                      const Fd other(honest_file(), O_RDONLY);
                      talk.say(engage(*client, file.get()));
                      client->engage_begin(other.get(), 0, 2);
                      talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                    }),
            "granted rw; ended");
  EXPECT_EQ(lies(), before + 1);
}

// --- connections and messages ------------------------------------------------------------

TEST_F(Hostile, AMessageOutOfTurnEndsTheSession) {
  boosterd();
  control::ToDaemon hello;
  hello.mutable_hello()->set_abi_version(common::kAbiVersion);
  control::ToDaemon engage_first;
  engage_first.mutable_engage()->set_slot(1);
  const std::string empty_body = control::ToDaemon().SerializeAsString();
  const struct {
    const char* name;
    std::vector<std::string> packets;
    uint64_t lies;
  } cases[] = {
      {"release before Hello", {release_message(0)}, 1},
      {"engage before Hello", {engage_first.SerializeAsString()}, 1},
      {"doorbell before Hello", {std::string(1, '\0')}, 1},
      {"Hello twice", {hello.SerializeAsString(), hello.SerializeAsString()}, 1},
      {"garbage", {hello.SerializeAsString(), "\xff\xff\xff\xff"}, 1},
      {"garbage at first", {"\xff\xff\xff\xff"}, 1},
      {"a long packet", {hello.SerializeAsString(), std::string(common::kMaxPacket + 1, 'a')}, 1},
      {"a very long packet", {hello.SerializeAsString(), std::string(100'000, 'a')}, 1},
      {"a slot too high", {hello.SerializeAsString(), release_message(kHandleSlots)}, 1},
      {"engage without a nonce", {hello.SerializeAsString(), engage_first.SerializeAsString()}, 1},
      {"one byte that is no doorbell", {hello.SerializeAsString(), "\x01"}, 1},
      {"an empty packet", {hello.SerializeAsString(), empty_body}, 0},
  };
  for (const auto& attack : cases) {
    const uint64_t before = lies();
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const DaemonClient client(common::kControlSocket);
                        for (const std::string& packet : attack.packets) {
                          if (!send_packet(client.socket(), packet, {})) talk.say("not sent");
                        }
                        talk.say(client.wait_hung_up(kPatience) ? "ended" : "goes on");
                      }),
              "ended")
        << attack.name;
    EXPECT_EQ(lies(), before + attack.lies) << attack.name;
  }
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      const DaemonClient client(common::kControlSocket);
                      send_packet(client.socket(), hello.SerializeAsString(), {});
                      send_packet(client.socket(), release_message(1), {});
                      talk.say(client.wait_hung_up(milliseconds(300)) ? "ended" : "goes on");
                    }),
            "goes on");
  // Another version is refused, and is no lie.
  const uint64_t before = lies();
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      DaemonClient client(common::kControlSocket);
                      const auto refusal = client.hello(common::kAbiVersion + 1);
                      talk.say(refusal ? control::Refusal::Code_Name(*refusal) : "welcome");
                      talk.say(client.wait_hung_up(kPatience) ? "ended" : "goes on");
                    }),
            "WRONG_ABI; ended");
  EXPECT_EQ(lies(), before);
}

TEST_F(Hostile, ConnectionsThatSayNothingAreLimitedAndEnded) {
  Daemon& daemon = boosterd("[limits]\nsessions_per_uid = 50\nsessions = 200\n");
  Worker worker(honest_file(), honest_bytes());
  const size_t descriptors = descriptors_of(daemon.pid()).size();
  UserProcess mallory(kMallory, [&](Talk& talk) {
    std::vector<std::unique_ptr<DaemonClient>> silent;
    for (int i = 0; i < 300; ++i) {
      silent.push_back(std::make_unique<DaemonClient>(common::kControlSocket));
    }
    talk.say("connected");
    const auto hung_up = [&] {
      return std::count_if(silent.begin(), silent.end(),
                           [](const auto& client) { return client->hung_up(); });
    };
    talk.say(within(kPatience, [&] { return hung_up() >= 250; }) ? "limited" : "not limited");
    talk.hear();
    within(kPatience, [&] { return hung_up() == 300; });
    talk.say(std::to_string(hung_up()));
    silent.clear();
    talk.say(new_session() ? "welcome" : "");
  });
  EXPECT_EQ(mallory.hear(), "connected");
  // Those above the limit at once, the others when they have been silent for too long.
  EXPECT_EQ(mallory.hear(), "limited");
  EXPECT_EQ(stats()->totals().sessions_refused(), 250U);
  EXPECT_TRUE(worker.makes_progress());
  EXPECT_EQ(as_user(kAlice,
                    [&](Talk& talk) {
                      const auto client = new_session();
                      const Fd file(open_file(), O_RDWR);
                      talk.say(engage(*client, file.get()));
                    }),
            "granted rw");
  mallory.say("");
  EXPECT_EQ(mallory.hear(), "300");
  EXPECT_EQ(mallory.hear(), "welcome");
  EXPECT_TRUE(
      within(kPatience, [&] { return descriptors_of(daemon.pid()).size() <= descriptors + 5; }));
}

TEST_F(Hostile, AFloodOfPacketsHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  Worker worker(honest_file(), honest_bytes());
  ASSERT_TRUE(worker.makes_progress());
  const uint64_t before = resident_bytes(daemon.pid());
  const struct {
    const char* name;
    std::function<std::string(DaemonClient&)> packet;
  } floods[] = {
      {"releases", [](DaemonClient&) { return release_message(5); }},
      {"doorbells", [](DaemonClient&) { return std::string(1, '\0'); }},
  };
  for (const auto& flood : floods) {
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const std::string packet = flood.packet(*client);
                        int sent = 0;
                        const int wanted = rounds("packets");
                        for (; sent < wanted && send_packet(client->socket(), packet, {}); ++sent) {
                        }
                        talk.say(sent == wanted ? "all sent" : std::to_string(sent));
                        const Fd file(open_file(), O_RDWR);
                        talk.say(engage(*client, file.get()));
                        talk.say(request(*client, Op::kRead, 0, 16));
                      }),
              "all sent; granted rw; 16 bytes")
        << flood.name;
    EXPECT_TRUE(worker.makes_progress()) << flood.name;
  }
  // Engages that are refused, each of which makes the daemon look at /proc.
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      const auto client = new_session();
                      const Fd file(open_file(), O_RDWR);
                      const uint32_t wanted = static_cast<uint32_t>(rounds("engages"));
                      for (uint32_t i = 1; i <= wanted; ++i) {
                        client->send(client->engage_message(0, i, 900, file.get()));
                      }
                      talk.say(outcome(*client, 0, wanted));
                      talk.say(engage(*client, file.get(), 1));
                    }),
            "not-proven; granted rw");
  EXPECT_TRUE(worker.makes_progress());
  EXPECT_LT(resident_bytes(daemon.pid()), before + (64U << 20));
}

TEST_F(Hostile, AClientThatFillsItsSocketAndNeverReadsHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  Worker worker(honest_file(), honest_bytes());
  // While the daemon is stopped the packets pile up.
  constexpr int kClients = 20;
  std::vector<std::unique_ptr<UserProcess>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<UserProcess>(kMallory, [&](Talk& talk) {
      const auto client = new_session();
      const Fd file(open_file(), O_RDWR);
      talk.say("ready");
      talk.hear();
      int sent = 0;
      uint32_t slot = 0;
      while (send_packet(client->socket(),
                         client->engage_message(slot % kHandleSlots, 1, file.get(), file.get())
                             .SerializeAsString(),
                         {}, MSG_DONTWAIT)) {
        ++sent;
        ++slot;
      }
      talk.say(sent > 10 ? "full" : "not full");
      talk.hear();
    }));
    ASSERT_EQ(clients.back()->hear(), "ready");
  }
  stop(daemon);
  for (const auto& client : clients) {
    client->say("");
    EXPECT_EQ(client->hear(), "full");
    client->signal(SIGSTOP);
  }
  daemon.signal(SIGCONT);
  EXPECT_TRUE(worker.makes_progress());
  EXPECT_EQ(honest(), "served");
  clients.clear();
  EXPECT_TRUE(worker.makes_progress());
}

// --- requests ----------------------------------------------------------------------------

TEST_F(Hostile, ClientsThatNeverStopAskingLeaveTheirNeighboursTheirShare) {
  boosterd();
  Worker worker(honest_file(), honest_bytes());
  ASSERT_TRUE(worker.makes_progress());
  worker.done();
  std::this_thread::sleep_for(milliseconds(500));
  const uint64_t alone = worker.done();
  std::vector<std::unique_ptr<UserProcess>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<UserProcess>(kMallory, [&, i](Talk& talk) {
      const auto client = new_session();
      const Fd file(open_file(), O_RDWR);
      if (engage(*client, file.get()) != "granted rw") return;
      talk.say("ready");
      // Half of them ask for nothing but refusals, as fast as they can.
      const uint32_t generation = i % 2 == 0 ? 1 : 2;
      while (!client->hung_up()) {
        for (uint32_t lane = 0; lane < common::kLanes; ++lane) {
          client->submit(lane, Op::kRead, 0, generation, 0, 65536);
        }
        for (uint32_t lane = 0; lane < common::kLanes; ++lane) {
          while (client->memory().replies[lane].completed.load(std::memory_order_acquire) !=
                 client->memory().requests[lane].submitted.load(std::memory_order_relaxed)) {
            if (client->hung_up()) return;
          }
        }
      }
    }));
    ASSERT_EQ(clients.back()->hear(), "ready");
  }
  EXPECT_TRUE(worker.makes_progress());
  worker.done();
  std::this_thread::sleep_for(milliseconds(500));
  const uint64_t together = worker.done();
  RecordProperty("requests_alone", static_cast<int>(alone));
  RecordProperty("requests_together", static_cast<int>(together));
  EXPECT_TRUE(worker.makes_progress()) << "alone: " << alone;
}

TEST_F(Hostile, AClientThatStandsStillHoldsNobodyUp) {
  Daemon& daemon = boosterd();
  Worker worker(honest_file(), honest_bytes());
  ASSERT_TRUE(worker.makes_progress());
  // Stopped at points all over its work: before Hello, with an Engage or requests on their way.
  std::vector<std::unique_ptr<UserProcess>> clients;
  for (int i = 0; i < 12; ++i) {
    clients.push_back(std::make_unique<UserProcess>(kMallory, [&, i](Talk& talk) {
      talk.say("ready");
      if (i % 4 == 0) {
        const DaemonClient silent(common::kControlSocket);
        while (true) ::pause();
      }
      const auto client = new_session();
      const Fd file(open_file(), O_RDWR);
      for (uint32_t round = 1;; ++round) {
        client->engage_begin(file.get(), 0, round);
        if (i % 4 == 1) outcome(*client, 0, round);
        for (uint32_t lane = 0; lane < common::kLanes; ++lane) {
          client->submit(lane, Op::kRead, 0, round, 0, 65536);
        }
        for (uint32_t lane = 0; lane < common::kLanes; ++lane) answer(*client, lane);
        outcome(*client, 0, round);
        client->release(0, round);
      }
    }));
    ASSERT_EQ(clients.back()->hear(), "ready");
  }
  std::minstd_rand random(99);
  for (int i = 0; i < rounds(); ++i) {
    const auto& client = clients[random() % clients.size()];
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    client->signal(i % 3 == 2 ? SIGCONT : SIGSTOP);
  }
  for (const auto& client : clients) client->signal(SIGSTOP);
  EXPECT_TRUE(worker.makes_progress());
  EXPECT_EQ(honest(), "served");
  const size_t half = clients.size() / 2;
  clients.resize(half);  // killed as they stand
  EXPECT_TRUE(worker.makes_progress());
  // The others are there still when the daemon is told to stop, and do not keep it.
  daemon.signal(SIGTERM);
  EXPECT_TRUE(within(kPatience, [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(daemon.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid == daemon.pid();
  }));
  clients.clear();
  daemon.kill();
  daemon.start();
}

// --- the admin socket --------------------------------------------------------------------

TEST_F(Hostile, GarbageOnTheAdminSocketIsHungUpOn) {
  boosterd();
  const auto connect_admin = [] {
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, common::kAdminSocket);
    const timeval patience{kPatience.count(), 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return socket;
  };
  const auto framed = [](const std::string& body) {
    const uint32_t length = htonl(static_cast<uint32_t>(body.size()));
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + body;
  };
  const std::vector<std::string> garbage = {
      std::string(4, '\xff'),
      std::string("\x7f\xff\xff\xff", 4) + std::string(1000, 'x'),
      std::string("\x00\x00\x10\x01", 4),
      framed("\xff\xff\xff\xff\xff"),
      framed(std::string(4096, '\x0a')),
  };
  for (const std::string& bytes : garbage) {
    const Fd socket = connect_admin();
    ASSERT_GT(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    char byte = 0;
    const ssize_t n = ::recv(socket.get(), &byte, 1, 0);
    EXPECT_TRUE(n == 0 || (n < 0 && errno == ECONNRESET)) << n << " " << std::strerror(errno);
    EXPECT_TRUE(ask_stats());
  }
  // A request that nobody knows gets an answer that says so, and so does none at all.
  for (const std::string& body : {std::string(), std::string("\x7a\x00", 2)}) {
    const Fd socket = connect_admin();
    const std::string bytes = framed(body);
    ASSERT_GT(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    uint32_t length = 0;
    EXPECT_EQ(::recv(socket.get(), &length, sizeof length, MSG_WAITALL), 4);
    EXPECT_GT(ntohl(length), 0U);
  }
  // More of them, that neither send nor read, than there may be.
  std::vector<Fd> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(connect_admin());
  EXPECT_EQ(honest(), "served");
  silent.clear();
  EXPECT_TRUE(within(kPatience, [] { return ask_stats() != nullptr; }));
}

}  // namespace
}  // namespace booster::test
