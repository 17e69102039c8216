// What a session does with its client's packets.
#include "daemon/control/session.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <bit>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "daemon/data/delegation.h"

namespace booster::daemon::control {

using common::Reason;

namespace {

constexpr std::chrono::seconds kHelloWithin{5};
// Packets taken in one go, so that a flood of one client does not hold up the pump's others.
constexpr int kPacketsPerTurn = 16;
constexpr uint64_t kMinCacheMap = 1 << 20;
constexpr uint64_t kWritersCacheMap = 1 << 30;
// How often the end of a dead client's last writes is looked for.
constexpr std::chrono::milliseconds kIdleLook{5};

/// What goes with the last that needs a session's memory.
struct Place {
  std::shared_ptr<const Ticket> ticket;
  gluster::Recovery::Guard guard;
};

/// Each inode once, whatever number of handles on it was written through: a fence at one place
/// makes FUSE forget all of it.
struct LeftFiles {
  LeftFiles(PumpSessions& owner, std::shared_ptr<data::Channel> of)
      : home(owner), channel(std::move(of)), owed(owner.shared.mounts.owe_fence()) {}
  LeftFiles(const LeftFiles&) = delete;
  LeftFiles& operator=(const LeftFiles&) = delete;
  /// The last fence is done; this may be a thread without the common descriptors.
  ~LeftFiles() {
    home.shared.mounts.wakes().post([&io = home.pump.io(), channel = std::move(channel)] {
      boost::asio::post(io, [channel] { channel->close(); });
    });
  }

  PumpSessions& home;
  std::shared_ptr<data::Channel> channel;  // its delegations keep openers waiting meanwhile
  std::shared_ptr<const void> owed;
};

/// Fences when the last write has been answered: what lands later would be unseen.
void fence_when_idle(const std::shared_ptr<const LeftFiles>& left) {
  if (!left->channel->busy()) {
    std::unordered_map<std::shared_ptr<gluster::Inode>, uint64_t> offsets;
    const auto& slots = left->channel->slots();
    for (uint32_t i = 0; i < slots.size(); ++i) {
      if (!left->channel->owes_fence(i)) continue;
      offsets[slots[i]->handle.file()->inode()] = slots[i]->written_offset;
    }
    for (const auto& [inode, offset] : offsets) {
      left->home.shared.mounts.fence(inode, offset, [left](bool) {});
    }
    return;
  }
  left->home.pump.later(kIdleLook, [left] { fence_when_idle(left); });
}

}  // namespace

Session::Session(PumpSessions& home, uint64_t id, uid_t uid, UniqueFd socket, Ticket ticket)
    : home_(home),
      id_(id),
      uid_(uid),
      ticket_(std::make_shared<const Ticket>(std::move(ticket))),
      socket_(home.pump.io(), socket.release()),
      process_(home.pump.io()),
      hello_timer_(home.pump.io()) {}

void Session::start() {
  // First: whatever fails before there is a Welcome, this ends the session.
  hello_timer_.expires_after(kHelloWithin);
  hello_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    // Cancelled too late to be told, perhaps.
    if (!error && !self->channel_) self->end(Why::kSilent, "no Hello in time");
  });
  home_.sessions[id_] = shared_from_this();
  home_.shared.sockets.add(socket_.native_handle());
  // Not left to the listening socket: who connects before it has this would have no credentials.
  // An Engage counts only after Welcome, so none can have been sent yet.
  const int on = 1;
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  refuse_descriptors(socket_.native_handle());
  wait_readable();
}

void Session::wait_readable() {
  if (ended_) return;
  socket_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       if (error) return;
                       try {
                         self->on_readable();
                       } catch (const std::exception& e) {
                         self->end(Why::kFailed, e.what());
                       }
                     });
}

void Session::on_readable() {
  for (int i = 0; i < kPacketsPerTurn && !ended_; ++i) {
    Packet packet = receive(socket_.native_handle());
    if (packet.kind == Packet::Kind::kNone) break;
    if (packet.kind == Packet::Kind::kEnd) {
      end(Why::kPeerGone, "hung up");
      return;
    }
    const bool good = !packet.truncated && on_packet(packet);
    if (!good) end(Why::kLie, "malformed packet");
    // Nothing follows a doorbell as a rule, and waiting again tells if something does.
    if (packet.size == 1) break;
  }
  if (!ended_ && channel_) home_.pump.activate(channel_);
  wait_readable();
}

bool Session::on_packet(Packet& packet) {
  if (packet.size == 1 && packet.bytes[0] == static_cast<char>(common::kDoorbell)) {
    home_.pump.stats().traffic.doorbells.add();
    return channel_ != nullptr;
  }
  proto::ToDaemon message;
  if (!message.ParseFromArray(packet.bytes.data(), static_cast<int>(packet.size))) return false;
  switch (message.body_case()) {
    case proto::ToDaemon::kEngage: return on_engage(message.engage(), packet);
    case proto::ToDaemon::kHello: return on_hello(message.hello());
    case proto::ToDaemon::kRelease: return on_release(message.release());
    case proto::ToDaemon::kDelegate: return on_delegate(message.delegate());
    default: return false;
  }
}

bool Session::refuse(proto::Refusal::Code code) {
  proto::FromDaemon message;
  message.mutable_refusal()->set_code(code);
  send(socket_.native_handle(), message.SerializeAsString(), -1);
  home_.shared.totals.sessions_refused.add();
  end(Why::kRefused, proto::Refusal::Code_Name(code).c_str());
  return true;
}

bool Session::on_hello(const proto::Hello& hello) {
  if (channel_) return false;
  if (hello.abi_version() != common::kAbiVersion) return refuse(proto::Refusal::WRONG_ABI);
  auto peer = identify_peer(socket_.native_handle());
  if (!peer) return refuse(proto::Refusal::NOT_ALLOWED);
  auto memory = data::SessionMemory::create(
      home_.shared.quarantine.ms(), [&reclaimer = home_.shared.helpers.reclaimer](UniqueFd fd) {
        reclaimer.reclaim(std::move(fd));
      });
  if (!memory || ::getrandom(&nonce_, sizeof nonce_, 0) != sizeof nonce_) {
    return refuse(proto::Refusal::OUT_OF_MEMORY);
  }
  peer_ = std::make_shared<const Peer>(std::move(*peer));
  process_.assign(peer_->pidfd.get());  // lent: released in end()
  process_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const boost::system::error_code& error) {
                        if (!error) self->on_process_end();
                      });

  const UniqueFd memory_fd = (*memory)->take_fd();
  auto guard = home_.shared.helpers.recovery.guard_memory(id_, memory_fd.get());
  guarded_ = guard != nullptr;
  if (guarded_) {
    // relaxed: sending the descriptor orders it before the client's first look.
    for (common::LogRing& log : (***memory).logs) {
      log.tail.owner.store(common::kLogGuarded, std::memory_order_relaxed);
    }
  }
  const auto place = std::make_shared<const Place>(Place{ticket_, std::move(guard)});
  channel_ = std::make_shared<data::Channel>(*memory, home_.pump.stats(), home_.shared.quarantine,
                                             place, home_.pump);
  proto::FromDaemon message;
  proto::Welcome& welcome = *message.mutable_welcome();
  welcome.set_abi_version(common::kAbiVersion);
  welcome.set_nonce(nonce_);
  welcome.set_memory_bytes(common::kSessionBytes);
  welcome.set_page_cache(home_.shared.cache.enabled());
  welcome.set_delegations(home_.shared.delegates);
  if (!send(socket_.native_handle(), message.SerializeAsString(), memory_fd.get())) {
    end(Why::kPeerGone, "cannot send Welcome");
    return true;
  }
  if (home_.shared.cache.enabled()) {
    proto::FromDaemon watch;
    watch.mutable_watch();
    // A program that does not get it reads from no cache.
    send(socket_.native_handle(), watch.SerializeAsString(), home_.shared.cache.watch_descriptor());
  }
  home_.pump.add(channel_, [weak = weak_from_this()](bool lied) {
    const auto self = weak.lock();
    if (!self) return;
    if (lied) {
      self->end(Why::kLie, "malformed request");
    } else {
      self->end(Why::kFailed, "its volume cannot be served any more");
    }
  });
  hello_timer_.cancel();
  home_.shared.totals.sessions_opened.add();
  spdlog::debug("event=session-opened session={} pid={} uid={} command=\"{}\"", id_, peer_->pid,
                uid_, peer_->command);
  return true;
}

// --- engaging ----------------------------------------------------------------------------

void Session::refuse_slot(uint32_t slot, uint32_t generation, Reason reason) {
  home_.shared.totals.refused[static_cast<size_t>(reason)].add();
  channel_->publish_refused(slot, generation, reason);
  spdlog::debug("event=engage-refused session={} slot={} reason={}", id_, slot,
                common::reason_name(reason));
}

bool Session::on_engage(const proto::Engage& engage, const Packet& packet) {
  // The credentials say who sent this, the nonce that it was sent after the daemon had taken hold
  // of that process: another that has inherited the socket, or its number, knows only one of them.
  if (!channel_ || packet.sender != peer_->pid || engage.nonce() != nonce_ ||
      engage.slot() >= common::kHandleSlots) {
    return false;
  }
  const uint32_t index = engage.slot();
  const uint32_t generation = engage.generation();
  data::Channel::Slot& slot = channel_->make_slot(index);
  if (slot.state != data::Channel::Slot::State::kFree) return false;

  const LiveSettings& live = *home_.shared.live;
  const auto admission = std::make_shared<Admission>();
  admission->handle = home_.shared.limits.admit_handle();
  // relaxed: raised by this thread alone, and a late fall refuses one too many.
  if (!admission->handle || pending_engages_->load(std::memory_order_relaxed) >=
                                live.pending_engages.load(std::memory_order_relaxed)) {
    refuse_slot(index, generation, Reason::kLimit);
    return true;
  }

  const Claim claim{engage.fd_number(), makedev(engage.device_major(), engage.device_minor()),
                    engage.inode(), packet.sender_uid};
  auto proof = prove_file(*peer_, claim, home_.mount_table);
  if (!proof) {
    refuse_slot(index, generation, proof.error());
    return true;
  }

  spdlog::debug("event=engage session={} slot={}", id_, index);
  slot.state = data::Channel::Slot::State::kPending;
  slot.written = false;
  slot.generation = generation;
  slot.wanted = std::make_shared<std::atomic<bool>>(true);
  pending_engages_->fetch_add(1, std::memory_order_relaxed);
  admission->pending =
      Ticket([count = pending_engages_] { count->fetch_sub(1, std::memory_order_relaxed); });
  admission->session = ticket_;

  gluster::MountPlace place;
  place.dev = claim.dev;
  place.source = proof->mounts.front().source;
  place.mount_points = std::move(proof->mount_points);
  gluster::EngageOrder order;
  order.file = std::move(proof->file);
  order.inode = claim.inode;
  order.access_mode = [peer = peer_, claim, mount_id = proof->mount_id,
                       &readers = home_.shared.helpers.fdinfo_readers] {
    return prove_access(*peer, claim, mount_id, readers);
  };
  // relaxed: a hint that saves work.
  order.wanted = [wanted = slot.wanted] { return wanted->load(std::memory_order_relaxed); };
  order.done = [weak = weak_from_this(), &io = home_.pump.io(), index, wanted = slot.wanted,
                admission](Result<std::shared_ptr<gluster::File>, Reason> answer) {
    boost::asio::post(io, [weak, index, wanted, admission, answer = std::move(answer)]() mutable {
      const auto self = weak.lock();
      if (self) self->engage_answered(index, wanted, *admission, std::move(answer));
    });
  };
  home_.shared.mounts.find_or_add(place)->engage(std::move(order));
  return true;
}

void Session::engage_answered(uint32_t index, const std::shared_ptr<std::atomic<bool>>& wanted,
                              Admission& admission,
                              Result<std::shared_ptr<gluster::File>, Reason> answer) {
  if (ended_) return;
  data::Channel::Slot* slot = channel_->find_slot(index);
  // Released meanwhile, and perhaps used again: this answer belongs to nobody.
  if (!slot || slot->wanted != wanted) return;
  slot->wanted.reset();
  // Now, although others hold the admission for a moment: the client asks again as soon as it sees
  // the answer.
  admission.pending = Ticket();
  if (!answer) {
    admission.handle = Ticket();
    const uint32_t generation = slot->generation;
    free_slot(index);
    refuse_slot(index, generation, answer.error());
    return;
  }
  handle_tickets_[index] = std::move(admission.handle);
  spdlog::debug("event=engaged session={} slot={} gfid={}", id_, index,
                gluster::to_string((*answer)->inode()->gfid()));
  const int mode = (*answer)->access_mode();
  slot->flags = (mode != O_WRONLY ? uint32_t{common::kHandleReadable} : 0U) |
                (mode != O_RDONLY ? uint32_t{common::kHandleWritable} : 0U);
  const auto publish = [this, index](data::Channel::Slot& ready,
                                     const std::shared_ptr<gluster::File>& file,
                                     std::shared_ptr<data::CachedFile> cache) {
    ready.cache = std::move(cache);
    channel_->publish_ready(index, ready, file);
    if (ready.cache) home_.pump.watch_caches();
    home_.shared.totals.engaged.add();
  };
  auto cache = mode != O_WRONLY ? give_cache(index, *slot, *answer) : nullptr;
  // Who can write as well has no read delegation, which would be one against himself: the cache is
  // for when he has the file delegated for writing.
  if (!cache || mode != O_RDONLY) return publish(*slot, *answer, std::move(cache));
  // The program learns of the handle when it is known whether there is a read delegation.
  slot->wanted = wanted;
  cache->arm(*answer, [weak = weak_from_this(), &io = home_.pump.io(), index, wanted, cache,
                       file = *answer, publish] {
    boost::asio::post(io, [weak, index, wanted, cache, file, publish] {
      const auto self = weak.lock();
      if (!self || self->ended_) return;
      data::Channel::Slot* ready = self->channel_->find_slot(index);
      if (!ready || ready->wanted != wanted) return;
      ready->wanted.reset();
      publish(*ready, file, cache);
    });
  });
}

std::shared_ptr<data::CachedFile> Session::give_cache(uint32_t index, data::Channel::Slot& slot,
                                                      const std::shared_ptr<gluster::File>& file) {
  const uint64_t size = file->inode()->size();
  const bool writes = (slot.flags & common::kHandleWritable) != 0;
  if (writes ? !home_.shared.delegates : size == 0) return nullptr;
  if (size > common::kMaxCachedBytes) return nullptr;
  auto cache = home_.shared.cache.open(file->inode());
  if (!cache) return nullptr;
  proto::FromDaemon message;
  proto::Cache& given = *message.mutable_cache();
  given.set_slot(index);
  given.set_generation(slot.generation);
  // With room to grow. What is not mapped is not read out of the cache.
  given.set_map_bytes(
      std::min(std::bit_ceil(std::max(2 * size, writes ? kWritersCacheMap : kMinCacheMap)),
               common::kMaxCachedBytes));
  if (!send(socket_.native_handle(), message.SerializeAsString(), cache->descriptor())) {
    return nullptr;
  }
  slot.flags |= common::kHandleCached;
  return cache;
}

bool Session::on_release(const proto::Release& release) {
  if (!channel_ || release.slot() >= common::kHandleSlots) return false;
  data::Channel::Slot* slot = channel_->find_slot(release.slot());
  // Of a refused slot, or late: nothing to do.
  if (!slot || slot->state == data::Channel::Slot::State::kFree ||
      slot->generation != release.generation()) {
    return true;
  }
  if (slot->wanted) {
    slot->wanted->store(false, std::memory_order_relaxed);
    slot->wanted.reset();
  }
  // A number was closed past libc, so that nobody has settled the file.
  if (channel_->owes_fence(release.slot())) {
    gluster::Mounts& mounts = home_.shared.mounts;
    mounts.fence(slot->handle.file()->inode(), slot->written_offset,
                 [owed = mounts.owe_fence()](bool) {});
  }
  free_slot(release.slot());
  return true;
}

bool Session::on_delegate(const proto::Delegate& delegate) {
  if (!channel_ || !home_.shared.delegates || delegate.slot() >= common::kHandleSlots) return false;
  data::Channel::Slot* slot = channel_->find_slot(delegate.slot());
  // Late: the handle has been given back.
  if (!slot || slot->state != data::Channel::Slot::State::kReady ||
      slot->generation != delegate.generation()) {
    return true;
  }
  if ((slot->flags & common::kHandleWritable) == 0) return false;
  // A copy: it may leave the slot meanwhile.
  std::shared_ptr<data::Delegation> delegation = slot->delegation;
  if (delegate.give_back()) {
    if (delegation) delegation->take_back();
    return true;
  }
  if (delegation) return true;  // under way, or being taken back: the answer comes
  const auto admission = std::make_shared<const Ticket>(home_.shared.limits.admit_delegation(uid_));
  // An agent that had the file but not the log would let openers go without what is in it.
  // relaxed: raised by this thread alone, and a late fall refuses one too many.
  if (!guarded_ || !*admission ||
      pending_delegates_->load(std::memory_order_relaxed) >=
          home_.shared.live->pending_engages.load(std::memory_order_relaxed)) {
    channel_->show_not_delegated(delegate.slot(), Reason::kLimit, 0);
    return true;
  }
  pending_delegates_->fetch_add(1, std::memory_order_relaxed);
  const std::shared_ptr<const void> pending(nullptr, [count = pending_delegates_](const void*) {
    count->fetch_sub(1, std::memory_order_relaxed);
  });
  delegation = std::make_shared<data::Delegation>(home_.pump.io(), channel_, delegate.slot(),
                                                  home_.shared.mounts,
                                                  home_.shared.helpers.recovery, id_, admission);
  slot->delegation = delegation;
  const gluster::Inode& inode = *slot->handle.file()->inode();
  delegation->begin([&provers = home_.shared.helpers.lease_provers, peer = peer_,
                     number = delegate.fd_number(), dev = inode.dev(), file = inode.number(),
                     pending] { return provers.prove(*peer, number, dev, file); });
  return true;
}

void Session::free_slot(uint32_t index) {
  data::Channel::Slot& slot = channel_->make_slot(index);
  slot.delegation.reset();
  slot.guard.reset();
  slot.delegation_word = 0;
  slot.written = slot.may_log = false;
  slot.state = data::Channel::Slot::State::kFree;
  slot.handle = gluster::Handle();
  slot.cache.reset();
  handle_tickets_.erase(index);
}

// --- the end -----------------------------------------------------------------------------

/// The program is no more, or has called exec, or closed its socket: what it has written is written
/// out and shown. Should it live, it waits for that before it does the same (Session::replay_log()
/// in the shim).
void Session::leave() {
  if (!channel_->owes_fences() && !channel_->busy()) {
    home_.pump.remove(channel_);
  } else {
    home_.pump.leave(channel_);
    fence_when_idle(std::make_shared<const LeftFiles>(home_, channel_));
  }
}

/// Nobody works them off any more, and no agent will while the daemon lives.
void Session::leave_logs_to_client() {
  for (common::LogRing& log : channel_->memory()->logs) {
    uint32_t guarded = common::kLogGuarded;
    log.tail.owner.compare_exchange_strong(guarded, common::kLogDaemon, std::memory_order_acq_rel);
  }
}

void Session::on_process_end() {
  end(Why::kPeerGone, "process ended");
  // Also that of a session that has ended before.
  if (channel_) channel_->client_ended();
  if (process_.is_open()) process_.release();
}

void Session::end(Why why, const char* detail) {
  if (ended_) return;
  ended_ = true;
  const std::shared_ptr<Session> self = shared_from_this();
  stats::Totals& totals = home_.shared.totals;
  if (why == Why::kLie) {
    totals.sessions_ended_for_lies.add();
    spdlog::warn(
        "event=session-ended-for-lie session={} pid={} uid={} command=\"{}\" reason=\"{}\"", id_,
        peer_->pid, uid_, peer_->command, detail);
  } else {
    spdlog::debug("event=session-ended session={} pid={} reason=\"{}\"", id_, peer_->pid, detail);
  }
  const bool alive = channel_ && peer_->alive();
  if (channel_) {
    const stats::SessionReport last = report();
    for (size_t i = 0; i < common::kReasonCount; ++i) {
      totals.passed_calls[i].add(last.passed.calls[i]);
      totals.passed_bytes[i].add(last.passed.bytes[i]);
    }
    totals.cached_calls.add(last.cached_calls);
    totals.cached_bytes.add(last.cached_bytes);
    if (!alive) channel_->client_ended();
    if (why == Why::kFailed) leave_logs_to_client();
    if (why == Why::kLie) {
      home_.pump.remove(channel_);
    } else {
      leave();
    }
  }
  boost::system::error_code ignored;
  hello_timer_.cancel();
  home_.shared.sockets.remove(socket_.native_handle());
  socket_.close(ignored);
  handle_tickets_.clear();
  // A program that lives on may be looking at its last answers, in memory that only it can give
  // back: that stays, and counts, until the program ends. So it does for one that has called exec.
  const bool lives_on = alive && why != Why::kLie;
  if (!lives_on) {
    if (process_.is_open()) process_.release();
    channel_.reset();
    ticket_.reset();
  }
  home_.sessions.erase(id_);
}

stats::SessionReport Session::report() const {
  stats::SessionReport report;
  report.id = id_;
  report.pid = peer_->pid;
  report.uid = uid_;
  report.command = peer_->command;
  report.age_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - since_).count();
  if (!channel_) return report;
  const stats::Traffic& traffic = channel_->traffic();
  report.read_calls = traffic.read_calls.get();
  report.read_bytes = traffic.read_bytes.get();
  report.write_calls = traffic.write_calls.get();
  report.write_bytes = traffic.write_bytes.get();
  const common::CacheUse& cached = channel_->memory()->cache_use;
  report.cached_calls = cached.calls.load(std::memory_order_relaxed);
  report.cached_bytes = cached.bytes.load(std::memory_order_relaxed);
  for (const auto& slot : channel_->slots()) {
    if (!slot || slot->state != data::Channel::Slot::State::kReady) continue;
    const gluster::Inode& inode = *slot->handle.file()->inode();
    report.engaged.push_back({inode.gfid(), inode.dev(), inode.number(), slot->flags});
  }
  // Whatever the client has written there: for people only.
  const common::ClientCounters& counters = channel_->memory()->counters;
  for (size_t i = 0; i < common::kReasonCount; ++i) {
    report.passed.calls[i] = counters.calls[i].load(std::memory_order_relaxed);
    report.passed.bytes[i] = counters.bytes[i].load(std::memory_order_relaxed);
  }
  return report;
}

}  // namespace booster::daemon::control
