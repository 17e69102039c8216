// The page cache of the daemon: what of which files is in memory for programs to read by themselves
// (common/page_cache.h), how much of it altogether, and what goes when there is too much.
//
// A file is valid, and filled, only while it is known that nobody on this host has it open for
// writing (gluster::Mount::prove_unwritten), or nobody but the one session that has it delegated;
// and for at most a second after it was compared with the bricks.
#pragma once

#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/page_cache.h"
#include "daemon/data/cache_store.h"
#include "daemon/gluster/mount.h"
#include "daemon/gluster/worker.h"
#include "daemon/stats/counters.h"
#include "daemon/stats/snapshot.h"

namespace booster::daemon::data {

class CachedFile;
class PageCache;
class Submitter;

/// Waits for pages of a file.
class FillWaiter {
 public:
  /// Called once, on any thread; must not call into daemon/gluster or block. False: not all pages
  /// are there.
  virtual void filled(bool all) noexcept = 0;

 protected:
  ~FillWaiter() = default;
};

/// Waits for bytes of a file that are on their way into the cache.
class StreamWaiter {
 public:
  /// Where they are to be copied. Until streamed().
  virtual std::byte* place() noexcept = 0;
  /// Called once, like filled(), when so many are there; -1: nothing is valid.
  virtual void streamed(int64_t bytes) noexcept = 0;

 protected:
  ~StreamWaiter() = default;
};

/// Where the bricks' answer to one request goes first.
struct FreeBuffer {
  void operator()(std::byte* buffer) const { ::free(buffer); }
};
using FillBuffer = std::unique_ptr<std::byte[], FreeBuffer>;
/// No request of a fill is longer; nor is one for a stream than what a lane carries.
inline constexpr uint64_t kMaxFillBytes = 256 << 10;
inline constexpr uint64_t kMaxStreamFillBytes = 1 << 20;

/// What the eviction remembers of a piece of a file (common::kExtent bytes).
struct CachedExtent {
  uint64_t pages = 0;  // a bit for each that is valid
  bool listed = false;
  bool hot = false;
  std::chrono::steady_clock::time_point since{};
  struct Place {
    std::shared_ptr<CachedFile> file;
    uint64_t index;
    uint32_t floor;      // the file's when it was filled
    uint64_t used_at;    // PageCache::passed_ when it was filled or last found to be hot
    bool going = false;  // taken out of its list to be dropped
  };
  std::list<Place>::iterator place{};  // while listed; under the cache's mutex
};

/// One file. Any thread.
class CachedFile final : public gluster::WriterListener,
                         public std::enable_shared_from_this<CachedFile> {
 public:
  using Clock = std::chrono::steady_clock;

  CachedFile(PageCache& cache, std::shared_ptr<gluster::Inode> inode, CacheStore::File store);
  ~CachedFile() override;
  CachedFile(const CachedFile&) = delete;
  CachedFile& operator=(const CachedFile&) = delete;

  /// For clients that hold the file open for reading.
  int descriptor() const { return store_.read_only.get(); }
  const std::shared_ptr<gluster::Inode>& inode() const { return inode_; }

  struct Range {
    uint64_t offset;
    uint64_t length;
    uint64_t ahead;  // so many bytes behind it
  };
  enum class Fill { kUnderWay, kCannot, kThreadLost };
  /// Makes the range valid, and begins with what is ahead. kUnderWay: `waiter` will be told, or has
  /// been. kCannot: nothing is valid now; somebody looks whether it can be again.
  Fill fill(const std::shared_ptr<gluster::File>& file, const Range& range, FillWaiter& waiter,
            Submitter& submitter);
  /// Copies the beginning of the range, up to what is valid already, to the waiter as soon as it is
  /// there; it becomes valid after that. Of what is ahead it begins with as much as pays.
  Fill stream(const std::shared_ptr<gluster::File>& file, const Range& range, StreamWaiter& waiter,
              Submitter& submitter);

  /// Looks whether the file can be valid, unless somebody does or did a moment ago. `file` is open
  /// for reading. `done`, if there is one, is called once, on any thread, when that is known.
  void arm(const std::shared_ptr<gluster::File>& file, std::function<void()> done = {});

  /// Of who has it delegated for writing: valid for him, from when it is first compared with the
  /// bricks, until disown(). What was in it before and after is nobody's. Returns the number of
  /// this ownership.
  uint64_t own();
  void disown();
  /// A write under ownership `owner` has been answered, and a read may follow: `bytes` are what the
  /// file has now at `offset`, or nullptr if that is not known.
  void written(uint64_t owner, uint64_t offset, uint64_t length, const std::byte* bytes) noexcept;

  /// For who has it open. With the last copy of what this returns goes the lease by which writers
  /// are heard of, and with it all that keeps the mount busy; what is filled stays.
  std::shared_ptr<CachedFile> use();

  /// Somebody on this host opens it for writing: nothing is valid from now on.
  void writer_opens() override;

  /// Every kRenewEvery: a program has it open. `used`: has read from it since the last time.
  void renew(const std::shared_ptr<gluster::File>& file, bool used, Clock::time_point now);

  /// A program has read this piece.
  void touched(uint64_t extent);
  void drop_extent(const CachedExtent::Place& place);
  /// Once a second: there may be room for what was left to the kernel.
  void look_for_room();
  /// All of it, at once; its memory is for punch_some().
  void drop_all();
  /// Gives back the memory of one piece of what was dropped. False if there is none.
  bool punch_some();
  /// Puts the next of what has come into the cache, and has what is left done later, after what
  /// other files have.
  void store_next() noexcept;
  /// Has memory that readers got by touching holes taken back, if that is much.
  void sweep();
  /// Takes it back in the first piece from `place` on, in bytes of the cache's file, where there is
  /// any memory. Returns where the next one begins; nothing when that was the last.
  std::optional<uint64_t> sweep_piece(uint64_t place);
  /// Nobody goes on with that.
  void stop_sweep();

 private:
  class FillIo;
  struct Use;
  struct Waiting;
  struct Stream;
  struct PageRange {
    uint64_t first;
    uint64_t end;
  };
  /// How many requests are worth being under way ahead of who reads in order: one more as long as
  /// he waits and that makes no request longer; one less when they only wait for each other, and
  /// then it takes longer until one more is tried.
  struct Pace {
    uint32_t ahead = 0;
    uint32_t needed = 2;  // short ones in a row until one more is tried
    uint32_t short_ones = 0;
    uint32_t long_ones = 0;
    Clock::duration best{};  // that a request took
    void note(Clock::duration took, bool waited_for);
  };

  using Fills = std::vector<std::shared_ptr<FillIo>>;
  using Extents = std::unordered_map<uint64_t, CachedExtent>;
  /// What was dropped, and still has its memory.
  struct Dropped {
    uint32_t floor;  // under which it was filled
    Extents extents;
  };
  void plan(PageRange range, uint64_t wanted_end, uint64_t size,
            const std::shared_ptr<Waiting>& waiter, Fills& fills);
  void plan_stream(PageRange range, uint64_t wanted_end, uint64_t size,
                   const std::shared_ptr<Stream>& stream, Fills& fills);
  std::shared_ptr<FillIo> under_way(uint64_t page) const;
  std::shared_ptr<FillIo> begin_fill(PageRange range, uint64_t size, bool ahead, bool stream,
                                     Fills& fills);
  bool submit(const std::shared_ptr<gluster::File>& file, Fills& fills, Submitter& submitter);
  /// Whether so much more may be filled, and shows readers if not.
  bool have_room(uint64_t bytes);
  bool is_good(const FillIo& io) const;
  void store(FillIo& io) noexcept;
  bool have_words(PageRange range);
  bool is_cached(uint64_t page) const;
  void drop_unused_words(PageRange range);
  uint64_t known_pages(uint64_t piece) const;
  bool have_memory(uint64_t page_of_file);
  void punch(uint64_t offset, uint64_t length);
  void punch_pages(uint64_t offset, uint64_t pages);
  bool publish(PageRange range);
  /// From when on it is not believed that what is filled now is what the file has, though its
  /// attributes are the same.
  Clock::time_point doubted_from(Clock::time_point now) const;
  void unpublish(uint64_t index, CachedExtent& extent, uint64_t others = 0);
  void hide(uint64_t index, uint64_t pages);
  uint64_t filled_again(uint64_t index) const;
  void forget(uint64_t index, CachedExtent& extent, bool dropped);
  void no_longer_used(uint64_t words);
  void next_number();
  void overwrite(uint64_t index, CachedExtent& extent, uint64_t offset, uint64_t length,
                 const std::byte* bytes);
  void drop_all_locked();
  void finish(FillIo& io, int64_t result);
  void unused();
  bool may_arm(Clock::time_point now, bool newcomer) const;
  void armed(uint64_t epoch, Clock::time_point since, const gluster::Mount::Proof& answer);
  void arming_is_over() noexcept;
  void show_validity(Clock::time_point now);
  bool is_current(Clock::time_point now) const;
  common::PageWord& word(uint64_t page) const;
  common::CacheHeader& header() const;

  PageCache& cache_;
  const std::shared_ptr<gluster::Inode> inode_;
  const CacheStore::File store_;

  std::mutex mutex_;
  std::byte* map_ = nullptr;  // header and words
  uint64_t map_bytes_ = 0;
  bool header_there_ = false;
  // By page of words: it has memory, so that storing cannot fault, and is needed by so many
  // extents.
  std::unordered_map<uint64_t, uint32_t> words_;
  Extents extents_;
  std::deque<Dropped> dropped_;  // the first the longest ago
  uint64_t pages_ = 0;           // of both, as the budget counts them
  std::vector<std::shared_ptr<FillIo>> in_flight_;
  std::deque<std::shared_ptr<FillIo>> to_store_;  // of those, for store_next()
  bool storing_ = false;                          // somebody is about to look there
  bool sweeping_ = false;                         // somebody calls sweep_piece()
  Pace pace_;
  uint32_t number_ = 0;  // of the last fill
  uint32_t floor_ = 0;   // the header's
  uint64_t epoch_ = 0;   // raised by everything that makes pages wrong
  bool armed_ = false;
  bool owned_ = false;  // never together with armed_
  uint64_t owner_ = 0;  // number of the last ownership
  bool arming_ = false;
  std::vector<std::function<void()>> wait_for_arming_;
  Clock::time_point doubted_from_ = Clock::time_point::max();  // the first of all pages'
  Clock::time_point tried_{};
  Clock::time_point validated_{};  // when the question was asked that confirmed the attributes
  Clock::time_point changed_{};    // when they were seen to be others than before
  Clock::time_point foreign_{};    // the same, but not by who owns the file
  gluster::Attributes attributes_;
  std::weak_ptr<Use> use_;
  std::shared_ptr<gluster::Lease> lease_;  // while armed: it holds up who opens it for writing
};

/// What an administrator has set, in bytes; kByMemory is for the host's memory to say.
struct CacheLimits {
  static constexpr int64_t kByMemory = -1;
  /// For all that is cached: half of the memory. 0: nothing is cached.
  int64_t bytes = kByMemory;
  /// So much must have come from bricks since a piece was last read until it goes for others: what
  /// the kernel would have kept, which has all memory that programs do not use. 0: it goes as soon
  /// as there is no room.
  int64_t retain = kByMemory;
};

class PageCache {
 public:
  /// A null store: nothing is cached.
  PageCache(std::unique_ptr<CacheStore> store, const CacheLimits& limits, gluster::Mounts& mounts);

  bool enabled() const { return store_ != nullptr && budget_ != 0; }
  /// For clients: see common::WatchWord. Where it is enabled.
  int watch_descriptor() const { return store_->watch_descriptor(); }

  /// The cache of that file, see CachedFile::use(); null if there is none to be had.
  std::shared_ptr<CachedFile> open(const std::shared_ptr<gluster::Inode>& inode);

  /// Forgets every page of every file at once; their memory is given back soon.
  void drop();
  /// Once a second: forgets unmounted files, and looks for room.
  void tick();
  /// Every kWatchMemoryEvery: keeps within what the host's memory allows.
  void watch_memory();
  static constexpr std::chrono::milliseconds kWatchMemoryEvery{100};
  /// Nothing is valid any more, or will be: the daemon ends.
  void stop();
  bool stopped() const { return stopped_.load(std::memory_order_seq_cst); }

  stats::CacheReport report();

  // --- for CachedFile ---
  gluster::Mounts& mounts() { return mounts_; }
  /// What may go for something new: what the kernel would have forgotten by now, or whatever was
  /// read the longest ago.
  enum class Going { kForgotten, kAnything };
  /// False if there is none to be had.
  bool make_room(uint64_t bytes, Going going = Going::kForgotten);
  /// So much has come from the bricks for the cache.
  void passed(uint64_t bytes) { passed_.fetch_add(bytes, std::memory_order_relaxed); }
  /// The same for the kernel, as a program says: no more is believed than can have come.
  void told(uint64_t bytes);
  /// Whether it is within its budget.
  bool has_room() const {
    return used_.load(std::memory_order_relaxed) <= limit_.load(std::memory_order_relaxed);
  }
  /// Whether so much more may be on its way that nobody waits for. True: fetched_ahead() follows.
  bool may_fetch_ahead(uint64_t bytes);
  void fetched_ahead(uint64_t bytes) { ahead_.fetch_sub(bytes, std::memory_order_relaxed); }
  void file_gone() { open_files_.fetch_sub(1, std::memory_order_relaxed); }
  void added(uint64_t bytes) { used_.fetch_add(bytes, std::memory_order_relaxed); }
  void removed(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  void list(const std::shared_ptr<CachedFile>& file, uint64_t index, uint32_t floor,
            CachedExtent& extent);
  /// Before the extent goes.
  void unlist(CachedExtent& extent);
  void promote(CachedExtent& extent);
  /// Has the memory of what the file has dropped given back, by a thread that may wait.
  void punch_later(const std::shared_ptr<CachedFile>& file) noexcept;
  /// Calls sweep_piece() for all of the file from `place` on, on that thread, between other things.
  void sweep_later(const std::shared_ptr<CachedFile>& file, uint64_t place) noexcept;
  /// Calls store_next() on a thread for that. False if it cannot.
  bool store_later(const std::shared_ptr<CachedFile>& file) noexcept;
  /// What a buffer for so much takes.
  static uint64_t buffer_bytes(uint64_t bytes);
  /// Of at least `bytes` <= kMaxStreamFillBytes, with anything in it; throws std::bad_alloc.
  FillBuffer take_buffer(uint64_t bytes);
  /// `bytes` as it was taken; nullptr is nothing.
  void give_back(FillBuffer buffer, uint64_t bytes);
  stats::Counter fills;
  stats::Counter filled_bytes;
  stats::Counter evicted_bytes;

 private:
  std::shared_ptr<CachedFile> find_or_make(const std::shared_ptr<gluster::Inode>& inode);
  std::vector<std::shared_ptr<CachedFile>> all();
  bool punch_some();
  bool is_forgotten(const CachedExtent::Place& place) const;
  std::list<CachedExtent::Place>* list_to_shorten(Going going);
  void forget_coldest();

  const std::unique_ptr<CacheStore> store_;
  const uint64_t budget_;
  const uint64_t most_retained_;
  std::atomic<uint64_t> limit_;     // the budget, or less while memory is short
  std::atomic<uint64_t> retained_;  // CacheLimits::retain, as it is now
  std::atomic<uint64_t> passed_{0};
  std::atomic<bool> shrinking_{false};
  std::chrono::steady_clock::time_point told_at_{};  // under mutex_
  gluster::Mounts& mounts_;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint64_t> ahead_{0};
  std::atomic<uint32_t> open_files_{0};
  std::atomic<bool> stopped_{false};

  std::mutex mutex_;  // taken after a CachedFile's, never before one
  std::unordered_map<const gluster::Inode*, std::weak_ptr<CachedFile>> files_;
  std::list<CachedExtent::Place> cold_;  // filled once; in the order of that
  std::list<CachedExtent::Place> hot_;   // read again later; the least recently read first
  std::deque<std::weak_ptr<CachedFile>> dropping_;  // have dropped what still has its memory

  std::mutex buffers_mutex_;  // nothing is locked under it
  std::vector<FillBuffer> buffers_;
  std::vector<FillBuffer> stream_buffers_;
  gluster::Worker punching_{"cache-punch", 1};
  gluster::Worker storing_{"cache-store", 1};
};

}  // namespace booster::daemon::data
