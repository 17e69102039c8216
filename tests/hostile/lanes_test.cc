// What a client can put into the memory that it shares with the daemon: lies, requests without a
// right, requests too late, and the memory itself pulled from under the daemon's feet.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <atomic>
#include <limits>
#include <random>

#include "tests/hostile/fixture.h"

namespace booster::test {
namespace {

using common::kHandleSlots;
using common::kLanePayload;
using common::LaneRequest;
using common::Op;

/// Slows every write at the brick down, until the end of the scope.
class SlowWrites {
 public:
  explicit SlowWrites(std::chrono::microseconds by) {
    must("lab delay on " + std::to_string(by.count()) + " 100 all");
  }
  ~SlowWrites() { shell("lab delay off", {.preload = false}); }
  SlowWrites(const SlowWrites&) = delete;
  SlowWrites& operator=(const SlowWrites&) = delete;
};

/// Rings whether or not the pump sleeps: what was put into the lanes is looked at.
void publish(DaemonClient& client, uint32_t lane, uint32_t submitted) {
  client.memory().requests[lane].submitted.store(submitted, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  client.ring();
}

void fill(DaemonClient& client, uint32_t lane, uint32_t op, uint32_t slot, uint32_t generation,
          uint32_t length, uint64_t offset) {
  LaneRequest& request = client.memory().requests[lane];
  request.op = op;
  request.slot = slot;
  request.generation = generation;
  request.length = length;
  request.offset = offset;
  request.delegation = 0;
}

uint32_t submitted(DaemonClient& client, uint32_t lane) {
  return client.memory().requests[lane].submitted.load(std::memory_order_relaxed);
}

// --- lies --------------------------------------------------------------------------------

struct Lie {
  const char* name;
  std::function<void(DaemonClient&)> tell;
};

TEST_F(Hostile, ALieInALaneEndsTheLiarsSessionAndNoOther) {
  boosterd();
  constexpr auto kRead = static_cast<uint32_t>(Op::kRead);
  constexpr auto kMax32 = std::numeric_limits<uint32_t>::max();
  constexpr auto kMax64 = std::numeric_limits<uint64_t>::max();
  constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const auto request = [](uint32_t op, uint32_t slot, uint32_t length, uint64_t offset) {
    return [=](DaemonClient& client) {
      fill(client, 0, op, slot, 1, length, offset);
      publish(client, 0, submitted(client, 0) + 1);
    };
  };
  const auto jump = [](uint32_t by) {
    return [by](DaemonClient& client) {
      fill(client, 0, kRead, 0, 1, 16, 0);
      publish(client, 0, submitted(client, 0) + by);
    };
  };
  const std::vector<Lie> lies_to_tell = {
      {"length 0", request(kRead, 0, 0, 0)},
      {"a longer length than the payload", request(kRead, 0, kLanePayload + 1, 0)},
      {"the longest length", request(kRead, 0, kMax32, 0)},
      {"an end beyond off_t", request(kRead, 0, 4096, kMaxOffset - 4095)},
      {"an offset beyond off_t", request(kRead, 0, 1, kMaxOffset + 1)},
      {"an offset that wraps", request(kRead, 0, 4096, kMax64 - 4095)},
      {"the largest offset", request(kRead, 0, kLanePayload, kMax64)},
      {"the first slot there is not", request(kRead, kHandleSlots, 16, 0)},
      {"the last number of a slot", request(kRead, kMax32, 16, 0)},
      {"a slot whose address wraps", request(kRead, 1U << 26, 16, 0)},
      {"operation 0", request(0, 0, 16, 0)},
      {"operation 2, which was a write", request(2, 0, 16, 0)},
      {"a length of a sync", request(static_cast<uint32_t>(Op::kSync), 0, 16, 0)},
      {"operation 7", request(7, 0, 16, 0)},
      {"the last operation", request(kMax32, 0, 16, 0)},
      {"a request skipped", jump(2)},
      {"a step back", jump(kMax32)},
      {"half way round", jump(1U << 31)},
      {"in the last lane",
       [](DaemonClient& client) {
         fill(client, common::kLanes - 1, 9, 0, 1, 16, 0);
         publish(client, common::kLanes - 1, 1);
       }},
  };
  const auto second = new_session();
  const Fd second_file(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*second, second_file.get()), "granted r");
  for (const Lie& lie : lies_to_tell) {
    const uint64_t before = lies();
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const Fd file(open_file(), O_RDWR);
                        talk.say(engage(*client, file.get()));
                        talk.say(test::request(*client, Op::kRead, 0, 4096));
                        lie.tell(*client);
                        talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                      }),
              "granted rw; 4096 bytes; ended")
        << lie.name;
    EXPECT_EQ(lies(), before + 1) << lie.name;
    EXPECT_EQ(still_honest(*second), "served") << lie.name;
  }
}

TEST_F(Hostile, ALieInALogEndsTheLiarsSessionAndNoOtherAndWritesNothing) {
  boosterd();
  using common::kLogBytes;
  using common::kLogRecords;
  using common::kMaxRecord;
  constexpr auto kMax32 = std::numeric_limits<uint32_t>::max();
  constexpr auto kMax64 = std::numeric_limits<uint64_t>::max();
  constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  // Slot 0 is delegated, slot 1 may be written without being delegated, slot 2 may be read only.
  const auto record = [](common::LogRecord wrong) {
    return [wrong](DaemonClient& client) { client.put_record(client.log_of(0), wrong); };
  };
  const auto jump = [](uint32_t by) {
    return [by](DaemonClient& client) {
      const uint32_t log = client.log_of(0);
      client.publish_records(log, client.logged(log) + by);
    };
  };
  const std::vector<Lie> lies_to_tell = {
      {"length 0", record({0, 1, 0, 0, 0})},
      {"a longer length than a record's", record({0, 1, 0, kMaxRecord + 1, 0})},
      {"the longest length", record({0, 1, 0, kMax32, 0})},
      {"bytes beyond the ring", record({0, 1, 0, 4096, kLogBytes - 4095})},
      {"a place beyond the ring", record({0, 1, 0, 4096, kLogBytes})},
      {"the last place", record({0, 1, 0, 4096, kMax32})},
      {"an end beyond off_t", record({0, 1, kMaxOffset - 4095, 4096, 0})},
      {"an offset beyond off_t", record({0, 1, kMaxOffset + 1, 1, 0})},
      {"an offset that wraps", record({0, 1, kMax64 - 4095, 4096, 0})},
      {"the largest offset", record({0, 1, kMax64, kMaxRecord, 0})},
      {"the first slot there is not", record({kHandleSlots, 1, 0, 4096, 0})},
      {"the last number of a slot", record({kMax32, 1, 0, 4096, 0})},
      {"a slot whose address wraps", record({1U << 26, 1, 0, 4096, 0})},
      {"a slot never used", record({7, 1, 0, 4096, 0})},
      {"an earlier generation", record({0, 0, 0, 4096, 0})},
      {"a later generation", record({0, 2, 0, 4096, 0})},
      {"a slot that is not delegated", record({1, 1, 0, 4096, 0})},
      {"a slot without the right to write", record({2, 1, 0, 4096, 0})},
      {"a lie behind a good one",
       [](DaemonClient& client) {
         const uint32_t log = client.log_of(0);
         common::SessionMemory& memory = client.memory();
         const uint32_t number = client.logged(log);
         memory.logs[log].records[number % kLogRecords] = {0, 1, 0, 4096, 0};
         memory.logs[log].records[(number + 1) % kLogRecords] = {0, 1, 4096, 0, 4096};
         client.publish_records(log, number + 2);
       }},
      {"another log than the slot's",
       [](DaemonClient& client) {
         client.put_record((client.log_of(0) + 1) % common::kLogs, {0, 1, 0, 4096, 0});
       }},
      {"the last log",
       [](DaemonClient& client) {
         client.put_record(common::kLogs - 1, {0, 1, 0, 4096, 0});
       }},
      {"more records than the log has", jump(kLogRecords + 1)},
      {"a step back", jump(kMax32)},
      {"half way round", jump(1U << 31)},
  };
  const std::string other = make_file("other", pattern(64 << 10, 80), 0666);
  const std::string before = read_file(open_file());
  const auto second = new_session();
  const Fd second_file(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*second, second_file.get()), "granted r");
  for (const Lie& lie : lies_to_tell) {
    const uint64_t told = lies();
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const Fd file(open_file(), O_RDWR);
                        const Fd undelegated(other, O_RDWR);
                        const Fd read_only(honest_file(), O_RDONLY);
                        talk.say(engage(*client, file.get()));
                        talk.say(engage(*client, undelegated.get(), 1));
                        talk.say(engage(*client, read_only.get(), 2));
                        talk.say(write_through(*client, 8192, before.substr(8192, 4096)));
                        // What would be written from any place of the ring.
                        std::memset(client->memory().log, 'L', sizeof client->memory().log);
                        lie.tell(*client);
                        talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                      }),
              "granted rw; granted rw; granted r; 4096 bytes; ended")
        << lie.name;
    EXPECT_EQ(lies(), told + 1) << lie.name;
    EXPECT_EQ(still_honest(*second), "served") << lie.name;
  }
  EXPECT_TRUE(read_past_fuse(open_file()) == before);
  EXPECT_TRUE(read_past_fuse(other) == pattern(64 << 10, 80));
  EXPECT_TRUE(read_past_fuse(honest_file()) == honest_bytes());
}

TEST_F(Hostile, WhatAnHonestProgramCanDoByChanceIsNoLie) {
  boosterd();
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      const auto client = new_session();
                      const Fd file(open_file(), O_RDWR);
                      talk.say(engage(*client, file.get(), 7, 41));
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 41));
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 40));  // another generation
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 0));
                      talk.say(request(*client, Op::kRead, 0, 16, 8, 41));  // a slot never used
                      talk.say(request(*client, Op::kRead, 0, 16, kHandleSlots - 1, 0));
                      talk.say(request(*client, Op::kRead, 1 << 20, kLanePayload, 7,
                                       41));  // beyond the end
                      talk.say(request(*client, Op::kRead, 65535, kLanePayload, 7, 41));
                      client->ring();
                      client->ring();
                      client->release(9, 1);
                      client->release(7, 40);
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 41));
                      client->release(7, 41);
                      client->release(7, 41);
                      // A packet may be read after a lane that was filled later.
                      std::string after;
                      within(kPatience, [&] {
                        after = request(*client, Op::kRead, 0, 16, 7, 41);
                        return after == "EBADF";
                      });
                      talk.say(after);
                      talk.say(engage(*client, file.get(), 7, 42));
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 41));
                      talk.say(request(*client, Op::kRead, 0, 16, 7, 42));
                    }),
            "granted rw; 16 bytes; EBADF; EBADF; EBADF; EBADF; 0 bytes; 1 bytes; 16 bytes; EBADF; "
            "granted rw; EBADF; 16 bytes");
  EXPECT_EQ(lies(), 0U);
}

TEST_F(Hostile, TheLargestOffsetsAreAnsweredByAnError) {
  boosterd();
  constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const std::string said = as_user(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(open_file(), O_RDWR);
    talk.say(engage(*client, file.get()));
    for (const uint32_t length : {1U, 4096U, kLanePayload}) {
      for (const uint64_t end :
           std::initializer_list<uint64_t>{kMaxOffset, kMaxOffset - 1, kMaxOffset - (64U << 20),
                                           uint64_t{1} << 62, (uint64_t{1} << 44) - 4096}) {
        const std::string got = request(*client, Op::kRead, end - length, length);
        const std::string put = write_through(*client, end - length, std::string(length, 'E'));
        // As from the kernel: nothing there, or no such offset. No byte may be made up.
        if (got != "0 bytes" && got != "EINVAL" && got != "EFBIG" && got != "EOVERFLOW") {
          talk.say("read " + std::to_string(end - length) + ": " + got);
        }
        if (put == "no answer" || put == "not delegated") talk.say("write: " + put);
        if (client->hung_up()) throw std::runtime_error("hung up after " + got + ", " + put);
        if (put.find("bytes") != std::string::npos) {
          // A sparse file may be so large; its end must come again, then.
          if (::ftruncate(file.get(), 65536) != 0) talk.say("not truncated");
        }
      }
    }
    talk.say(request(*client, Op::kRead, 0, 16));
  });
  EXPECT_EQ(said, "granted rw; 16 bytes");
}

// --- in flight ---------------------------------------------------------------------------

TEST_F(Hostile, ARequestOrRecordThatChangesInFlightEndsTheSessionAndIsCarriedOutAsItWas) {
  boosterd();
  const std::string before = read_file(open_file());
  const auto second = new_session();
  const Fd second_file(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*second, second_file.get()), "granted r");
  {
    // Turning this on and off breaks the connection to the brick: nothing may be in flight then.
    const SlowWrites slow(seconds(5));
    uint64_t times = 0;
    // The lie is in the lane of a sync, which waits for the write, or in the log.
    for (const bool in_lane : {true, false}) {
      ++times;
      EXPECT_EQ(as_user(kMallory,
                        [&](Talk& talk) {
                          const auto client = new_session();
                          const Fd file(open_file(), O_RDWR);
                          talk.say(engage(*client, file.get()));
                          const uint64_t offset = 4096 * times;
                          const uint32_t log = client->log_of(0);
                          common::LogRing& ring = client->memory().logs[log];
                          client->log(0, 1, offset, std::string(4096, 'A'));
                          client->submit(0, Op::kSync, 0, 1, 0, 0);
                          // By then the daemon has taken both.
                          std::this_thread::sleep_for(seconds(2));
                          talk.say(ring.tail.done.load() == 0 &&
                                           client->memory().replies[0].completed.load() == 0
                                       ? "in flight"
                                       : "too fast");
                          // What was taken counts, not what stands there now.
                          std::memset(client->memory().log[log] + ring.records[0].place, 'B', 4096);
                          ring.records[0].offset = 16384;
                          if (in_lane) {
                            fill(*client, 0, static_cast<uint32_t>(Op::kRead), 0, 1, 4096, 8192);
                            publish(*client, 0, 2);
                          } else {
                            client->publish_records(log, 1 + common::kLogRecords);
                            client->ring();
                          }
                          talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                        }),
                "granted rw; in flight; ended");
      EXPECT_EQ(lies(), times);
      EXPECT_EQ(still_honest(*second), "served");
      EXPECT_TRUE(within(kPatience, [&] { return stats()->totals().write_calls() == times; }));
      EXPECT_EQ(stats()->totals().errors(), 0U);
    }
  }
  const std::string wanted = before.substr(0, 4096) + std::string(8192, 'A') + before.substr(12288);
  EXPECT_TRUE(within(kPatience, [&] { return read_file(open_file()) == wanted; }));
}

TEST_F(Hostile, ASessionThatEndsWithAllLanesInFlightEndsCleanly) {
  Daemon& daemon = boosterd();
  ASSERT_EQ(honest(), "served");
  ASSERT_TRUE(without_sessions());
  const size_t before = descriptors_of(daemon.pid()).size();
  for (int i = 0; i < rounds(); ++i) {
    const int way = i % 4;
    UserProcess mallory(kMallory, [&](Talk& talk) {
      auto client = new_session();
      const Fd file(open_file(), O_RDWR);
      talk.say(engage(*client, file.get()));
      // The daemon may still have the file open, to fence what the one before has written.
      within(kPatience, [&] { return client->delegated(0, 1) != 0; });
      // The log is full, and every other lane waits for it.
      for (uint32_t i = 0; i < common::kLogBytes / kLanePayload; ++i) {
        client->log(0, 1, i << 21, std::string(kLanePayload, 'F'));
      }
      for (uint32_t lane = 0; lane < common::kLanes; ++lane) {
        if (lane % 2 == 0) {
          client->submit(lane, Op::kSync, 0, 1, 0, 0);
        } else {
          client->submit(lane, Op::kRead, 0, 1, lane << 20, kLanePayload);
        }
      }
      if (way == 1) client.reset();
      if (way == 2) publish(*client, 0, 77);
      talk.say("in flight");
      if (way == 0) ::_exit(0);
      talk.hear();
    });
    ASSERT_EQ(mallory.hear(), "granted rw");
    ASSERT_EQ(mallory.hear(), "in flight");
    mallory.kill();
  }
  // By a process that ends: one that lives on keeps its place.
  EXPECT_EQ(as_user(0, [&](Talk& talk) { talk.say(honest()); }), "served");
  EXPECT_TRUE(without_sessions());
  EXPECT_TRUE(within(kPatience, [&] { return descriptors_of(daemon.pid()).size() <= before; }));
  EXPECT_GT(lies(), 0U);
}

// --- the end of a right ------------------------------------------------------------------

TEST_F(Hostile, RequestsOnAHandleThatIsGoneAreNotServed) {
  boosterd();
  EXPECT_EQ(
      as_user(kMallory,
              [&](Talk& talk) {
                const auto client = new_session();
                const Fd file(open_file(), O_RDWR);
                const std::string zeroes(4096, '\0');
                const auto read = [&](uint32_t generation) {
                  std::memset(client->payload(0), 0, 4096);
                  const std::string said = request(*client, Op::kRead, 0, 4096, 3, generation);
                  const bool same =
                      std::memcmp(client->payload(0), zeroes.data(), zeroes.size()) == 0;
                  talk.say(said + (same ? ", nothing" : ", bytes"));
                };
                read(1);
                talk.say(engage(*client, file.get(), 3, 1));
                read(1);
                client->release(3, 1);
                read(1);
                talk.say(engage(*client, file.get(), 3, 2));
                read(1);
                read(2);
                client->release(3, 2);
                // While the answer is on its way: the Engage is taken before the lane is looked at,
                // or after.
                int refused = 0;
                int served = 0;
                for (uint32_t generation = 3; generation < 200; ++generation) {
                  client->engage_begin(file.get(), 3, generation);
                  const std::string said = request(*client, Op::kRead, 0, 16, 3, generation);
                  refused += said == "EBADF" ? 1 : 0;
                  served += said == "16 bytes" ? 1 : 0;
                  outcome(*client, 3, generation);
                  if (request(*client, Op::kRead, 0, 16, 3, generation) != "16 bytes")
                    talk.say("not served");
                  client->release(3, generation);
                }
                talk.say(refused + served == 197 && refused > 0 ? "pending is EBADF"
                                                                : "pending is odd");
              }),
      "EBADF, nothing; granted rw; 4096 bytes, bytes; EBADF, nothing; granted rw; EBADF, nothing; "
      "4096 bytes, bytes; pending is EBADF");
  EXPECT_EQ(lies(), 0U);
}

TEST_F(Hostile, RecordsOnAHandleThatIsGoneEndTheSessionAndAreNotWritten) {
  boosterd();
  const std::string before = read_file(open_file());
  uint64_t told = 0;
  for (const char* way : {"given back", "used again", "delegated again"}) {
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const Fd file(open_file(), O_RDWR);
                        talk.say(engage(*client, file.get(), 3, 1));
                        talk.say(write_through(*client, 0, before.substr(0, 4096), 3, 1));
                        client->release(3, 1);
                        if (!within(kPatience, [&] {
                              return request(*client, Op::kRead, 0, 16, 3, 1) == "EBADF";
                            })) {
                          talk.say("not released");
                        }
                        if (way != std::string("given back") &&
                            engage(*client, file.get(), 3, 2) != "granted rw") {
                          talk.say("not granted");
                        }
                        if (way == std::string("delegated again")) {
                          talk.say(write_through(*client, 0, before.substr(0, 4096), 3, 2));
                        }
                        // A delegation ends with its handle.
                        const uint32_t generation = way == std::string("used again") ? 2 : 1;
                        client->log_anyway(client->log_of(3), 3, generation, 0,
                                           std::string(4096, 'W'));
                        talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                      }),
              way == std::string("delegated again") ? "granted rw; 4096 bytes; 4096 bytes; ended"
                                                    : "granted rw; 4096 bytes; ended")
        << way;
    EXPECT_EQ(lies(), ++told) << way;
  }
  EXPECT_TRUE(read_past_fuse(open_file()) == before);
}

/// As the shim's, when the delegation goes between its look at it and its record.
TEST_F(Hostile, ARecordThatComesAfterTheDelegationWasTakenBackIsWritten) {
  boosterd();
  const std::string before = read_file(open_file());
  EXPECT_EQ(
      as_user(kMallory,
              [&](Talk& talk) {
                const auto client = new_session();
                const Fd file(open_file(), O_RDWR);
                talk.say(engage(*client, file.get()));
                talk.say(write_through(*client, 0, std::string(4096, '1')));
                const uint32_t word = client->delegate(0, 1, -1);
                talk.say((word & common::kDelegationStates) != common::kDelegated ? "taken back"
                                                                                  : "kept");
                const uint32_t log = client->log_of(0);
                const uint32_t number = client->log_anyway(log, 0, 1, 4096, std::string(4096, '2'));
                talk.say(client->wait_logged(log, number, kPatience) ? "written" : "lost");
                talk.say(std::to_string(client->take_log_error(0)));
              }),
      "granted rw; 4096 bytes; taken back; written; 0");
  EXPECT_EQ(lies(), 0U);
  EXPECT_TRUE(read_past_fuse(open_file()) ==
              std::string(4096, '1') + std::string(4096, '2') + before.substr(8192));
}

TEST_F(Hostile, MemoryThatIsKeptBeyondTheSessionGivesNothing) {
  boosterd();
  for (const char* way : {"kill", "exit", "close", "lie"}) {
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    UserProcess mallory(kMallory, [&](Talk& talk) {
      auto client = new_session();
      const Fd file(open_file(), O_RDWR);
      talk.say(engage(*client, file.get()));
      send_packet(sockets[0], "memory", {client->memory_fd()});
      talk.hear();
      client->ring();
      talk.hear();
      if (way == std::string("exit")) ::_exit(0);
      if (way == std::string("close")) client.reset();
      if (way == std::string("lie")) publish(*client, 1, 77);
      talk.say("done");
      talk.hear();
    });
    ASSERT_EQ(mallory.hear(), "granted rw");
    UserProcess accomplice(kMallory, [&](Talk& talk) {
      char byte[8];
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      iovec iov{byte, sizeof byte};
      msghdr message{};
      message.msg_iov = &iov;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      int fd = -1;
      if (::recvmsg(sockets[1], &message, 0) <= 0) return;
      std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
      void* at = ::mmap(nullptr, common::kSessionBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      auto& memory = *static_cast<common::SessionMemory*>(at);
      uint32_t number = 0;
      const auto read = [&](milliseconds patience) {
        LaneRequest& request = memory.requests[0];
        std::memset(memory.payload[0], 0, 4096);
        request.op = static_cast<uint32_t>(Op::kRead);
        request.slot = 0;
        request.generation = 1;
        request.length = 4096;
        request.offset = 0;
        request.submitted.store(++number, std::memory_order_release);
        talk.say("put");
        const bool answered = within(patience, [&] {
          return memory.replies[0].completed.load(std::memory_order_acquire) == number;
        });
        const std::string zeroes(4096, '\0');
        const bool same = std::memcmp(memory.payload[0], zeroes.data(), zeroes.size()) == 0;
        talk.say((answered ? std::to_string(memory.replies[0].length) : "no answer") +
                 std::string(same ? ", nothing" : ", bytes"));
      };
      read(kPatience);
      talk.hear();
      read(milliseconds(1500));
    });
    // As long as the session lives its process can share its rights, which it could anyway.
    ASSERT_EQ(accomplice.hear(), "put");
    mallory.say("ring");
    EXPECT_EQ(accomplice.hear(), "4096, bytes") << way;
    if (way == std::string("kill")) {
      mallory.kill();
    } else {
      mallory.say("");
      if (way != std::string("exit")) {
        EXPECT_EQ(mallory.hear(), "done");
      }
    }
    EXPECT_TRUE(without_sessions()) << way;
    // Somebody else's traffic keeps the pump awake.
    accomplice.say("");
    EXPECT_EQ(accomplice.hear(), "put");
    EXPECT_EQ(honest(), "served");
    EXPECT_EQ(accomplice.hear(), "no answer, nothing") << way;
    ::close(sockets[0]);
    ::close(sockets[1]);
  }
}

TEST_F(Hostile, ASocketThatIsKeptBeyondTheProcessGivesNothing) {
  boosterd();
  EXPECT_EQ(
      as_user(kMallory,
              [&](Talk& talk) {
                int up[2];
                if (::pipe(up) != 0) return;
                const pid_t session = ::fork();
                if (session == 0) {
                  ::prctl(PR_SET_DUMPABLE, 1);
                  const auto client = new_session();
                  const Fd file(open_file(), O_RDWR);
                  talk.say(engage(*client, file.get()));
                  if (::fork() != 0) ::_exit(0);
                  // The accomplice: socket, memory and file of a process that is no more.
                  talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                  client->submit(0, Op::kRead, 0, 1, 0, 16);
                  talk.say(answer(*client, 0, milliseconds(500)) ? "answered" : "not answered");
                  ::_exit(0);
                }
                ::close(up[1]);
                ::waitpid(session, nullptr, 0);
              }),
      "granted rw; ended; not answered");
}

// --- a file that becomes privileged ------------------------------------------------------

/// The kernel takes set-id bits away when a user writes, or refuses the write. The daemon, which
/// writes as root, must not leave a set-user-id program with what a user has put into it.
TEST_F(Hostile, WhatAUserWritesIsNoSetUserIdProgram) {
  boosterd();
  const auto write_after_chmod = [&](const std::string& name, uid_t owner, bool boosted) {
    const std::string path = make_file(name, "#!/bin/true\n", 0666, owner);
    UserProcess mallory(kMallory, [&](Talk& talk) {
      const auto client = new_session();
      const Fd file(path, O_RDWR);
      talk.say(engage(*client, file.get()));
      talk.hear();
      if (boosted) {
        talk.say(write_through(*client, 0, "#!/bin/sh\n"));
      } else {
        const ssize_t n = ::pwrite(file.get(), "#!/bin/sh\n", 10, 0);
        talk.say(n < 0 ? strerrorname_np(errno) : std::to_string(n) + " bytes");
      }
    });
    EXPECT_EQ(mallory.hear(), "granted rw");
    EXPECT_EQ(::chmod(path.c_str(), 06777), 0);
    mallory.say("");
    const std::string said = mallory.hear();
    struct stat status {};
    // What was not written has its bits still.
    within(said == "10 bytes" ? kPatience : seconds(0),
           [&] { return ::stat(path.c_str(), &status) == 0 && (status.st_mode & 06000) == 0; });
    std::string text = said == "10 bytes" ? "written" : "not written";
    if ((status.st_mode & S_ISUID) != 0) text += ", set-user-id";
    if ((status.st_mode & S_ISGID) != 0) text += ", set-group-id";
    return text;
  };
  constexpr const char* kBad = "written, set-user-id, set-group-id";
  for (const uid_t owner : {uid_t{0}, kMallory}) {
    const std::string of = owner == 0 ? "root" : "mallory";
    EXPECT_NE(write_after_chmod("by-kernel-" + of, owner, false), kBad) << of;
    EXPECT_NE(write_after_chmod("by-daemon-" + of, owner, true), kBad) << of;
  }
  // Nor with what root's server has put into it for a user: the kernel asks for the fsuid.
  {
    const std::string path = make_file("by-server", "#!/bin/true\n", 0666);
    const auto client = new_session();
    const Fd file(path, O_RDWR);
    ASSERT_EQ(engage(*client, file.get()), "granted rw");
    ASSERT_EQ(::chmod(path.c_str(), 06777), 0);
    EXPECT_EQ(write_through(*client, 0, "#!/bin/sh\n"), "10 bytes");
    struct stat status {};
    EXPECT_TRUE(
        within(kPatience,
               [&] { return ::stat(path.c_str(), &status) == 0 && (status.st_mode & 06000) == 0; }))
        << std::oct << status.st_mode;
  }
  // Without the bits the same steps do write.
  EXPECT_EQ(as_user(kMallory,
                    [&](Talk& talk) {
                      const auto client = new_session();
                      const Fd file(open_file(), O_RDWR);
                      talk.say(engage(*client, file.get()));
                      talk.say(write_through(*client, 0, "#!/bin/sh\n"));
                    }),
            "granted rw; 10 bytes");
}

// --- the memory itself -------------------------------------------------------------------

TEST_F(Hostile, TheSessionMemoryCannotBeResized) {
  boosterd();
  EXPECT_EQ(
      as_user(kMallory,
              [&](Talk& talk) {
                const auto client = new_session();
                const int fd = client->memory_fd();
                const auto result = [](int returned) -> std::string {
                  return returned == 0 ? "done" : strerrorname_np(errno);
                };
                const auto bytes = static_cast<off_t>(common::kSessionBytes);
                talk.say(result(::ftruncate(fd, 0)));
                talk.say(result(::ftruncate(fd, bytes - 4096)));
                talk.say(result(::ftruncate(fd, bytes + 4096)));
                talk.say(result(::fallocate(fd, 0, bytes, 4096)));
                talk.say(result(::fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096)));
                talk.say(::pwrite(fd, "x", 1, bytes) == 1 ? "written" : strerrorname_np(errno));
                talk.say(result(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)));
                talk.say(result(::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)));
                const int seals = ::fcntl(fd, F_GET_SEALS);
                constexpr int kWanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
                talk.say((seals & kWanted) == kWanted ? "sealed" : "not sealed");
                const Fd file(open_file(), O_RDWR);
                talk.say(engage(*client, file.get()));
                talk.say(request(*client, Op::kRead, 0, 4096));
              }),
      "EPERM; EPERM; EPERM; EPERM; EOPNOTSUPP; EPERM; EPERM; EPERM; sealed; granted rw; 4096 "
      "bytes");
}

uint64_t bytes_of(int memfd) {
  struct stat status {};
  return ::fstat(memfd, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * 512 : 0;
}

TEST_F(Hostile, WhatADeadClientHasPassedOnHoldsNoMemoryOfTheDaemons) {
  boosterd();
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(honest_file(), O_RDONLY);
    talk.say(engage(*client, file.get()));
    for (uint32_t lane = 0; lane < common::kLanes; ++lane) {
      talk.say(request(*client, Op::kRead, 0, 256 << 10, 0, 1, lane));
    }
    if (::fork() == 0) {
      talk.say(bytes_of(client->memory_fd()) >= common::kLanes * (256U << 10) ? "full" : "empty");
      talk.say(within(kPatience, [&] { return bytes_of(client->memory_fd()) == 0; }) ? "given back"
                                                                                     : "held");
      ::_exit(0);
    }
    talk.hear();
  });
  EXPECT_EQ(mallory.hear(), "granted r");
  for (uint32_t lane = 0; lane < common::kLanes; ++lane) EXPECT_EQ(mallory.hear(), "262144 bytes");
  EXPECT_EQ(mallory.hear(), "full");
  mallory.signal(SIGKILL);
  EXPECT_EQ(mallory.hear(), "given back");
}

// Another thread of a program that loses its connection may be copying an answer.
TEST_F(Hostile, AClientThatHangsUpAndLivesOnKeepsItsAnswersAndItsPlace) {
  boosterd("[limits]\nsessions_per_uid = 2\n");
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(honest_file(), O_RDONLY);
    talk.say(engage(*client, file.get()));
    talk.say(request(*client, Op::kRead, 0, 4096));
    ::shutdown(client->socket(), SHUT_RDWR);
    talk.hear();
    talk.say(honest_bytes().compare(0, 4096, client->payload(0), 4096) == 0 ? "kept" : "lost");
    const auto second = new_session();
    try {
      new_session();
      talk.say("a third place");
    } catch (const std::exception&) {
      talk.say("refused");
    }
    talk.hear();
  });
  EXPECT_EQ(mallory.hear(), "granted r");
  EXPECT_EQ(mallory.hear(), "4096 bytes");
  EXPECT_TRUE(without_sessions());
  mallory.say("");
  EXPECT_EQ(mallory.hear(), "kept");
  EXPECT_EQ(mallory.hear(), "refused");
  mallory.kill();
  const auto places = [] {
    const auto first = new_session();
    const auto second = new_session();
    return std::string("two");
  };
  EXPECT_TRUE(within(kPatience, [&] {
    return as_user(kMallory, [&](Talk& talk) { talk.say(places()); }) == "two";
  }));
}

TEST_F(Hostile, PagesThatTheClientTakesAwayOrCannotUseDoNotHarmTheDaemon) {
  boosterd();
  const auto second = new_session();
  const Fd second_file(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*second, second_file.get()), "granted r");
  UserProcess mallory(kMallory, [&](Talk& talk) {
    const auto client = new_session();
    const Fd file(open_file(), O_RDWR);
    talk.say(engage(*client, file.get()));
    // Payload and log vanish while the daemon fills and reads them.
    std::atomic<bool> stop{false};
    std::thread puncher([&] {
      const auto at = static_cast<off_t>(offsetof(common::SessionMemory, payload));
      const off_t size = static_cast<off_t>(common::kSessionBytes) - at;
      while (!stop) {
        ::fallocate(client->memory_fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, size);
        ::madvise(client->payload(0), static_cast<size_t>(size), MADV_REMOVE);
        ::madvise(client->payload(0), static_cast<size_t>(size), MADV_PAGEOUT);
      }
    });
    int answered = 0;
    for (int i = 0; i < rounds(); ++i) {
      const auto lane = static_cast<uint32_t>(i) % common::kLanes;
      const std::string said = i % 3 == 0 ? write_through(*client, 0, std::string(65536, 'p'))
                                          : request(*client, Op::kRead, 0, 65536, 0, 1, lane);
      answered += said == "65536 bytes" ? 1 : 0;
    }
    stop = true;
    puncher.join();
    talk.say(answered == rounds() ? "all answered" : std::to_string(answered));
    // Executable, and read-only: only this process's view of it.
    talk.say(::mprotect(client->payload(0), 4096, PROT_READ | PROT_EXEC) == 0 ? "protected"
                                                                              : "refused");
    talk.say(request(*client, Op::kRead, 0, 4096));
    // All of it, and the daemon's own words with it.
    ::fallocate(client->memory_fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(common::kSessionBytes));
    talk.say(client->memory().header.magic == 0 ? "gone" : "there");
    client->ring();
    talk.hear();
  });
  EXPECT_EQ(mallory.hear(), "granted rw");
  EXPECT_EQ(mallory.hear(), "all answered");
  const std::string executable = mallory.hear();
  EXPECT_TRUE(executable == "protected" || executable == "refused") << executable;
  EXPECT_EQ(mallory.hear(), "4096 bytes");
  EXPECT_EQ(mallory.hear(), "gone");
  EXPECT_EQ(still_honest(*second), "served");
  EXPECT_EQ(honest(), "served");
  mallory.kill();
  EXPECT_EQ(still_honest(*second), "served");
}

TEST_F(Hostile, GarbageInEveryWordOfTheMemoryEndsOnlyThatSession) {
  boosterd();
  const auto second = new_session();
  const Fd second_file(honest_file(), O_RDONLY);
  ASSERT_EQ(engage(*second, second_file.get()), "granted r");
  std::minstd_rand seeds(4711);
  for (int i = 0; i < rounds(); ++i) {
    const auto seed = static_cast<uint32_t>(seeds());
    EXPECT_EQ(as_user(kMallory,
                      [&](Talk& talk) {
                        const auto client = new_session();
                        const Fd file(open_file(), O_RDWR);
                        talk.say(engage(*client, file.get()));
                        std::minstd_rand random(seed);
                        auto* words = reinterpret_cast<uint32_t*>(&client->memory());
                        // Lanes 1 and up get a number that no first request has, so that it is a
                        // lie for certain.
                        for (size_t word = 0; word < offsetof(common::SessionMemory, payload) / 4;
                             ++word) {
                          words[word] = static_cast<uint32_t>(random());
                        }
                        client->memory().requests[3].submitted.store(2, std::memory_order_release);
                        client->ring();
                        talk.say(client->wait_hung_up(kPatience) ? "ended" : "goes on");
                      }),
              "granted rw; ended")
        << "seed " << seed;
    EXPECT_EQ(still_honest(*second), "served") << "seed " << seed;
  }
}

}  // namespace
}  // namespace booster::test
