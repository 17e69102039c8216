// A request of a client on its way to the bricks and back: a lane's, or some records of its log.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "daemon/data/clock.h"
#include "daemon/gluster/file.h"

namespace booster::daemon::data {

class Channel;

class ClientIo : public gluster::Io {
 public:
  /// GlusterFS has answered. The client is told, at once unless Channel::hold_answer() keeps it.
  void finished(int64_t result, int error) noexcept final;

 protected:
  ~ClientIo() = default;
  /// Tells the client: bytes and 0, or -1 and an errno. Any thread; may submit the rest.
  virtual void answer(int64_t result, int error) noexcept = 0;
  /// Instead of finished(): it could not be sent, and no brick has it.
  void refuse(int error) noexcept;
  /// So far; not while the answer is kept back, which says nothing of the bricks.
  bool waits_for_bricks() const { return !held_.load(std::memory_order_relaxed); }

  std::shared_ptr<Channel> channel_;  // while in flight: keeps the memory mapped
  uint32_t write_unit_ = 0;           // of the file that is written; 0: it is no write
  Clock::time_point start_;
  Clock::time_point end_;  // when GlusterFS has answered

 private:
  std::atomic<bool> held_{false};  // relaxed: for statistics
};

}  // namespace booster::daemon::data
