// Granting, and taking back.
#include "daemon/data/delegation.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <chrono>
#include <exception>
#include <utility>

#include "daemon/data/page_cache.h"
#include "daemon/gluster/worker.h"

namespace booster::daemon::data {

using common::DelegationState;
using common::Reason;

namespace {

/// Bricks that have not answered by then let openers go into FUSE's own waiting.
constexpr std::chrono::milliseconds kAnswerWithin{1000};
/// A fence that has not come by then waits for the kernel's lock on the file, which a program can
/// hold for ever.
constexpr std::chrono::milliseconds kFenceWithin{10'000};

/// What the recovery agent holds for a delegation; the last member goes first.
struct FileAndWatch {
  gluster::Recovery::Guard file;
  gluster::Recovery::Guard watch;
};

struct Answer {
  gluster::Alone alone{Reason::kNotProven, 0};
  std::shared_ptr<gluster::OpenWatch> watch;
};

}  // namespace

Delegation::Delegation(boost::asio::io_context& io, const std::shared_ptr<Channel>& channel,
                       uint32_t index, gluster::Mounts& mounts, gluster::Recovery& recovery,
                       uint64_t session, std::shared_ptr<const void> admission)
    : io_(io),
      channel_(channel),
      index_(index),
      mounts_(mounts),
      recovery_(recovery),
      guarded_{session, index, channel->find_slot(index)->generation},
      admission_(std::move(admission)),
      inode_(channel->find_slot(index)->handle.file()->inode()),
      timer_(io) {}

Channel::Slot* Delegation::slot(Channel& channel) const {
  Channel::Slot* found = channel.find_slot(index_);
  return found && found->delegation.get() == this ? found : nullptr;
}

void Delegation::begin(std::function<gluster::Alone()> prove) {
  const std::shared_ptr<Channel> channel = channel_.lock();
  if (!channel || !inode_->delegate_to(weak_from_this())) {
    return begun({Reason::kNotAlone, 0}, nullptr);
  }
  gluster::Mount::AloneQuestion question;
  question.guard = [self = shared_from_this()](int file, int group) -> gluster::Recovery::Guard {
    self->file_guard_ = self->recovery_.guard_file(self->guarded_, file);
    if (!self->file_guard_) return nullptr;
    auto watch = self->recovery_.guard_watch(self->guarded_, group);
    if (!watch) return nullptr;
    // The group goes first: of one whose file it has not, the agent does not know what it is for.
    return std::make_shared<const FileAndWatch>(FileAndWatch{self->file_guard_, std::move(watch)});
  };
  question.opened = [weak = weak_from_this(), &wakes = mounts_.wakes()] {
    auto self = weak.lock();
    if (!self) return false;
    const bool waits = self->opened();
    wakes.post([self = std::move(self)] {});
    return waits;
  };
  question.prove = std::move(prove);
  // Goes when there is an answer, and also when what would answer has run out of memory.
  const std::shared_ptr<Answer> answer(new Answer, [self = shared_from_this()](Answer* given) {
    std::unique_ptr<Answer> owned(given);
    try {
      boost::asio::post(self->io_, [self, owned = std::move(owned)] {
        self->begun(owned->alone, std::move(owned->watch));
      });
    } catch (const std::exception& e) {
      gluster::job_failed("delegation", e.what());
    }
  });
  question.done = [answer](const gluster::Alone& alone, std::shared_ptr<gluster::OpenWatch> watch) {
    *answer = {alone, std::move(watch)};
  };
  mounts_.prove_alone(channel->find_slot(index_)->handle.file(), std::move(question));
}

void Delegation::begun(const gluster::Alone& alone, std::shared_ptr<gluster::OpenWatch> watch) {
  Reason reason = alone.reason;
  watch_ = std::move(watch);
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) {
      state_ = reason == Reason::kNone ? State::kGranted : State::kOver;
    } else if (reason == Reason::kNone) {
      reason = Reason::kNotAlone;  // somebody has come meanwhile
    }
  }
  if (reason != Reason::kNone) watch_.reset();
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine) return;
  const std::shared_ptr<Delegation> self = shared_from_this();
  if (reason == Reason::kNone) {
    mine->may_log = true;
    mine->guard = std::move(file_guard_);
    cache_ = mine->cache;
    if (cache_) mine->cache_owner = cache_->own();
    channel->show_delegation(index_, DelegationState::kDelegated);
  } else {
    mine->delegation.reset();
    channel->show_not_delegated(index_, reason, alone.flush_error);
  }
}

/// On the watch's thread: somebody wants to open the file. False: he need not wait.
bool Delegation::opened() {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kBeginning) {
      // The client has written nothing yet; it asks again.
      state_ = State::kOver;
      return false;
    }
    if (state_ != State::kGranted) return state_ == State::kRevoking;
    state_ = State::kRevoking;
  }
  // This thread has not the common descriptors.
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

/// On the pump's thread. What the client has not fenced itself is fenced for it, which opens the
/// file, if that can be done.
void Delegation::written() {
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine || !channel->owes_fence(index_)) return over();
  mounts_.probe(inode_, [self = shared_from_this(), owed = mounts_.owe_fence()](bool answers) {
    boost::asio::post(self->io_, [self, owed, answers] { self->probed(answers, owed); });
  });
  over_by(kAnswerWithin, "bricks-silent", "who opens it waits for them as with FUSE alone");
}

void Delegation::probed(bool answers, const std::shared_ptr<const void>& owed) {
  const std::shared_ptr<Channel> channel = channel_.lock();
  Channel::Slot* mine = channel ? slot(*channel) : nullptr;
  if (!mine || !answers || !watch_) return over(false);
  mine->written = false;
  watch_->read();
  const auto fenced = std::make_shared<std::atomic<bool>>(false);
  // Goes when the fence is done, or cannot be, on a thread without the common descriptors.
  const std::shared_ptr<const void> end(
      nullptr, [self = shared_from_this(), owed, fenced](const void*) {
        // relaxed: the posts order it.
        self->mounts_.wakes().post([self, owed, done = fenced->load(std::memory_order_relaxed)] {
          boost::asio::post(self->io_, [self, owed, done] { self->over(done); });
        });
      });
  mounts_.fence(inode_, mine->written_offset,
                [fenced, end](bool done) { fenced->store(done, std::memory_order_relaxed); });
  over_by(kFenceWithin, "fence-late", "others may see old bytes for a second");
}

/// Nobody waits for longer.
void Delegation::over_by(std::chrono::milliseconds deadline, const char* event,
                         const char* remedy) {
  timer_.expires_after(deadline);
  // One that has passed and waits for its turn cannot be cancelled.
  timer_.async_wait([weak = weak_from_this(), set = ++deadlines_, event,
                     remedy](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || !self || set != self->deadlines_) return;
    spdlog::warn("event={} gfid={} remedy=\"{}\"", event, gluster::to_string(self->inode_->gfid()),
                 remedy);
    self->over(false);
  });
}

void Delegation::disown() {
  if (const std::shared_ptr<CachedFile> cache = std::move(cache_)) cache->disown();
}

/// On the pump's thread: nobody has to wait any more.
void Delegation::over(bool fenced) {
  disown();  // others may write from now on
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kOver;
  }
  ++deadlines_;
  timer_.cancel();
  const std::shared_ptr<Delegation> self = shared_from_this();
  const std::shared_ptr<Channel> channel = channel_.lock();
  if (Channel::Slot* mine = channel ? slot(*channel) : nullptr) {
    mine->delegation.reset();
    // Its client is told to fence it, and may be killed before it has.
    mine->written = mine->written || !fenced;
    channel->show_not_delegated(index_, fenced ? Reason::kNotAlone : Reason::kFenceFailed, 0);
  }
  watch_.reset();
}

}  // namespace booster::daemon::data
