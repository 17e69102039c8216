// The data side of one session: its lanes, its handles, and the requests in flight between them and
// GlusterFS. Belongs to one pump; only completions (Lane::finished) come from other threads.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "common/abi.h"
#include "daemon/data/client_io.h"
#include "daemon/data/clock.h"
#include "daemon/data/page_cache.h"
#include "daemon/data/request.h"
#include "daemon/data/session_memory.h"
#include "daemon/data/write_log.h"
#include "daemon/gluster/file.h"
#include "daemon/stats/counters.h"

namespace booster::daemon::data {

class Channel;
class Delegation;

/// How long writes that were in flight at the daemon's death must wait (DESIGN section 7): ten
/// times the slowest of the last minutes. One for the whole daemon; any thread. Relaxed atomics:
/// pumps look at it twice a second, and nothing else hangs on it.
class Quarantine {
 public:
  /// What is older than twice this is forgotten, and nothing that is younger than this.
  static constexpr std::chrono::minutes kPeriod{10};
  /// Whatever bricks do: programs wait for this. Clients give a silent brick up after 42 s
  /// (network.ping-timeout).
  static constexpr int64_t kMostMs = 120'000;

  explicit Quarantine(uint32_t min_ms) : min_ms_(min_ms) {}

  /// A write took so long, or has been waiting for so long already.
  void note_write(std::chrono::nanoseconds duration);
  /// To be called twice a second, and writes in flight to be noted after it: so they count however
  /// long they take.
  void forget_old(Clock::time_point now);
  uint32_t ms() const;

 private:
  const uint32_t min_ms_;
  std::atomic<uint32_t> period_{0};  // of this period
  std::atomic<uint32_t> before_{0};  // of the one before
  std::mutex mutex_;
  Clock::time_point period_start_{};  // guarded by mutex_
};

/// What a channel asks of its pump. Any thread.
class ChannelKeeper {
 public:
  /// Looks at the channel's log soon.
  virtual void poke(const std::shared_ptr<Channel>& channel) = 0;
  /// Calls `what` on the pump's thread when `delay` has passed, unless the pump ends before.
  virtual void later(std::chrono::milliseconds delay, std::function<void()> what) = 0;

 protected:
  ~ChannelKeeper() = default;
};

/// One request of a client, from taking it to its answer.
class Lane final : public ClientIo, public FillWaiter, public StreamWaiter {
 public:
  void filled(bool all) noexcept override;
  std::byte* place() noexcept override;
  void streamed(int64_t bytes) noexcept override;

 private:
  friend class Channel;
  void answer(int64_t result, int error) noexcept override;

  uint32_t index_ = 0;
  uint32_t taken_ = 0;  // number of the last request taken; the daemon's own count

  // True from taking a request until just before its answer is published. Stored false with
  // release by the completing thread; the pump's acquire load is the partner, so that the fields
  // below are the pump's again.
  std::atomic<bool> in_flight_{false};
  Request request_;
};

/// Handed to Channel::scan by the pump: how to call into libgfapi from its thread.
class Submitter {
 public:
  /// Around each call into libgfapi.
  virtual void begin(gluster::Gate& gate) = 0;
  /// False if the pump has given up on this thread meanwhile: it must touch no channel again.
  virtual bool end(gluster::Gate& gate) = 0;

 protected:
  ~Submitter() = default;
};

class Channel : public std::enable_shared_from_this<Channel> {
 public:
  /// kGone: the session is to end although the client has not lied.
  enum class Scan { kNothing, kWorked, kLie, kGone, kThreadLost };

  /// `place` is what the memory counts against, and is let go after it.
  Channel(std::shared_ptr<SessionMemory> memory, stats::PumpStats& pump_stats,
          Quarantine& quarantine, std::shared_ptr<const void> place, ChannelKeeper& keeper);

  SessionMemory& memory() { return *memory_; }
  const stats::Traffic& traffic() const { return traffic_; }

  /// Takes what has been submitted since the last look, at most one request of each lane.
  Scan scan(Submitter& submitter, Clock::time_point now);

  /// The state of one handle slot, as the daemon knows it.
  struct Slot {
    enum class State { kFree, kPending, kReady } state = State::kFree;
    uint32_t generation = 0;
    uint32_t flags = 0;
    bool written = false;          // a write was taken, and not fenced by the daemon since
    uint64_t written_offset = 0;   // of the last one
    uint32_t delegation_word = 0;  // what the client has been shown, while it is delegated
    bool may_log = false;          // it has been delegated: records are no lie
    uint64_t cache_owner = 0;      // CachedFile::own() of the last time
    uint32_t log = 0;              // where they are
    std::shared_ptr<Delegation> delegation;
    std::shared_ptr<const void> guard;  // of the file, while there may be records (Recovery)
    gluster::Handle handle;
    std::shared_ptr<CachedFile> cache;          // if the client has been given it
    std::shared_ptr<std::atomic<bool>> wanted;  // while pending; false once nobody waits
  };
  /// nullptr if the slot was never used. `index` < kHandleSlots.
  Slot* find_slot(uint32_t index);
  Slot& make_slot(uint32_t index);
  const std::vector<std::unique_ptr<Slot>>& slots() const { return slots_; }

  /// Writes the answer to an Engage where the client looks for it.
  void publish_ready(uint32_t index, Slot& slot, std::shared_ptr<gluster::File> file);
  void publish_refused(uint32_t index, uint32_t generation, common::Reason reason);

  /// Shows the client how it stands about the delegation of a slot that is ready.
  void show_delegation(uint32_t index, common::DelegationState state);
  /// That it has none, and why; `flush_error` is an error of an earlier write through FUSE that
  /// nobody else will tell of, or 0.
  void show_not_delegated(uint32_t index, common::Reason reason, int flush_error);
  /// FUSE may hold older bytes than what the client has written through the slot, or through some.
  bool owes_fence(uint32_t index) const;
  bool owes_fences() const;
  WriteLog& log(uint32_t index) { return *logs_[index]; }
  /// When something was last taken out of a log.
  Clock::time_point last_logged() const;
  /// WriteLog::show_looks of all.
  void show_looks(bool looks);
  /// Calls `done` when everything that the client has logged by now where the slot's records are
  /// has been answered, or nothing will be written any more. The caller has a fence (seq_cst)
  /// between taking the delegation back and this.
  void when_written(uint32_t index, std::function<void()> done);
  void take_delegations_back();
  /// The client is no more, or does not talk to us any more: no lane is looked at again.
  void leave() { left_ = true; }
  /// Its process is no more.
  void client_ended();
  /// For the log: so many records have been written, or not. Any thread.
  void note_logged(uint32_t records, uint64_t bytes, int error, std::chrono::nanoseconds duration);
  /// For a write that was answered with `error`: whether a brick may still do it, so that nothing
  /// may overtake it. Then `answer` is called when the quarantine is over. Any thread.
  bool hold_answer(int error, uint32_t write_unit, std::function<void()> answer) noexcept;

  /// Answers what has been asked since the last look, all of it with ESHUTDOWN.
  void refuse_requests();

  /// Keeps valid what this client reads out of page caches. False if it has none.
  bool renew_caches(Clock::time_point now);
  /// Looks what the client has read out of page caches since the last look.
  void note_touches(Clock::time_point now);

  /// The session has ended: nothing is taken any more, handles are dropped.
  void close();
  bool closed() const { return closed_; }

  /// True while a request has not been answered.
  bool busy();
  /// Tells the quarantine how old the writes in flight are.
  void note_writes_in_flight(Clock::time_point now);
  const Quarantine& quarantine() const { return quarantine_; }
  /// Tells the client the current quarantine.
  void show_quarantine();

  // For the pump alone.
  std::atomic<bool> poked{false};  // it has been told to look
  bool active = false;             // looked at in every round
  bool watched = false;            // looked at in every heartbeat
  Clock::time_point last_work{};

 private:
  friend class Lane;

  Scan take(Lane& lane, uint32_t number, Submitter& submitter, Clock::time_point now);
  uint32_t log_of(dev_t mount);
  bool logs_idle();
  Scan fill(Lane& lane, const std::shared_ptr<gluster::File>& file,
            const std::shared_ptr<CachedFile>& cache, Submitter& submitter);
  Scan submit(Lane& lane, const std::shared_ptr<gluster::File>& file, Submitter& submitter);
  bool begin_syncs(Submitter& submitter);

  const std::shared_ptr<const void> place_;
  std::shared_ptr<SessionMemory> memory_;
  stats::PumpStats& pump_stats_;
  Quarantine& quarantine_;
  stats::Traffic traffic_;
  std::array<Lane, common::kLanes> lanes_;
  std::vector<std::unique_ptr<Slot>> slots_;  // grown as the client uses them
  uint64_t touches_seen_ = 0;                 // calls that the client had counted at the last look
  uint32_t delegation_answers_ = 0;
  ChannelKeeper& keeper_;
  std::vector<std::unique_ptr<WriteLog>> logs_;    // kLogs
  std::array<dev_t, common::kLogs> log_mounts_{};  // whose they are; 0: nobody's yet
  /// Requests of which everything that they are about is on the bricks.
  std::vector<std::pair<Lane*, std::shared_ptr<gluster::File>>> syncs_;
  bool left_ = false;
  bool closed_ = false;
};

}  // namespace booster::daemon::data
