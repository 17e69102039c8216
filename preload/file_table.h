// Which descriptor numbers of this process are files on GlusterFS: number -> description -> inode.
//
// It never does I/O and holds no descriptor. A number's word is cleared by everything that closes
// the number; what closes a number unseen is caught by whoever boosts, who compares identity with
// the kernel once in a tick of the coarse clock.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/reason.h"
#include "preload/lock.h"
#include "preload/pool.h"
#include "preload/raw.h"
#include "preload/session.h"

namespace booster::preload {

struct Description;

/// A file of this process, shared by all its descriptions. `boosted` and `fenced` count writes: two
/// equal numbers mean that FUSE shows what is true.
struct Inode {
  uint32_t index = 0;
  Inode* next = nullptr;  // hash chain or free list, under the table's lock
  uint32_t refs = 0;      // under the table's lock
  raw::FileId id;

  /// Boosted writes answered so far, and how many of them FUSE has been made to forget about.
  std::atomic<uint32_t> boosted{0};
  std::atomic<uint32_t> fenced{0};
  /// Where the last boosted write went: descriptor and offset for the fence.
  std::atomic<int> fence_fd{-1};
  std::atomic<uint64_t> fence_offset{0};
  Mutex settle_lock;  // for the fence, and for the next two
  /// Under which handle and delegation the writes that are not fenced were made.
  HandleRef written_by;
  uint32_t written_under = 0;
  /// What was logged while the delegation was being taken back: whoever did that may have fenced
  /// before it was on the bricks.
  std::atomic<bool> late{false};

  /// Changes that the kernel made for this process, counted before and after each; and how many are
  /// under way. A delegation is taken up only if neither has moved since it was asked for.
  std::atomic<uint32_t> kernel_changes{0};
  std::atomic<uint32_t> kernel_changing{0};
  /// A thread is taking a write delegation up: other threads' writes wait a moment.
  std::atomic<uint32_t> asking{0};
  /// The description that holds a write delegation, or null. Written under its `engaging`.
  std::atomic<Description*> holder{nullptr};

  /// Not kNone: never boosted again in this process (mapped, fence failed).
  std::atomic<common::Reason> never{common::Reason::kNone};
  std::atomic<uint32_t> streams{0};  // stdio streams that have it open
  /// A number of it has turned up that this process was not seen to make: what it names may be a
  /// description that is known by another.
  std::atomic<bool> strangers{false};

  /// What of it is in a write log. `logged`: something was, in the session that `log_owner` refers
  /// to, whose memory it keeps.
  std::atomic<bool> logged{false};
  Mutex log_lock;  // for the next four
  Session* log_owner = nullptr;
  uint32_t log_index = 0;  // which of its logs
  uint32_t log_until = 0;  // number behind the last record
  uint32_t log_slot = 0;   // of that
  /// errno of an accepted write that could not be kept, for the next write, fsync or close.
  std::atomic<int> deferred_error{0};

  /// What is read out of a page cache was compared with the bricks since then: since this process
  /// first looked at its newest descriptor, so that an open shows what other hosts have closed and
  /// older descriptors do not show less, and since its last change of the file.
  std::atomic<uint64_t> fresh_since_ms{0};
  /// The page cache, if this process may read it; older ones behind it. Unmapped with the inode.
  std::atomic<CacheView*> view{nullptr};

  bool boost_dirty() const {
    // Acquire: partner of the release after a boosted write; what it wrote is on the bricks.
    return boosted.load(std::memory_order_acquire) != fenced.load(std::memory_order_acquire);
  }
};

/// What a write waits for before it returns, as fdatasync or fsync after it would.
enum class SyncKind : uint8_t { kNone, kData, kAll };

/// What the kernel has of a file in its own cache, as far as reads tell: what is not in booster's
/// is left to it, or not.
enum class KernelHas : uint8_t {
  kNothing,  // reads of it are trips: booster makes them
  kSome,
  kAll,  // it is brought into booster's cache meanwhile
};

/// A kernel description as far as this process knows it: dup'ed numbers share one.
struct Description {
  uint32_t index = 0;
  Description* next = nullptr;    // free list
  std::atomic<uint32_t> refs{0};  // numbers that name it plus calls in flight
  Inode* inode = nullptr;
  /// Calls that may use a number of it in the kernel at any moment. Whoever takes such a number
  /// away changes its word first and then waits for 0; whoever begins a call counts first and then
  /// looks whether the word is still the same (both seq_cst). Counted on the side that `calls_side`
  /// names at their beginning, so that who waits for those of one number does not wait for the
  /// traffic on others.
  std::atomic<uint32_t> calls[2]{};
  std::atomic<uint32_t> calls_side{0};
  Mutex ending;  // held by who waits

  /// This process opened it. With `shared` false nobody else can have it.
  bool own = false;
  std::atomic<bool> shared{false};
  std::atomic<bool> stream{false};  // counted in inode->streams
  /// Orders the sequential calls of this process on the description, as the kernel's own offset
  /// lock would.
  Mutex sequential;
  /// Under it: a call is being done by the kernel in pieces, so that nobody may go past it.
  std::atomic<bool> splitting{false};

  /// The handle that the daemon gave for it (handle.h). `handle` and `refused` are changed under
  /// `engaging`; `stage` is stored last (release), and readers that saw kReady may use `handle`.
  enum Stage : uint32_t { kNone, kPending, kReady, kRefused };
  Mutex engaging;
  std::atomic<uint32_t> stage{kNone};
  HandleRef handle;
  common::Reason refused = common::Reason::kNone;
  /// Odd while `handle` changes; a copy of it counts if this was the same even number before and
  /// after. Written under `engaging`.
  std::atomic<uint32_t> handle_version{0};

  /// What reads and writes through the kernel have cost (admission.h). Threads may spoil it for
  /// each other.
  struct Cost {
    std::atomic<uint64_t> moved{0};      // bytes
    std::atomic<uint64_t> waited_us{0};  // for trips, not for copies, since `moved` was this:
    std::atomic<uint64_t> since{0};
    std::atomic<uint64_t> warm{0};     // bytes moved lately with hardly any waiting
    std::atomic<uint64_t> fetched{0};  // bytes that trips have brought, see tell_of_misses()
    std::atomic<uint64_t> look_at{0};  // `moved` at which the size of the file is looked at again
    std::atomic<uint32_t> trips{0};    // of the last reads in a row, so many waited for one
    std::atomic<uint32_t> slow_write_us{0};  // of the last ones

    /// Reads that the kernel has from memory are looked at now and then only (admission.cc): so
    /// many more are left to it unseen, of `away` since `away_us`, if g_views_made is still the
    /// same.
    std::atomic<uint32_t> unseen{0};
    std::atomic<uint32_t> away{0};
    std::atomic<uint64_t> away_us{0};  // 0: no read of the description was ever left to it unseen
    std::atomic<uint32_t> away_views{0};
    /// Not before so many bytes have been looked at.
    std::atomic<uint32_t> closely{UINT32_MAX};
    /// The shortest time of a call of so many bytes when nobody looked; 0: not known.
    std::atomic<uint32_t> pace_ns{0};
    std::atomic<uint32_t> pace_length{0};

    void reset() {
      for (auto* each : {&moved, &waited_us, &since, &warm, &fetched, &look_at, &away_us}) {
        each->store(0, std::memory_order_relaxed);
      }
      for (auto* each : {&trips, &slow_write_us, &unseen, &away, &pace_ns}) {
        each->store(0, std::memory_order_relaxed);
      }
      closely.store(UINT32_MAX, std::memory_order_relaxed);
    }
  };
  Cost cost;

  /// How it stands about a write delegation (write_delegation.h). All but `held` under `engaging`.
  struct Writing {
    std::atomic<uint32_t> held{
        0};                       // HandleSlot::delegation under which booster writes; 0: FUSE does
    uint32_t handler_writes = 0;  // g_handler_writes when it was taken up
    bool asked = false;           // there was no other answer yet than this:
    uint32_t answer_then = 0;
    uint32_t changes_then = 0;           // inode->kernel_changes
    std::atomic<uint64_t> ask_at_ms{0};  // not before; relaxed: what else it says is not read
    uint64_t pause_ms = 0;               // before it is asked again; 0: the shortest
    uint64_t held_since_ms = 0;          // 0: it is not
    uint32_t patience_us = 0;  // how long a write may wait for the answer; 0: the shortest
    /// Not kNone: it is not asked for again.
    std::atomic<common::Reason> never{common::Reason::kNone};
    /// The tick of the coarse clock in which the number was last seen to name this file, with flags
    /// under which a write can be boosted, and the process to have no limit of file sizes.
    std::atomic<uint64_t> checked_ms{0};
    std::atomic<SyncKind> sync{SyncKind::kNone};  // of its flags, as seen then

    void reset() {
      held.store(0, std::memory_order_relaxed);
      asked = false;
      ask_at_ms.store(0, std::memory_order_relaxed);
      pause_ms = held_since_ms = 0;
      patience_us = 0;
      never.store(common::Reason::kNone, std::memory_order_relaxed);
      checked_ms.store(0, std::memory_order_relaxed);
      sync.store(SyncKind::kNone, std::memory_order_relaxed);
    }
  };
  Writing writing;

  /// How the program reads; hints that threads may spoil for each other.
  struct Reading {
    /// It is open for reading alone, and the daemon has given inode->view for it.
    std::atomic<bool> cached{false};
    std::atomic<bool> never{false};  // it can write as well: it is asked for when it does
    std::atomic<KernelHas> kernel_has{KernelHas::kNothing};
    std::atomic<uint64_t> unsampled{0};  // see is_sample() in boosted_read.cc
    /// In that tick the kernel thought that the file was shorter than it is: another host has made
    /// it longer.
    std::atomic<bool> kernel_is_behind{false};
    std::atomic<uint64_t> checked_ms{0};  // when the number was last seen to name this file
    std::atomic<uint64_t> asked_ms{0};    // when the daemon was asked to make it valid
    std::atomic<uint64_t> pause_ms{0};    // before it is asked again
    std::atomic<int64_t> position{-1};    // the offset after the last sequential read
    /// Bytes by which the kernel's offset is behind that (offset.h). Under `sequential`.
    std::atomic<int64_t> owed{0};
    std::atomic<uint64_t> exact_ms{0};        // in that tick the two were seen to agree
    std::atomic<bool> never_borrowed{false};  // it is used past the shim
    std::atomic<bool> in_order{true};
    std::atomic<uint64_t> next_offset{0};   // behind the last read
    std::atomic<uint64_t> last_offset{0};   // its own
    std::atomic<int64_t> step{0};           // from the offset of the one before
    std::atomic<uint64_t> ahead_until{0};   // asked for, if it reads in order; backwards: from here
    std::atomic<uint32_t> ahead_window{0};  // bytes

    void reset() {
      cached.store(false, std::memory_order_relaxed);
      never.store(false, std::memory_order_relaxed);
      kernel_is_behind.store(false, std::memory_order_relaxed);
      kernel_has.store(KernelHas::kNothing, std::memory_order_relaxed);
      for (auto* each : {&checked_ms, &asked_ms, &pause_ms, &unsampled, &next_offset, &last_offset,
                         &ahead_until}) {
        each->store(0, std::memory_order_relaxed);
      }
      step.store(0, std::memory_order_relaxed);
      in_order.store(true, std::memory_order_relaxed);
      position.store(-1, std::memory_order_relaxed);
      owed.store(0, std::memory_order_relaxed);
      exact_ms.store(0, std::memory_order_relaxed);
      never_borrowed.store(false, std::memory_order_relaxed);
      ahead_window.store(0, std::memory_order_relaxed);
    }
  };
  Reading reading;
};

class FileTable {
 public:
  enum Kind : uint8_t {
    kUnknown = 0,
    kOpened = 1,   // opened by this process, not looked at yet
    kForeign = 2,  // not a regular file on GlusterFS
    kTracked = 3,
    kClosing = 4,  // its close is under way: hands off
  };

  /// Before its first use, so that its memory comes by one page fault: a look would take a second.
  void prepare() { more_pages_.fetch_add(0, std::memory_order_relaxed); }

  /// What is known without looking. Async-signal-safe, wait-free, never allocates.
  Kind kind(int fd) const;

  /// Counts a read of `length` bytes through a number that nobody has looked at yet. True while it
  /// has asked for so little in all that looking would cost more than it could bring. Lock-free.
  bool leave_unseen(int fd, size_t length);
  /// The description of `fd`, looked up or made, with a reference for the caller to release(); null
  /// when the file is not ours to boost. Asks the kernel once per descriptor.
  Description* acquire(int fd);
  /// The same, but only when it is already tracked.
  Description* acquire_known(int fd);
  void release(Description* description);
  /// One more reference, unless it is on its way to the free list.
  static bool hold(Description& description);
  /// acquire(), for a call that uses the number in the kernel: until end_call() whoever closes the
  /// number waits.
  Description* begin_call(int fd, uint32_t& side);
  void end_call(Description* description, uint32_t side);

  /// `fd` is a new description made by this process. Called for every file of a program, so it is
  /// lock-free; `replaced` gets the number's reference to a description that it named before, for
  /// the caller to release(), or is null: then that is leaked (from a signal handler that
  /// interrupted the shim).
  void opened(int fd, Description** replaced);
  /// `to` now names the description of `from`.
  void duplicated(int from, int to);
  /// `fd` means nothing any more, or something unknown.
  void forget(int fd, bool leak = false);
  /// Marks `fd` so that nobody tracks it while the kernel closes it. closed() ends that, unless the
  /// number has been opened again in between. `replaced` as above.
  void closing(int fd, Description** replaced);
  void closed(int fd);
  /// Other processes may now hold what this one has opened: nothing is "opened here" any more.
  void share_opened();
  /// The inode of that identity, with a reference for release_inode(); null if this process does
  /// not know it.
  Inode* find_inode(const raw::FileId& id);
  /// Whether the file at `path`, which has that identity, is on GlusterFS. Asks FUSE once per
  /// device and process.
  static bool on_gluster(const char* path, const raw::FileId& id) {
    return on_gluster(-1, path, id);
  }
  /// Whether `fd` can be a regular file on a device that is known to be GlusterFS.
  static bool may_be_on_gluster(int fd);
  void release_inode(Inode* inode);
  /// One more reference, if the inode is in use at all.
  bool hold_inode(Inode* inode);

  template <typename Visit>
  void for_each_inode(Visit visit) {
    inodes_.for_each(visit);
  }
  template <typename Visit>
  void for_each_description(Visit visit) {
    descriptions_.for_each(visit);
  }
  /// Visits tracked numbers in [first, last] with their description.
  template <typename Visit>
  void for_each_tracked(unsigned first, unsigned last, Visit visit) {
    const uint64_t end = pages_used() * kPerPage;
    for (uint64_t fd = first; fd <= last && fd < end; ++fd) {
      if (page(fd / kPerPage) == nullptr) {
        fd |= kPerPage - 1;
        continue;
      }
      if (Description* description = acquire_known(static_cast<int>(fd))) {
        visit(static_cast<int>(fd), *description);
        release(description);
      }
    }
  }

  /// Visits every number in [first, last] that may have a word.
  template <typename Visit>
  void for_each_word(unsigned first, unsigned last, Visit visit) {
    const uint64_t end = pages_used() * kPerPage;
    for (uint64_t fd = first; fd <= last && fd < end; ++fd) {
      if (page(fd / kPerPage) == nullptr) {
        fd |= kPerPage - 1;
      } else {
        visit(static_cast<int>(fd));
      }
    }
  }

  /// In a forked child, with one thread: everything is unknown again, and inherited. What the child
  /// has with its parent besides descriptors is kept: mapped files and those of streams are not
  /// boosted here either.
  void reset();

 private:
  // word = generation (24 bits) | index (32 bits) | kind (8 bits)
  using Word = std::atomic<uint64_t>;
  static constexpr uint64_t kPerPage = 1024;
  static constexpr uint64_t kMaxFd = 1ULL << 30;  // sysctl fs.nr_open goes up to 2^30
  static constexpr uint32_t kBuckets = 1024;

  Word* word(int fd, bool create);
  const Word* peek(int fd) const;
  uint64_t replace(Word& word, Kind kind, uint32_t index);
  void drop_word(uint64_t old);
  void hand_over(uint64_t old, Description** replaced);
  Description* classify(int fd, Word& word, uint64_t seen);
  static bool on_gluster(int fd, const char* path, const raw::FileId& id);

  /// No page at or above this index.
  uint64_t pages_used() const { return 1 + more_pages_.load(std::memory_order_acquire); }
  Word* page(uint64_t index) {
    return index == 0 ? first_words_ : pages_[index].load(std::memory_order_acquire);
  }

  // What every program needs lies together, and in one page of memory for the numbers that most
  // programs have.
  Mutex lock_;
  std::atomic<uint64_t> more_pages_{0};
  Word first_words_[kPerPage]{};
  std::atomic<Word*> pages_[kMaxFd / kPerPage]{};  // but the first
  Pool<Description> descriptions_;
  Pool<Inode> inodes_;
  Inode* buckets_[kBuckets]{};
};

extern FileTable g_files;

}  // namespace booster::preload
