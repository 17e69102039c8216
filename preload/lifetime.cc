#include "preload/lifetime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "common/futex.h"
#include "preload/boosted_write.h"
#include "preload/file_table.h"
#include "preload/offset.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/write_delegation.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Reason;

namespace {

/// The longest that a close waits for calls that use its number.
constexpr uint32_t kCallsWaitMs = 60'000;
/// The longest that the end of the process waits for all: a thread may hang in a read.
constexpr uint32_t kLeaveWaitMs = 2'000;

BOOSTER_AT_HAND constinit std::atomic<uint32_t> g_leaving{0};

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

/// A helper of the daemon may have the description in its hands, for which a lock, or a file that
/// is executed next, would wait.
void await_answer(Description& description) {
  // relaxed: the thread that has asked has ended its call.
  if (std::atomic_ref(description.writing.asked).load(std::memory_order_relaxed)) {
    give_back_delegation(description);
  }
}

}  // namespace

void note_mapping(int fd) {
  before_offset_use(fd);  // a stream that maps its file moves the offset by itself
  with_description(fd, true, [](Description& description) {
    Inode& inode = *description.inode;
    // The mapping outlives the descriptor, and so must the knowledge of it: never released.
    if (inode.never.exchange(Reason::kMapped, std::memory_order_acq_rel) != Reason::kMapped) {
      g_files.hold_inode(&inode);
    }
    // From now on the kernel's view of it is looked at, and changed, unseen.
    const KernelChange change(inode);
  });
}

void note_async(int fd) {
  with_description(fd, true, [](Description& description) {
    Inode& inode = *description.inode;
    Reason never = Reason::kNone;
    inode.never.compare_exchange_strong(never, Reason::kAsync, std::memory_order_acq_rel);
    const KernelChange change(inode);
  });
}

bool is_boostable(int fd) {
  bool tracked = false;
  with_description(fd, true, [&tracked](Description&) { tracked = true; });
  return tracked;
}

void note_stream(int fd) {
  before_offset_use(fd);
  with_description(fd, true, [](Description& description) {
    if (!description.stream.exchange(true, std::memory_order_relaxed)) {
      description.inode->streams.fetch_add(1, std::memory_order_acq_rel);
    }
    const KernelChange change(*description.inode);
  });
}

void before_lock(int fd) {
  with_description(fd, false, [](Description& description) { await_answer(description); });
  // All files: a lock on one file often guards others.
  if (!maybe_dirty()) return;
  Entry entry;
  if (entry) drain_all();
}

void after_lock() {
  g_lock_calls.fetch_add(1, std::memory_order_release);
  after_path_change();
}

void after_path_change() {
  note_fresh(g_fresh_since_ms, raw::next_ms());
}

namespace {

/// Whether a descriptor of this process, looked at or not, names that file; also if that cannot be
/// found out.
bool has_open(const raw::FileId& id) {
  const long list = raw::raw_syscall(SYS_openat, AT_FDCWD, raw::word("/proc/self/fd"),
                                     O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (raw::is_error(list)) return true;
  alignas(dirent64) char entries[2048] = {};
  bool found = false;
  long got = 0;
  while (!found &&
         (got = raw::raw_syscall(SYS_getdents64, list, raw::word(entries), sizeof(entries))) > 0) {
    for (long at = 0; at < got && !found;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries + at);
      at += entry->d_reclen;
      int fd = 0;
      const char* digit = entry->d_name;
      for (; *digit >= '0' && *digit <= '9'; ++digit) fd = fd * 10 + (*digit - '0');
      raw::FileId named;
      found = digit != entry->d_name && raw::identify(fd, named) && named == id;
    }
  }
  raw::close(static_cast<int>(list));
  return found || got < 0;
}

}  // namespace

PathChange::PathChange(const char* path) {
  raw::FileId id;
  if (!raw::identify(AT_FDCWD, path, 0, id) || (id.mode & S_IFMT) != S_IFREG) return;
  const Entry entry;
  if (!entry || !g_files.on_gluster(path, id)) return;
  inode_ = g_files.find_inode(id);
  if (inode_ != nullptr) change_.emplace(*inode_);
  if (inode_ != nullptr || has_open(id)) return;
  fd_ = static_cast<int>(
      raw::raw_syscall(SYS_openat, AT_FDCWD, raw::word(path), O_WRONLY | O_CLOEXEC));
}

PathChange::~PathChange() {
  if (fd_ >= 0) raw::close(fd_);
  if (inode_ == nullptr) return;
  const Entry entry;
  change_.reset();
  if (entry) g_files.release_inode(inode_);
}

void note_status_flags(int fd, int flags) {
  with_description(fd, false, [flags](Description& description) {
    description.writing.checked_ms.store(0, std::memory_order_relaxed);
    // Flags may have been why it was not to be had.
    const Reason never = description.writing.never.load(std::memory_order_relaxed);
    if (never == Reason::kAppend || never == Reason::kDirect) {
      description.writing.never.store(Reason::kNone, std::memory_order_relaxed);
    }
    description.reading.checked_ms.store(0, std::memory_order_relaxed);
    if ((flags & O_DIRECT) != 0) description.reading.cached.store(false, std::memory_order_release);
  });
}

void before_kernel_look(int fd) {
  // Also through a number that nobody has looked at: another may have written the same file.
  if (!maybe_dirty()) return;
  with_description(fd, true, [](Description& description) { settle(*description.inode); });
}

void before_kernel_look(int directory, const char* path, int flags) {
  if (!maybe_dirty()) return;
  raw::FileId id;
  // Where this fails, so does what comes next, with the error that the program is to see.
  if (!raw::identify(directory, path, flags & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH), id)) return;
  const Entry entry;
  if (entry) settle_identity(id);
}

bool sync_boosted(int fd, bool data_only) {
  // A cancellation point; nothing is held yet.
  if (t_thread.depth == 0 && !t_thread.vfork_child) pthread_testcancel();
  bool done = false;
  with_description(fd, false, [&](Description& description) {
    done = boosted_sync(description, fd, data_only);
    if (!done) await_answer(description);
  });
  if (!done) before_kernel_look(fd);
  return done;
}

FileChange::FileChange(int fd) {
  // Also through a number that nobody has looked at: while the kernel is at it another thread may
  // ask for the file.
  if (g_files.kind(fd) == FileTable::kForeign) return;
  Entry entry;
  if (!entry) return;
  description_ = g_files.acquire(fd);
  if (description_ != nullptr) change_.emplace(*description_->inode);
}

FileChange::~FileChange() {
  if (description_ == nullptr) return;
  Entry entry;
  change_.reset();
  if (entry) g_files.release(description_);
}

namespace {

/// Waits for the calls that have begun on a number of `description` which is closing. As with the
/// kernel, where a call keeps the file that it began with. Bounded, for a call that a handler has
/// jumped out of which was installed past libc.
void wait_for_calls(Description& description, uint32_t most_ms) {
  if (!description.ending.lock_for(most_ms)) return;
  const uint64_t deadline = raw::coarse_now_ms() + most_ms;
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
  if (g_lock_calls.load(std::memory_order_relaxed) != 0) drain_all();
  if (description == nullptr) return 0;
  wait_for_calls(*description, kCallsWaitMs);
  give_back_owed(fd, *description);  // for a number of it that nobody has seen being made
  await_answer(*description);
  settle(*description->inode);
  const long error = take_deferred_error(*description->inode);
  g_files.release(description);
  return error;
}

void begin_to_leave() {
  // seq_cst: partner of the look in policy.cc, after the call was counted. Either it is seen there,
  // or the call is seen here.
  g_leaving.fetch_add(1, std::memory_order_seq_cst);
  const uint64_t deadline = raw::coarse_now_ms() + kLeaveWaitMs;
  g_files.for_each_description([deadline](Description& description) {
    if (description.writing.held.load(std::memory_order_relaxed) == 0) return;
    const uint64_t now = raw::coarse_now_ms();
    if (now >= deadline || !FileTable::hold(description)) return;
    wait_for_calls(description, static_cast<uint32_t>(deadline - now));
    g_files.release(&description);
  });
  give_back_what_was_asked();
  give_back_offsets();
  settle_all();
}

void end_to_leave() {
  count_down(g_leaving);
}

void leaving_after_fork() {
  g_leaving.store(0, std::memory_order_relaxed);
}

bool is_leaving() {
  return g_leaving.load(std::memory_order_seq_cst) != 0;
}

OffsetLock::OffsetLock(int fd) : fd_(fd) {
  if (!entry_) return;
  description_ = acquire_for_offset(fd);
  if (description_ != nullptr) description_->sequential.lock();
}

int64_t OffsetLock::for_kernel(int64_t offset, int whence) const {
  if (description_ == nullptr || whence != SEEK_CUR) return offset;
  const int64_t owed = description_->reading.owed.load(std::memory_order_relaxed);
  int64_t both = 0;
  if (!__builtin_add_overflow(offset, owed, &both)) return both;
  give_back_offset(fd_, *description_);
  return offset;
}

void OffsetLock::note(int64_t offset) const {
  if (description_ == nullptr || offset < 0) return;
  description_->reading.owed.store(0, std::memory_order_relaxed);
  description_->reading.position.store(offset, std::memory_order_relaxed);
}

OffsetLock::~OffsetLock() {
  if (description_ == nullptr) return;
  description_->sequential.unlock();
  g_files.release(description_);
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

}  // namespace booster::preload
