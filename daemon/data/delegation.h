// The daemon's word that one session alone uses a file on this host: while it stands, nobody else's
// open of the file returns before everything in the session's log is on the bricks and FUSE has
// forgotten what it held.
#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/data/channel.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/mount.h"

namespace booster::daemon::data {

class Delegation final : public gluster::OpenListener,
                         public std::enable_shared_from_this<Delegation> {
 public:
  /// For the ready slot `index` of `channel`. `io` is its pump's.
  Delegation(boost::asio::io_context& io, const std::shared_ptr<Channel>& channel, uint32_t index,
             gluster::Mounts& mounts);
  ~Delegation() override;
  Delegation(const Delegation&) = delete;
  Delegation& operator=(const Delegation&) = delete;

  // --- on the pump's thread ---

  /// Begins to hold up openers, then shows the client that it may write into its log; or that it
  /// may not.
  void begin();
  /// As if somebody had come for the file.
  void take_back();

  // --- on any thread ---

  /// Keeps whoever wants to open the file waiting until `held` goes; false: it need not wait.
  bool opens(std::shared_ptr<const void> held) override;

 private:
  enum class State { kBeginning, kGranted, kRevoking, kOver };
  class Revocation;

  /// The slot, if it is still the one that this is for.
  Channel::Slot* slot(Channel& channel) const;
  void begun(bool watched);
  void revoke();
  void written();
  void over();

  boost::asio::io_context& io_;
  const std::weak_ptr<Channel> channel_;
  const uint32_t index_;
  gluster::Mounts& mounts_;
  const std::shared_ptr<gluster::Inode> inode_;

  std::mutex mutex_;
  State state_ = State::kBeginning;
  std::vector<std::shared_ptr<const void>> held_;
};

}  // namespace booster::daemon::data
