// Open files: an inode of a mount, shared by all sessions; its at most three libgfapi descriptors,
// one for each access mode; and the handles that sessions hold on them.
//
// Threads: everything here may be called from any thread. Nothing blocks except in the worker jobs
// that file.cc posts. Completions run on libgfapi's threads, or inside the submitting call.
#pragma once

#include <time.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "common/reason.h"
#include "daemon/gluster/context.h"
#include "daemon/gluster/gate.h"
#include "daemon/gluster/worker.h"
#include "daemon/result.h"

struct glfs_fd;    // glfs_fd_t
struct glfs_stat;  // of libgfapi

namespace booster::daemon::gluster {

using Gfid = std::array<unsigned char, 16>;

struct GfidHash {
  /// Gfids are random: any eight bytes are a good hash.
  size_t operator()(const Gfid& gfid) const;
};

std::string to_string(const Gfid& gfid);

/// The bits of `mode` that a write takes away: as in the kernel, set-group-id only of what the
/// group can execute.
mode_t set_id_bits(mode_t mode);

class File;

/// One read or write on its way. The owner derives from it, keeps it and its buffer alive until
/// `finished`, and does not submit it again before.
class Io {
 public:
  /// The answer: bytes moved and 0, or -1 and an errno. Called exactly once for each accepted
  /// submission, on any thread; must not call into daemon/gluster or block. The Io may be submitted
  /// again from within.
  virtual void finished(int64_t result, int error) noexcept = 0;

 protected:
  Io() = default;
  ~Io() = default;

 private:
  friend class File;
  friend class Inode;
  // While in flight:
  std::shared_ptr<File> file_;  // keeps descriptor and context open
  bool write_ = false;
  uint64_t size_version_ = 0;
  int64_t result_ = 0;
};

/// How to open a file of a FUSE mount again without its name: name_to_handle_at(2). FUSE's has 12
/// bytes (fuse_encode_fh in fs/fuse/inode.c).
struct FuseHandle {
  int type = 0;
  unsigned size = 0;  // 0: none
  std::array<unsigned char, 32> bytes{};

  bool operator==(const FuseHandle&) const = default;
};

/// What the bricks say of a file: as long as it stays the same, so do the file's bytes.
struct Attributes {
  uint64_t size = 0;
  timespec modified{};
  timespec changed{};

  bool operator==(const Attributes& other) const {
    const auto same = [](const timespec& a, const timespec& b) {
      return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
    };
    return size == other.size && same(modified, other.modified) && same(changed, other.changed);
  }
};

/// Whether one description is all that a file has on this host.
struct Alone {
  common::Reason reason = common::Reason::kNone;  // kNone: it is
  int flush_error = 0;  // errno of a write that FUSE had accepted and could not keep; 0: none
};

/// Hears of whoever opens a file for writing on this host, in time.
class WriterListener {
 public:
  virtual ~WriterListener() = default;
  /// Before the opener goes on. Any thread; must not block.
  virtual void writer_opens() = 0;
};

/// Where an inode's size is shown: a word in a session's shared memory, kept mapped by the pointer.
using SizeWord = std::shared_ptr<std::atomic<uint64_t>>;

class Inode {
 public:
  Inode(dev_t dev, uint64_t number, const Gfid& gfid) : dev_(dev), number_(number), gfid_(gfid) {}

  dev_t dev() const { return dev_; }
  uint64_t number() const { return number_; }
  const Gfid& gfid() const { return gfid_; }

  /// As of the last answer of the bricks.
  uint64_t size();

  /// From now on, until remove_size_word, the word has the latest known size.
  void add_size_word(const SizeWord& word);
  void remove_size_word(const SizeWord& word);

  /// Whether somebody has it open through libgfapi.
  bool is_open();

  void set_writer_listener(std::weak_ptr<WriterListener> listener);
  /// Whether programs are known to have it open as more than one inode of the kernel, as after a
  /// change of the volume's graph: then what is heard of one says nothing of the other. It stays
  /// so.
  bool is_split();
  /// Tells it. For the caller to let go where the common descriptors are (Worker::Descriptors).
  std::shared_ptr<WriterListener> writer_opens();
  /// Makes `owner` the one who has it for writing, for as long as he lives; false: there is one.
  bool delegate_to(const std::weak_ptr<const void>& owner);

 private:
  friend class File;
  friend class Mount;

  /// A program has opened `file` through a descriptor with that handle; `is_new`: it is the first.
  void note_opened(const std::shared_ptr<File>& file, bool is_new, const FuseHandle& handle);

  /// Takes over the size from an answer that was asked for when `version` was current.
  void note_size(const struct glfs_stat* status, uint64_t version);
  void set_size(uint64_t size);
  void show_size(uint64_t size);  // with mutex_ held

  /// Parks an answered write until a flush has made the answer last (disperse volumes).
  void await_flush(Io& io);
  void flush_batches();

  const dev_t dev_;
  const uint64_t number_;
  const Gfid gfid_;

  /// Held by a fence: of two at once one would take the times that the other has set for the
  /// file's. And a fence does for all that were asked for before it began.
  std::mutex fencing_;
  std::atomic<uint64_t> fences_asked_{0};
  uint64_t fences_done_ = 0;  // with fencing_ held

  // Not held while gfapi is called: completions take it.
  std::mutex mutex_;
  FuseHandle fuse_handle_;
  std::weak_ptr<WriterListener> writer_listener_;
  std::weak_ptr<const void> delegated_to_;
  bool split_ = false;                        // opened under two handles
  std::array<std::weak_ptr<File>, 3> files_;  // by access mode
  // A program may have thousands of handles on one inode, and drops them all at its end.
  std::unordered_set<SizeWord> size_words_;
  std::atomic<uint64_t> size_version_{0};
  uint64_t size_ = 0;
  int64_t size_seconds_ = 0;  // ctime of the answer that told the size
  int64_t size_nanoseconds_ = 0;
  std::vector<Io*> awaiting_flush_;
  bool flushing_ = false;  // a job of the worker takes care of them
};

/// One open libgfapi descriptor. Closed on the mount's worker when the last reference goes, which
/// is after the last operation in flight (glfs_close would lose its callback).
class File : public std::enable_shared_from_this<File> {
 public:
  File(std::shared_ptr<Inode> inode, std::shared_ptr<Context> context,
       std::shared_ptr<Worker> worker, Gate& gate, glfs_fd* fd, int access_mode,
       std::shared_ptr<std::atomic<int64_t>> open_count);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::shared_ptr<Inode>& inode() const { return inode_; }
  /// Asks the bricks; blocks.
  Outcome<Attributes> attributes();
  int access_mode() const { return access_mode_; }
  /// Its volume cannot be served any more: every call fails.
  bool condemned() const { return context_->condemned(); }
  /// See write_unit() in context.h.
  uint32_t write_unit() const { return context_->write_unit(); }
  Gate& gate() const { return gate_; }

  /// Runs `call(*this)` on the mount's worker.
  template <class F>
  void post(F call) {
    worker_->post([self = shared_from_this(), call = std::move(call)] { call(*self); });
  }

  /// Submits a read straight into `buffer`. Returns 0, and `io` will be finished; or an errno, and
  /// it will not. Returns without waiting for a brick, except that libgfapi may choose this call to
  /// switch to a changed volume's graph (DESIGN section 9). EIO once the context is condemned.
  int read(std::byte* buffer, size_t length, uint64_t offset, Io& io);

  /// The same for a write. libgfapi copies the bytes before this returns (glfs_pwritev_async_common
  /// in glfs-fops.c), so the buffer is free then, but its owner does not rely on it. After a write
  /// the file is no set-user-id program.
  int write(const std::byte* buffer, size_t length, uint64_t offset, Io& io);
  /// fsync, or fdatasync: 0 bytes when it is done.
  int sync(bool data_only, Io& io);

 private:
  friend class Inode;
  friend class Mount;
  static void on_answer(glfs_fd* fd, ssize_t result, struct glfs_stat* before,
                        struct glfs_stat* after, void* data);
  void prepare(Io& io, bool write);
  void take_set_id_away(Io& io, mode_t mode);
  static int submitted(Io& io, int result);

  std::shared_ptr<Inode> inode_;
  std::shared_ptr<Context> context_;
  std::shared_ptr<Worker> worker_;
  Gate& gate_;
  glfs_fd* fd_;
  int access_mode_;
  std::shared_ptr<std::atomic<int64_t>> open_count_;
};

/// One session's right to one file: keeps the file open and its size word current.
class Handle {
 public:
  Handle() = default;
  Handle(std::shared_ptr<File> file, SizeWord word);
  Handle(Handle&&) = default;
  Handle& operator=(Handle&& other) noexcept;
  ~Handle() { release(); }

  const std::shared_ptr<File>& file() const { return file_; }

 private:
  void release();
  std::shared_ptr<File> file_;
  SizeWord word_;
};

}  // namespace booster::daemon::gluster
