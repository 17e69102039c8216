// The process's connection to boosterd: one socket, one session memory, lanes to move bytes and
// slots to hold handles.
//
// It knows nothing of files beyond the descriptor number that it is asked to engage. Nothing here
// waits for a daemon that does not answer, except a call whose bytes are already under way. No
// thread is made; whoever calls does the work.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>

#include "common/abi.h"
#include "common/page_cache.h"
#include "common/reason.h"
#include "preload/lock.h"
#include "preload/raw.h"

namespace booster::preload {

/// A client that waits, or that asks again, looks at its socket this often: a dead daemon wakes
/// nobody. Milliseconds.
inline constexpr uint32_t kLookMs = 100;

/// A handle slot of one session of this process. `session` 0 is none.
struct HandleRef {
  uint32_t session = 0;
  uint32_t slot = 0;
  uint32_t generation = 0;
};

/// A position in the caller's buffers.
struct IoCursor {
  const iovec* vectors;
  int count;
  size_t skip = 0;  // bytes of vectors[0] already done

  /// Moves `length` bytes between `memory` and the buffers and advances; the buffers hold enough.
  /// False if some of that memory cannot be touched: then the cursor is where it was.
  [[nodiscard]] bool copy_out(const std::byte* memory, size_t length);
  [[nodiscard]] bool copy_in(std::byte* memory, size_t length);
  void advance(size_t length);

 private:
  template <typename Copy>
  bool copy(size_t length, Copy copy);
};

struct Policy {
  bool page_cache = false;   // files that are read come with their page cache
  bool delegations = false;  // for writing: what is written under one goes into the log
};

class Session;
struct Inode;
struct CacheView;

/// A reference to the live session, if there is one; the memory stays mapped while it is held.
class SessionRef {
 public:
  explicit SessionRef(Session* session) : session_(session) {}
  SessionRef(SessionRef&& other) noexcept : session_(other.session_) { other.session_ = nullptr; }
  SessionRef(const SessionRef&) = delete;
  SessionRef& operator=(const SessionRef&) = delete;
  SessionRef& operator=(SessionRef&&) = delete;
  ~SessionRef();
  explicit operator bool() const { return session_ != nullptr; }
  Session* operator->() const { return session_; }
  Session& operator*() const { return *session_; }

 private:
  Session* session_;
};

/// The session, connected if that is possible without waiting. `wait`: waits up to 60 s for a
/// daemon that has accepted the connection. Empty when there is none now; a new attempt is made at
/// most once a second.
SessionRef session(bool wait);
/// The session that there is, if any; does not connect.
SessionRef current_session();

/// Gives a handle back, whatever became of it. Never waits.
void give_back(const HandleRef& handle);

/// Lets go a reference that was taken by hand.
void release_session(Session* session);

/// In a forked child: forgets the parent's session without a word to the daemon.
void session_after_fork();

/// The shim's own socket, or -1. The program must not close it by accident.
int own_descriptor();
/// Moves the shim's socket away because the program wants its number.
void move_own_descriptor();

class Session {
 public:
  enum class Answer { kPending, kReady, kRefused, kLost };

  uint32_t id() const { return id_; }
  /// It has been noticed that the daemon is gone.
  bool dead() const { return dead_.load(std::memory_order_relaxed); }
  const Policy& policy() const { return policy_; }

  /// Changes how many boosted writes through the slot have begun and are not fenced yet
  /// (common::ClientState).
  void add_unsettled(uint32_t slot, int change) {
    // release: partner of the daemon's acquire. What is taken back has been fenced before.
    memory_->state.unsettled_in[slot].fetch_add(static_cast<uint32_t>(change),
                                                std::memory_order_release);
  }
  uint32_t unsettled(uint32_t slot) const {
    // acquire: whoever changes it first and writes then is seen before what he has written.
    return memory_->state.unsettled_in[slot].load(std::memory_order_acquire);
  }
  /// Asks for a handle to `file`, which is open as `fd`. False, with the reason, when it cannot be
  /// asked now.
  bool engage(int fd, const raw::FileId& file, HandleRef& handle, common::Reason& reason);
  /// What became of it. `reason` is set when refused.
  Answer answer(const HandleRef& handle, common::Reason& reason) const;
  uint64_t file_size(const HandleRef& handle) const;
  /// Boosted writes begin and end at multiples of so many bytes.
  uint32_t write_unit(const HandleRef& handle) const;
  bool may_read(const HandleRef& handle) const;
  bool may_write(const HandleRef& handle) const;

  /// Reads `length` bytes at `offset` from the bricks. Returns how many there are from the start
  /// without a gap; fewer at the end of the file, after an error, and when the daemon is gone.
  size_t read(const HandleRef& handle, IoCursor& cursor, uint64_t offset, size_t length) {
    return carry(common::Op::kRead, handle, cursor, offset, length, 0);
  }
  /// The same by way of its page cache, up to where that has the bytes already. `ahead` more will
  /// be read soon.
  size_t stream(const HandleRef& handle, IoCursor& cursor, uint64_t offset, size_t length,
                uint32_t ahead) {
    return carry(common::Op::kStream, handle, cursor, offset, length, ahead);
  }

  /// fsync, or fdatasync, of what was written under `delegation`, and of all before it. False when
  /// the kernel has to be asked.
  bool sync(const HandleRef& handle, common::Op op, uint32_t delegation);

  /// For people (boosterctl stats).
  void count(common::Reason reason, uint64_t bytes, uint64_t calls = 1);

  /// Makes a range of the file valid in its page cache, and what follows it soon after. False when
  /// that cannot be now.
  bool fill(const HandleRef& handle, uint64_t offset, uint32_t length, uint32_t ahead);
  /// The same for what will be read soon; nobody waits. False when a request of this kind is still
  /// under way.
  bool fill_ahead(const HandleRef& handle, uint64_t offset, uint32_t ahead,
                  common::Op op = common::Op::kFill);
  /// A read of `length` > 0 bytes out of the page cache was served.
  void note_cached(uint32_t slot, uint64_t offset, size_t length, uint64_t now_ms);
  /// A file would be read out of its page cache if it were valid.
  void note_wanted(uint32_t slot, uint64_t now_ms) {
    memory_->cache_use.used_ms[slot].store(static_cast<uint32_t>(now_ms),
                                           std::memory_order_relaxed);
  }
  /// The page cache that came with a ready handle, or null: for the caller to keep, then to
  /// unmap_view().
  CacheView* take_view(const HandleRef& handle);

  // --- delegations, and the write log ---

  /// Asks for a write delegation of a ready handle, whose description `fd` names; or gives it back
  /// (`fd` -1). The answer is what delegation() shows, another word than before. False when it
  /// cannot be asked now.
  bool ask_delegation(const HandleRef& handle, int fd);
  /// Why it was not granted.
  common::Reason refused(const HandleRef& handle) const;
  enum class Recall { kHeld, kDone, kLost };
  /// Whether the delegation `under` still stands. While the daemon is taking it back, waits: kDone
  /// means that all that was logged before that began is on the bricks, and FUSE fenced. kLost:
  /// there is no telling.
  Recall await_recall(const HandleRef& handle, uint32_t under);
  /// HandleSlot::delegation.
  uint32_t delegation(const HandleRef& handle) const {
    // Acquire: with that of `closed`, so that what came before it is seen.
    return memory_->slots[handle.slot].delegation.load(std::memory_order_acquire);
  }
  /// errno of a record of this handle that could not be written, or 0.
  int log_error(uint32_t slot) const {
    return memory_->slots[slot].log_error.load(std::memory_order_acquire);
  }
  /// The same, once: it is told by whoever takes it.
  int take_log_error(uint32_t slot) {
    return log_error(slot) == 0
               ? 0
               : memory_->slots[slot].log_error.exchange(0, std::memory_order_acquire);
  }
  /// Puts the bytes into the log; returns when they are there, or, if `word` is not the delegation
  /// any more, when they are on the bricks, and Inode::late is set: somebody has to fence. Returns
  /// how many; fewer than `length` when the delegation is taken back in the middle, or the daemon
  /// is gone: then all that was in the log has been written through FUSE. `number` is set to that
  /// behind the last record.
  size_t log_write(Inode& inode, const HandleRef& handle, uint32_t word, IoCursor& cursor,
                   uint64_t offset, size_t length, uint32_t& number);
  /// Whether a record of the handle that may not be on the bricks yet has bytes of that range.
  bool log_overlaps(const HandleRef& handle, uint64_t offset, uint64_t length);
  /// The log that records of the handle are in.
  uint32_t log_of(const HandleRef& handle) const {
    return memory_->slots[handle.slot].log % common::kLogs;
  }
  /// Waits until all records of a log before `number` are on the bricks, whoever writes them.
  void await_log(uint32_t log, uint32_t number);
  /// How long an unanswered write must wait before it is done again.
  uint32_t quarantine_ms() const {
    return memory_->header.quarantine_ms.load(std::memory_order_relaxed);
  }
  /// Looks at the socket.
  bool alive();
  /// The same, at most every kLookMs: for whatever is done again and again without an answer.
  bool alive_lately();
  /// Whether openers for writing are held up (common::WatchWord).
  bool watched() const { return watch_ != nullptr && watch_->held(); }

  // Used by the functions above and by Pool.
  uint32_t index = 0;
  Session* next = nullptr;
  std::atomic<uint32_t> refs{0};

 private:
  friend SessionRef session(bool wait);
  friend SessionRef current_session();
  friend void give_back(const HandleRef& handle);
  friend class Connector;

  struct LogNote;
  /// What this side knows of one of its logs.
  struct Log {
    Mutex lock;                // for what follows
    LogNote* notes = nullptr;  // per record
    uint32_t published = 0;
    uint64_t put = 0;                   // bytes of the ring used so far, over and over
    std::atomic<bool> replayed{false};  // everything in it is done; set under the lock
  };
  common::LogRing& ring_of(const Log& log) { return memory_->logs[&log - logs_]; }
  std::byte* bytes_of(const Log& log) { return memory_->log[&log - logs_]; }
  bool is_recovered_soon(const HandleRef& handle);
  bool log_has_changed(Log& log, uint32_t seen);
  bool make_log_room(Log& log, uint32_t length, uint32_t& place);
  void drop_log_notes();
  bool take_log_over(Log& log);
  void forget_what_was_left(const Log& log);
  void write_record(const Log& log, const common::LogRecord& record, const raw::FileId& file);
  void replay_log(Log& log);

  size_t carry(common::Op op, const HandleRef& handle, IoCursor& cursor, uint64_t offset,
               size_t length, uint32_t ahead);
  /// `kept` are left for others.
  int acquire_lane(bool wait, int kept = 0);
  void release_lane(int lane);
  void submit(int lane, common::Op op, const HandleRef& handle, uint64_t offset, uint32_t length,
              uint32_t ahead, uint32_t delegation);
  void ring_if_asleep();
  void ring();
  bool await(int lane);

  uint32_t id_ = 0;
  common::SessionMemory* memory_ = nullptr;
  const common::WatchWord* watch_ = nullptr;  // set before the first page cache is there
  uint64_t nonce_ = 0;
  Policy policy_;
  std::atomic<bool> dead_{false};
  std::atomic<uint64_t> looked_ms_{0};  // when the daemon was last seen to live
  std::atomic<uint32_t> free_lanes_{0};
  std::atomic<uint32_t> spin_us_{0};
  uint32_t lane_sequence_[common::kLanes] = {};  // owned by whoever holds the lane
  Mutex ahead_lock_;                             // for ahead_lane_
  int ahead_lane_ = -1;              // carries the last fill_ahead(), which nobody waits for
  uint32_t* generations_ = nullptr;  // per slot, under the connector's lock
  uint64_t* free_slots_ = nullptr;   // bitmap, under the connector's lock
  CacheView** views_ = nullptr;      // per slot: not taken yet; the same lock

  Log logs_[common::kLogs];
};

}  // namespace booster::preload
