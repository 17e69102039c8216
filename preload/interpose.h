// What the interposer files share: small steps around a kernel call. Only files named interpose*
// know libc's symbol names.
#pragma once

#include <sched.h>

#include "preload/file_table.h"
#include "preload/lifetime.h"
#include "preload/next.h"
#include "preload/offset.h"
#include "preload/policy.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/signals.h"

namespace booster::preload {

/// Settles everything that this process has boosted; one load when there is nothing.
inline void settle_process() {
  if (!maybe_dirty()) [[likely]]
    return;
  Entry entry;
  if (entry) settle_all();
}

/// Around a call by which descriptors reach another process.
class Sharing {
 public:
  Sharing() {
    Entry entry;
    if (!entry) return;
    begin_to_share();
    begun_ = true;
  }
  ~Sharing() {
    if (begun_) end_to_share();
  }
  Sharing(const Sharing&) = delete;
  Sharing& operator=(const Sharing&) = delete;

 private:
  bool begun_ = false;
};

/// Whether something of this process may be under way in the shim that others have to see.
inline bool maybe_boosted() {
  return g_has_asked.load(std::memory_order_relaxed) ||
         g_has_borrowed.load(std::memory_order_relaxed);
}

/// Around a call by which the process ends, or becomes another program.
class Leaving {
 public:
  Leaving() {
    if (!maybe_boosted()) return;
    const Entry entry;
    if (!entry) return;
    begin_to_leave();
    begun_ = true;
  }
  /// It has not, after all.
  ~Leaving() {
    if (begun_) end_to_leave();
  }
  Leaving(const Leaving&) = delete;
  Leaving& operator=(const Leaving&) = delete;

 private:
  bool begun_ = false;
};

/// Whether clone makes somebody with those flags who goes on beside its caller, with the same
/// memory or descriptors.
inline bool shares_with_caller(unsigned long flags) {
  return (flags & (CLONE_THREAD | CLONE_FILES)) != 0 ||
         (flags & (CLONE_VM | CLONE_VFORK)) == CLONE_VM;
}
/// Somebody will use this process's descriptors of whom libc does not know.
inline void before_unseen_threads() {
  const Entry entry;
  if (entry) stop_borrowing();
}

/// The kernel will let the process make fewer system calls from now on, and may kill it for those
/// of the shim: everything is given back, and the kernel's from now on.
inline void before_seccomp() {
  if (t_thread.vfork_child) return;
  const Sharing sharing;
  Entry entry;
  // Not entered: it is stopped already, perhaps in the parent, whose session is not mapped here.
  if (!entry) return;
  if (const SessionRef live = current_session()) live->count(common::Reason::kSeccomp, 0);
  stop_boosting();
}

/// The kernel has just made `fd` for this process, as a description of its own.
inline void note_opened(int fd) {
  if (t_thread.vfork_child) return;
  // First of all: in a child that does not know yet that it is one it empties the table.
  Entry entry;
  Description* replaced = nullptr;
  g_files.opened(fd, &replaced);
  if (replaced == nullptr && !maybe_dirty()) [[likely]]
    return;
  if (!entry) return;  // leaks what was replaced: locks may be held by who was interrupted
  if (replaced != nullptr) g_files.release(replaced);
  // FUSE may just have cached what it believes of a file that we have changed behind it.
  raw::FileId id;
  if (maybe_dirty() && raw::identify(fd, id)) settle_identity(id);
}

/// The number has come from elsewhere, or goes unseen: whatever it was known for, it is not.
inline void forget_number(int fd) {
  if (t_thread.vfork_child) return;
  const Entry entry;
  g_files.forget(fd, !entry);
}

/// The shim's own socket is not the program's to close.
inline bool is_own(int fd) {
  return fd >= 0 && fd == own_descriptor() && !t_thread.vfork_child;
}

/// Before the kernel closes `fd`, and after it.
inline long before_close(int fd) {
  return t_thread.vfork_child ? 0 : before_number_ends(fd);
}
inline void after_close(int fd) {
  if (!t_thread.vfork_child) g_files.closed(fd);
}
/// close(2), with what follows from it. `cancellable`: a thread may be cancelled in it, as in
/// libc's.
int close_number(int fd, bool cancellable);

/// `to` has become another number for the description of `from`.
inline void note_duplicated(int from, int to) {
  if (t_thread.vfork_child) return;
  Entry entry;
  if (entry) {
    g_files.duplicated(from, to);
  } else {
    g_files.forget(to, true);
  }
}

}  // namespace booster::preload
