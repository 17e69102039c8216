// Granting, and taking back.
#include "daemon/data/delegation.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "daemon/gluster/worker.h"

namespace booster::daemon::data {

using common::DelegationState;

Delegation::Delegation(boost::asio::io_context& io, const std::shared_ptr<Channel>& channel,
                       uint32_t index, gluster::Mounts& mounts)
    : io_(io),
      channel_(channel),
      index_(index),
      mounts_(mounts),
      inode_(channel->find_slot(index)->handle.file()->inode()) {}

Delegation::~Delegation() {
  mounts_.unwatch(inode_);
}

Channel::Slot* Delegation::slot(Channel& channel) const {
  Channel::Slot* found = channel.find_slot(index_);
  return found && found->delegation.get() == this ? found : nullptr;
}

void Delegation::begin() {
  if (!inode_->set_open_listener(weak_from_this())) return begun(false);
  mounts_.hold_openers(inode_, [self = shared_from_this()](bool watched) {
    // On a thread with the common descriptors, without which asio cannot be woken.
    boost::asio::post(self->io_, [self, watched] { self->begun(watched); });
  });
}

void Delegation::begun(bool watched) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) state_ = watched ? State::kGranted : State::kOver;
    // Somebody may have come meanwhile.
    if (state_ == State::kOver) watched = false;
  }
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return;
  if (watched) {
    mine->delegated = true;
    channel->show_delegation(index_, DelegationState::kDelegated);
  } else {
    mine->delegation.reset();
    channel->show_delegation(index_, DelegationState::kNotDelegated);
  }
}

bool Delegation::opens(std::shared_ptr<const void> held) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) {
      // The client has logged nothing yet; it asks again.
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
  // Partner: the client's fence after `published`; and the one in Session::await_revocation().
  std::atomic_thread_fence(std::memory_order_seq_cst);
  channel->log().when_written([self = shared_from_this()] { self->written(); });
}

/// On the pump's thread. What the client has not fenced itself is fenced for it.
void Delegation::written() {
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return over();
  const uint32_t settled =
      (*channel->memory()).log_head.settled[index_].load(std::memory_order_acquire);
  const auto lies_behind = [mine](uint32_t number) {
    return static_cast<int32_t>(mine->last_record - number) > 0;
  };
  if (!mine->logged || !lies_behind(settled) || !lies_behind(mine->fenced_record)) return over();
  mine->fenced_record = mine->last_record;
  const std::shared_ptr<const void> owed = mounts_.owe_fence();
  // Goes when the fence is done, on a thread without the common descriptors.
  const std::shared_ptr<const void> fenced(nullptr, [self = shared_from_this(), owed](const void*) {
    self->mounts_.wakes().post(
        [self, owed] { boost::asio::post(self->io_, [self, owed] { self->over(); }); });
  });
  mounts_.fence(inode_, mine->written_offset, fenced);
}

/// On the pump's thread: nobody has to wait any more.
void Delegation::over() {
  std::vector<std::shared_ptr<const void>> held;
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kOver;
    held.swap(held_);
  }
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return;
  const std::shared_ptr<Delegation> self = shared_from_this();
  mine->delegation.reset();
  channel->show_delegation(index_, DelegationState::kNotDelegated);
}

}  // namespace booster::daemon::data
