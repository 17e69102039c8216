// Write delegations that the daemon cannot end as it should: it says so, or does not grant them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/hostile/fixture.h"
#include "tests/integration/harness.h"
#include "tests/integration/watched.h"

namespace booster::test {
namespace {

std::string last_delegation(DaemonClient& client, uint32_t slot) {
  const common::HandleSlot& shown = client.memory().slots[slot];
  const uint32_t word = shown.delegation.load(std::memory_order_acquire);
  if ((word & common::kDelegationStates) != common::kNotDelegated) return "not answered";
  return common::reason_name(
      static_cast<common::Reason>(shown.delegation_reason.load(std::memory_order_relaxed)));
}

/// Somebody comes, and the bricks do not let the daemon open the file for writing.
TEST(Unfenced, AFenceThatFailsIsTheClientsToDo) {
  const Daemon daemon;
  const ScratchDir dir;
  for (const bool fails : {false, true}) {
    const std::string path = dir.file(fails ? "fails" : "works");
    write_file(path, std::string(4096, '0'));
    const auto client = new_session();
    const Fd file(path, O_RDWR);
    ASSERT_EQ(engage(*client, file.get()), "granted rw");
    client->memory().state.unsettled_in[0].store(1, std::memory_order_release);
    ASSERT_EQ(write_through(*client, 0, std::string(4096, '1')), "4096 bytes");
    // The bricks know it, and nobody can open it for writing.
    const std::string brick = path_on_brick(path);
    if (fails) must("chattr +i " + brick);
    { const Fd opener(path, O_RDONLY); }
    EXPECT_EQ(last_delegation(*client, 0), fails ? "fence-failed" : "not-alone");
    if (fails) must("chattr -i " + brick);
  }
}

/// The recovery agent reads again, but one session came while it did not: its log is nobody's when
/// the daemon dies.
TEST(Unguarded, ASessionThatTheAgentDoesNotKnowGetsNoDelegation) {
  const Daemon daemon;
  const ScratchDir dir;
  const std::string path = dir.file("it");
  write_file(path, std::string(4096, '0'));
  const RunResult found =
      run({"pgrep", "-P", std::to_string(daemon.pid()), "booster-recover"}, {.preload = false});
  ASSERT_EQ(found.status, 0);
  const pid_t agent = std::stoi(found.out);
  ASSERT_EQ(::kill(agent, SIGSTOP), 0);
  constexpr size_t kMore = 800;  // than a socket holds packets
  std::vector<std::unique_ptr<DaemonClient>> clients;
  do {
    clients.push_back(new_session());
  } while (clients.size() < kMore && clients.back()->memory().logs[0].tail.owner.load(
                                         std::memory_order_relaxed) == common::kLogGuarded);
  ::kill(agent, SIGCONT);
  ASSERT_LT(clients.size(), kMore);
  DaemonClient& unknown = *clients.back();
  const Fd file(path, O_RDWR);
  ASSERT_EQ(engage(unknown, file.get()), "granted rw");
  EXPECT_EQ(unknown.delegated(0, 1), 0U);
  EXPECT_EQ(last_delegation(unknown, 0), "limit");
}

/// What the client then writes through FUSE must not come over what an opener has written.
TEST(Abandoned, WhoOpensAFileWaitsForTheClientThatDoesItsLogItself) {
  const Daemon daemon;
  const ScratchDir dir;
  for (const bool dies : {false, true}) {
    const std::string path = dir.file(dies ? "dies" : "writes");
    write_file(path, std::string(4096, '0'));
    UserProcess writer(0, [&](Talk& talk) {
      const auto client = new_session();
      const Fd file(path, O_RDWR);
      if (engage(*client, file.get()) != "granted rw") return;
      if (write_through(*client, 0, std::string(4096, '1')) != "4096 bytes") return;
      common::LogRing& log = client->memory().logs[client->log_of(0)];
      log.tail.owner.store(common::kLogClient, std::memory_order_relaxed);
      log.head.abandoned.store(1, std::memory_order_release);
      client->log_anyway(client->log_of(0), 0, 1, 0, std::string(4096, '2'));
      talk.say("abandoned");
      talk.hear();
      log.tail.owner.store(common::kLogRecovered, std::memory_order_release);
      talk.hear();
    });
    ASSERT_EQ(writer.hear(), "abandoned");
    const auto opener = std::async(std::launch::async, [&path] { const Fd file(path, O_RDWR); });
    EXPECT_EQ(opener.wait_for(seconds(2)), std::future_status::timeout);
    if (dies) {
      writer.kill();
    } else {
      writer.say("written");
    }
    EXPECT_EQ(opener.wait_for(kPatience), std::future_status::ready);
  }
}

}  // namespace
}  // namespace booster::test
