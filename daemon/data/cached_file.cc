// The pages of one file: filling, publishing, forgetting.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <exception>

#include "common/copy.h"
#include "daemon/data/channel.h"
#include "daemon/data/page_cache.h"
#include "daemon/gluster/worker.h"

namespace booster::daemon::data {

using common::kDataStart;
using common::kExtent;
using common::kInTransit;
using common::kMaxCachedBytes;
using common::kPageSize;
using common::kWordsStart;
using common::PageWord;
using std::chrono::milliseconds;

namespace {

constexpr uint64_t kPagesPerExtent = kExtent / kPageSize;
static_assert(kPagesPerExtent == 64);
constexpr uint64_t kWordsPerPage = kPageSize / sizeof(PageWord);
/// One request to the bricks.
constexpr uint64_t kMaxFillPages = kMaxFillBytes / kPageSize;
constexpr uint64_t kMaxStreamFillPages = kMaxStreamFillBytes / kPageSize;
/// How much may be on its way ahead of a reader, in requests of a file.
constexpr size_t kMaxFillsAhead = 32;
/// The same for streams; and how much of a file may wait to be stored.
constexpr uint32_t kMaxStreamFillsAhead = 16;
constexpr size_t kMaxToStore = 24;
/// Less is stored by whoever brings it: waking somebody up takes as long.
constexpr uint64_t kStoreLaterFrom = 64 << 10;

/// A file is compared with the bricks this often while it is read...
constexpr milliseconds kValidateEvery{400};
/// ...but while who reads it writes it as well no more often than is needed, since his own changes
/// empty it...
constexpr milliseconds kValidateOwnedEvery{850};
/// ...and believed for so long after.
constexpr milliseconds kBelieveFor{980};  // clients look at a clock that is some ms coarse
/// What was valid when the daemon was stopped or hung is so no longer than this.
constexpr milliseconds kShowFor{250};
/// How often somebody looks whether writers have gone.
constexpr milliseconds kTryEvery{20};
constexpr milliseconds kTrySlowly{500};
/// Two changes may bear the same times: within one tick of a brick's clock, and also when the
/// second comes from a host whose clock is behind, or was long on its way (a file's ctime never
/// goes back: posix_set_mdata_xattr in GlusterFS's posix-metadata.c). What is filled so soon after
/// a change, by our clock and by the file's own times, is thought wrong at the next look.
constexpr std::chrono::seconds kClocksDiffer{1};
/// What is filled later is thought wrong when the file has been quiet for so many times as long as
/// it had been then: a write that was on its way for a while is seen after a few times that
/// while...
constexpr int kDoubt = 4;
/// ...unless it was longer on its way than this. A client gives a brick up that is silent for 42 s
/// (network.ping-timeout).
constexpr std::chrono::seconds kNothingIsLater{64};
/// Memory that readers may get of one file by touching holes, by accident, before it is taken back.
constexpr uint64_t kMaxStray = 4 << 20;

uint64_t pages_until(uint64_t end, uint64_t size) {
  return (std::min(end, size) + kPageSize - 1) / kPageSize;
}

uint64_t to_ms(CachedFile::Clock::time_point time) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count());
}

}  // namespace

// --- one request to the bricks ---------------------------------------------------------------

struct CachedFile::Waiting {
  explicit Waiting(FillWaiter& w) : waiter(w) {}
  FillWaiter& waiter;
  // One for each fill, and one for who is still asking for more.
  std::atomic<int> missing{1};
  std::atomic<bool> all{true};

  void done(bool ok) {
    // relaxed: ordered by `missing`.
    if (!ok) all.store(false, std::memory_order_relaxed);
    if (missing.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      waiter.filled(all.load(std::memory_order_relaxed));
    }
  }
};

class CachedFile::FillIo final : public gluster::Io {
 public:
  FillIo(std::shared_ptr<CachedFile> file, PageRange range, uint64_t epoch,
         Clock::time_point doubted_from, uint64_t size, bool ahead, bool stream)
      : file_(std::move(file)),
        range_(range),
        epoch_(epoch),
        doubted_from_(doubted_from),
        size_(size),
        ahead_(ahead),
        stream_(stream) {}
  ~FillIo() {
    if (!buffer_) return;
    file_->cache_.give_back(std::move(buffer_), bytes());
    file_->cache_.removed(PageCache::buffer_bytes(bytes()));
  }
  FillIo(const FillIo&) = delete;
  FillIo& operator=(const FillIo&) = delete;

  PageRange range() const { return range_; }
  uint64_t bytes() const { return (range_.end - range_.first) * kPageSize; }
  std::byte* buffer() { return buffer_.get(); }
  uint64_t offset() const { return range_.first * kPageSize; }
  /// What of it belongs to the file.
  uint64_t wanted() const { return std::min(bytes(), size_ > offset() ? size_ - offset() : 0); }
  /// The budget counts what is on its way, as long as it has a buffer.
  void take_buffer() {
    begun_ = Clock::now();
    buffer_ = file_->cache_.take_buffer(bytes());
    file_->cache_.added(PageCache::buffer_bytes(bytes()));
  }
  void finished(int64_t result, int /*error*/) noexcept override {
    const std::shared_ptr<CachedFile> file = file_;  // this may go meanwhile
    file->finish(*this, result);
  }

 private:
  friend class CachedFile;
  std::shared_ptr<CachedFile> file_;
  const PageRange range_;
  const uint64_t epoch_;
  const Clock::time_point doubted_from_;
  const uint64_t size_;  // of the file, when it was begun
  const bool ahead_;     // when it was begun nobody waited for it
  const bool stream_;    // who waits for it needs its bytes only
  Clock::time_point begun_{};
  FillBuffer buffer_;  // not changed any more when it has arrived
  // Under the file's mutex:
  bool spoiled_ = false;  // a write has come meanwhile
  bool arrived_ = false;
  int64_t result_ = -1;
  std::vector<std::shared_ptr<Waiting>> waiting_;
  std::vector<std::shared_ptr<Stream>> streams_;
};

/// A reader for whom the beginning of what he asked for is under way.
struct CachedFile::Stream {
  Stream(StreamWaiter& w, uint64_t from, uint64_t bytes) : waiter(w), offset(from), length(bytes) {}
  StreamWaiter& waiter;
  const uint64_t offset;
  const uint64_t length;
  std::vector<std::shared_ptr<FillIo>> fills;  // in order; complete before anything is given
  // One for each that has not arrived, and one for who is still asking for more.
  std::atomic<int> missing{1};
  std::atomic<bool> good{true};

  void arrived(bool ok) {
    // relaxed: ordered by `missing`.
    if (!ok) good.store(false, std::memory_order_relaxed);
    if (missing.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    waiter.streamed(good.load(std::memory_order_relaxed) ? copy() : -1);
  }

 private:
  int64_t copy() {
    uint64_t done = 0;
    for (const auto& fill : fills) {
      const uint64_t within = offset + done - fill->offset();
      if (within >= fill->wanted()) break;
      const uint64_t part = std::min(fill->wanted() - within, length - done);
      common::copy_bytes(waiter.place() + done, fill->buffer() + within, part);
      done += part;
    }
    return static_cast<int64_t>(done);
  }
};

void CachedFile::Pace::note(Clock::duration took, bool waited_for) {
  constexpr uint32_t kLongOnes = 3;
  constexpr uint32_t kMostNeeded = 4096;
  // What was once is forgotten slowly.
  best = best == Clock::duration{} ? took : std::min(best + best / 256, took);
  if (took > best * 8 / 5) {
    short_ones = 0;
    if (++long_ones < kLongOnes || ahead == 0) return;
    long_ones = 0;
    --ahead;
    needed = std::min(needed * 2, kMostNeeded);
    return;
  }
  long_ones = 0;
  if (!waited_for || took > best * 5 / 4 || ++short_ones < needed) return;
  short_ones = 0;
  if (ahead < kMaxStreamFillsAhead) ++ahead;
}

// --- the file ----------------------------------------------------------------------------------

CachedFile::CachedFile(PageCache& cache, std::shared_ptr<gluster::Inode> inode,
                       CacheStore::File store)
    : cache_(cache), inode_(std::move(inode)), store_(std::move(store)) {}

CachedFile::~CachedFile() {
  // Whoever still maps it is a program that has no session any more, or had it before.
  armed_ = false;
  show_validity(Clock::now());
  punch(kPageSize, common::kCacheFileBytes - kPageSize);
  cache_.removed((pages_ + words_.size() + (header_there_ ? 1 : 0)) * kPageSize);
  cache_.file_gone();
  if (map_) ::munmap(map_, map_bytes_);
}

common::CacheHeader& CachedFile::header() const {
  return *reinterpret_cast<common::CacheHeader*>(map_);
}

PageWord& CachedFile::word(uint64_t page) const {
  return reinterpret_cast<PageWord*>(map_ + kWordsStart)[page];
}

bool CachedFile::have_words(PageRange range) {
  const uint64_t needed = kWordsStart + range.end * sizeof(PageWord);
  if (needed > map_bytes_) {
    const uint64_t bytes =
        std::min(std::bit_ceil(std::max<uint64_t>(needed, 64 << 10)), kDataStart);
    void* map =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, store_.writable.get(), 0);
    if (map == MAP_FAILED) return false;
    if (map_) ::munmap(map_, map_bytes_);
    map_ = static_cast<std::byte*>(map);
    map_bytes_ = bytes;
  }
  if (!header_there_) {
    if (!have_memory(0)) return false;
    header_there_ = true;
    cache_.added(kPageSize);
    header().magic = common::kCacheMagic;
  }
  for (uint64_t w = range.first / kWordsPerPage; w * kWordsPerPage < range.end; ++w) {
    if (words_.contains(w)) continue;
    if (!have_memory(kWordsStart / kPageSize + w)) return false;
    words_.emplace(w, 0);
    cache_.added(kPageSize);
  }
  return true;
}

bool CachedFile::is_cached(uint64_t page) const {
  // Looking at a hole would fill it.
  return words_.contains(page / kWordsPerPage) &&
         common::is_valid(word(page).load(std::memory_order_relaxed), floor_);
}

void CachedFile::drop_unused_words(PageRange range) {
  for (uint64_t w = range.first / kWordsPerPage; w * kWordsPerPage < range.end; ++w) {
    const auto place = words_.find(w);
    if (place == words_.end() || place->second != 0) continue;
    const auto uses_it = [w](const auto& fill) {
      return fill->range().first / kWordsPerPage <= w && w * kWordsPerPage < fill->range().end;
    };
    if (std::any_of(in_flight_.begin(), in_flight_.end(), uses_it)) continue;
    punch(kWordsStart + w * kPageSize, kPageSize);
    words_.erase(place);
    cache_.removed(kPageSize);
  }
}

/// Storing into a hole when there is no memory would be the daemon's end (SIGBUS).
bool CachedFile::have_memory(uint64_t page_of_file) {
  return ::fallocate(store_.writable.get(), 0, static_cast<off_t>(page_of_file * kPageSize),
                     kPageSize) == 0;
}

void CachedFile::punch(uint64_t offset, uint64_t length) {
  if (::fallocate(store_.writable.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset), static_cast<off_t>(length)) != 0) {
    spdlog::warn("event=cache-punch-failed error=\"{}\"", strerrordesc_np(errno));
  }
}

/// Those of the piece at `offset`.
void CachedFile::punch_pages(uint64_t offset, uint64_t pages) {
  while (pages != 0) {
    const int first = std::countr_zero(pages);
    const int count = std::countr_one(pages >> first);
    punch(offset + static_cast<uint64_t>(first) * kPageSize,
          static_cast<uint64_t>(count) * kPageSize);
    pages = first + count == 64 ? 0 : pages >> (first + count) << (first + count);
  }
}

CachedFile::Clock::time_point CachedFile::doubted_from(Clock::time_point now) const {
  timespec real{};
  ::clock_gettime(CLOCK_REALTIME, &real);
  // Whatever a brick says its times are.
  const int64_t seconds = std::clamp<int64_t>(real.tv_sec - attributes_.changed.tv_sec, -1, 3600);
  std::chrono::nanoseconds quiet =
      std::chrono::seconds(seconds) +
      std::chrono::nanoseconds(real.tv_nsec - attributes_.changed.tv_nsec);
  if (changed_ != Clock::time_point{}) quiet = std::min(quiet, now - changed_);
  if (quiet < kClocksDiffer) return Clock::time_point::min();
  return quiet * kDoubt > kNothingIsLater ? Clock::time_point::max() : now + quiet * (kDoubt - 1);
}

// --- filling -----------------------------------------------------------------------------------

std::shared_ptr<CachedFile::FillIo> CachedFile::under_way(uint64_t page) const {
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(), [page](const auto& fill) {
    return fill->range().first <= page && page < fill->range().end;
  });
  return found == in_flight_.end() ? nullptr : *found;
}

/// Begins one request for as much of the range, from its start, as is neither there nor under way.
/// Null if there is no memory for it, or no more is to be fetched ahead.
std::shared_ptr<CachedFile::FillIo> CachedFile::begin_fill(PageRange range, uint64_t size,
                                                           bool ahead, bool stream, Fills& fills) {
  uint64_t end = range.first + 1;
  uint64_t limit =
      std::min(range.end, range.first + (stream ? kMaxStreamFillPages : kMaxFillPages));
  for (const auto& fill : in_flight_) {
    if (fill->range().first > range.first) limit = std::min(limit, fill->range().first);
  }
  while (end < limit && !is_cached(end)) ++end;
  auto fill = std::make_shared<FillIo>(shared_from_this(), PageRange{range.first, end}, epoch_,
                                       doubted_from(Clock::now()), size, ahead, stream);
  if (ahead && !cache_.may_fetch_ahead(fill->bytes())) return nullptr;
  if (!have_words(fill->range())) {
    if (ahead) cache_.fetched_ahead(fill->bytes());
    return nullptr;
  }
  in_flight_.push_back(fill);
  fills.push_back(fill);
  return fill;
}

void CachedFile::plan(PageRange range, uint64_t wanted_end, uint64_t size,
                      const std::shared_ptr<Waiting>& waiter, Fills& fills) {
  uint64_t page = range.first;
  while (page < range.end) {
    // What follows what is waited for comes in the same request where it can.
    const bool wanted = page < wanted_end;
    auto fill = under_way(page);
    if (!fill && is_cached(page)) {
      ++page;
      continue;
    }
    if (!fill) {
      if (!wanted && in_flight_.size() >= kMaxFillsAhead) return;
      fill = begin_fill({page, range.end}, size, !wanted, false, fills);
    }
    if (!fill) {
      if (wanted) waiter->all.store(false, std::memory_order_relaxed);
      return;
    }
    if (wanted) {
      waiter->missing.fetch_add(1, std::memory_order_relaxed);
      fill->waiting_.push_back(waiter);
    }
    page = fill->range().end;
  }
}

void CachedFile::plan_stream(PageRange range, uint64_t wanted_end, uint64_t size,
                             const std::shared_ptr<Stream>& stream, Fills& fills) {
  uint64_t page = range.first;
  while (page < wanted_end) {
    auto fill = under_way(page);
    if (!fill) {
      if (is_cached(page)) return;
      fill = begin_fill({page, range.end}, size, false, true, fills);
      if (!fill) return;
    }
    if (fill->arrived_ && !is_good(*fill)) return;
    if (!fill->arrived_) {
      stream->missing.fetch_add(1, std::memory_order_relaxed);
      fill->streams_.push_back(stream);
    }
    page = fill->range().end;
    stream->fills.push_back(std::move(fill));
  }
  auto coming = std::count_if(in_flight_.begin(), in_flight_.end(),
                              [](const auto& fill) { return !fill->arrived_ && fill->ahead_; });
  while (page < range.end && coming < pace_.ahead) {
    auto fill = under_way(page);
    if (!fill && is_cached(page)) {
      ++page;
      continue;
    }
    if (!fill) {
      fill = begin_fill({page, range.end}, size, true, true, fills);
      if (!fill) return;
      ++coming;
    }
    page = fill->range().end;
  }
}

/// False: the pump has given up on this thread, and what is left has been given up, too.
bool CachedFile::submit(const std::shared_ptr<gluster::File>& file, Fills& fills,
                        Submitter& submitter) {
  for (size_t i = 0; i < fills.size(); ++i) {
    FillIo& io = *fills[i];
    // What is waited for comes in any case: there was room for some of it.
    if (!have_room(io.bytes()) && io.ahead_) {
      io.finished(-1, ENOSPC);
      continue;
    }
    io.take_buffer();
    submitter.begin(file->gate());
    const int error = file->read(io.buffer(), io.bytes(), io.offset(), io);
    if (error != 0) io.finished(-1, error);
    if (submitter.end(file->gate())) continue;
    while (++i < fills.size()) fills[i]->finished(-1, EIO);
    return false;
  }
  return true;
}

bool CachedFile::have_room(uint64_t bytes) {
  const bool room = cache_.make_room(bytes);
  bool owned = false;
  {
    const std::lock_guard lock(mutex_);
    owned = owned_;
    const uint32_t full = !room && !owned ? 1 : 0;
    // In the line that every reader looks at.
    if (header_there_ && header().full.load(std::memory_order_relaxed) != full) {
      header().full.store(full, std::memory_order_relaxed);
    }
  }
  // What its owner writes goes past the kernel, which cannot keep it for him.
  return room || (owned && cache_.make_room(bytes, PageCache::Going::kAnything));
}

void CachedFile::look_for_room() {
  {
    const std::lock_guard lock(mutex_);
    if (!header_there_ || header().full.load(std::memory_order_relaxed) == 0) return;
  }
  have_room(kMaxStreamFillBytes);
}

CachedFile::Fill CachedFile::fill(const std::shared_ptr<gluster::File>& file, const Range& range,
                                  FillWaiter& waiter, Submitter& submitter) {
  Fills fills;
  std::shared_ptr<Waiting> waiting;
  const bool room = have_room(kMaxFillBytes);
  // Somebody tells how much he has had to leave to the kernel.
  if (!room && range.length == 0 && range.offset >= inode_->size()) cache_.told(range.ahead);
  const uint64_t size_now = inode_->size();
  bool current = false;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    current = is_current(now);
    if (current) show_validity(now);  // nobody may have read for a while
    const uint64_t size = std::min(owned_ ? size_now : attributes_.size, kMaxCachedBytes);
    if (current && room) {
      waiting = std::make_shared<Waiting>(waiter);
      const uint64_t end = range.offset + range.length;
      plan({range.offset / kPageSize, pages_until(end + range.ahead, size)}, pages_until(end, size),
           size, waiting, fills);
    }
  }
  if (!waiting) {
    if (!current) arm(file);
    return Fill::kCannot;
  }
  const bool submitted = submit(file, fills, submitter);
  waiting->done(submitted);
  return submitted ? Fill::kUnderWay : Fill::kThreadLost;
}

CachedFile::Fill CachedFile::stream(const std::shared_ptr<gluster::File>& file, const Range& range,
                                    StreamWaiter& waiter, Submitter& submitter) {
  Fills fills;
  std::shared_ptr<Stream> stream;
  const bool room = have_room(kMaxStreamFillBytes);
  bool current = false;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    // Its owner asks the bricks: what they answer may not be what he has logged meanwhile.
    current = is_current(now) && !owned_;
    if (current) show_validity(now);
    const uint64_t size = std::min(attributes_.size, kMaxCachedBytes);
    if (current && room && range.offset <= size) {
      const uint64_t end = range.offset + range.length;
      stream = std::make_shared<Stream>(waiter, range.offset, std::min(end, size) - range.offset);
      plan_stream({range.offset / kPageSize, pages_until(end + range.ahead, size)},
                  range.length == 0 ? 0 : pages_until(end, size), size, stream, fills);
    }
  }
  if (!stream) {
    if (!current) arm(file);
    return Fill::kCannot;
  }
  const bool submitted = submit(file, fills, submitter);
  stream->arrived(submitted);
  return submitted ? Fill::kUnderWay : Fill::kThreadLost;
}

/// Whether what has arrived is what the file has.
bool CachedFile::is_good(const FillIo& io) const {
  // Another length: the file is not what it was. The next comparison finds out.
  return io.result_ >= 0 && io.epoch_ == epoch_ && !io.spoiled_ &&
         static_cast<uint64_t>(io.result_) >= io.wanted();
}

void CachedFile::finish(FillIo& io, int64_t result) {
  if (io.ahead_) cache_.fetched_ahead(io.bytes());
  std::vector<std::shared_ptr<Stream>> streams;
  std::shared_ptr<FillIo> keep;
  bool good = false;
  bool later = false;
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    keep = under_way(io.range().first);
    io.result_ = result;
    io.arrived_ = true;
    good = is_good(io);
    streams.swap(io.streams_);
    if (io.bytes() == kMaxStreamFillBytes && good) {
      pace_.note(Clock::now() - io.begun_, !streams.empty());
    }
    later = io.stream_ && good && io.bytes() >= kStoreLaterFrom && io.waiting_.empty() &&
            to_store_.size() < kMaxToStore && cache_.has_room();
    try {
      if (later) to_store_.push_back(keep);
    } catch (const std::exception&) {  // out of memory
      later = false;
    }
    first = later && !storing_;
    if (first) storing_ = true;
  }
  for (const auto& stream : streams) stream->arrived(good);
  if (!later) return store(io);
  // It is on the event thread of libgfapi, which has better things to do.
  if (first && !cache_.store_later(shared_from_this())) store_next();
}

void CachedFile::store_next() noexcept {
  do {
    std::shared_ptr<FillIo> io;
    {
      const std::lock_guard lock(mutex_);
      storing_ = !to_store_.empty();
      if (!storing_) return;
      io = std::move(to_store_.front());
      to_store_.pop_front();
    }
    store(*io);
  } while (!cache_.store_later(shared_from_this()));
}

/// Puts what has arrived into the cache.
void CachedFile::store(FillIo& io) noexcept {
  const int64_t result = io.result_;
  // Nobody else fills these pages meanwhile, and nobody reads them before publish().
  bool stored = result >= 0;
  if (result > 0) {
    stored = ::pwrite(store_.writable.get(), io.buffer(), static_cast<size_t>(result),
                      static_cast<off_t>(kDataStart + io.offset())) == result;
    cache_.fills.add();
    cache_.filled_bytes.add(static_cast<uint64_t>(result));
    cache_.passed(static_cast<uint64_t>(result));
  }
  std::vector<std::shared_ptr<Waiting>> waiting;
  std::shared_ptr<FillIo> keep;
  bool ok = false;
  {
    const std::lock_guard lock(mutex_);
    const auto place = std::find_if(in_flight_.begin(), in_flight_.end(),
                                    [&io](const auto& fill) { return fill.get() == &io; });
    if (place != in_flight_.end()) {
      keep = std::move(*place);
      in_flight_.erase(place);
    }
    ok = stored && is_good(io);
    PageRange range = io.range();
    // Another host may make the file longer, and its owner read that at once: what is behind the
    // bytes that came is not known.
    if (owned_ && ok) range.end = range.first + static_cast<uint64_t>(result) / kPageSize;
    const bool published = ok && publish(range);
    if (published) doubted_from_ = std::min(doubted_from_, io.doubted_from_);
    // Nobody else fills these pages before this one is out of in_flight_, which the lock guards.
    const uint64_t missing = published ? range.end : range.first;
    ok = missing == io.range().end;
    // Also where nothing came: what was dropped there was left to this one.
    if (!ok) {
      punch(kDataStart + missing * kPageSize, (io.range().end - missing) * kPageSize);
    }
    if (!ok) drop_unused_words(io.range());
    waiting.swap(io.waiting_);
  }
  for (const auto& one : waiting) one->done(ok);
}

bool CachedFile::publish(PageRange range) {
  next_number();
  // Again: an eviction may have taken them meanwhile.
  if (!have_words(range)) return false;
  for (uint64_t page = range.first; page < range.end; ++page) {
    const auto [place, added] = extents_.try_emplace(page / kPagesPerExtent);
    if (added) ++words_[page / kWordsPerPage];
    CachedExtent& extent = place->second;
    const uint64_t bit = uint64_t{1} << (page % kPagesPerExtent);
    if ((extent.pages & bit) == 0) {
      extent.pages |= bit;
      ++pages_;
      cache_.added(kPageSize);
    }
    if (!extent.listed) cache_.list(shared_from_this(), page / kPagesPerExtent, floor_, extent);
    // Release: partner of the client's acquire; the bytes are there.
    word(page).store(number_ << 1, std::memory_order_release);
  }
  return true;
}

// --- forgetting --------------------------------------------------------------------------------

/// Takes those pages out of what is valid and out of memory.
void CachedFile::hide(uint64_t index, uint64_t pages) {
  if (pages == 0) return;
  for (uint64_t i = 0; i < kPagesPerExtent; ++i) {
    if ((pages >> i & 1) == 0) continue;
    PageWord& w = word(index * kPagesPerExtent + i);
    w.store(w.load(std::memory_order_relaxed) | kInTransit, std::memory_order_relaxed);
  }
  // Release: partner of the client's acquire fence after its copy. Who sees anything of what comes
  // now in the page sees that its word has changed.
  std::atomic_thread_fence(std::memory_order_release);
  punch_pages(kDataStart + index * kExtent, pages);
}

/// All of it but `others`, which are somebody else's by now. Only what is valid, or was: fills
/// under way store their pages before they publish them.
void CachedFile::unpublish(uint64_t index, CachedExtent& extent, uint64_t others) {
  hide(index, extent.pages & ~others);
  const auto count = static_cast<uint64_t>(std::popcount(extent.pages));
  pages_ -= count;
  cache_.removed(count * kPageSize);
  extent.pages = 0;
}

/// Puts what was written of [offset, offset + length) into those of its pages that are valid.
void CachedFile::overwrite(uint64_t index, CachedExtent& extent, uint64_t offset, uint64_t length,
                           const std::byte* bytes) {
  const uint64_t first = std::max(offset, index * kExtent) / kPageSize;
  const uint64_t last = (std::min(offset + length, (index + 1) * kExtent) - 1) / kPageSize;
  for (uint64_t page = first; page <= last; ++page) {
    if ((extent.pages >> (page % kPagesPerExtent) & 1) == 0) continue;
    word(page).store(word(page).load(std::memory_order_relaxed) | kInTransit,
                     std::memory_order_relaxed);
    // Release: as in unpublish().
    std::atomic_thread_fence(std::memory_order_release);
    const uint64_t start = std::max(offset, page * kPageSize);
    const uint64_t part = std::min(offset + length, (page + 1) * kPageSize) - start;
    // Has memory already: no failure that would leave half of it.
    if (::pwrite(store_.writable.get(), bytes + (start - offset), part,
                 static_cast<off_t>(kDataStart + start)) != static_cast<ssize_t>(part)) {
      return unpublish(index, extent);
    }
    // Release: as in publish().
    word(page).store(number_ << 1, std::memory_order_release);
  }
}

void CachedFile::written(uint64_t owner, uint64_t offset, uint64_t length,
                         const std::byte* bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (!owned_) return;
  // Late, of somebody who had it before: his bytes are in his own memory.
  if (owner != owner_) bytes = nullptr;
  for (const auto& fill : in_flight_) {
    // It may bring what was before, however late it comes.
    const PageRange range = fill->range();
    fill->spoiled_ = fill->spoiled_ ||
                     (offset < range.end * kPageSize && range.first * kPageSize < offset + length);
  }
  if (extents_.empty()) return;
  next_number();
  for (uint64_t index = offset / kExtent; index * kExtent < offset + length; ++index) {
    const auto found = extents_.find(index);
    if (found == extents_.end() || found->second.pages == 0) continue;
    if (bytes != nullptr) {
      overwrite(index, found->second, offset, length, bytes);
    } else {
      unpublish(index, found->second);
    }
  }
}

/// Which pages of an extent that was dropped have been filled again since, or are on their way.
uint64_t CachedFile::filled_again(uint64_t index) const {
  const auto again = extents_.find(index);
  uint64_t pages = again == extents_.end() ? 0 : again->second.pages;
  for (const auto& fill : in_flight_) {
    const uint64_t start = std::max(fill->range().first, index * kPagesPerExtent);
    const uint64_t end = std::min(fill->range().end, (index + 1) * kPagesPerExtent);
    for (uint64_t page = start; page < end; ++page) {
      pages |= uint64_t{1} << (page % kPagesPerExtent);
    }
  }
  return pages;
}

/// Of extents_, or of what was dropped. The extent itself is for the caller to erase.
void CachedFile::forget(uint64_t index, CachedExtent& extent, bool dropped) {
  unpublish(index, extent, dropped ? filled_again(index) : 0);
  cache_.unlist(extent);
  no_longer_used(index * kPagesPerExtent / kWordsPerPage);
}

/// Words that are gone read as "never filled"; numbers go on, so that none comes back.
void CachedFile::no_longer_used(uint64_t words) {
  const auto place = words_.find(words);
  if (--place->second != 0) return;
  punch(kWordsStart + words * kPageSize, kPageSize);
  words_.erase(place);
  cache_.removed(kPageSize);
}

void CachedFile::drop_extent(const CachedExtent::Place& place) {
  const std::lock_guard lock(mutex_);
  const bool dropped = place.floor != floor_;
  Extents* extents = &extents_;
  if (dropped) {
    const auto of_then =
        std::find_if(dropped_.begin(), dropped_.end(),
                     [&place](const Dropped& candidate) { return candidate.floor == place.floor; });
    if (of_then == dropped_.end()) return;
    extents = &of_then->extents;
  }
  const auto found = extents->find(place.index);
  if (found == extents->end()) return;
  if (!dropped) {
    cache_.evicted_bytes.add(static_cast<uint64_t>(std::popcount(found->second.pages)) * kPageSize);
  }
  forget(place.index, found->second, dropped);
  extents->erase(found);
}

bool CachedFile::punch_some() {
  const std::lock_guard lock(mutex_);
  while (!dropped_.empty() && dropped_.front().extents.empty()) dropped_.pop_front();
  if (dropped_.empty()) return false;
  Extents& extents = dropped_.front().extents;
  const auto first = extents.begin();
  forget(first->first, first->second, true);
  extents.erase(first);
  return true;
}

/// Of the next fill. After so many that they begin anew, nothing of before may be taken for valid.
void CachedFile::next_number() {
  if (++number_ < (uint32_t{1} << 31)) return;
  for (Dropped& dropped : dropped_) {
    for (auto& [index, extent] : dropped.extents) forget(index, extent, true);
  }
  dropped_.clear();
  for (auto& [index, extent] : extents_) forget(index, extent, false);
  extents_.clear();
  number_ = 1;
  floor_ = 0;
  header().floor.store(0, std::memory_order_relaxed);
}

void CachedFile::sweep() {
  {
    const std::lock_guard lock(mutex_);
    uint64_t known = (1 + words_.size() + pages_) * kPageSize;
    for (const auto& fill : in_flight_) known += fill->bytes();
    if (sweeping_ || CacheStore::held(store_) <= known + kMaxStray) return;
    sweeping_ = true;
  }
  cache_.sweep_later(shared_from_this(), 0);
}

/// Which pages of a piece of the cache's file have memory that somebody keeps account of.
uint64_t CachedFile::known_pages(uint64_t piece) const {
  constexpr uint64_t kPiecesOfWords = kDataStart / kExtent;
  if (piece >= kPiecesOfWords) {
    const uint64_t index = piece - kPiecesOfWords;
    uint64_t pages = filled_again(index);
    for (const Dropped& dropped : dropped_) {
      const auto found = dropped.extents.find(index);
      if (found != dropped.extents.end()) pages |= found->second.pages;
    }
    return pages;
  }
  // Words that nothing was filled for read as "never filled", with memory or without.
  uint64_t pages = 0;
  for (uint64_t i = 0; i < kPagesPerExtent; ++i) {
    const uint64_t page = piece * kPagesPerExtent + i;
    const bool known =
        page < kWordsStart / kPageSize || words_.contains(page - kWordsStart / kPageSize);
    if (known) pages |= uint64_t{1} << i;
  }
  return pages;
}

std::optional<uint64_t> CachedFile::sweep_piece(uint64_t place) {
  // For each piece anew: between two of them others have their turn, however much there is.
  const std::lock_guard lock(mutex_);
  const off_t found = ::lseek(store_.writable.get(), static_cast<off_t>(place), SEEK_DATA);
  if (found < 0) {
    sweeping_ = false;
    return std::nullopt;
  }
  const uint64_t piece = static_cast<uint64_t>(found) / kExtent;
  punch_pages(piece * kExtent, ~known_pages(piece));
  return (piece + 1) * kExtent;
}

void CachedFile::stop_sweep() {
  const std::lock_guard lock(mutex_);
  sweeping_ = false;
}

void CachedFile::drop_all_locked() {
  // Fills under way may bring what was before.
  ++epoch_;
  doubted_from_ = Clock::time_point::max();
  if (extents_.empty()) return;
  dropped_.push_back({floor_, std::move(extents_)});
  extents_.clear();
  floor_ = number_ << 1;
  header().floor.store(floor_, std::memory_order_relaxed);
  // Release: partner of the client's acquire fence after its copy. Who sees anything of what is
  // filled from now on in one of those pages sees that the floor has changed.
  std::atomic_thread_fence(std::memory_order_release);
  cache_.punch_later(shared_from_this());
}

void CachedFile::drop_all() {
  const std::lock_guard lock(mutex_);
  drop_all_locked();
}

void CachedFile::touched(uint64_t index) {
  const std::lock_guard lock(mutex_);
  const auto found = extents_.find(index);
  if (found != extents_.end() && found->second.listed) cache_.promote(found->second);
}

// --- being valid -------------------------------------------------------------------------------

void CachedFile::show_validity(Clock::time_point now) {
  if (!map_) return;
  uint64_t until = 0;
  if (is_current(now)) until = to_ms(std::min(validated_ + kBelieveFor, now + kShowFor));
  header().size.store(attributes_.size, std::memory_order_relaxed);
  header().compared_ms.store(to_ms(validated_), std::memory_order_relaxed);
  header().changed_ms.store(to_ms(foreign_), std::memory_order_relaxed);
  // seq_cst: who opens the file for writing goes on only after this 0 is there for everybody.
  header().valid_until_ms.store(until, std::memory_order_seq_cst);
}

bool CachedFile::is_current(Clock::time_point now) const {
  return (armed_ || owned_) && validated_ != Clock::time_point{} && now < validated_ + kBelieveFor;
}

void CachedFile::writer_opens() {
  const std::lock_guard lock(mutex_);
  ++epoch_;
  armed_ = false;
  if (owned_) validated_ = {};
  show_validity(Clock::now());
}

uint64_t CachedFile::own() {
  const std::lock_guard lock(mutex_);
  armed_ = false;
  validated_ = {};
  show_validity(Clock::now());
  drop_all_locked();
  owned_ = true;
  return ++owner_;
}

void CachedFile::disown() {
  const std::lock_guard lock(mutex_);
  if (!owned_) return;
  owned_ = false;
  validated_ = {};
  show_validity(Clock::now());
  drop_all_locked();
}

/// What all who have it open share.
struct CachedFile::Use {
  explicit Use(std::shared_ptr<CachedFile> used) : file(std::move(used)) {}
  ~Use() { file->unused(); }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  const std::shared_ptr<CachedFile> file;
};

std::shared_ptr<CachedFile> CachedFile::use() {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Use> use = use_.lock();
  if (!use) {
    use = std::make_shared<Use>(shared_from_this());
    use_ = use;
  }
  return {std::move(use), this};
}

/// Nobody has it open any more, unless somebody has come meanwhile.
void CachedFile::unused() {
  std::shared_ptr<gluster::Lease> lease;
  const std::lock_guard lock(mutex_);
  if (!use_.expired()) return;
  ++epoch_;
  armed_ = false;
  show_validity(Clock::now());
  lease.swap(lease_);
}

bool CachedFile::may_arm(Clock::time_point now, bool newcomer) const {
  if (cache_.stopped()) return false;
  // He asks less often by himself where it does not help, and after each lock.
  if (owned_) return true;
  // A file that somebody writes all the time is asked about less often.
  const auto pause = armed_ || now - changed_ < std::chrono::seconds(2) ? kTryEvery : kTrySlowly;
  return (newcomer && !armed_) || tried_ == Clock::time_point{} || now - tried_ >= pause;
}

void CachedFile::arm(const std::shared_ptr<gluster::File>& file, std::function<void()> done) {
  const auto now = Clock::now();
  uint64_t epoch = 0;
  bool proven = false;
  {
    std::unique_lock lock(mutex_);
    if (!arming_ && !may_arm(now, done != nullptr)) {
      lock.unlock();
      if (done) done();
      return;
    }
    if (done) wait_for_arming_.push_back(std::move(done));
    if (arming_) return;
    arming_ = true;
    tried_ = now;
    epoch = epoch_;
    // Nobody has opened it for writing since it was: only other hosts can have changed it, or who
    // owns it.
    proven = armed_ || owned_;
  }
  // Goes when there is an answer, and also when what would answer has run out of memory.
  const std::shared_ptr<CachedFile> end(
      this, [self = shared_from_this()](CachedFile* file) { file->arming_is_over(); });
  cache_.mounts().prove_unwritten(
      file, proven,
      [end, epoch, now](const gluster::Mount::Proof& answer) { end->armed(epoch, now, answer); });
}

/// Whoever waits for it goes on.
void CachedFile::arming_is_over() noexcept {
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard lock(mutex_);
    arming_ = false;
    waiting.swap(wait_for_arming_);
  }
  for (const auto& done : waiting) {
    try {
      done();
    } catch (const std::exception& e) {
      gluster::job_failed("arming", e.what());
    }
  }
}

void CachedFile::armed(uint64_t epoch, Clock::time_point since,
                       const gluster::Mount::Proof& answer) {
  const std::lock_guard lock(mutex_);
  // Somebody has opened it meanwhile; or nobody has it open any more.
  if (epoch != epoch_ || cache_.stopped() || use_.expired()) return;
  if (!answer) {
    armed_ = false;
    if (owned_) validated_ = {};
    show_validity(since);
    return;
  }
  if (!have_words({0, 0})) return;  // the header
  const bool known = validated_ != Clock::time_point{};
  const bool same = known && answer->attributes == attributes_;
  if (!same || Clock::now() >= doubted_from_) {
    // Nothing is valid while pages go.
    armed_ = false;
    validated_ = {};
    show_validity(since);
    drop_all_locked();
    if (known && !same) changed_ = Clock::now();
    if (known && !same && !owned_) foreign_ = changed_;
  }
  attributes_ = answer->attributes;
  if (answer->lease) lease_ = answer->lease;
  validated_ = since;
  armed_ = !owned_;
  show_validity(Clock::now());
}

void CachedFile::renew(const std::shared_ptr<gluster::File>& file, bool used,
                       Clock::time_point now) {
  bool ask = false;
  {
    const std::lock_guard lock(mutex_);
    if (!(armed_ || owned_) || !used) return;
    show_validity(now);
    ask = now - validated_ >= (owned_ ? kValidateOwnedEvery : kValidateEvery);
  }
  if (ask) arm(file);
}

}  // namespace booster::daemon::data
