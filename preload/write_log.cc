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
  uint64_t start;    // Log::put before it
  raw::FileId file;  // no pointer: a record may outlive what the process knows of its file
};

void Session::drop_log_notes() {
  for (Log& log : logs_) {
    if (log.notes == nullptr) continue;
    raw::raw_syscall(SYS_munmap, raw::word(log.notes), kLogRecords * sizeof(LogNote));
    log.notes = nullptr;
  }
}

/// Waits a while for LogTail::done to be another number than `seen`. False when the daemon is gone
/// and it is not.
bool Session::log_has_changed(Log& log, uint32_t seen) {
  common::LogHead& head = ring_of(log).head;
  common::LogTail& tail = ring_of(log).tail;
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

/// Under log.lock: room for one record and its bytes. False when the daemon is gone.
bool Session::make_log_room(Log& log, uint32_t length, uint32_t& place) {
  const uint64_t skipped = log.put % kLogBytes + length > kLogBytes
                               ? kLogBytes - log.put % kLogBytes
                               : 0;  // a record's bytes are in one piece
  while (true) {
    // Acquire: partner of the daemon's release; it does not look at those bytes any more.
    const uint32_t done = ring_of(log).tail.done.load(std::memory_order_acquire);
    const uint32_t used = log.published - done;
    const uint64_t start = used == 0 ? log.put : log.notes[done % kLogRecords].start;
    if (used < kLogRecords && log.put + skipped + length - start <= kLogBytes) {
      log.notes[log.published % kLogRecords].start = log.put;
      place = static_cast<uint32_t>((log.put + skipped) % kLogBytes);
      log.put += skipped + length;
      return true;
    }
    if (!log_has_changed(log, done)) return false;
  }
}

size_t Session::log_write(Inode& inode, const HandleRef& handle, uint32_t word, IoCursor& cursor,
                          uint64_t offset, size_t length, uint32_t& number) {
  Log& log = logs_[log_of(handle)];
  size_t logged = 0;
  {
    LockGuard guard(log.lock);
    if (log.notes == nullptr) {
      log.notes = static_cast<LogNote*>(map_pages(kLogRecords * sizeof(LogNote)));
    }
    // A dead daemon wakes nobody, and the log has room for a while.
    alive_lately();
    const uint32_t most = common::kMaxRecord - common::kMaxRecord % write_unit(handle);
    const bool usable =
        log.notes != nullptr && most != 0 && !log.replayed.load(std::memory_order_relaxed);
    // Once it is taken back, the rest of a long write is the kernel's.
    while (usable && logged < length && delegation(handle) == word) {
      const size_t left = length - logged;
      const auto part = static_cast<uint32_t>(left < most ? left : most);
      uint32_t place = 0;
      if (dead_.load(std::memory_order_relaxed) || !make_log_room(log, part, place)) {
        replay_log(log);
        break;
      }
      if (!cursor.copy_in(bytes_of(log) + place, part)) {
        log.put = log.notes[log.published % kLogRecords].start;  // the kernel's to refuse
        break;
      }
      log.notes[log.published % kLogRecords].file = inode.id;
      ring_of(log).records[log.published % kLogRecords] = {handle.slot, handle.generation,
                                                           offset + logged, part, place};
      ++log.published;
      // Release: partner of the daemon's acquire; record and bytes are there.
      ring_of(log).head.published.store(log.published, std::memory_order_release);
      logged += part;
    }
    number = log.published;
  }
  // Partner: the daemon's fence between its change of the delegation and its look at `published`;
  // and the pump's before it sleeps, or stops looking by itself.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (ring_of(log).tail.looks.load(std::memory_order_relaxed) == 0) ring_if_asleep();
  if (delegation(handle) != word && logged > 0) {
    await_log(log_of(handle), number);
    // Release: partner of the acquire in settle(); the records are on the bricks.
    inode.late.store(true, std::memory_order_release);
  }
  return logged;
}

bool Session::log_overlaps(const HandleRef& handle, uint64_t offset, uint64_t length) {
  Log& log = logs_[log_of(handle)];
  LockGuard guard(log.lock);
  for (uint32_t n = ring_of(log).tail.done.load(std::memory_order_acquire); n != log.published;
       ++n) {
    const common::LogRecord& record = ring_of(log).records[n % kLogRecords];
    if (record.slot == handle.slot && record.offset < offset + length &&
        offset < record.offset + record.length) {
      return true;
    }
  }
  return false;
}

void Session::await_log(uint32_t index, uint32_t number) {
  Log& log = logs_[index];
  // Acquire: partner of the release in replay_log().
  while (!log.replayed.load(std::memory_order_acquire)) {
    const uint32_t done = ring_of(log).tail.done.load(std::memory_order_acquire);
    if (static_cast<int32_t>(number - done) <= 0) return;
    if (log_has_changed(log, done)) continue;
    LockGuard guard(log.lock);
    replay_log(log);
  }
}

/// Under log.lock, when the daemon is gone or does not hear of this session any more. Waits as
/// long as somebody else works the log off: the daemon, if only the socket is gone, or its recovery
/// agent. True: now it is the client's. False: what is left was published after the agent had
/// looked, by calls that have not returned.
bool Session::take_log_over(Log& log) {
  common::LogTail& tail = ring_of(log).tail;
  // Not by the clock alone: a host that stood still, as a virtual machine does, says nothing of the
  // agent.
  uint64_t silent_ms = 0;
  uint64_t looked_ms = raw::coarse_now_ms();
  uint32_t beats = tail.beats.load(std::memory_order_relaxed);
  uint32_t heard_done = log.published;
  while (true) {
    const uint32_t done = tail.done.load(std::memory_order_acquire);
    // Acquire: partner of the agent's; what it has told of errors is there.
    uint32_t owner = tail.owner.load(std::memory_order_acquire);
    if (owner == common::kLogRecovered) return false;
    if (done == log.published && owner != common::kLogRecovering) return true;
    const uint32_t now_beats = tail.beats.load(std::memory_order_relaxed);
    const uint64_t now = raw::coarse_now_ms();
    constexpr uint64_t kMostMs = uint64_t{2} * common::kBeatMs;
    silent_ms += now - looked_ms < kMostMs ? now - looked_ms : kMostMs;
    looked_ms = now;
    if (now_beats != beats || done != heard_done) silent_ms = 0;
    beats = now_beats;
    heard_done = done;
    if (owner == common::kLogDaemon || owner == common::kLogClient ||
        silent_ms >= common::kSilentMs) {
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
void Session::forget_what_was_left(const Log& log) {
  for (common::HandleSlot& slot : memory_->slots) {
    if (slot.log != static_cast<uint32_t>(&log - logs_)) continue;
    int32_t left = common::kLeftToClient;
    slot.log_error.compare_exchange_strong(left, 0, std::memory_order_relaxed);
  }
}

/// Through FUSE.
void Session::write_record(const Log& log, const common::LogRecord& record,
                           const raw::FileId& file) {
  Inode* inode = g_files.find_inode(file);
  const int fd = inode != nullptr ? writable_descriptor(*inode) : -1;
  if (fd < 0) {
    log_line("boosterd died, and a file was closed past the shim before all was written to it");
  }
  uint32_t written = 0;
  while (fd >= 0 && written < record.length) {
    const long got =
        raw::pwrite(fd, bytes_of(log) + record.place + written, record.length - written,
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

/// Under log.lock. The daemon is gone: sees to it that everything that it has not answered is
/// written.
void Session::replay_log(Log& log) {
  if (log.replayed.load(std::memory_order_relaxed)) return;
  dead_.store(true, std::memory_order_relaxed);
  common::LogTail& tail = ring_of(log).tail;
  const bool ours = take_log_over(log);
  // Release: partner of the daemon's acquire, should it live and only the socket be gone.
  ring_of(log).head.abandoned.store(1, std::memory_order_release);
  // What was in flight may still be queued at a brick and land after whatever is written next.
  if (ours && tail.done.load(std::memory_order_acquire) != log.published) {
    raw::sleep_ms(quarantine_ms());
  }
  const uint32_t recovered = tail.recovered.load(std::memory_order_relaxed);
  for (uint32_t n = tail.done.load(std::memory_order_acquire); n != log.published; ++n) {
    const common::LogRecord& record = ring_of(log).records[n % kLogRecords];
    const bool left = log_error(record.slot) == common::kLeftToClient;
    if (!ours && !left && static_cast<int32_t>(n - recovered) < 0) continue;
    write_record(log, record, log.notes[n % kLogRecords].file);
  }
  if (!ours) forget_what_was_left(log);
  if (ours) tail.owner.store(common::kLogRecovered, std::memory_order_release);
  // Release: partner of the acquire in await_log().
  log.replayed.store(true, std::memory_order_release);
}

// --- files -------------------------------------------------------------------------------------

namespace {

/// Under log_lock. All that was logged of the file is on the bricks, or its error is kept.
void await_records(Inode& inode) {
  Session* owner = inode.log_owner;
  if (owner == nullptr || !inode.logged.load(std::memory_order_relaxed)) return;
  owner->await_log(inode.log_index, inode.log_until);
  if (const int error = owner->take_log_error(inode.log_slot)) defer_error(inode, error);
  // The slot may be another file's next, whose errors are its own.
  inode.logged.store(false, std::memory_order_release);
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
  inode.log_index = session.log_of(handle);
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
