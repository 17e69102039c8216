// What the daemon accepts from shared memory.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <limits>
#include <memory>

#include "daemon/data/channel.h"
#include "daemon/data/request.h"
#include "daemon/data/session_memory.h"

namespace booster::daemon::data {
namespace {

using common::Op;

constexpr Request kGood{.op = Op::kRead, .slot = 0, .generation = 1, .length = 1, .offset = 0};
constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

Request with(auto change) {
  Request request = kGood;
  change(request);
  return request;
}

TEST(Request, TheBordersOfWhatIsWellFormed) {
  EXPECT_TRUE(is_well_formed(kGood));
  EXPECT_TRUE(is_well_formed(with([](Request& r) { r.slot = common::kHandleSlots - 1; })));
  EXPECT_TRUE(is_well_formed(with([](Request& r) { r.length = common::kLanePayload; })));
  EXPECT_TRUE(is_well_formed(with([](Request& r) { r.offset = kMax - 1; })));
}

TEST(Request, WhatNoHonestClientSends) {
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.op = static_cast<Op>(0); })));
  // A write, once: what is written goes through the log.
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.op = static_cast<Op>(2); })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.op = static_cast<Op>(7); })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.delegation = 1; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.ahead = 1; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.slot = common::kHandleSlots; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.slot = ~0U; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.length = 0; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.length = common::kLanePayload + 1; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.length = ~0U; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.offset = kMax; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.offset = kMax + 1; })));
  EXPECT_FALSE(is_well_formed(with([](Request& r) { r.offset = ~uint64_t{0}; })));
}

TEST(Request, FillsMayWaitForNothingAndLookAhead) {
  for (const Op op : {Op::kFill, Op::kStream}) {
    const auto fill = [op](auto change) {
      return with([op, change](Request& r) {
        r.op = op;
        change(r);
      });
    };
    EXPECT_TRUE(is_well_formed(fill([](Request& r) { r.length = 0; })));
    EXPECT_TRUE(is_well_formed(fill([](Request& r) { r.ahead = common::kMaxAhead; })));
    EXPECT_FALSE(is_well_formed(fill([](Request& r) { r.ahead = common::kMaxAhead + 1; })));
    EXPECT_FALSE(is_well_formed(fill([](Request& r) { r.length = common::kLanePayload + 1; })));
    EXPECT_FALSE(is_well_formed(fill([](Request& r) {
      r.offset = kMax - 10;
      r.ahead = 10;
    })));
    EXPECT_EQ(needed_right(op), uint32_t{common::kHandleReadable});
  }
}

TEST(Request, SyncsAreAboutTheWholeFile) {
  for (const Op op : {Op::kSync, Op::kDataSync}) {
    const auto sync = [op](auto change) {
      return with([op, change](Request& r) {
        r.op = op;
        r.length = 0;
        change(r);
      });
    };
    EXPECT_TRUE(is_well_formed(sync([](Request&) {})));
    EXPECT_TRUE(is_well_formed(sync([](Request& r) { r.delegation = 5; })));
    EXPECT_FALSE(is_well_formed(sync([](Request& r) { r.length = 1; })));
    EXPECT_FALSE(is_well_formed(sync([](Request& r) { r.offset = 1; })));
    EXPECT_FALSE(is_well_formed(sync([](Request& r) { r.ahead = 1; })));
    EXPECT_EQ(needed_right(op), uint32_t{common::kHandleWritable});
  }
}

TEST(SessionMemory, IsSealedPrivateAndFilled) {
  auto memory = SessionMemory::create(5000);
  ASSERT_TRUE(memory.ok());
  common::SessionMemory& shared = ***memory;
  EXPECT_EQ(shared.header.magic, common::kSessionMagic);
  EXPECT_EQ(shared.header.quarantine_ms.load(std::memory_order_relaxed), 5000U);
  EXPECT_EQ(shared.header.pump_asleep.load(std::memory_order_relaxed), 1U);
  const UniqueFd fd = (*memory)->take_fd();
  struct stat status {};
  ASSERT_EQ(::fstat(fd.get(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
  EXPECT_EQ(static_cast<size_t>(status.st_size), common::kSessionBytes);
  EXPECT_NE(::ftruncate(fd.get(), 4096), 0);
  EXPECT_NE(::ftruncate(fd.get(), status.st_size + 4096), 0);
  EXPECT_NE(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

// A channel without a pump: what is submitted is answered with EBADF, or is a lie.
class ChannelTest : public ::testing::Test, public Submitter, public ChannelKeeper {
 protected:
  ChannelTest() {
    auto memory = SessionMemory::create(5000);
    channel_ = std::make_shared<Channel>(*memory, stats_, quarantine_, nullptr, *this);
  }
  void begin(gluster::Gate&) override {}
  bool end(gluster::Gate&) override { return true; }
  void poke(const std::shared_ptr<Channel>&) override {}
  void later(std::chrono::milliseconds, std::function<void()>) override {}

  common::SessionMemory& shared() { return *channel_->memory(); }
  void submit(uint32_t lane, uint32_t number, uint32_t length = 1) {
    common::LaneRequest& request = shared().requests[lane];
    request.op = static_cast<uint32_t>(Op::kRead);
    request.length = length;
    request.submitted.store(number, std::memory_order_release);
  }
  Channel::Scan scan() { return channel_->scan(*this, Clock::now()); }

  stats::PumpStats stats_;
  Quarantine quarantine_{5000};
  std::shared_ptr<Channel> channel_;
};

TEST_F(ChannelTest, NothingSubmittedIsNothingToDo) {
  EXPECT_EQ(scan(), Channel::Scan::kNothing);
}

TEST_F(ChannelTest, ARequestWithoutAHandleIsAnsweredNotPunished) {
  for (uint32_t number = 1; number < 100; ++number) {
    submit(3, number);
    EXPECT_EQ(scan(), Channel::Scan::kWorked);
    EXPECT_EQ(shared().replies[3].completed.load(std::memory_order_acquire), number);
    EXPECT_EQ(shared().replies[3].error, EBADF);
    EXPECT_EQ(scan(), Channel::Scan::kNothing);
  }
  EXPECT_EQ(stats_.traffic.errors.get(), 99U);
}

TEST_F(ChannelTest, ASkippedNumberIsALie) {
  submit(0, 2);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
}

TEST_F(ChannelTest, ANumberThatGoesBackIsALie) {
  submit(0, 1);
  EXPECT_EQ(scan(), Channel::Scan::kWorked);
  submit(0, 0);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
}

TEST_F(ChannelTest, AMalformedRequestIsALie) {
  submit(7, 1, 0);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
}

TEST_F(ChannelTest, MoreRecordsThanTheLogHoldsAreALie) {
  for (const uint32_t number : {0xffff'ffffU, 0x8000'0000U, common::kLogRecords + 1}) {
    shared().logs[0].head.published.store(number, std::memory_order_release);
    EXPECT_EQ(scan(), Channel::Scan::kLie) << number;
  }
}

TEST_F(ChannelTest, ARecordWithoutADelegationIsALie) {
  shared().logs[0].records[0] = {.slot = 3, .generation = 1, .offset = 0, .length = 1, .place = 0};
  shared().logs[0].head.published.store(1, std::memory_order_release);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
  Channel::Slot& slot = channel_->make_slot(3);
  slot.state = Channel::Slot::State::kReady;
  slot.generation = 1;
  slot.flags = common::kHandleReadable | common::kHandleWritable;
  EXPECT_EQ(scan(), Channel::Scan::kLie);
}

TEST_F(ChannelTest, AMalformedRecordIsALie) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  const common::LogRecord bad[] = {
      {.slot = common::kHandleSlots, .generation = 0, .offset = 0, .length = 1, .place = 0},
      {.slot = 0, .generation = 0, .offset = 0, .length = 0, .place = 0},
      {.slot = 0, .generation = 0, .offset = 0, .length = common::kMaxRecord + 1, .place = 0},
      {.slot = 0, .generation = 0, .offset = 0, .length = 2, .place = common::kLogBytes - 1},
      {.slot = 0, .generation = 0, .offset = 0, .length = 2, .place = 0xffff'ffff},
      {.slot = 0, .generation = 0, .offset = kMost, .length = 1, .place = 0},
      {.slot = 0, .generation = 0, .offset = ~uint64_t{0}, .length = 1, .place = 0},
  };
  // A slot for which nothing else would be wrong, but that it has no file: what comes as far as
  // that is a crash.
  Channel::Slot& slot = channel_->make_slot(0);
  slot.state = Channel::Slot::State::kReady;
  slot.flags = common::kHandleReadable | common::kHandleWritable;
  slot.may_log = true;
  for (const common::LogRecord& record : bad) {
    shared().logs[0].records[0] = record;
    shared().logs[0].head.published.store(1, std::memory_order_release);
    EXPECT_EQ(scan(), Channel::Scan::kLie);
  }
}

TEST_F(ChannelTest, WhoWaitsForAnEmptyLogDoesNotWait) {
  int called = 0;
  channel_->log(0).when_written([&called] { ++called; });
  EXPECT_EQ(scan(), Channel::Scan::kNothing);
  EXPECT_EQ(called, 1);
  EXPECT_FALSE(channel_->busy());
}

TEST_F(ChannelTest, WhoWaitsForALogThatIsNeverWrittenWaitsUntilItIsGivenUp) {
  const auto waits = std::make_shared<int>(0);
  shared().logs[0].head.published.store(common::kLogRecords + 1, std::memory_order_release);
  channel_->log(0).when_written([waits] { ++*waits; });
  EXPECT_EQ(scan(), Channel::Scan::kLie);
  channel_->close();
  EXPECT_EQ(waits.use_count(), 1);
  EXPECT_EQ(*waits, 1);
  EXPECT_FALSE(channel_->busy());
}

TEST_F(ChannelTest, WhoeverTakesARecordBackLies) {
  std::atomic<uint32_t>& published = shared().logs[0].head.published;
  const auto waits = std::make_shared<int>(0);
  published.store(1, std::memory_order_release);
  channel_->log(0).when_written([waits] { ++*waits; });
  published.store(0, std::memory_order_release);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
  channel_->close();
  EXPECT_EQ(*waits, 1);
}

TEST_F(ChannelTest, WhoeverTakesARecordBackByGoingRoundLies) {
  std::atomic<uint32_t>& published = shared().logs[0].head.published;
  for (const uint32_t number : {0x4000'0000U, 0x8000'0000U, 0xc000'0000U}) {
    published.store(number, std::memory_order_release);
    channel_->log(0).when_written([] {});
  }
  published.store(0, std::memory_order_release);
  EXPECT_EQ(scan(), Channel::Scan::kLie);
}

TEST_F(ChannelTest, WhoWaitsForALogThatIsLeftToItsClientWaitsUntilThatHasDoneIt) {
  int called = 0;
  shared().logs[0].head.published.store(1, std::memory_order_release);
  shared().logs[0].head.abandoned.store(1, std::memory_order_release);
  channel_->log(0).when_written([&called] { ++called; });
  EXPECT_EQ(scan(), Channel::Scan::kWorked);
  EXPECT_EQ(scan(), Channel::Scan::kNothing);
  EXPECT_TRUE(channel_->busy());
  EXPECT_EQ(called, 0);
  shared().logs[0].tail.owner.store(common::kLogRecovered, std::memory_order_release);
  EXPECT_FALSE(channel_->busy());
  EXPECT_EQ(called, 1);
}

TEST_F(ChannelTest, WhoWaitsForALogThatIsLeftToItsClientWaitsUntilThatHasEnded) {
  int called = 0;
  for (common::LogRing& log : shared().logs) {
    log.head.published.store(1, std::memory_order_release);
    log.head.abandoned.store(1, std::memory_order_release);
  }
  channel_->log(0).when_written([&called] { ++called; });
  EXPECT_EQ(scan(), Channel::Scan::kWorked);
  EXPECT_TRUE(channel_->busy());
  EXPECT_EQ(called, 0);
  channel_->client_ended();
  EXPECT_EQ(called, 1);
  EXPECT_FALSE(channel_->busy());
}

TEST_F(ChannelTest, AClosedChannelTakesNothing) {
  channel_->close();
  submit(0, 1);
  EXPECT_EQ(scan(), Channel::Scan::kNothing);
}

TEST_F(ChannelTest, ASleepingClientsRefusalIsPublishedInItsSlot) {
  channel_->publish_refused(5, 9, common::Reason::kUnlinked);
  EXPECT_EQ(shared().slots[5].state.load(std::memory_order_acquire),
            common::slot_state(9, common::HandleSlot::kRefused));
  EXPECT_EQ(shared().slots[5].reason, static_cast<uint32_t>(common::Reason::kUnlinked));
}

TEST(Quarantine, ForgetsASlowWriteAfterAWhileButNotOneThatIsStillInFlight) {
  Quarantine quarantine(5000);
  Clock::time_point now = Clock::now();
  const auto pass = [&](std::chrono::minutes time) { quarantine.forget_old(now += time); };
  pass(std::chrono::minutes(0));
  quarantine.note_write(std::chrono::seconds(2));
  EXPECT_EQ(quarantine.ms(), 20'000U);
  quarantine.note_write(std::chrono::seconds(1));
  pass(Quarantine::kPeriod - std::chrono::minutes(1));
  EXPECT_EQ(quarantine.ms(), 20'000U);
  pass(std::chrono::minutes(1));
  EXPECT_EQ(quarantine.ms(), 20'000U);
  quarantine.note_write(std::chrono::seconds(1));
  pass(Quarantine::kPeriod);
  EXPECT_EQ(quarantine.ms(), 10'000U);
  for (int i = 0; i < 100; ++i) {
    quarantine.note_write(std::chrono::seconds(3));  // waits still
    pass(std::chrono::minutes(1));
    EXPECT_EQ(quarantine.ms(), 30'000U);
  }
  pass(Quarantine::kPeriod);
  pass(Quarantine::kPeriod);
  EXPECT_EQ(quarantine.ms(), 5000U);
}

TEST(Quarantine, IsTenTimesTheSlowestWriteButNeverLess) {
  Quarantine quarantine(5000);
  quarantine.note_write(std::chrono::milliseconds(3));
  EXPECT_EQ(quarantine.ms(), 5000U);
  quarantine.note_write(std::chrono::milliseconds(601));
  EXPECT_EQ(quarantine.ms(), 6100U);
  quarantine.note_write(std::chrono::milliseconds(10));
  EXPECT_EQ(quarantine.ms(), 6100U);
}

}  // namespace
}  // namespace booster::daemon::data
