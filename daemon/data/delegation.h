// The daemon's word that one session alone uses a file on this host: while it stands, nobody else's
// open of the file returns before everything that the session has written is on the bricks and FUSE
// has forgotten what it held.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "daemon/data/channel.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/mount.h"
#include "daemon/gluster/recovery.h"

namespace booster::daemon::data {

class Delegation final : public std::enable_shared_from_this<Delegation> {
 public:
  /// For the ready slot `index` of `channel`. `io` is its pump's. `admission` goes with it.
  /// `session` is the channel's name for `recovery`.
  Delegation(boost::asio::io_context& io, const std::shared_ptr<Channel>& channel, uint32_t index,
             gluster::Mounts& mounts, gluster::Recovery& recovery, uint64_t session,
             std::shared_ptr<const void> admission);
  ~Delegation() { disown(); }
  Delegation(const Delegation&) = delete;
  Delegation& operator=(const Delegation&) = delete;

  // --- on the pump's thread ---

  /// Begins to hold up openers, asks `prove` (gluster::Mount::prove_alone), then shows the client
  /// that it may write; or why it may not.
  void begin(std::function<gluster::Alone()> prove);
  /// As if somebody had come for the file.
  void take_back();

 private:
  enum class State { kBeginning, kGranted, kRevoking, kOver };

  /// The slot, if it is still the one that this is for.
  Channel::Slot* slot(Channel& channel) const;
  bool opened();
  void begun(const gluster::Alone& alone, std::shared_ptr<gluster::OpenWatch> watch);
  void revoke();
  void written();
  void probed(bool answers, const std::shared_ptr<const void>& owed);
  /// `fenced`: what it owed FUSE has been done.
  void over(bool fenced = true);
  void disown();
  void over_by(std::chrono::milliseconds deadline, const char* event, const char* remedy);

  boost::asio::io_context& io_;
  const std::weak_ptr<Channel> channel_;
  const uint32_t index_;
  gluster::Mounts& mounts_;
  gluster::Recovery& recovery_;
  const gluster::GuardedSlot guarded_;
  const std::shared_ptr<const void> admission_;
  const std::shared_ptr<gluster::Inode> inode_;
  gluster::Recovery::Guard file_guard_;  // from the question to the answer
  // Of the pump's thread.
  boost::asio::steady_timer timer_;
  unsigned deadlines_ = 0;                     // set so far; only the last one counts
  std::shared_ptr<gluster::OpenWatch> watch_;  // who opens the file waits until it goes
  std::shared_ptr<CachedFile> cache_;          // while granted: the client reads out of it

  std::mutex mutex_;
  State state_ = State::kBeginning;
};

}  // namespace booster::daemon::data
