// One write log of a session, as the daemon works it off: takes records out of shared memory,
// joins neighbours into large writes, has some of them in flight at a time, and tells the client
// how far it is. Belongs to one pump; only completions come from other threads.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/abi.h"
#include "daemon/data/client_io.h"
#include "daemon/data/clock.h"
#include "daemon/gluster/file.h"
#include "daemon/stats/counters.h"

namespace booster::daemon::data {

class CachedFile;
class Channel;
class Quarantine;
class SessionMemory;
class Submitter;

class WriteLog {
 public:
  /// kGone: the daemon cannot write what is left, but the client can, through FUSE.
  enum class Take { kNothing, kWorked, kLie, kGone, kThreadLost };

  /// `progress` is called on any thread when there may be more to do; it must not block.
  /// `index`: which one of the session's.
  WriteLog(common::SessionMemory& memory, uint32_t index, std::function<void()> progress);

  // --- on the pump's thread ---

  /// Submits what is worth it now. `channel` is the log's owner.
  Take take(const std::shared_ptr<Channel>& channel, Submitter& submitter, Clock::time_point now);

  /// Calls `done` when everything that has been published by now has been answered, or written by
  /// the client itself, or nothing will be written any more. The caller has a fence (seq_cst)
  /// between taking the delegation away and this.
  void when_written(std::function<void()> done);

  /// Nothing that was published is unanswered, or nothing will be written any more. To be asked now
  /// and then while it is not.
  bool idle();
  /// Requests in flight have not been answered.
  bool in_flight();
  /// When something was last taken.
  Clock::time_point last_work() const { return last_work_; }
  /// Told to the client: it need not ring.
  void show_looks(bool looks);
  /// Tells the quarantine how old the writes in flight are.
  void note_in_flight(Quarantine& quarantine, Clock::time_point now);
  /// Nothing is taken any more, and nobody waits.
  void stop();
  /// The client is no more: nobody waits for what it would have done itself.
  void client_ended();

 private:
  /// One write, of one record or more.
  class Batch final : public ClientIo {
    friend class WriteLog;
    void answer(int64_t result, int error) noexcept override;

    std::shared_ptr<gluster::File> target_;
    std::shared_ptr<CachedFile> cache_;  // what the client reads of the file, if it has one
    uint64_t cache_owner_ = 0;
    WriteLog* log_ = nullptr;
    uint32_t slot_ = 0;
    uint32_t records_ = 0;
    const std::byte* bytes_ = nullptr;
    uint64_t offset_ = 0;
    uint32_t length_ = 0;
    uint32_t written_ = 0;
    bool finished_ = false;
  };
  enum class Plan { kReady, kLater, kLie, kGone };

  Plan plan(Channel& channel, uint32_t published, bool hurry, Batch& batch, uint32_t& next);
  bool look_at_published();
  Take leave_to_client(const Channel& channel, Clock::time_point now, Take told);
  void look_at_client();
  bool overlaps_in_flight(const gluster::Inode& inode, uint64_t offset, uint64_t length);
  bool submit(Batch& batch, Submitter& submitter);
  void batch_finished(Batch& batch, int error) noexcept;
  void run_waiters();

  common::SessionMemory& memory_;
  const uint32_t index_;
  common::LogRing& ring_;
  const std::function<void()> progress_;
  // Pump only.
  uint32_t taken_ = 0;
  uint32_t published_ = 0;  // at the last look that found no lie
  bool lied_ = false;
  uint32_t looked_at_ = 0;  // published at the last look, when it was not worth it
  bool put_off_ = false;    // there are records that wait for more, or for an answer
  bool stopped_ = false;
  bool left_ = false;  // to the client; then stopped
  bool client_ended_ = false;
  Clock::time_point left_until_{};
  Clock::time_point last_work_{};
  std::vector<std::pair<uint32_t, std::function<void()>>> waiters_;

  std::mutex mutex_;  // nothing is called under it
  static constexpr size_t kBatches = 32;
  std::array<Batch, kBatches> batches_;
  size_t first_ = 0;  // the oldest in flight
  size_t count_ = 0;
  uint32_t done_ = 0;
  bool answered_ = false;  // something was, since the last look
};

}  // namespace booster::daemon::data
