// Granting, and taking back.
#include "daemon/data/delegation.h"

#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "daemon/gluster/worker.h"

namespace booster::daemon::data {

using common::DelegationState;
using common::Reason;

namespace {

/// A fence that has not come by then waits for the kernel's lock on the file, which a program can
/// hold for ever.
constexpr std::chrono::seconds kFenceWithin{10};

}  // namespace

Delegation::Delegation(boost::asio::io_context& io, const std::shared_ptr<Channel>& channel,
                       uint32_t index, gluster::Mounts& mounts, bool logs)
    : io_(io),
      channel_(channel),
      index_(index),
      logs_(logs),
      mounts_(mounts),
      inode_(channel->find_slot(index)->handle.file()->inode()),
      fence_timer_(io) {}

Delegation::~Delegation() {
  mounts_.unwatch(inode_);
}

Channel::Slot* Delegation::slot(Channel& channel) const {
  Channel::Slot* found = channel.find_slot(index_);
  return found && found->delegation.get() == this ? found : nullptr;
}

void Delegation::begin(std::function<gluster::Alone()> prove) {
  const std::shared_ptr<Channel> channel = channel_.lock();
  if (!channel || !inode_->set_open_listener(weak_from_this())) {
    return begun({Reason::kNotAlone, 0});
  }
  mounts_.prove_alone(channel->find_slot(index_)->handle.file(), std::move(prove),
                      [self = shared_from_this()](const gluster::Alone& alone) {
                        boost::asio::post(self->io_, [self, alone] { self->begun(alone); });
                      });
}

void Delegation::begun(const gluster::Alone& alone) {
  Reason reason = alone.reason;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) {
      state_ = reason == Reason::kNone ? State::kGranted : State::kOver;
    } else if (reason == Reason::kNone) {
      reason = Reason::kNotAlone;  // somebody has come meanwhile
    }
  }
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return;
  const std::shared_ptr<Delegation> self = shared_from_this();
  if (reason == Reason::kNone) {
    if (logs_) mine->may_log = true;
    channel->show_delegation(index_, DelegationState::kDelegated);
  } else {
    mine->delegation.reset();
    channel->show_not_delegated(index_, reason, alone.flush_error);
  }
}

bool Delegation::opens(std::shared_ptr<const void> held) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) {
      // The client has written nothing yet; it asks again.
      state_ = State::kOver;
      return false;
    }
    if (state_ == State::kOver) return false;
    held_.push_back(std::move(held));
    if (state_ == State::kRevoking) return true;
    state_ = State::kRevoking;
  }
  // This may be a thread without the common descriptors.
  mounts_.wakes().post(
      [self = shared_from_this()] { boost::asio::post(self->io_, [self] { self->revoke(); }); });
  return true;
}

void Delegation::take_back() {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) state_ = State::kOver;
    if (state_ != State::kGranted) return;
    state_ = State::kRevoking;
  }
  revoke();
}

/// On the pump's thread.
void Delegation::revoke() {
  const std::shared_ptr<Channel> channel = channel_.lock();
  if (!channel || channel->closed() || !slot(*channel)) return over();
  channel->show_delegation(index_, DelegationState::kRevoking);
  // Partner: the client's fence after `published`; and the one in the shim's
  // Session::await_recall().
  std::atomic_thread_fence(std::memory_order_seq_cst);
  channel->when_written(index_, [self = shared_from_this()] { self->written(); });
}

/// On the pump's thread. What the client has not fenced itself is fenced for it.
void Delegation::written() {
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine || !channel->owes_fence(index_)) return over();
  mine->written = false;
  const std::shared_ptr<const void> owed = mounts_.owe_fence();
  // Goes when the fence is done, on a thread without the common descriptors.
  const std::shared_ptr<const void> fenced(nullptr, [self = shared_from_this(), owed](const void*) {
    self->mounts_.wakes().post(
        [self, owed] { boost::asio::post(self->io_, [self, owed] { self->over(); }); });
  });
  mounts_.fence(inode_, mine->written_offset, fenced);
  fence_timer_.expires_after(kFenceWithin);
  fence_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || !self) return;
    spdlog::warn("event=fence-late gfid={} remedy=\"others may see old bytes for a second\"",
                 gluster::to_string(self->inode_->gfid()));
    self->over();
  });
}

/// On the pump's thread: nobody has to wait any more.
void Delegation::over() {
  std::vector<std::shared_ptr<const void>> held;
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kOver;
    held.swap(held_);
  }
  fence_timer_.cancel();
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return;
  const std::shared_ptr<Delegation> self = shared_from_this();
  mine->delegation.reset();
  channel->show_not_delegated(index_, Reason::kNotAlone, 0);
}

}  // namespace booster::daemon::data
