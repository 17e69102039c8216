// One GlusterFS mount of this host: its context, its inodes, and engaging files on it. Everything
// that may block runs on threads of this mount alone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/reason.h"
#include "daemon/gluster/cmdline.h"
#include "daemon/gluster/context.h"
#include "daemon/gluster/file.h"
#include "daemon/gluster/lease_watch.h"
#include "daemon/gluster/open_watch.h"
#include "daemon/gluster/privileges.h"
#include "daemon/gluster/worker.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

struct glfs;         // glfs_t
struct glfs_object;  // glfs_object_t

namespace booster::daemon::gluster {

/// Where a mount is, as the daemon's mount table says.
struct MountPlace {
  dev_t dev = 0;
  std::string source;
  /// Mount points that show the root of the volume, where `.meta` is.
  std::vector<std::string> mount_points;
};

struct MountSettings {
  ContextSettings context;
  std::shared_ptr<Privileges> privileges;
  std::shared_ptr<LeaseWatch> leases;  // null: nothing is cached
  // Read when they are needed; may change while the daemon runs.
  std::shared_ptr<const std::atomic<int64_t>> idle_seconds;
  std::shared_ptr<const std::atomic<int64_t>> build_timeout_seconds;
  std::shared_ptr<const std::atomic<int64_t>> retry_seconds;
};

/// A proven wish to engage a file.
struct EngageOrder {
  UniqueFd file;       // O_PATH
  uint64_t inode = 0;  // its number
  /// O_RDONLY, O_WRONLY or O_RDWR. May wait; a thread that may asks, once.
  std::function<Result<int, common::Reason>()> access_mode;
  std::function<bool()> wanted;  // false: nobody waits any more. Any thread.
  /// The answer, once, on any thread; not called if not wanted.
  std::function<void(Result<std::shared_ptr<File>, common::Reason>)> done;
};

enum class ContextState { kNone, kBuilding, kReady, kFailed, kClosing };

struct MountReport {
  MountPlace place;
  ContextState state = ContextState::kNone;
  std::string error;
  bool from_server = false;
  uint64_t contexts_built = 0;
  uint64_t engaged_inodes = 0;
  uint64_t open_files = 0;
  double idle_seconds = 0;
  ContextCost cost;
};

class Mount : public std::enable_shared_from_this<Mount> {
 public:
  /// `wakes` never waits for anything; it is there to have the common descriptors.
  Mount(MountPlace place, MountSettings settings, Gate& gate, std::shared_ptr<Worker> wakes);

  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  /// Takes an order whose descriptor is on this mount. Returns at once.
  void engage(EngageOrder order);

  /// Makes FUSE forget what it holds of `inode`, which a program has written past it near `offset`.
  /// Returns at once. `done` is told whether that could be done, once, on a thread without the
  /// common descriptors, and then let go; let go without a word, it could not. An error is logged.
  void fence(std::shared_ptr<Inode> inode, uint64_t offset, std::function<void(bool)> done);

  /// The mount table has been read again.
  void note_place(const MountPlace& place);

  /// Makes sure that nobody on this host has `file`'s inode open for writing, that its
  /// WriterListener will hear of whoever opens it so from now on, and that the bricks have what was
  /// written through FUSE before; then asks the bricks for its attributes. Returns at once; `done`
  /// is called once, on any thread. kNotProven: somebody has it open. `proven`: the lease of an
  /// earlier proof is still there, and the listener has heard of nobody since; only the bricks are
  /// asked.
  struct Unwritten {
    Attributes attributes;
    std::shared_ptr<Lease> lease;  // null if `proven`
  };
  using Proof = Result<Unwritten, common::Reason>;
  void prove_unwritten(std::shared_ptr<File> file, bool proven, std::function<void(Proof)> done);
  /// Holds up whoever opens the inode from now on, and tells `opened` (OpenWatch::start()); then
  /// asks `prove`, which may wait, whether one description is all that the file has; then asks the
  /// bricks for its size. `done` is called once, on a thread with the common descriptors, or never
  /// when FUSE does not answer; the watch is null unless it is alone.
  /// `guard` is given an O_PATH descriptor of the file, and the watch's group, before anybody is
  /// held up.
  using AloneAnswer = std::function<void(Alone, std::shared_ptr<OpenWatch>)>;
  struct AloneQuestion {
    std::function<Recovery::Guard(int file, int group)> guard;
    std::function<bool()> opened;
    std::function<Alone()> prove;
    AloneAnswer done;
  };
  void prove_alone(std::shared_ptr<File> file, AloneQuestion question);
  /// Asks through FUSE whether its bricks know the inode, and answer. `done` is called once, on a
  /// thread with the common descriptors, or never when they do not.
  void probe(std::shared_ptr<Inode> inode, std::function<void(bool)> done);

  /// Once a second: refuses those who have waited too long, closes an idle context, looks whether
  /// the volume can still be served.
  void tick();

  /// The mount has gone or turned out to be another: no new files; the context goes with the last.
  void retire();
  bool retired() const { return retired_.load(std::memory_order_acquire); }

  MountReport report();
  bool has(const Inode& inode);

 private:
  using Clock = std::chrono::steady_clock;
  using Answer = Result<std::shared_ptr<File>, common::Reason>;

  /// An order whose gfid is known: the O_PATH descriptor is closed.
  struct Wish {
    Gfid gfid{};
    uint64_t inode = 0;
    int access_mode = 0;
    FuseHandle fuse_handle;
    Clock::time_point since;
    std::function<bool()> wanted;
    std::function<void(Answer)> done;
    std::shared_ptr<void> in_progress;
  };

  // On the FUSE worker.
  void identify_and_engage(EngageOrder& order, const std::shared_ptr<void>& in_progress);
  common::Reason identify();
  /// The root of the volume, open for reading.
  Outcome<int> root();
  Outcome<int> root_of_this_thread();
  Outcome<UniqueFd> open_through_fuse(Inode& inode, int flags);
  std::string fence_now(Inode& inode, uint64_t offset, uint64_t number);
  struct Question;
  static void ask_bricks(const std::shared_ptr<Question>& question);
  Outcome<std::string> read_meta(const char* name);

  void with_context(Wish wish);
  void start_build();
  void build_finished(Outcome<std::shared_ptr<Context>> result);
  /// Has somebody look whether an administrator has made a sharded volume of it.
  void look_for_shards(const std::shared_ptr<Context>& context, bool in_use);
  void found_sharded(Context* context);

  // On the gfapi worker.
  void open_and_answer(const Wish& wish, const std::shared_ptr<Context>& context);
  Answer open(const Wish& wish, const std::shared_ptr<Context>& context);
  std::shared_ptr<Inode> inode_for(const Wish& wish);
  void look_for_trust(glfs* volume, glfs_object* file);

  const MountPlace place_;  // but for the mount points, which change: mount_points_
  const MountSettings settings_;
  Gate& gate_;
  const std::shared_ptr<Worker> wakes_;
  std::shared_ptr<Worker> fuse_;   // asks the FUSE mount
  std::shared_ptr<Worker> gfapi_;  // asks bricks
  // Asks the FUSE mount, too: thousands of fences hold up no engage. What a fence does waits for
  // the kernel's lock on the file, which a program can hold for ever (a write(2) to it from memory
  // that another, hostile, FUSE never brings): hence threads of its own, with descriptors of their
  // own.
  std::shared_ptr<Worker> fences_;
  std::shared_ptr<Worker> probes_;          // the same, to ask through FUSE whether bricks answer
  std::shared_ptr<Worker> leases_;          // the same, in the table of the leases; may be null
  const std::shared_ptr<Worker> proofs_;    // waits for who looks whether a description is alone
  const std::shared_ptr<Worker> compares_;  // asks the bricks whether cached files have changed
  std::atomic<bool> retired_{false};
  std::shared_ptr<std::atomic<int64_t>> open_files_;
  std::atomic<int64_t> engaging_{0};

  // Only identify() and what follows it on the FUSE worker; held while FUSE is asked.
  std::mutex identity_mutex_;
  bool identified_ = false;
  MountOptions options_;

  // A mount of the daemon's own of the same volume, where no path leads: what is opened through it
  // holds up nobody's umount. Made with the first file; closed with this.
  std::mutex root_mutex_;  // held while FUSE is asked
  UniqueFd clone_;
  UniqueFd root_;

  // The volume was sharded when somebody last looked, once for all: what was written since stays
  // sharded when the option is taken back. relaxed: see Context::condemned.
  std::atomic<bool> sharded_{false};
  std::atomic<bool> looking_{false};  // a look is under way, or waits for a thread

  // The bricks have been seen to let root do what only root may. Where they do not
  // (`server.root-squash`), the kernel would refuse whoever opens a file that is watched and that
  // the daemon may not read, so none is. Becomes true once.
  std::atomic<bool> trusts_root_{false};
  // MountOptions::wants_no_copies. Becomes true at most once.
  std::atomic<bool> wants_no_copies_{false};

  // Never held while anything blocks.
  std::mutex mutex_;
  std::vector<std::string> mount_points_;  // that show the root of the volume now
  ContextState state_ = ContextState::kNone;
  std::shared_ptr<Context> context_;
  std::vector<Wish> waiting_;
  std::string error_;
  Clock::time_point failed_at_;
  Clock::time_point idle_since_;
  uint64_t contexts_built_ = 0;
  ContextCost cost_;
  bool from_server_ = false;
  std::unordered_map<Gfid, std::weak_ptr<Inode>, GfidHash> inodes_;
};

/// All mounts of which something was engaged. Any thread.
class Mounts {
 public:
  explicit Mounts(MountSettings settings) : settings_(std::move(settings)) {
    wakes_->post([] {});  // who needs it cannot start its thread
  }

  std::shared_ptr<Mount> find_or_add(const MountPlace& place);
  /// See Mount::fence.
  void fence(const std::shared_ptr<Inode>& inode, uint64_t offset, std::function<void(bool)> done);

  /// Counts as a fence that is still to be done, for as long as it lives.
  std::shared_ptr<const void> owe_fence();
  /// None is left: a daemon that ends now leaves nothing unseen behind.
  bool fences_done() const { return fences_owed_->load(std::memory_order_acquire) == 0; }

  /// Whether the inode's mount is still there; not another one that has its number now.
  bool mounted(const Inode& inode);
  /// See Mount::prove_unwritten; kNotGenuine if the mount has gone.
  void prove_unwritten(const std::shared_ptr<File>& file, bool proven,
                       std::function<void(Mount::Proof)> done);
  /// See Mount::prove_alone; kNotGenuine, at once, if the mount has gone.
  void prove_alone(const std::shared_ptr<File>& file, Mount::AloneQuestion question);
  /// See Mount::probe.
  void probe(const std::shared_ptr<Inode>& inode, std::function<void(bool)> done);
  /// For short jobs that need the common descriptors. Any thread.
  Worker& wakes() { return *wakes_; }

  /// Retires mounts for which `still_there` is false.
  void sweep(const std::function<bool(dev_t)>& still_there);

  void tick();
  std::vector<MountReport> report();

 private:
  std::vector<std::shared_ptr<Mount>> all();
  std::shared_ptr<Mount> find(dev_t dev);
  std::shared_ptr<Mount> find_gone_or_not(dev_t dev);

  const MountSettings settings_;
  const std::shared_ptr<Worker> wakes_ = std::make_shared<Worker>("wake", 1);
  const std::shared_ptr<std::atomic<int64_t>> fences_owed_ =
      std::make_shared<std::atomic<int64_t>>(0);
  std::mutex mutex_;
  std::unordered_map<dev_t, std::shared_ptr<Mount>> mounts_;
  std::unordered_map<dev_t, std::unique_ptr<Gate>> gates_;  // never erased (gate.h)
};

}  // namespace booster::daemon::gluster
