#include "preload/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>

#include "common/futex.h"
#include "preload/cache_view.h"
#include "preload/call.h"
#include "preload/file_table.h"
#include "preload/process.h"
#include "preload/session.h"
#include "preload/settle.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Op;
using common::Reason;

long kernel_rest(const Call& call, IoCursor cursor, size_t length, uint64_t offset) {
  long total = 0;
  while (length > 0 && cursor.count > 0) {
    auto* base = static_cast<char*>(cursor.vectors->iov_base) + cursor.skip;
    size_t part = cursor.vectors->iov_len - cursor.skip;
    if (part > length) part = length;
    const auto at = static_cast<int64_t>(offset);
    const long got = call.op == Op::kRead ? raw::pread(call.fd, base, part, at)
                                          : raw::pwrite(call.fd, base, part, at);
    if (raw::is_error(got)) return total > 0 ? total : got;
    total += got;
    offset += static_cast<uint64_t>(got);
    length -= static_cast<size_t>(got);
    cursor.advance(static_cast<size_t>(got));
    if (static_cast<size_t>(got) < part) break;
  }
  return total;
}

void leave_to_kernel(Session* session, Description& description, Reason reason, uint64_t bytes) {
  description.kernel_tick_ms.store(raw::coarse_now_ms(), std::memory_order_relaxed);
  if (session == nullptr) return;
  const uint64_t calls = description.uncounted_calls.exchange(0, std::memory_order_relaxed);
  bytes += description.uncounted_bytes.exchange(0, std::memory_order_relaxed);
  session->count(reason, bytes, calls + 1);
}

bool still_names(int fd, const Inode& inode) {
  raw::FileId id;
  return raw::identify(fd, id) && id == inode.id;
}

bool copy_handle(Description& description, const Session& session, HandleRef& handle) {
  const uint32_t version = description.handle_version.load(std::memory_order_acquire);
  // Acquire: partner of the release when the stage was stored; the slot's answer has been seen.
  if (description.stage.load(std::memory_order_acquire) != Description::kReady) return false;
  handle.session = std::atomic_ref(description.handle.session).load(std::memory_order_relaxed);
  handle.slot = std::atomic_ref(description.handle.slot).load(std::memory_order_relaxed);
  handle.generation =
      std::atomic_ref(description.handle.generation).load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return (version & 1) == 0 && handle.session == session.id() &&
         description.handle_version.load(std::memory_order_relaxed) == version;
}

namespace {

/// The kernel moves no more than this in one call (MAX_RW_COUNT).
constexpr size_t kMaxCall = 0x7ffff000;
/// Longer than a busy disk below the bricks holds up a file that is being made (seen: 10 s).
constexpr uint64_t kEagerWaitUs = 60'000'000;
/// A hundred programs that look all the time leave the daemon no processor to answer with.
constexpr uint64_t kMaxEagerPauseUs = 5000;
/// The longest that a close waits for calls that use its number.
constexpr uint64_t kCallsWaitMs = 60'000;

/// Sums the vectors; false for what the kernel would refuse.
bool measure(Call& call) {
  if (call.count < 0 || call.count > IOV_MAX) return false;
  uint64_t total = 0;
  for (int i = 0; i < call.count; ++i) {
    total += call.vectors[i].iov_len;
    if (total > SSIZE_MAX) return false;
  }
  call.length = total < kMaxCall ? static_cast<size_t>(total) : kMaxCall;
  return true;
}

ssize_t with_errno(long result) {
  if (!raw::is_error(result)) return result;
  errno = static_cast<int>(-result);
  return -1;
}

/// The call as the program made it, by the kernel.
long kernel_call(const Call& call) {
  const bool reads = call.op == Op::kRead;
  if (call.rwf_flags != 0) {
    // The kernel takes the offset in two words and splits nothing on 64-bit machines.
    return raw::raw_syscall(reads ? SYS_preadv2 : SYS_pwritev2, call.fd, raw::word(call.vectors),
                            call.count, call.offset, 0, call.rwf_flags);
  }
  if (call.offset == kSequential) {
    return raw::raw_syscall(reads ? SYS_readv : SYS_writev, call.fd, raw::word(call.vectors),
                            call.count);
  }
  return raw::raw_syscall(reads ? SYS_preadv : SYS_pwritev, call.fd, raw::word(call.vectors),
                          call.count, call.offset);
}

/// Two descriptions of one file, of which one is stdin, stdout or stderr: stdio may use that one
/// inside libc, where nobody sees it.
bool aliased_by_stdio(const Description& description, int fd, long flags) {
  for (int std_fd = 0; std_fd <= 2; ++std_fd) {
    raw::FileId id;
    if (std_fd == fd || !raw::identify(std_fd, id) || !(id == description.inode->id)) continue;
    if (Description* other = g_files.acquire_known(std_fd)) {
      g_files.release(other);
      if (other == &description) continue;
    }
    const long other_flags = raw::status_flags(std_fd);
    if ((flags & O_ACCMODE) != O_RDONLY || (other_flags & O_ACCMODE) != O_RDONLY) return true;
  }
  return false;
}

/// Writes the handle that readers without the lock may be copying. Under `engaging`.
void set_handle(Description& description, const HandleRef& handle) {
  description.log.delegation.store(0, std::memory_order_relaxed);
  description.log.asked = false;
  description.handle_version.fetch_add(1, std::memory_order_relaxed);
  // Release, partner of the acquire fence in copy_handle(): who copies a part of this sees that.
  std::atomic_thread_fence(std::memory_order_release);
  std::atomic_ref(description.handle.session).store(handle.session, std::memory_order_relaxed);
  std::atomic_ref(description.handle.slot).store(handle.slot, std::memory_order_relaxed);
  std::atomic_ref(description.handle.generation)
      .store(handle.generation, std::memory_order_relaxed);
  description.handle_version.fetch_add(1, std::memory_order_release);
}

/// Moves the handle of `description` on by what is known now.
Reason advance_handle(Session& session, Description& description, const Call& call, long flags) {
  if (description.stage.load(std::memory_order_relaxed) != Description::kNone &&
      description.handle.session != session.id()) {
    description.stage.store(Description::kNone, std::memory_order_relaxed);
  }
  Reason reason = Reason::kPending;
  const uint64_t deadline = settings().eager ? raw::now_us() + kEagerWaitUs : 0;
  uint64_t pause_us = 50;
  while (true) {
    switch (description.stage.load(std::memory_order_relaxed)) {
      case Description::kReady: return Reason::kNone;
      case Description::kRefused: return description.refused;
      case Description::kNone: {
        const bool aliased = aliased_by_stdio(description, call.fd, flags);
        HandleRef handle;
        if (aliased || !session.engage(call.fd, description.inode->id, handle, reason)) {
          if (aliased) reason = Reason::kStream;
          if (reason == Reason::kNoDaemon) return reason;
          set_handle(description, {session.id(), 0, 0});
          description.refused = reason;
          description.stage.store(Description::kRefused, std::memory_order_release);
          return reason;
        }
        set_handle(description, handle);
        description.stage.store(Description::kPending, std::memory_order_release);
        break;
      }
      case Description::kPending:
        switch (session.answer(description.handle, reason)) {
          case Session::Answer::kReady:
            adopt_cache(session, description, description.handle);
            // Release: partner of the acquire in copy_handle().
            description.stage.store(Description::kReady, std::memory_order_release);
            break;
          case Session::Answer::kRefused:
            description.refused = reason;
            description.stage.store(Description::kRefused, std::memory_order_release);
            break;
          case Session::Answer::kLost:
            description.stage.store(Description::kNone, std::memory_order_release);
            return Reason::kNoDaemon;
          case Session::Answer::kPending:
            if (deadline == 0 || raw::now_us() > deadline || !session.alive()) {
              return Reason::kPending;
            }
            raw::sleep_us(pause_us);
            if (pause_us < kMaxEagerPauseUs) pause_us *= 2;
            break;
        }
        break;
    }
  }
}

}  // namespace

Reason handle_for(Session& session, Description& description, const Call& call, long flags,
                  HandleRef& handle) {
  if (!copy_handle(description, session, handle)) {
    if (!description.engaging.lock_for(settings().eager ? kEagerWaitUs / 1000 + 1000 : 0))
      return Reason::kPending;
    const Reason reason = advance_handle(session, description, call, flags);
    handle = description.handle;
    description.engaging.unlock();
    if (reason != Reason::kNone) return reason;
  }
  return session.allows(handle, call.op) ? Reason::kNone : Reason::kNotProven;
}

namespace {

/// Whether this very call may be boosted, as far as the process itself can tell. The kernel is
/// asked each time: flags can be changed by any holder of the description, and a number that was
/// closed behind our back is found out here.
Reason admit(Description& description, const Call& call, long& flags) {
  const Inode& inode = *description.inode;
  const Reason never = inode.never.load(std::memory_order_relaxed);
  if (never != Reason::kNone) return never;
  if (inode.streams.load(std::memory_order_relaxed) != 0) return Reason::kStream;
  if (call.rwf_flags != 0) return Reason::kFlags;
  if (call.length == 0) return Reason::kOddRange;
  if (call.offset != kSequential &&
      (call.offset < 0 ||
       static_cast<uint64_t>(call.offset) + call.length > static_cast<uint64_t>(INT64_MAX))) {
    return Reason::kOddRange;
  }
  flags = raw::status_flags(call.fd);
  if (raw::is_error(flags)) return Reason::kNotProven;
  if ((flags & O_DIRECT) != 0) return Reason::kDirect;
  const long forbidden = call.op == Op::kRead ? O_WRONLY : O_RDONLY;
  if ((flags & O_PATH) != 0 || (flags & O_ACCMODE) == forbidden) return Reason::kNotProven;
  if (call.op == Op::kWrite) {
    if ((flags & O_APPEND) != 0) return Reason::kAppend;
    if ((flags & (O_SYNC | O_DSYNC)) != 0) return Reason::kSync;
    if (call.offset == kSequential &&
        (!description.own || description.shared.load(std::memory_order_acquire))) {
      return Reason::kShared;
    }
    if (raw::has_file_size_limit()) return Reason::kFsizeLimit;
  }
  raw::FileId id;
  if (!raw::identify(call.fd, id) || !(id == inode.id)) {
    g_files.forget(call.fd);
    return Reason::kNotProven;
  }
  return Reason::kNone;
}

/// A descriptor that has moved less in all, and in this call, does not make a process connect.
constexpr uint64_t kConnectBytes = 64 << 10;
/// A smaller file is read by the time that its cache is there.
constexpr uint64_t kCacheBytes = 1 << 20;
/// So many small calls in a row are boosted on an inode whose boosted writes FUSE does not know
/// yet: each costs less than the fence that the kernel's way would need first.
constexpr uint32_t kSmallCalls = 8;

/// Whether the way through the daemon is expected to be the faster one. Without a page cache of its
/// own booster wins where the kernel would have to fetch, and where requests are large.
Reason worth_it(const Session& session, Description& description, const Call& call) {
  if (call.op == Op::kRead) {
    const CacheView* view = description.inode->view.load(std::memory_order_acquire);
    if (view != nullptr && view->fuse_may_be_older(raw::coarse_now_ms())) return Reason::kNone;
  }
  if (call.length < session.policy().min_call_bytes) {
    if (!description.inode->boost_dirty()) return Reason::kTooLittle;
    const uint32_t row = description.small_calls.fetch_add(1, std::memory_order_relaxed);
    return row < kSmallCalls ? Reason::kNone : Reason::kTooLittle;
  }
  description.small_calls.store(0, std::memory_order_relaxed);
  if (call.op == Op::kRead && !description.inode->boost_dirty()) {
    const long at = call.offset == kSequential ? raw::seek(call.fd, 0, SEEK_CUR) : call.offset;
    if (raw::is_error(at)) return Reason::kOddRange;
    const uint64_t pages = (call.length + 4095) / 4096;
    const uint64_t cached =
        raw::cached_pages(call.fd, static_cast<uint64_t>(at), call.length, pages);
    if (cached * 2 >= pages) return Reason::kCached;
  }
  return Reason::kNone;
}

/// Whether somebody of this process looks at the file past the shim: then a write is settled at
/// once.
bool kernel_reads_too(const Inode& inode) {
  // seq_cst: partner of the one in settle_for_kernel(). Either who maps the file, or opens a stream
  // on it, sees this write and settles it, or it is seen here.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return inode.never.load(std::memory_order_relaxed) != Reason::kNone ||
         inode.streams.load(std::memory_order_relaxed) != 0;
}

/// Whether reads of this descriptor should come out of a page cache: looked at until the daemon has
/// been asked and has answered.
bool worth_caching(const Description& description, int fd) {
  const uint32_t stage = description.stage.load(std::memory_order_relaxed);
  if (stage == Description::kPending) return true;
  struct statx status;
  return stage == Description::kNone && raw::attributes(fd, AT_STATX_DONT_SYNC, status) &&
         status.stx_size >= kCacheBytes;
}

/// All that the call is about.
IoCursor whole(const Call& call) {
  IoCursor cursor{call.vectors, call.count};
  cursor.advance(0);
  return cursor;
}

/// Whether a write begins and ends between two stripes of its volume. A file of which one does not
/// is not written through booster any more: going back and forth costs more than it brings.
bool is_aligned(const Session& session, const HandleRef& handle, Inode& inode, const Call& call) {
  const uint32_t unit = session.write_unit(handle);
  if (unit == 1) return true;
  if (inode.unaligned.load(std::memory_order_relaxed)) return false;
  const long at = call.offset == kSequential ? raw::seek(call.fd, 0, SEEK_CUR) : call.offset;
  if (!raw::is_error(at) && at % unit == 0 && call.length % unit == 0) return true;
  inode.unaligned.store(true, std::memory_order_relaxed);
  return false;
}

/// Claims the bytes at the description's offset and moves them. The claim is one lseek, atomic
/// against every other user of the description. kNone with `result`, or the reason why the kernel
/// must do the call.
Reason sequential(Session& session, const HandleRef& handle, Inode& inode, const Call& call,
                  long& result) {
  const auto length = static_cast<int64_t>(call.length);
  if (call.op == Op::kRead) {
    // Only what cannot come up short is claimed.
    const long at = raw::seek(call.fd, 0, SEEK_CUR);
    if (raw::is_error(at)) return Reason::kOddRange;
    const uint64_t size = session.file_size(handle);
    if (static_cast<uint64_t>(at) + call.length > size) return Reason::kTail;
  }
  const long after = raw::seek(call.fd, length, SEEK_CUR);
  if (raw::is_error(after)) return Reason::kOddRange;
  const long start = after - length;
  result = transfer_at(session, handle, inode, call, whole(call), static_cast<uint64_t>(start),
                       call.length);
  const long used = raw::is_error(result) ? 0 : result;
  // Short after all: the file was cut, or the kernel's write failed. Relative, so that it is right
  // whoever else has claimed meanwhile.
  if (used < length && still_names(call.fd, inode)) {
    raw::seek(call.fd, used - length, SEEK_CUR);
  }
  return Reason::kNone;
}

/// The whole decision; false in `done` sends the call to the kernel.
Reason try_boost(Description& description, Call& call, long& result) {
  long flags = 0;
  Reason reason = admit(description, call, flags);
  if (reason == Reason::kNotProven) return reason;
  const bool eager = settings().eager;
  const uint64_t moved =
      description.moved.fetch_add(call.length, std::memory_order_relaxed) + call.length;
  if (!eager && moved < kConnectBytes) return Reason::kTooLittle;
  SessionRef live = session(eager);
  if (!live) return Reason::kNoDaemon;
  HandleRef handle;
  if (reason == Reason::kNone && call.op == Op::kWrite) {
    // The log pays for calls of every size.
    call.delegation = delegation_for(*live.operator->(), description, call, flags, handle);
  }
  if (reason == Reason::kNone && !eager && call.delegation == 0) {
    // A page cache pays for calls of every size. Until it is there the call goes its own way.
    if (call.op == Op::kRead && live->policy().page_cache && worth_caching(description, call.fd)) {
      handle_for(*live.operator->(), description, call, flags, handle);
    }
    reason = worth_it(*live.operator->(), description, call);
  }
  if (reason == Reason::kNone && call.delegation == 0) {
    reason = handle_for(*live.operator->(), description, call, flags, handle);
  }
  if (reason == Reason::kNone && call.op == Op::kWrite &&
      !is_aligned(*live.operator->(), handle, *description.inode, call)) {
    reason = Reason::kUnaligned;
  }
  if (reason == Reason::kNone) {
    const bool may_flush = call.op == Op::kWrite && description.own;
    const long drained = drain(*description.inode, call.fd, may_flush);
    if (drained == kNotNow) reason = Reason::kIoError;
    if (raw::is_error(drained)) {
      result = drained;
      return Reason::kNone;
    }
  }
  if (reason == Reason::kNone) {
    Inode& inode = *description.inode;
    if (call.offset == kSequential) {
      reason = sequential(*live.operator->(), handle, inode, call, result);
    } else {
      result = transfer_at(*live.operator->(), handle, inode, call, whole(call),
                           static_cast<uint64_t>(call.offset), call.length);
    }
  }
  if (call.op == Op::kRead && (reason == Reason::kTooLittle || reason == Reason::kCached)) {
    leave_to_kernel(live.operator->(), description, reason, call.length);
  } else if (reason != Reason::kNone) {
    live->count(reason, call.length);
  }
  return reason;
}

/// Whether a read of the same tick was left to the kernel, and nothing has happened since that
/// would change that: what this process has written through booster, and what it must see of
/// others' since it has opened the file or taken a lock.
bool is_kernels_turn(Description& description, const Call& call) {
  const uint64_t tick = description.kernel_tick_ms.load(std::memory_order_relaxed);
  if (tick == 0 || tick != raw::coarse_now_ms()) return false;
  const Inode& inode = *description.inode;
  if (inode.boost_dirty() || inode.fresh_since_ms.load(std::memory_order_acquire) > tick ||
      g_fresh_since_ms.load(std::memory_order_acquire) > tick) {
    return false;
  }
  // As read_ahead() in cached_read.cc follows them; a call that moves the offset is in order.
  const uint64_t expected = description.next_offset.load(std::memory_order_relaxed);
  const uint64_t start = call.offset >= 0 ? static_cast<uint64_t>(call.offset) : expected;
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  if (view != nullptr) {
    // Others may have written meanwhile what FUSE does not know yet. And what is here costs less
    // than what the kernel may or may not have.
    if (!view->valid(tick, 0) || view->fuse_may_be_older(tick) || view->has(start)) return false;
  }
  if (start != expected) description.ahead_window.store(0, std::memory_order_relaxed);
  description.next_offset.store(start + call.length, std::memory_order_relaxed);
  description.moved.fetch_add(call.length, std::memory_order_relaxed);
  description.uncounted_calls.fetch_add(1, std::memory_order_relaxed);
  description.uncounted_bytes.fetch_add(call.length, std::memory_order_relaxed);
  description.kernel_served.fetch_add(call.length, std::memory_order_relaxed);
  return true;
}

}  // namespace

long transfer_at(Session& session, const HandleRef& handle, Inode& inode, const Call& call,
                 IoCursor cursor, uint64_t offset, size_t length) {
  IoCursor rest = cursor;
  if (call.op == Op::kWrite) begin_boosted_write(session);
  TransferResult moved;
  if (call.delegation != 0 && offset + length <= kMaxLoggedEnd) {
    moved.done =
        log_write(session, handle, inode, call.fd, call.delegation, cursor, offset, length);
  } else {
    drain_log(inode);  // what was written before comes first
    moved = session.transfer(call.op, handle, cursor, offset, length);
  }
  // A finished transfer leaves its cursor behind the bytes that were submitted, not behind those
  // that count.
  rest.advance(moved.done);
  session.count(Reason::kNone, moved.done);
  if (call.op == Op::kWrite) {
    // Behind a piece that failed, later ones may have been written.
    const bool pieces = length > common::kLanePayload;
    const bool changed = moved.done > 0 || moved.daemon_lost || (moved.error != 0 && pieces);
    if (changed) note_boosted_write(inode, call.fd, offset);
    end_boosted_write(session, inode);
    if (changed && kernel_reads_too(inode)) settle(inode);
  }
  if (moved.done == length) return static_cast<long>(moved.done);

  if (moved.error != 0) session.count(Reason::kIoError, length - moved.done);
  if (moved.daemon_lost && call.op == Op::kWrite) {
    // The lost request may still be queued at a brick and land after whatever is written next.
    raw::sleep_ms(session.quarantine_ms());
  }
  // The number was taken away by somebody who could not wait: it may mean another file by now.
  if (!still_names(call.fd, inode)) {
    return moved.done > 0 ? static_cast<long>(moved.done) : -EBADF;
  }
  // At the end of the file, after an error, without a daemon: the kernel's answer counts.
  settle(inode);
  const long more = kernel_rest(call, rest, length - moved.done, offset + moved.done);
  if (call.op == Op::kWrite) note_kernel_write(inode);
  if (raw::is_error(more)) return moved.done > 0 ? static_cast<long>(moved.done) : more;
  return static_cast<long>(moved.done) + more;
}

namespace {

/// A signal handler that interrupted the shim writes: the kernel does it, and whatever is boosted
/// next is drained first, as after a lock. Async-signal-safe.
bool write_from_handler(Call& call, ssize_t& result) {
  if (call.op != Op::kWrite || t_thread.depth == 0 || t_thread.vfork_child ||
      g_files.kind(call.fd) != FileTable::kTracked || !measure(call)) {
    return false;
  }
  result = with_errno(kernel_call(call));
  // Release: partner of the acquire in drain().
  g_lock_calls.fetch_add(1, std::memory_order_release);
  return true;
}

/// Another thread is taking the number away: this call comes after that, as it may. Bounded, since
/// the kernel's part of a close may hang in FUSE.
void wait_while_ending(int fd) {
  constexpr int kLooks = 10'000;
  constexpr uint64_t kLookEveryUs = 100;
  for (int i = 0; g_files.kind(fd) == FileTable::kClosing && i < kLooks; ++i) {
    raw::sleep_us(kLookEveryUs);
  }
}

}  // namespace

bool transfer(Op op, int fd, const iovec* vectors, int count, int64_t offset, int rwf_flags,
              ssize_t& result) {
  if (g_files.kind(fd) == FileTable::kForeign) return false;
  // What this process has not written through booster it may read through the kernel unseen.
  if (op == Op::kRead && count == 1 && !settings().eager && !maybe_dirty() &&
      g_files.leave_unseen(fd, vectors->iov_len)) {
    return false;
  }
  // These calls are cancellation points; nothing is held yet.
  if (t_thread.depth == 0 && !t_thread.vfork_child) pthread_testcancel();
  Entry entry;
  Call call{op, fd, vectors, count, offset, rwf_flags, 0};
  if (!entry) return write_from_handler(call, result);
  wait_while_ending(fd);
  uint32_t side = 0;
  Description* description = g_files.begin_call(fd, side);
  if (description == nullptr) return false;
  bool done = false;
  if (measure(call)) {
    // The kernel's offset lock keeps two threads of a description apart; so does this one, also
    // while the kernel does the call: near the end of a file both ways are used in turn.
    const bool ordered = offset == kSequential;
    if (ordered) description->sequential.lock();
    long moved = 0;
    if (op == Op::kWrite) moved = take_deferred_error(*description->inode);
    const bool kernels = op == Op::kRead && is_kernels_turn(*description, call);
    if (kernels) moved = kernel_call(call);
    const bool served = kernels || moved != 0 ||
                        (op == Op::kRead && rwf_flags == 0 && call.length != 0 &&
                         description->cached.load(std::memory_order_acquire) &&
                         cached_read(*description, call, moved));
    if (!served && try_boost(*description, call, moved) != Reason::kNone) {
      settle(*description->inode);
      moved = op == Op::kWrite ? take_deferred_error(*description->inode) : 0;
      if (moved == 0) {
        moved = kernel_call(call);
        if (op == Op::kWrite) note_kernel_write(*description->inode);
      }
    }
    if (ordered) description->sequential.unlock();
    result = with_errno(moved);
    done = true;
  }
  g_files.end_call(description, side);
  return done;
}

namespace {

/// Runs `act` with the description of `fd`, if it is on GlusterFS and the shim may be entered.
template <typename Act>
void with_description(int fd, bool look, Act act) {
  const FileTable::Kind kind = g_files.kind(fd);
  if (kind == FileTable::kForeign || (!look && kind != FileTable::kTracked)) return;
  Entry entry;
  if (!entry) return;
  Description* description = look ? g_files.acquire(fd) : g_files.acquire_known(fd);
  if (description == nullptr) return;
  act(*description);
  g_files.release(description);
}

}  // namespace

namespace {

/// From now on the kernel's view of the file is looked at, unseen.
void settle_for_kernel(Inode& inode) {
  // seq_cst: partner of the one in kernel_reads_too().
  std::atomic_thread_fence(std::memory_order_seq_cst);
  settle(inode);
}

}  // namespace

void note_mapping(int fd) {
  with_description(fd, true, [](Description& description) {
    Inode& inode = *description.inode;
    // The mapping outlives the descriptor, and so must the knowledge of it: never released.
    if (inode.never.exchange(Reason::kMapped, std::memory_order_acq_rel) != Reason::kMapped) {
      g_files.hold_inode(&inode);
    }
    settle_for_kernel(inode);
  });
}

void note_async(int fd) {
  with_description(fd, true, [](Description& description) {
    Inode& inode = *description.inode;
    Reason never = Reason::kNone;
    inode.never.compare_exchange_strong(never, Reason::kAsync, std::memory_order_acq_rel);
    settle_for_kernel(inode);
    note_kernel_write(inode);
  });
}

void note_stream(int fd) {
  with_description(fd, true, [](Description& description) {
    if (!description.stream.exchange(true, std::memory_order_relaxed)) {
      description.inode->streams.fetch_add(1, std::memory_order_acq_rel);
    }
    settle_for_kernel(*description.inode);
  });
}

void before_lock(int fd, bool posix) {
  if (posix) {
    with_description(fd, true, [](Description& description) {
      // The lock waits for a flush that is under way (settle.cc): its close would drop this lock.
      LockGuard guard(description.inode->settle_lock);
      description.inode->posix_locked.store(true, std::memory_order_relaxed);
    });
  }
  // All files: a lock on one file often guards others.
  if (!maybe_dirty()) return;
  Entry entry;
  if (entry) settle_all();
}

void after_lock() {
  g_lock_calls.fetch_add(1, std::memory_order_release);
  after_path_change();
}

void after_path_change() {
  // Release: partner of the acquire in cached_read(), on a thread that has been told.
  g_fresh_since_ms.store(raw::next_ms(), std::memory_order_release);
}

int hold_for_writing(const char* path) {
  struct statx status;
  if (raw::is_error(raw::raw_syscall(SYS_statx, AT_FDCWD, raw::word(path), AT_STATX_DONT_SYNC,
                                     STATX_TYPE | STATX_INO, raw::word(&status))) ||
      (status.stx_mode & S_IFMT) != S_IFREG) {
    return -1;
  }
  const raw::FileId id{status.stx_dev_major, status.stx_dev_minor, status.stx_ino, status.stx_mode};
  Entry entry;
  if (!entry || !g_files.on_gluster(path, id)) return -1;
  if (Inode* inode = g_files.find_inode(id)) {
    // Closing a descriptor of the file would drop the locks that the process has on it.
    const bool locked = inode->posix_locked.load(std::memory_order_relaxed);
    g_files.release_inode(inode);
    if (locked) return -1;
  }
  const long fd = raw::raw_syscall(SYS_openat, AT_FDCWD, raw::word(path), O_WRONLY | O_CLOEXEC);
  return raw::is_error(fd) ? -1 : static_cast<int>(fd);
}

void let_go(int fd) {
  if (fd >= 0) raw::close(fd);
}

void note_status_flags(int fd, int flags) {
  if ((flags & O_DIRECT) == 0) return;
  with_description(fd, false, [](Description& description) {
    description.cached.store(false, std::memory_order_release);
    description.kernel_tick_ms.store(0, std::memory_order_relaxed);
  });
}

void before_kernel_change(int fd) {
  // Also through a number that nobody has looked at: another may have written the same file.
  if (!maybe_dirty()) return;
  with_description(fd, true, [](Description& description) { settle(*description.inode); });
}

namespace {

/// Waits for the calls that have begun on a number of `description` which is closing. As with the
/// kernel, where a call keeps the file that it began with. Bounded, for a call that a signal
/// handler has jumped out of.
void wait_for_calls(Description& description) {
  if (!description.ending.lock_for(kCallsWaitMs)) return;
  const uint64_t deadline = raw::coarse_now_ms() + kCallsWaitMs;
  // What begins now, on other numbers, is counted on the other side: once on each, so that none of
  // the two has to be waited for as long as there is traffic.
  for (int side = 0; side < 2; ++side) {
    const uint32_t old = description.calls_side.load(std::memory_order_relaxed);
    description.calls_side.store(1 - old, std::memory_order_relaxed);
    while (uint32_t calls = description.calls[old].load(std::memory_order_seq_cst)) {
      if (raw::coarse_now_ms() > deadline) break;
      common::futex_wait(description.calls[old], calls, 1);
    }
  }
  description.ending.unlock();
}

}  // namespace

long deferred_error(int fd) {
  long error = 0;
  with_description(fd, false, [&error](Description& description) {
    error = take_deferred_error(*description.inode);
  });
  return error;
}

long before_number_ends(int fd) {
  // First of all: in a child that does not know yet that it is one it empties the table.
  Entry entry;
  Description* description = nullptr;
  g_files.closing(fd, &description);
  // From a signal handler that interrupted the shim: locks may be held, nobody can be waited for.
  if (!entry) return 0;
  // Closing the file of a lock is the usual way to unlock, and a lock on one file guards others.
  if (g_lock_calls.load(std::memory_order_relaxed) != 0) settle_all();
  if (description == nullptr) return 0;
  wait_for_calls(*description);
  settle(*description->inode);
  const long error = take_deferred_error(*description->inode);
  g_files.release(description);
  return error;
}

void before_range_ends(unsigned first, unsigned last, int keep) {
  g_files.for_each_word(first, last, [keep](int fd) {
    if (fd == keep) return;
    if (g_files.kind(fd) == FileTable::kTracked) {
      before_number_ends(fd);
    } else {
      Entry entry;
      g_files.forget(fd, !entry);
    }
  });
}

void after_range_ended(unsigned first, unsigned last, int keep) {
  g_files.for_each_word(first, last, [keep](int fd) {
    if (fd != keep) g_files.closed(fd);
  });
}

void after_kernel_change(int fd) {
  with_description(fd, true,
                   [](Description& description) { note_kernel_write(*description.inode); });
}

}  // namespace booster::preload
