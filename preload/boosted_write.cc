#include "preload/boosted_write.h"

#include <errno.h>
#include <fcntl.h>

#include "preload/admission.h"
#include "preload/handle.h"
#include "preload/settle.h"
#include "preload/write_delegation.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Reason;

namespace {

/// The tick of the coarse clock in which a limit was changed: what was seen in it does not count.
constinit std::atomic<uint64_t> g_limits_changed_ms{0};

/// What a write through a description with these flags (F_GETFL) has to wait for.
SyncKind sync_of(long flags) {
  if ((flags & O_SYNC) == O_SYNC) return SyncKind::kAll;  // has O_DSYNC's bit
  return (flags & O_DSYNC) != 0 ? SyncKind::kData : SyncKind::kNone;
}

SyncKind sync_of(const Description& description, const Call& call) {
  SyncKind kind = description.writing.sync.load(std::memory_order_relaxed);
  if ((call.rwf_flags & RWF_DSYNC) != 0 && kind == SyncKind::kNone) kind = SyncKind::kData;
  return (call.rwf_flags & RWF_SYNC) != 0 ? SyncKind::kAll : kind;
}

/// Whether the number still names the file, with flags that allow it. What can only change through
/// calls that are seen is asked once in a tick of the coarse clock: the description is this
/// process's alone, and note_status_flags() and note_limits_changed() hear of the rest.
Reason look_at_descriptor(Description& description, int fd) {
  const uint64_t now = raw::coarse_now_ms();
  std::atomic<uint64_t>& checked = description.writing.checked_ms;
  if (checked.load(std::memory_order_relaxed) == now &&
      g_limits_changed_ms.load(std::memory_order_relaxed) != now) {
    return Reason::kNone;
  }
  const long flags = raw::status_flags(fd);
  if (raw::is_error(flags) || (flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_RDONLY) {
    return Reason::kNotProven;
  }
  if (const Reason never = reason_of(flags); never != Reason::kNone) return never;
  description.writing.sync.store(sync_of(flags), std::memory_order_relaxed);
  if (raw::has_file_size_limit()) return Reason::kFsizeLimit;
  if (!still_names(fd, *description.inode)) {
    g_files.forget(fd);
    return Reason::kNotProven;
  }
  checked.store(now, std::memory_order_relaxed);
  return Reason::kNone;
}

Reason admit(const Session& session, const HandleRef& handle, Description& description,
             const Call& call) {
  if (const Reason why = refusal(*description.inode, call); why != Reason::kNone) return why;
  if (session.log_error(handle.slot) != 0) return Reason::kIoError;
  return look_at_descriptor(description, call.fd);
}

/// What was logged comes to the bricks' disks; an error of it is deferred. False: the kernel has to
/// be asked.
bool sync_log(Session& session, const HandleRef& handle, uint32_t delegation, Inode& inode,
              SyncKind kind) {
  const common::Op op = kind == SyncKind::kAll ? common::Op::kSync : common::Op::kDataSync;
  if (!session.sync(handle, op, delegation)) return false;
  drain_log(inode);  // is empty: for errors
  return true;
}

/// 0 or -errno.
long sync_by_kernel(int fd, SyncKind kind) {
  if (kind == SyncKind::kNone) return 0;
  return raw::raw_syscall(kind == SyncKind::kAll ? SYS_fsync : SYS_fdatasync, fd);
}

/// The write has been logged: waits for what it promises besides. 0 or -errno.
long await_sync(Session& session, const HandleRef& handle, uint32_t delegation,
                Description& description, const Call& call) {
  const SyncKind kind = sync_of(description, call);
  if (kind == SyncKind::kNone) return 0;
  Inode& inode = *description.inode;
  long result = 0;
  if (!sync_log(session, handle, delegation, inode, kind)) {
    settle(inode);
    result = still_names(call.fd, inode) ? sync_by_kernel(call.fd, kind) : -EIO;
  }
  const long error = take_deferred_error(inode);
  return error != 0 ? error : result;
}

/// Logs `length` bytes for `offset`; the kernel completes what comes up short. Bytes done or
/// -errno.
long write_at(Session& session, const HandleRef& handle, uint32_t delegation,
              Description& description, const Call& call, uint64_t offset, size_t length) {
  Inode& inode = *description.inode;
  IoCursor cursor = call.whole();
  IoCursor left = cursor;
  session.add_unsettled(handle.slot, 1);
  size_t done = 0;
  if (offset + length <= kMaxLoggedEnd) {
    done = log_write(session, handle, inode, call.fd, delegation, cursor, offset, length);
  } else {
    drain_log(inode);  // what was written before comes first
  }
  left.advance(done);
  session.count(Reason::kNone, done);
  if (done > 0) {
    note_boosted_write(inode, call.fd, offset);
    if (inode.late.load(std::memory_order_relaxed)) settle(inode);
  } else {
    session.add_unsettled(handle.slot, -1);
  }
  if (done == length) {
    const long synced = await_sync(session, handle, delegation, description, call);
    return raw::is_error(synced) ? synced : static_cast<long>(done);
  }

  // The number was taken away by somebody who could not wait: it may mean another file by now.
  if (!still_names(call.fd, inode)) return done > 0 ? static_cast<long>(done) : -EBADF;
  // The kernel's answer counts.
  const KernelChange change(inode);
  const long more = kernel_rest(call, left, length - done, offset + done);
  if (raw::is_error(more)) return done > 0 ? static_cast<long>(done) : more;
  // Neither what somebody else has written of it nor the rest has waited for the disks.
  const long synced = sync_by_kernel(call.fd, sync_of(description, call));
  if (raw::is_error(synced)) return synced;
  return static_cast<long>(done) + more;
}

}  // namespace

Reason boosted_write(Description& description, const Call& call, long& result) {
  if (description.writing.held.load(std::memory_order_relaxed) == 0) {
    const Reason never = description.writing.never.load(std::memory_order_relaxed);
    return never != Reason::kNone ? never : Reason::kTooLittle;
  }
  const SessionRef live = current_session();
  if (!live || live->dead()) return Reason::kNoDaemon;
  HandleRef handle;
  const uint32_t delegation = held_delegation(description, *live, handle);
  if (delegation == 0) return Reason::kNotAlone;
  const Reason reason = admit(*live, handle, description, call);
  if (reason != Reason::kNone) return reason;
  const bool ordered = call.offset == kSequential;
  const auto length = static_cast<int64_t>(call.length);
  if (const uint32_t unit = live->write_unit(handle); unit != 1) {
    const long at = ordered ? raw::seek(call.fd, 0, SEEK_CUR) : call.offset;
    if (raw::is_error(at) || at % unit != 0 || call.length % unit != 0) {
      // Going back and forth costs more than it brings.
      description.writing.never.store(Reason::kUnaligned, std::memory_order_relaxed);
      return Reason::kUnaligned;
    }
  }
  if (!ordered) {
    result = write_at(*live, handle, delegation, description, call,
                      static_cast<uint64_t>(call.offset), call.length);
    return Reason::kNone;
  }
  // The claim is one lseek, atomic against every other user of the description.
  const long after = raw::seek(call.fd, length, SEEK_CUR);
  if (raw::is_error(after)) return Reason::kOddRange;
  result = write_at(*live, handle, delegation, description, call,
                    static_cast<uint64_t>(after - length), call.length);
  const long used = raw::is_error(result) ? 0 : result;
  // Short after all: the kernel's write failed. Relative, so that it is right whoever else has
  // claimed meanwhile.
  if (used < length && still_names(call.fd, *description.inode)) {
    raw::seek(call.fd, used - length, SEEK_CUR);
  }
  return Reason::kNone;
}

bool boosted_sync(Description& description, int fd, bool data_only) {
  if (description.writing.held.load(std::memory_order_relaxed) == 0) return false;
  const SessionRef live = current_session();
  if (!live || live->dead()) return false;
  HandleRef handle;
  const uint32_t delegation = held_delegation(description, *live, handle);
  Inode& inode = *description.inode;
  if (delegation == 0 || inode.never.load(std::memory_order_relaxed) != Reason::kNone ||
      look_at_descriptor(description, fd) != Reason::kNone) {
    return false;
  }
  return sync_log(*live, handle, delegation, inode, data_only ? SyncKind::kData : SyncKind::kAll);
}

Reason reason_of(long flags) {
  if ((flags & O_DIRECT) != 0) return Reason::kDirect;
  if ((flags & O_APPEND) != 0) return Reason::kAppend;
  return Reason::kNone;
}

void note_limits_changed() {
  g_limits_changed_ms.store(raw::coarse_now_ms(), std::memory_order_relaxed);
}

}  // namespace booster::preload
