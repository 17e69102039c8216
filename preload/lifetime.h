// What happens to descriptors besides reads and writes: they are mapped, locked, copied, handed on,
// closed. What booster serves of a file is settled, or given back, before the kernel does it.
#pragma once

#include <optional>

#include "preload/process.h"
#include "preload/write_delegation.h"

namespace booster::preload {

/// The file of `fd` is about to be mapped: it is given back and never boosted again here.
void note_mapping(int fd);
/// Whether `fd` is a regular file on GlusterFS. Looks at it if nobody has.
bool is_boostable(int fd);
/// A stdio stream has, or had, the file of `fd`: it is given back and not boosted while one has it.
void note_stream(int fd);
/// The process does asynchronous I/O (aio_read and its kin) on the file of `fd`, which a thread of
/// libc does, unseen: it is given back and never boosted again here.
void note_async(int fd);
/// The process takes or drops a lock on the file of `fd`: what is boosted comes to the bricks
/// first...
void before_lock(int fd);
/// ...and what others wrote before they unlocked is seen by the next boosted read.
void after_lock();
/// After a file was changed by its name.
void after_path_change();
/// Around a call that changes the bytes of the file at `path` without opening it. Where this
/// process does not have it open another may be writing it through booster, who hears of it when it
/// is opened. (Elsewhere it must not be: closing any descriptor of a file drops the locks of the
/// process on it, also those from before an exec.)
class PathChange {
 public:
  explicit PathChange(const char* path);
  ~PathChange();
  PathChange(const PathChange&) = delete;
  PathChange& operator=(const PathChange&) = delete;

 private:
  Inode* inode_ = nullptr;
  std::optional<KernelChange> change_;
  int fd_ = -1;
};
/// The process sets the status flags of `fd` (F_SETFL).
void note_status_flags(int fd, int flags);
/// The kernel is about to look at the file of `fd` (fsync, SEEK_END), or to change its times or
/// mode: what was boosted is settled.
void before_kernel_look(int fd);
/// The same of the file at `path` (statx(2); `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH).
void before_kernel_look(int directory, const char* path, int flags);
/// Around a change that the kernel makes of the bytes of the file of `fd` (truncate, fallocate,
/// sendfile...): booster serves none of it meanwhile.
class FileChange {
 public:
  explicit FileChange(int fd);
  ~FileChange();
  FileChange(const FileChange&) = delete;
  FileChange& operator=(const FileChange&) = delete;

 private:
  Description* description_ = nullptr;
  std::optional<KernelChange> change_;
};
/// The kernel is about to take the number `fd` away from its file (close, dup2 onto it): nobody
/// begins a call on it any more, those that have begun are waited for, and what was boosted is
/// settled. FileTable::closed() or an open of the number ends this. Returns the error of an
/// accepted write that nobody was told of, as -errno, for a close to return; 0: none.
long before_number_ends(int fd);
/// The same for a call that has settled the file without ending anything.
long deferred_error(int fd);
/// fsync, or fdatasync: true if it is done. Else the kernel has to do it, and what was boosted is
/// settled; an error that the daemon's flush has taken from FUSE is this process's to hear.
bool sync_boosted(int fd, bool data_only);
/// The same as before_number_ends() for [first, last] without `keep`, and what follows the kernel's
/// call.
void before_range_ends(unsigned first, unsigned last, int keep);
void after_range_ended(unsigned first, unsigned last, int keep);

/// Around a call by which this process ends, or becomes another program: other threads write
/// through the kernel from now on, what they are boosting is waited for, and all of it settled. For
/// good, unless the call returns.
void begin_to_leave();
void end_to_leave();
bool is_leaving();
void leaving_after_fork();

/// The program looks at the offset of `fd`, or sets it: after what other threads are doing with it.
class OffsetLock {
 public:
  explicit OffsetLock(int fd);
  ~OffsetLock();
  OffsetLock(const OffsetLock&) = delete;
  OffsetLock& operator=(const OffsetLock&) = delete;
  /// What the kernel has to be asked for, which may not know yet how far this process has read.
  int64_t for_kernel(int64_t offset, int whence) const;
  /// Where the offset is now, or -1 for an error.
  void note(int64_t offset) const;

 private:
  const Entry entry_;
  const int fd_;
  Description* description_ = nullptr;
};

}  // namespace booster::preload
