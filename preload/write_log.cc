#include "preload/write_log.h"

#include <errno.h>

#include "common/futex.h"
#include "preload/connector.h"
#include "preload/log.h"
#include "preload/pool.h"
#include "preload/settle.h"

namespace booster::preload {

using common::kLogBytes;
using common::kLogRecords;

// --- the log itself ----------------------------------------------------------------------------

struct Session::LogNote {
  uint64_t start;    // log_put_ before it
  raw::FileId file;  // no pointer: a record may outlive what the process knows of its file
};

void Session::drop_log_notes() {
  if (log_notes_ == nullptr) return;
  raw::raw_syscall(SYS_munmap, raw::word(log_notes_), kLogRecords * sizeof(LogNote));
  log_notes_ = nullptr;
}

/// Waits a while for LogTail::done to be another number than `seen`. False when the daemon is gone
/// and it is not.
bool Session::log_has_changed(uint32_t seen) {
  common::LogHead& head = memory_->log_head;
  common::LogTail& tail = memory_->log_tail;
  head.waits.fetch_add(1, std::memory_order_relaxed);
  // Partner, with the fence in there: the daemon's fence between `done` and its look at `waits`.
  ring_if_asleep();
  if (tail.done.load(std::memory_order_acquire) == seen) {
    common::futex_wait(tail.done, seen, kLookMs);
    // Whoever was to ring may have been interrupted for good.
    if (tail.done.load(std::memory_order_acquire) == seen) ring();
  }
  head.waits.fetch_sub(1, std::memory_order_relaxed);
  return alive_lately() || tail.done.load(std::memory_order_acquire) != seen;
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
    alive_lately();
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
      log_notes_[log_published_ % kLogRecords].file = inode.id;
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
  if (memory_->log_tail.looks.load(std::memory_order_relaxed) == 0) ring_if_asleep();
  if (delegation(handle) != word) await_log(number);
  return logged;
}

bool Session::log_overlaps(const HandleRef& handle, uint64_t offset, uint64_t length) {
  LockGuard guard(log_lock_);
  for (uint32_t n = memory_->log_tail.done.load(std::memory_order_acquire); n != log_published_;
       ++n) {
    const common::LogRecord& record = memory_->log_records[n % kLogRecords];
    if (record.slot == handle.slot && record.offset < offset + length &&
        offset < record.offset + record.length) {
      return true;
    }
  }
  return false;
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

/// Under log_lock_, when the daemon is gone or does not hear of this session any more. Waits as
/// long as somebody else works the log off: the daemon, if only the socket is gone, or its recovery
/// agent. True: now it is the client's. False: what is left was published after the agent had
/// looked, by calls that have not returned.
bool Session::take_log_over() {
  common::LogTail& tail = memory_->log_tail;
  uint64_t heard_ms = raw::coarse_now_ms();
  uint32_t beats = tail.beats.load(std::memory_order_relaxed);
  uint32_t heard_done = log_published_;
  while (true) {
    const uint32_t done = tail.done.load(std::memory_order_acquire);
    // Acquire: partner of the agent's; what it has told of errors is there.
    uint32_t owner = tail.owner.load(std::memory_order_acquire);
    if (owner == common::kLogRecovered) return false;
    if (done == log_published_ && owner != common::kLogRecovering) return true;
    const uint32_t now_beats = tail.beats.load(std::memory_order_relaxed);
    const uint64_t now = raw::coarse_now_ms();
    if (now_beats != beats || done != heard_done) heard_ms = now;
    beats = now_beats;
    heard_done = done;
    if (owner == common::kLogDaemon || owner == common::kLogClient ||
        now - heard_ms >= common::kSilentMs) {
      // acq_rel: partner of the agent's when it takes the log. Whoever was there before stops.
      if (tail.owner.compare_exchange_strong(owner, common::kLogClient,
                                             std::memory_order_acq_rel)) {
        return true;
      }
      continue;
    }
    common::futex_wait(tail.done, done, common::kBeatMs);
  }
}

/// Errors that were none.
void Session::forget_what_was_left() {
  for (common::HandleSlot& slot : memory_->slots) {
    int32_t left = common::kLeftToClient;
    slot.log_error.compare_exchange_strong(left, 0, std::memory_order_relaxed);
  }
}

/// Through FUSE.
void Session::write_record(const common::LogRecord& record, const raw::FileId& file) {
  Inode* inode = g_files.find_inode(file);
  const int fd = inode != nullptr ? writable_descriptor(*inode) : -1;
  if (fd < 0) {
    log_line("boosterd died, and a file was closed past the shim before all was written to it");
  }
  uint32_t written = 0;
  while (fd >= 0 && written < record.length) {
    const long got = raw::pwrite(fd, memory_->log + record.place + written, record.length - written,
                                 static_cast<int64_t>(record.offset + written));
    if (got == -EINTR) continue;
    if (got <= 0) {
      defer_error(*inode, got == 0 ? EIO : static_cast<int>(-got));
      break;
    }
    written += static_cast<uint32_t>(got);
  }
  if (inode == nullptr) return;
  note_own_change(*inode);
  g_files.release_inode(inode);
}

/// Under log_lock_. The daemon is gone: sees to it that everything that it has not answered is
/// written.
void Session::replay_log() {
  if (log_replayed_.load(std::memory_order_relaxed)) return;
  dead_.store(true, std::memory_order_relaxed);
  common::LogTail& tail = memory_->log_tail;
  const bool ours = take_log_over();
  // Release: partner of the daemon's acquire, should it live and only the socket be gone.
  memory_->log_head.abandoned.store(1, std::memory_order_release);
  // What was in flight may still be queued at a brick and land after whatever is written next.
  if (ours && tail.done.load(std::memory_order_acquire) != log_published_) {
    raw::sleep_ms(quarantine_ms());
  }
  const uint32_t recovered = tail.recovered.load(std::memory_order_relaxed);
  for (uint32_t n = tail.done.load(std::memory_order_acquire); n != log_published_; ++n) {
    const common::LogRecord& record = memory_->log_records[n % kLogRecords];
    const bool left = log_error(record.slot) == common::kLeftToClient;
    if (!ours && !left && static_cast<int32_t>(n - recovered) < 0) continue;
    write_record(record, log_notes_[n % kLogRecords].file);
  }
  if (!ours) forget_what_was_left();
  if (ours) tail.owner.store(common::kLogRecovered, std::memory_order_release);
  // Release: partner of the acquire in await_log().
  log_replayed_.store(true, std::memory_order_release);
}

// --- files -------------------------------------------------------------------------------------

namespace {

/// Under log_lock. All that was logged of the file is on the bricks, or its error is kept.
void await_records(Inode& inode) {
  Session* owner = inode.log_owner;
  if (owner == nullptr) return;
  owner->await_log(inode.log_until);
  if (const int error = owner->take_log_error(inode.log_slot)) defer_error(inode, error);
}

}  // namespace

size_t log_write(Session& session, const HandleRef& handle, Inode& inode, int fd,
                 uint32_t delegation, IoCursor& cursor, uint64_t offset, size_t length) {
  LockGuard guard(inode.log_lock);
  // The daemon may die in the middle of it.
  inode.fence_fd.store(fd, std::memory_order_relaxed);
  if (inode.log_owner != &session || inode.log_slot != handle.slot) await_records(inode);
  if (inode.log_owner != &session) {
    if (inode.log_owner != nullptr) g_connector.release(inode.log_owner);
    session.refs.fetch_add(1, std::memory_order_relaxed);  // the caller has one
    inode.log_owner = &session;
  }
  inode.log_slot = handle.slot;
  inode.logged.store(true, std::memory_order_release);
  return session.log_write(inode, handle, delegation, cursor, offset, length, inode.log_until);
}

void drain_log(Inode& inode) {
  if (!inode.logged.load(std::memory_order_acquire)) return;
  LockGuard guard(inode.log_lock);
  await_records(inode);
}

void defer_error(Inode& inode, int error) {
  int none = 0;
  inode.deferred_error.compare_exchange_strong(none, error, std::memory_order_relaxed);
}

long take_deferred_error(Inode& inode) {
  if (inode.deferred_error.load(std::memory_order_relaxed) == 0) return 0;
  return -inode.deferred_error.exchange(0, std::memory_order_relaxed);
}

}  // namespace booster::preload
