// One client process: its connection, its proofs, its handles. Lives on its pump's thread from
// start() to end(), and ends by itself when the process or the connection does.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/control/packet.h"
#include "daemon/control/peer.h"
#include "daemon/control/proof.h"
#include "daemon/control/shared.h"
#include "daemon/data/pump.h"
#include "daemon/stats/snapshot.h"
#include "proto/control.pb.h"

namespace booster::daemon::control {

namespace proto = ::booster::control;  // the messages of control.proto

class Session;

/// The sessions of one pump. On that pump's thread, like they.
struct PumpSessions {
  PumpSessions(data::Pump& owner, Shared& shared_state, MountTable table)
      : pump(owner), shared(shared_state), mount_table(std::move(table)) {}

  data::Pump& pump;
  Shared& shared;
  MountTable mount_table;
  std::unordered_map<uint64_t, std::shared_ptr<Session>> sessions;
};

/// What one Engage counts against. Belongs to the order, wherever that is, until it is answered or
/// dropped: whoever releases or hangs up while the mount does not answer leaves it in a queue, with
/// a descriptor of the daemon's.
struct Admission {
  Ticket handle;
  Ticket pending;
  std::shared_ptr<const Ticket> session;  // so that a user's sessions bound a user's orders
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(PumpSessions& home, uint64_t id, uid_t uid, UniqueFd socket, Ticket ticket);

  /// Takes its place in its pump's sessions and waits for Hello.
  void start();

  stats::SessionReport report() const;

 private:
  enum class Why { kPeerGone, kLie, kSilent, kRefused, kFailed };

  void wait_readable();
  void on_readable();
  bool on_packet(Packet& packet);
  bool on_hello(const proto::Hello& hello);
  void leave();
  void leave_logs_to_client();
  bool on_engage(const proto::Engage& engage, const Packet& packet);
  bool on_release(const proto::Release& release);
  bool on_delegate(const proto::Delegate& delegate);
  void engage_answered(uint32_t slot, const std::shared_ptr<std::atomic<bool>>& wanted,
                       Admission& admission,
                       Result<std::shared_ptr<gluster::File>, common::Reason> answer);
  std::shared_ptr<data::CachedFile> give_cache(uint32_t index, data::Channel::Slot& slot,
                                               const std::shared_ptr<gluster::File>& file);
  void refuse_slot(uint32_t slot, uint32_t generation, common::Reason reason);
  void free_slot(uint32_t slot);
  void on_process_end();
  bool refuse(proto::Refusal::Code code);
  void end(Why why, const char* detail);

  PumpSessions& home_;
  const uint64_t id_;
  const uid_t uid_;                       // who connected
  std::shared_ptr<const Ticket> ticket_;  // shared with what the session leaves behind
  boost::asio::posix::stream_descriptor socket_;
  boost::asio::posix::stream_descriptor process_;  // pidfd
  boost::asio::steady_timer hello_timer_;
  const std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  std::shared_ptr<const Peer> peer_ = std::make_shared<const Peer>();
  uint64_t nonce_ = 0;
  std::shared_ptr<data::Channel> channel_;  // from Welcome on
  bool guarded_ = false;                    // the recovery agent holds its memory
  // Orders that are under way, or queued; those of an ended session, too.
  const std::shared_ptr<std::atomic<int64_t>> pending_engages_ =
      std::make_shared<std::atomic<int64_t>>(0);
  /// Questions for delegations that nobody has answered yet.
  std::shared_ptr<std::atomic<int64_t>> pending_delegates_ =
      std::make_shared<std::atomic<int64_t>>(0);
  std::unordered_map<uint32_t, Ticket> handle_tickets_;  // by slot
  bool ended_ = false;
};

}  // namespace booster::daemon::control
