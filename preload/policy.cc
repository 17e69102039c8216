#include "preload/policy.h"

#include <errno.h>
#include <pthread.h>
#include <sys/single_threaded.h>

#include "preload/admission.h"
#include "preload/boosted_read.h"
#include "preload/boosted_write.h"
#include "preload/cache_view.h"
#include "preload/file_table.h"
#include "preload/lifetime.h"
#include "preload/offset.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/write_delegation.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Reason;

namespace {

ssize_t with_errno(long result) {
  if (!raw::is_error(result)) return result;
  errno = static_cast<int>(-result);
  return -1;
}

/// For people: why the kernel has done it.
void count(Reason reason, long result) {
  if (result <= 0) return;
  const SessionRef live = current_session();
  if (live) live->count(reason, static_cast<uint64_t>(result));
}

/// Whether asking again may bring what `reason` is about.
bool may_change(Reason reason) {
  return reason == Reason::kTooLittle || reason == Reason::kNotAlone || reason == Reason::kNoDaemon;
}

/// A longer read is done by the kernel in pieces, so that booster can take it over in the middle:
/// the first of so many bytes, then of twice as many each time, up to kMostPiece.
constexpr size_t kFirstPiece = 1 << 20;
constexpr size_t kMostPiece = 16 << 20;

/// Keeps others of this process from going past the description's lock while it lives, if that can
/// be: nobody may find the offset in the middle of a call.
class Splitting {
 public:
  Splitting(Description& description, const Call& call) : description_(description) {
    if (call.count != 1 || call.length <= kFirstPiece || settings().eager) return;
    if (!call.in_user_space) return;  // the whole call is refused, and not what does not fit
    if (call.offset != kSequential) {
      allowed_ = call.length <= static_cast<uint64_t>(INT64_MAX - call.offset);
      return;
    }
    if (!description.own || description.shared.load(std::memory_order_relaxed)) return;
    held_ = true;
    description.splitting.store(true, std::memory_order_seq_cst);
    // Another thread that reads unseen may be on its way already, if that was ever allowed.
    allowed_ = __libc_single_threaded != 0 ||
               description.cost.away_us.load(std::memory_order_seq_cst) == 0;
  }
  ~Splitting() {
    if (held_) description_.splitting.store(false, std::memory_order_relaxed);
  }
  Splitting(const Splitting&) = delete;
  Splitting& operator=(const Splitting&) = delete;
  bool allowed() const { return allowed_; }

 private:
  Description& description_;
  bool held_ = false;
  bool allowed_ = false;
};

/// What follows the first `done` bytes, of which `most` at most. `vector` is where it goes.
Call part_of(const Call& call, size_t done, size_t most, iovec& vector) {
  Call part = call;
  part.length = call.length - done < most ? call.length - done : most;
  if (done == 0 && part.length == call.length) return part;
  vector = {static_cast<char*>(call.vectors->iov_base) + done, part.length};
  part.vectors = &vector;
  if (call.offset != kSequential) part.offset += static_cast<int64_t>(done);
  return part;
}

/// Bytes or -errno.
long read(Description& description, const Call& call) {
  long result = 0;
  Reason reason = boosted_read(description, call, result);
  if (reason == Reason::kNone) return result;
  const bool eager = settings().eager;
  if (eager) {
    reason = ask_to_read(description, call, reason);
    if (reason == Reason::kNone) reason = boosted_read(description, call, result);
    if (reason == Reason::kNone) return result;
  }
  const Splitting splitting(description, call);
  size_t piece = splitting.allowed() ? kFirstPiece : call.length;
  size_t done = 0;
  while (true) {
    iovec vector;
    const Call part = part_of(call, done, piece, vector);
    if (call.offset == kSequential) give_back_offset(call.fd, description);
    settle(*description.inode);
    catch_up(*description.inode, call.fd);
    const uint64_t start = raw::now_us();
    result = kernel_call(part);
    const uint64_t end = raw::now_us();
    note_kernel_read(description, part, result, end - start, end);
    if (!eager) reason = ask_to_read(description, part, reason);
    count(reason == Reason::kNone ? Reason::kPending : reason, result);
    if (raw::is_error(result)) return done > 0 ? static_cast<long>(done) : result;
    done += static_cast<size_t>(result);
    if (static_cast<size_t>(result) < part.length || done == call.length) break;
    if (reason == Reason::kNone) {
      reason = boosted_read(description, part_of(call, done, call.length, vector), result);
      if (reason == Reason::kNone) return static_cast<long>(done) + (result > 0 ? result : 0);
    }
    if (piece < kMostPiece) piece *= 2;
  }
  return static_cast<long>(done);
}

/// The same.
long write(Description& description, const Call& call) {
  Inode& inode = *description.inode;
  long result = take_deferred_error(inode);
  if (result != 0) return result;
  // A thread that ends the process, or makes it another program, has settled what was written.
  const bool leaving = is_leaving();
  Reason reason = leaving ? Reason::kNotAlone : boosted_write(description, call, result);
  if (reason == Reason::kNone) return result;
  const bool eager = settings().eager;
  if (eager && !leaving && may_change(reason)) {
    reason = ask_to_write(description, call, reason);
    if (reason == Reason::kNone) reason = boosted_write(description, call, result);
    if (reason == Reason::kNone) return result;
  }
  {
    const KernelChange change(inode);
    // Found out while what was boosted has been settled.
    result = take_deferred_error(inode);
    if (result != 0) return result;
    const uint64_t start = raw::now_us();
    result = kernel_call(call);
    note_kernel_write(description, result, raw::now_us() - start);
  }
  if (!eager && !leaving && may_change(reason)) {
    reason = ask_to_write(description, call, reason);
  }
  count(reason == Reason::kNone ? Reason::kPending : reason, result);
  return result;
}

/// A signal handler that interrupted the shim writes: the kernel does it, and what was delegated is
/// given back by whoever writes next. Async-signal-safe.
bool write_from_handler(Call& call, ssize_t& result) {
  if (call.direction != Direction::kWrite || t_thread.depth == 0 || t_thread.vfork_child ||
      g_files.kind(call.fd) != FileTable::kTracked || !measure(call)) {
    return false;
  }
  g_handler_writes.fetch_add(1, std::memory_order_seq_cst);
  result = with_errno(kernel_call(call));
  // Release: partner of the acquire in held_delegation().
  g_handler_writes.fetch_add(1, std::memory_order_release);
  return true;
}

/// Another thread is taking the number away: this call comes after that, as it may. Bounded, since
/// the kernel's part of a close may hang in FUSE; by then the number may be a socket's.
void wait_while_ending(int fd) {
  constexpr int kLooks = 10'000;
  constexpr uint64_t kLookEveryUs = 100;
  for (int i = 0; g_files.kind(fd) == FileTable::kClosing && i < kLooks; ++i) {
    if (!g_files.may_be_on_gluster(fd)) return;
    raw::sleep_us(kLookEveryUs);
  }
}

bool carry_out(Call& call, ssize_t& result, bool cancellable) {
  // These calls are cancellation points; nothing is held yet.
  if (cancellable && t_thread.depth == 0 && !t_thread.vfork_child) pthread_testcancel();
  const Entry entry;
  const int fd = call.fd;
  if (!entry) return write_from_handler(call, result);
  wait_while_ending(fd);
  uint32_t side = 0;
  Description* description = g_files.begin_call(fd, side);
  if (description == nullptr) return false;
  const bool done = measure(call);
  if (done) {
    // The kernel's offset lock keeps two threads of a description apart; so does this one, also
    // while the kernel does the call: near the end of a file both ways are used in turn.
    const bool ordered = call.offset == kSequential;
    if (ordered) description->sequential.lock();
    const long moved =
        call.direction == Direction::kRead ? read(*description, call) : write(*description, call);
    if (ordered) description->sequential.unlock();
    result = with_errno(moved);
  }
  g_files.end_call(description, side);
  return done;
}

}  // namespace

bool transfer(Direction direction, int fd, const iovec* vectors, int count, int64_t offset,
              int rwf_flags, ssize_t& result, bool cancellable) {
  if (g_files.kind(fd) == FileTable::kForeign) return false;
  Call call{direction, fd, vectors, count, offset, rwf_flags, 0};
  return carry_out(call, result, cancellable);
}

bool transfer(Direction direction, int fd, const void* buffer, size_t length, int64_t offset,
              ssize_t& result, bool cancellable) {
  if (g_files.kind(fd) == FileTable::kForeign) return false;
  // What this process has not written through booster it may read through the kernel unseen, if it
  // has not seen newer bytes in the page cache of a file that is read through another descriptor.
  if (direction == Direction::kRead && !settings().eager && !maybe_dirty() &&
      g_files.leave_unseen(fd, length)) {
    return false;
  }
  const iovec vector{const_cast<void*>(buffer), length};
  Call call{direction, fd, &vector, 1, offset, 0, 0, true};
  return carry_out(call, result, cancellable);
}

}  // namespace booster::preload
