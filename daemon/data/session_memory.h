// The daemon's side of one session's shared memory (common/abi.h): made here, sealed against
// resizing so that a client cannot take pages away under the daemon, unmapped with the last
// reference. Requests in flight hold references, so late answers land in mapped memory.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <functional>
#include <memory>

#include "common/abi.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::data {

/// Maps all of a session's memory. ENOMEM or the like.
Result<boost::interprocess::mapped_region> map_session_memory(int fd);

class SessionMemory {
 public:
  /// Makes and maps the memory, header filled. ENOMEM or the like on failure.
  /// `last`, if any, gets the memfd when nobody in the daemon needs it any more; any thread.
  static Result<std::shared_ptr<SessionMemory>> create(
      uint32_t quarantine_ms, std::function<void(UniqueFd)> last = nullptr);
  ~SessionMemory();

  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

  common::SessionMemory& operator*() const { return *memory_; }
  common::SessionMemory* operator->() const { return memory_; }

  /// For the client. Closed once it has been sent.
  UniqueFd take_fd() { return std::move(fd_); }

 private:
  SessionMemory(UniqueFd fd, boost::interprocess::mapped_region region);

  UniqueFd fd_;
  UniqueFd kept_;  // for last_
  std::function<void(UniqueFd)> last_;
  boost::interprocess::mapped_region region_;
  common::SessionMemory* memory_;
};

}  // namespace booster::daemon::data
