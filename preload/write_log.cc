#include "preload/write_log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "common/futex.h"
#include "preload/connector.h"
#include "preload/log.h"
#include "preload/pool.h"
#include "preload/process.h"
#include "preload/settle.h"

namespace booster::preload {

using common::kLogBytes;
using common::kLogRecords;

namespace {

/// A description through which less has been written so far is not worth the delegation, which
/// costs a millisecond.
constexpr uint64_t kLogFrom = 256 << 10;
/// How soon a delegation is asked for again that was not granted, or taken away; twice that each
/// time that somebody else turned out to have the file open.
constexpr uint64_t kAskAgainMs = 500;
constexpr uint64_t kAskSeldomMs = 30'000;
constexpr uint64_t kEagerWaitMs = 10'000;
/// The daemon is looked after this often while nothing but the log is used.
constexpr uint64_t kLookMs = 100;
constexpr uint64_t kRevocationWaitMs = 10'000;

common::DelegationState state_of(uint32_t delegation) {
  return static_cast<common::DelegationState>(delegation & common::kDelegationStates);
}

long control(int fd, int command, long argument) {
  return raw::raw_syscall(SYS_fcntl, fd, command, argument);
}

enum class Alone { kYes, kNo, kNever };

/// Whether nobody else on this host has the file open. The kernel gives a write lease to the only
/// one (check_conflicting_open in fs/locks.c). It is given back at once; whoever opens the file in
/// between waits that long, and the kernel would tell us with SIGIO, which ends programs: for the
/// moment it is another signal, which nobody notices.
Alone is_alone(int fd) {
  f_owner_ex owner{};
  if (control(fd, F_GETLEASE, 0) != F_UNLCK || control(fd, F_GETSIG, 0) != 0 ||
      raw::is_error(control(fd, F_GETOWN_EX, raw::word(&owner))) || owner.pid != 0) {
    return Alone::kNever;  // the program has plans of its own
  }
  if (raw::is_error(control(fd, F_SETSIG, SIGURG))) return Alone::kNever;
  const long leased = control(fd, F_SETLEASE, F_WRLCK);
  if (!raw::is_error(leased)) control(fd, F_SETLEASE, F_UNLCK);
  control(fd, F_SETSIG, 0);
  control(fd, F_SETOWN, 0);
  if (!raw::is_error(leased)) return Alone::kYes;
  return leased == -EAGAIN ? Alone::kNo : Alone::kNever;  // -EACCES: another user's file
}

/// Under `engaging`: asks, or takes up what was answered.
uint32_t advance_delegation(Session& session, Description& description, int fd,
                            const HandleRef& handle) {
  Description::Log& log = description.log;
  if (log.pause_ms == 0) log.pause_ms = kAskAgainMs;
  const uint64_t deadline = settings().eager ? raw::coarse_now_ms() + kEagerWaitMs : 0;
  while (true) {
    const uint32_t answer = session.delegation(handle);
    if (log.asked && answer != log.answer_then) log.asked = false;
    switch (log.asked ? common::kRevoking : state_of(answer)) {
      case common::kDelegated:
        switch (is_alone(fd)) {
          case Alone::kYes:
            log.pause_ms = kAskAgainMs;
            log.delegation.store(answer, std::memory_order_relaxed);
            return answer;
          case Alone::kNever: log.never = true; break;
          case Alone::kNo:
            log.pause_ms = log.pause_ms * 2 < kAskSeldomMs ? log.pause_ms * 2 : kAskSeldomMs;
            break;
        }
        log.asked = session.ask_delegation(handle, true);
        log.answer_then = answer;
        log.ask_at_ms = raw::coarse_now_ms() + log.pause_ms;
        return 0;
      case common::kDelegationNone:
      case common::kNotDelegated:
        if (log.delegation.exchange(0, std::memory_order_relaxed) != 0) {
          log.ask_at_ms = raw::coarse_now_ms() + log.pause_ms;  // somebody came for it
        }
        if (raw::coarse_now_ms() < log.ask_at_ms) return 0;
        log.ask_at_ms = raw::coarse_now_ms() + log.pause_ms;
        log.asked = session.ask_delegation(handle, false);
        log.answer_then = answer;
        break;
      case common::kRevoking: break;
    }
    if (raw::coarse_now_ms() >= deadline || !session.alive()) return 0;
    raw::sleep_us(200);
  }
}

}  // namespace

uint32_t delegation_for(Session& session, Description& description, const Call& call, long flags,
                        HandleRef& handle) {
  if (!session.policy().write_log || description.log.never || !description.own ||
      description.shared.load(std::memory_order_acquire) ||
      (!settings().eager && description.moved.load(std::memory_order_relaxed) < kLogFrom)) {
    return 0;
  }
  if (handle_for(session, description, call, flags, handle) != common::Reason::kNone) return 0;
  const uint32_t delegation = description.log.delegation.load(std::memory_order_relaxed);
  if (delegation != 0 && delegation == session.delegation(handle)) {
    return session.log_error(handle.slot) == 0 ? delegation : 0;
  }
  if (session.log_error(handle.slot) != 0) return 0;
  if (!description.engaging.lock_for(0)) return 0;
  const uint32_t granted = advance_delegation(session, description, call.fd, handle);
  description.engaging.unlock();
  return granted;
}

// --- the log itself ----------------------------------------------------------------------------

struct Session::LogNote {
  uint64_t start;  // log_put_ before it
  Inode* inode;
};

void Session::drop_log_notes() {
  if (log_notes_ == nullptr) return;
  raw::raw_syscall(SYS_munmap, raw::word(log_notes_), kLogRecords * sizeof(LogNote));
  log_notes_ = nullptr;
}

bool Session::ask_delegation(const HandleRef& handle, bool give_back) {
  return g_connector.ask_delegation(*this, handle, give_back);
}

/// Waits a while for LogTail::done to be another number than `seen`. False when the daemon is gone
/// and it is not.
bool Session::log_has_changed(uint32_t seen) {
  common::LogHead& head = memory_->log_head;
  common::LogTail& tail = memory_->log_tail;
  head.waits.fetch_add(1, std::memory_order_relaxed);
  // Partner: the daemon's fence between `done` and its look at `waits`; and, with the look at
  // pump_asleep, the pump's before it sleeps.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (tail.done.load(std::memory_order_acquire) == seen) {
    if (memory_->header.pump_asleep.load(std::memory_order_relaxed) != 0 &&
        !g_connector.send_doorbell()) {
      dead_.store(true, std::memory_order_relaxed);
    }
    common::futex_wait(tail.done, seen, kLookMs);
  }
  head.waits.fetch_sub(1, std::memory_order_relaxed);
  const uint64_t now = raw::coarse_now_ms();
  bool lives = !dead_.load(std::memory_order_relaxed);
  if (lives && now - log_looked_ms_.load(std::memory_order_relaxed) >= kLookMs) {
    log_looked_ms_.store(now, std::memory_order_relaxed);
    lives = alive();
  }
  return lives || tail.done.load(std::memory_order_acquire) != seen;
}

/// Under log_lock_: room for one record and its bytes. False when the daemon is gone.
bool Session::make_log_room(uint32_t length, uint32_t& place) {
  const uint64_t skipped = log_put_ % kLogBytes + length > kLogBytes
                               ? kLogBytes - log_put_ % kLogBytes
                               : 0;  // a record's bytes are in one piece
  while (true) {
    // Acquire: partner of the daemon's release; it does not look at those bytes any more.
    const uint32_t done = memory_->log_tail.done.load(std::memory_order_acquire);
    const uint32_t used = log_published_ - done;
    const uint64_t start = used == 0 ? log_put_ : log_notes_[done % kLogRecords].start;
    if (used < kLogRecords && log_put_ + skipped + length - start <= kLogBytes) {
      log_notes_[log_published_ % kLogRecords].start = log_put_;
      place = static_cast<uint32_t>((log_put_ + skipped) % kLogBytes);
      log_put_ += skipped + length;
      return true;
    }
    if (!log_has_changed(done)) return false;
  }
}

size_t Session::log_write(Inode& inode, const HandleRef& handle, uint32_t word, IoCursor& cursor,
                          uint64_t offset, size_t length, uint32_t& number) {
  size_t logged = 0;
  {
    LockGuard guard(log_lock_);
    if (log_notes_ == nullptr) {
      log_notes_ = static_cast<LogNote*>(map_pages(kLogRecords * sizeof(LogNote)));
    }
    // A dead daemon wakes nobody, and the log has room for a while.
    const uint64_t now = raw::coarse_now_ms();
    if (now - log_looked_ms_.load(std::memory_order_relaxed) >= kLookMs) {
      log_looked_ms_.store(now, std::memory_order_relaxed);
      alive();
    }
    const bool usable = log_notes_ != nullptr && !log_replayed_.load(std::memory_order_relaxed);
    while (usable && logged < length) {
      const size_t left = length - logged;
      const auto part =
          static_cast<uint32_t>(left < common::kMaxRecord ? left : common::kMaxRecord);
      uint32_t place = 0;
      if (dead_.load(std::memory_order_relaxed) || !make_log_room(part, place)) {
        replay_log();
        break;
      }
      cursor.copy_in(memory_->log + place, part);
      log_notes_[log_published_ % kLogRecords].inode = &inode;
      memory_->log_records[log_published_ % kLogRecords] = {handle.slot, handle.generation,
                                                            offset + logged, part, place};
      ++log_published_;
      // Release: partner of the daemon's acquire; record and bytes are there.
      memory_->log_head.published.store(log_published_, std::memory_order_release);
      logged += part;
    }
    number = log_published_;
  }
  // Partner: the daemon's fence between its change of the delegation and its look at `published`;
  // and the pump's before it sleeps, or stops looking by itself.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (memory_->header.pump_asleep.load(std::memory_order_relaxed) != 0 &&
      memory_->log_tail.looks.load(std::memory_order_relaxed) == 0 &&
      !g_connector.send_doorbell()) {
    dead_.store(true, std::memory_order_relaxed);
  }
  if (delegation(handle) != word) await_log(number);
  return logged;
}

void Session::await_log(uint32_t number) {
  // Acquire: partner of the release in replay_log().
  while (!log_replayed_.load(std::memory_order_acquire)) {
    const uint32_t done = memory_->log_tail.done.load(std::memory_order_acquire);
    if (static_cast<int32_t>(number - done) <= 0) return;
    if (log_has_changed(done)) continue;
    LockGuard guard(log_lock_);
    replay_log();
  }
}

/// Under log_lock_. The daemon is gone: writes through FUSE what it has not answered.
void Session::replay_log() {
  if (log_replayed_.load(std::memory_order_relaxed)) return;
  dead_.store(true, std::memory_order_relaxed);
  common::LogTail& tail = memory_->log_tail;
  // Release: partner of the daemon's acquire, should it live and only the socket be gone.
  memory_->log_head.abandoned.store(1, std::memory_order_release);
  // What was in flight may still be queued at a brick and land after whatever is written next.
  if (tail.done.load(std::memory_order_acquire) != log_published_) raw::sleep_ms(quarantine_ms());
  for (uint32_t n = tail.done.load(std::memory_order_acquire); n != log_published_; ++n) {
    const common::LogRecord& record = memory_->log_records[n % kLogRecords];
    Inode& inode = *log_notes_[n % kLogRecords].inode;
    const int fd = writable_descriptor(inode);
    if (fd < 0) {
      log_line("boosterd died, and a file was closed past the shim before all was written to it");
      continue;
    }
    uint32_t written = 0;
    while (written < record.length) {
      const long got =
          raw::pwrite(fd, memory_->log + record.place + written, record.length - written,
                      static_cast<int64_t>(record.offset + written));
      if (got == -EINTR) continue;
      if (got <= 0) {
        int none = 0;
        inode.deferred_error.compare_exchange_strong(none, got == 0 ? EIO : static_cast<int>(-got),
                                                     std::memory_order_relaxed);
        break;
      }
      written += static_cast<uint32_t>(got);
    }
    note_kernel_write(inode);
  }
  // Release: partner of the acquire in await_log().
  log_replayed_.store(true, std::memory_order_release);
}

void Session::note_log_settled(uint32_t slot, uint32_t number) {
  // Release: partner of the daemon's acquire in Delegation::written().
  memory_->log_head.settled[slot].store(number, std::memory_order_release);
  // Partner: the daemon's fence after it has shown kRevoking. Either it sees what has been settled,
  // or it is seen here that it may be about to fence.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t deadline = raw::coarse_now_ms() + kRevocationWaitMs;
  while (state_of(memory_->slots[slot].delegation.load(std::memory_order_acquire)) ==
             common::kRevoking &&
         raw::coarse_now_ms() < deadline && alive()) {
    raw::sleep_us(200);
  }
}

// --- files -------------------------------------------------------------------------------------

size_t log_write(Session& session, const HandleRef& handle, Inode& inode, int fd,
                 uint32_t delegation, IoCursor& cursor, uint64_t offset, size_t length) {
  LockGuard guard(inode.log_lock);
  // The daemon may die in the middle of it.
  inode.fence_fd.store(fd, std::memory_order_relaxed);
  if (inode.log_owner != &session) {
    if (inode.log_owner != nullptr) {
      inode.log_owner->await_log(inode.log_until);
      g_connector.release(inode.log_owner);
    }
    session.refs.fetch_add(1, std::memory_order_relaxed);  // the caller has one
    inode.log_owner = &session;
  }
  inode.log_slot = handle.slot;
  inode.logged.store(true, std::memory_order_release);
  return session.log_write(inode, handle, delegation, cursor, offset, length, inode.log_until);
}

bool drain_log(Inode& inode, LogMark& mark) {
  if (!inode.logged.load(std::memory_order_acquire)) return false;
  LockGuard guard(inode.log_lock);
  Session* owner = inode.log_owner;
  if (owner == nullptr) return false;
  owner->await_log(inode.log_until);
  if (const int error = owner->log_error(inode.log_slot)) {
    if (!inode.log_error_told) {
      int none = 0;
      inode.deferred_error.compare_exchange_strong(none, error, std::memory_order_relaxed);
    }
    inode.log_error_told = true;
  }
  mark = {inode.log_slot, inode.log_until};
  return true;
}

void note_log_settled(Inode& inode, const LogMark& mark) {
  LockGuard guard(inode.log_lock);
  if (inode.log_owner != nullptr) inode.log_owner->note_log_settled(mark.slot, mark.number);
}

long take_deferred_error(Inode& inode) {
  if (inode.deferred_error.load(std::memory_order_relaxed) == 0) return 0;
  return -inode.deferred_error.exchange(0, std::memory_order_relaxed);
}

}  // namespace booster::preload
