// A hit asks nobody, a miss asks the daemon to fill, and what cannot be filled the bricks are asked
// for, or the kernel. Sees in what order a program reads, and has the next pages fetched before
// they are asked for.
#include "preload/boosted_read.h"

#include <errno.h>
#include <fcntl.h>

#include "preload/admission.h"
#include "preload/cache_view.h"
#include "preload/handle.h"
#include "preload/offset.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/write_delegation.h"
#include "preload/write_log.h"

namespace booster::preload {

using common::Reason;

namespace {

constexpr uint32_t kFirstWindow = 128 << 10;
constexpr uint32_t kMaxWindow = 8 << 20;
/// Reads in order that are at least so long come by way of a lane, without touching the cache's
/// pages for the first time.
constexpr size_t kStreamFrom = 256 << 10;
constexpr uint32_t kStreamAhead = 16 << 20;
/// How soon the daemon is asked whether a file is valid again; twice that each time.
constexpr uint64_t kAskEveryMs = 20;
constexpr uint64_t kAskSeldomMs = 1000;

/// Whether the number still names the file, and is read through caches. Asked once in each tick of
/// the coarse clock: whatever is done to numbers through libc is seen at once.
bool named_lately(Description& description, int fd, uint64_t now_ms) {
  if (description.reading.checked_ms.load(std::memory_order_relaxed) == now_ms) return true;
  if (!still_names(fd, *description.inode)) {
    g_files.forget(fd);
    return false;
  }
  // Whoever has the description too may have set it.
  const long flags = raw::status_flags(fd);
  if (raw::is_error(flags) || (flags & O_DIRECT) != 0) {
    description.reading.cached.store(false, std::memory_order_release);
    return false;
  }
  struct statx status;
  const CacheView* view = description.inode->view.load(std::memory_order_acquire);
  const bool behind = view != nullptr && raw::attributes(fd, AT_STATX_DONT_SYNC, status) &&
                      status.stx_size < view->size();
  description.reading.kernel_is_behind.store(behind, std::memory_order_relaxed);
  description.reading.checked_ms.store(now_ms, std::memory_order_relaxed);
  return true;
}

/// Whether FUSE may hold less than this process has seen out of the cache, or will: nothing is left
/// to the kernel then that can be had past both.
bool kernel_may_be_older(const Description& description, const CacheView& view, uint64_t now_ms) {
  return description.reading.kernel_is_behind.load(std::memory_order_relaxed) ||
         view.fuse_may_be_older(now_ms);
}

/// From when on a comparison with the bricks counts: since the program has opened the file, changed
/// it, or taken a lock.
uint64_t fresh_since(const Inode& inode) {
  // Acquire: partners of the releases in note_fresh().
  const uint64_t own = inode.fresh_since_ms.load(std::memory_order_acquire);
  const uint64_t all = g_fresh_since_ms.load(std::memory_order_acquire);
  return own > all ? own : all;
}

/// What is worth fetching before it is asked for: `window` bytes from `from` on. `forward`: they
/// follow what is read now.
struct Ahead {
  uint64_t from = 0;
  uint32_t window = 0;
  bool forward = true;
};

uint32_t grow(uint32_t window, size_t length) {
  window = window == 0 ? kFirstWindow : window * 2;
  if (window < length && length < kMaxWindow) window = static_cast<uint32_t>(length);
  return window < kMaxWindow ? window : kMaxWindow;
}

Ahead ahead_forward(Description::Reading& reading, uint64_t end, size_t length, uint64_t size) {
  const uint64_t until = reading.ahead_until.load(std::memory_order_relaxed);
  uint32_t window = reading.ahead_window.load(std::memory_order_relaxed);
  const uint64_t from = until > end ? until : end;
  if (from >= size || (window != 0 && end + window / 2 < until)) return {};
  window = grow(window, length);
  reading.ahead_window.store(window, std::memory_order_relaxed);
  reading.ahead_until.store(from + window, std::memory_order_relaxed);
  return {from, window};
}

Ahead ahead_backward(Description::Reading& reading, uint64_t offset, size_t length) {
  const uint64_t until = reading.ahead_until.load(std::memory_order_relaxed);
  uint32_t window = reading.ahead_window.load(std::memory_order_relaxed);
  const uint64_t low = window != 0 && until < offset ? until : offset;
  if (low == 0 || offset - low > window / 2) return {0, 0, false};
  window = grow(window, length);
  const uint64_t from = low > window ? low - window : 0;
  reading.ahead_window.store(window, std::memory_order_relaxed);
  reading.ahead_until.store(from, std::memory_order_relaxed);
  return {from, static_cast<uint32_t>(low - from), false};
}

/// Reads of which each begins `step` bytes behind the one before.
Ahead ahead_stepwise(Description::Reading& reading, int64_t step, uint64_t offset, size_t length,
                     uint64_t size) {
  // With gaps that are no longer than this it costs less to fetch all of it.
  constexpr uint64_t kDense = 4;
  const auto distance = static_cast<uint64_t>(step < 0 ? -step : step);
  if (distance <= kDense * length) {
    return step < 0 ? ahead_backward(reading, offset, length)
                    : ahead_forward(reading, offset + length, length, size);
  }
  if (step < 0 ? offset < distance : offset + distance >= size) return {0, 0, false};
  const size_t next = length < kMaxWindow ? length : kMaxWindow;
  return {offset + static_cast<uint64_t>(step), static_cast<uint32_t>(next), false};
}

/// Follows how the program reads: in order, forwards or backwards, or in equal steps.
Ahead read_ahead(Description& description, uint64_t offset, size_t length, uint64_t size) {
  Description::Reading& reading = description.reading;
  const uint64_t end = offset + length;
  const uint64_t expected = reading.next_offset.load(std::memory_order_relaxed);
  const auto step =
      static_cast<int64_t>(offset - reading.last_offset.load(std::memory_order_relaxed));
  const int64_t last_step = reading.step.load(std::memory_order_relaxed);
  reading.next_offset.store(end, std::memory_order_relaxed);
  reading.last_offset.store(offset, std::memory_order_relaxed);
  if (step != last_step) reading.step.store(step, std::memory_order_relaxed);
  if (offset == expected) return ahead_forward(reading, end, length, size);
  if (step == last_step && step != 0) return ahead_stepwise(reading, step, offset, length, size);
  reading.ahead_window.store(0, std::memory_order_relaxed);
  reading.ahead_until.store(0, std::memory_order_relaxed);
  return {};
}

/// One read on its way: what is done of it, and where.
struct Progress {
  IoCursor cursor;
  uint64_t offset;
  size_t left;
};

/// A program that reads in order has come upon a page that should have been fetched: the daemon had
/// enough to do, or it has gone again. From there on all is asked for anew.
uint32_t window_of_miss(Description& description, const Progress& progress, const Ahead& ahead) {
  if (!ahead.forward) {
    if (ahead.window == 0) {
      description.reading.ahead_until.store(UINT64_MAX, std::memory_order_relaxed);
    }
    return 0;
  }
  const uint32_t window = description.reading.ahead_window.load(std::memory_order_relaxed);
  if (ahead.window != 0 || window == 0) return ahead.window;
  description.reading.ahead_until.store(progress.offset + progress.left + window,
                                        std::memory_order_relaxed);
  return window;
}

void read_view(const CacheView& view, Progress& progress) {
  const size_t got = view.read(progress.cursor, progress.offset, progress.left);
  progress.offset += got;
  progress.left -= got;
}

/// The session that the view is of, if it is still the process's, and a handle in it. Else empty.
SessionRef session_of(Description& description, const CacheView& view, HandleRef& handle) {
  SessionRef live = current_session();
  if (live && &*live == view.session && copy_handle(description, *live, handle)) return live;
  return SessionRef(nullptr);
}

/// Has the daemon fill what is missing, piece by piece, and copies it.
void fetch(Description& description, const CacheView& view, Progress& progress, uint32_t window) {
  HandleRef handle;
  const SessionRef live = session_of(description, view, handle);
  if (!live) return;
  constexpr int kAttempts = 2;  // a page may go again before it was copied
  int attempts = 0;
  while (progress.left > 0 && attempts < kAttempts) {
    const size_t part = progress.left < common::kLanePayload ? progress.left : common::kLanePayload;
    // The rest of this call comes soon for sure.
    size_t ahead = progress.left - part;
    if (ahead < window) ahead = window;
    if (ahead > kMaxWindow) ahead = kMaxWindow;
    if (!live->fill(handle, progress.offset, static_cast<uint32_t>(part),
                    static_cast<uint32_t>(ahead))) {
      return;
    }
    const size_t before = progress.left;
    read_view(view, progress);
    attempts = progress.left == before ? attempts + 1 : 0;
  }
}

/// Whether nothing tells what is read next. relaxed: a hint.
bool is_random(const Description& description) {
  return description.reading.ahead_window.load(std::memory_order_relaxed) == 0;
}

bool is_stream(const Description& description, size_t length) {
  return length >= kStreamFrom && (length >= common::kLanePayload || !is_random(description));
}

/// Has the daemon fetch what follows, up to `ahead` bytes if it thinks that right, and copies what
/// comes for it.
void stream(Description& description, const CacheView& view, Progress& progress, uint32_t ahead) {
  HandleRef handle;
  const SessionRef live = session_of(description, view, handle);
  if (!live) return;
  const size_t got = live->stream(handle, progress.cursor, progress.offset, progress.left, ahead);
  progress.offset += got;
  progress.left -= got;
}

/// Nobody waits: what was asked for was there.
void stream_on(Description& description, const CacheView& view, uint64_t from) {
  if (view.full()) return;
  // Nothing to do where it has been read before: a look here and there tells.
  const uint64_t size = view.size();
  if (from >= size) return;
  const uint64_t further = from + 2 * uint64_t{kMaxWindow} < size ? from + kMaxWindow : size - 1;
  if (view.has_all(from, 1) && view.has_all(from + (further - from) / 4, 1) &&
      view.has_all(further, 1)) {
    return;
  }
  HandleRef handle;
  if (const SessionRef live = session_of(description, view, handle)) {
    live->fill_ahead(handle, from, kStreamAhead, common::Op::kStream);
  }
}

/// What cannot be had from the cache. As long as nobody has the file open for writing FUSE has
/// nothing that the bricks have not. Bytes, or -errno.
long rest(Description& description, const CacheView& view, const Call& call, Progress progress) {
  const Inode& inode = *description.inode;
  const SessionRef live = current_session();
  HandleRef handle;
  size_t done = 0;
  const uint64_t now_ms = raw::coarse_now_ms();
  const bool kept = view.full() && !kernel_may_be_older(description, view, now_ms);
  if (live && !kept && &*live == view.session && copy_handle(description, *live, handle) &&
      view.valid(now_ms, fresh_since(inode))) {
    IoCursor cursor = progress.cursor;
    done = live->read(handle, cursor, progress.offset, progress.left);
    live->count(Reason::kNone, done);
    if (done == progress.left) return static_cast<long>(done);
    progress.cursor.advance(done);
  }
  if (!still_names(call.fd, inode)) return done > 0 ? static_cast<long>(done) : -EBADF;
  catch_up(inode, call.fd);
  const long more =
      kernel_rest(call, progress.cursor, progress.left - done, progress.offset + done);
  if (live)
    live->count(kept ? Reason::kNoRoom : Reason::kNotAlone,
                more > 0 ? static_cast<uint64_t>(more) : 0);
  if (raw::is_error(more)) return done > 0 ? static_cast<long>(done) : more;
  return static_cast<long>(done) + more;
}

/// The handle in whose name a read is counted. The view came with the first one of the file, which
/// may be gone.
uint32_t slot_of(Description& description, const CacheView& view) {
  // relaxed: a hint to the daemon.
  const uint32_t session =
      std::atomic_ref(description.handle.session).load(std::memory_order_relaxed);
  if (session != view.session->id()) return view.slot;
  return std::atomic_ref(description.handle.slot).load(std::memory_order_relaxed);
}

/// It was not asked for after all: the next read does.
void ask_again_for(Description& description, const Ahead& ahead) {
  description.reading.ahead_until.store(ahead.forward ? ahead.from : ahead.from + ahead.window,
                                        std::memory_order_relaxed);
}

/// Fetches it without waiting for it.
void fetch_ahead(Description& description, const CacheView& view, const Ahead& ahead) {
  if (ahead.window == 0 || view.full()) return;
  HandleRef handle;
  if (const SessionRef live = session_of(description, view, handle);
      live && !live->fill_ahead(handle, ahead.from, ahead.window)) {
    ask_again_for(description, ahead);
  }
}

constexpr uint64_t kSampleEvery = 64 << 20;
constexpr uint64_t kEachAtRandom = kSampleEvery / 16;

/// Whether this read, which has to be fetched or is followed by what has to, is one by which is
/// found out whether the kernel has it after all: others may have read the rest of the file through
/// it, and what it has it gives a hundred times sooner. Of reads here and there it is one of so
/// many, of those in order one in so many bytes.
bool is_sample(Description& description, uint64_t bytes) {
  if (settings().eager) return false;
  std::atomic<uint64_t>& unsampled = description.reading.unsampled;
  const uint64_t sum = unsampled.load(std::memory_order_relaxed) + bytes;
  unsampled.store(sum < kSampleEvery ? sum : 0, std::memory_order_relaxed);
  return sum >= kSampleEvery;
}

/// The kernel does the beginning of it, and tells by the time that it takes.
void sample(Description& description, const Call& call, Progress& progress) {
  constexpr size_t kMost = 128 << 10;
  if (!still_names(call.fd, *description.inode)) return;
  const uint64_t start = raw::now_us();
  const long result = kernel_rest(call, progress.cursor,
                                  progress.left < kMost ? progress.left : kMost, progress.offset);
  if (result <= 0) return;
  const auto got = static_cast<size_t>(result);
  if (!is_trip(got, raw::now_us() - start)) {
    description.reading.kernel_has.store(KernelHas::kSome, std::memory_order_relaxed);
    description.cost.trips.store(0, std::memory_order_relaxed);
  }
  progress.cursor.advance(got);
  progress.offset += got;
  progress.left -= got;
}

/// Completes [offset, offset + length) with whatever it takes. Bytes, or -errno when there are
/// none.
long complete(Description& description, const CacheView& view, const Call& call, uint64_t offset,
              size_t length, uint64_t now_ms) {
  Progress progress{call.whole(), offset, length};
  const Ahead ahead = read_ahead(description, offset, length, view.size());
  const bool in_long_calls = is_stream(description, length);
  const bool random = ahead.window == 0 && is_random(description);
  const bool room = !view.full();
  const bool may_sample = room && !kernel_may_be_older(description, view, now_ms);
  if (may_sample && ahead.window != 0 && !view.has_all(ahead.from, 1) &&
      is_sample(description, ahead.window > length ? ahead.window : length)) {
    sample(description, call, progress);
  }
  read_view(view, progress);
  if (progress.left == 0) {
    view.count(slot_of(description, view), offset, length, now_ms);
    if (in_long_calls && ahead.forward) {
      stream_on(description, view, offset + length);
    } else {
      fetch_ahead(description, view, ahead);
    }
    return static_cast<long>(length);
  }
  // What is read here and there comes by a lane, too: nobody touches its page, for the first time
  // and mostly the last, before it is read again.
  if (may_sample && random && progress.left == length && is_sample(description, kEachAtRandom)) {
    sample(description, call, progress);
  }
  if (room && progress.left > 0 && (in_long_calls || random)) {
    stream(description, view, progress, in_long_calls && ahead.forward ? kStreamAhead : 0);
    if (progress.left > 0) read_view(view, progress);
  }
  if (room && progress.left > 0) {
    fetch(description, view, progress, window_of_miss(description, progress, ahead));
  }
  if (!ahead.forward) fetch_ahead(description, view, ahead);
  const size_t done = length - progress.left;
  if (done > 0) view.count(slot_of(description, view), offset, done, now_ms);
  if (progress.left == 0) return static_cast<long>(length);
  const long more = rest(description, view, call, progress);
  if (raw::is_error(more)) return done > 0 ? static_cast<long>(done) : more;
  return static_cast<long>(done) + more;
}

/// Nothing is valid: somebody writes the file, or nobody has read it for a second. The daemon looks
/// again when it is asked, and keeps looking while it sees that the file is read.
void ask_again(Description& description, const CacheView& view, uint64_t now_ms) {
  Description::Reading& reading = description.reading;
  const uint64_t pause = reading.pause_ms.load(std::memory_order_relaxed);
  if (now_ms - reading.asked_ms.load(std::memory_order_relaxed) < pause) return;
  HandleRef handle;
  const SessionRef live = session_of(description, view, handle);
  if (!live) return;
  reading.asked_ms.store(now_ms, std::memory_order_relaxed);
  reading.pause_ms.store(pause == 0                 ? kAskEveryMs
                         : pause * 2 < kAskSeldomMs ? pause * 2
                                                    : kAskSeldomMs,
                         std::memory_order_relaxed);
  if (!live->alive()) return;  // the next one is asked instead (admission.cc)
  live->note_wanted(handle.slot, now_ms);
  live->fill_ahead(handle, 0, 0);
}

/// Whether the kernel has told the program already that there is more: another host has written,
/// which has not been looked for here yet.
bool kernel_knows_more(const CacheView& view, int fd, uint64_t now_ms) {
  struct statx status;
  return !view.fuse_may_be_older(now_ms) && raw::attributes(fd, AT_STATX_DONT_SYNC, status) &&
         status.stx_size > view.size();
}

/// What is not there, and for which there is no room, is the kernel's, and so is what it may have
/// in its own cache. Where that is all of the file, it is fetched without anybody waiting. kNone:
/// booster's.
Reason kept_by_kernel(Description& description, const CacheView& view, uint64_t offset,
                      size_t length, uint64_t now_ms) {
  const KernelHas kernel_has = description.reading.kernel_has.load(std::memory_order_relaxed);
  const bool full = view.full();
  if (!full && kernel_has == KernelHas::kNothing) return Reason::kNone;
  if (kernel_may_be_older(description, view, now_ms)) return Reason::kNone;
  if (view.has_all(offset, length)) return Reason::kNone;
  // So that those pages that are there stay valid.
  view.session->note_wanted(slot_of(description, view), now_ms);
  if (full) {
    // It does, from now on; and should there be room again, what it has need not be fetched.
    if (!settings().eager && kernel_has == KernelHas::kNothing) {
      description.reading.kernel_has.store(KernelHas::kSome, std::memory_order_relaxed);
    }
    return Reason::kNoRoom;
  }
  HandleRef handle;
  if (kernel_has != KernelHas::kAll) return Reason::kTooLittle;
  if (const SessionRef live = session_of(description, view, handle)) {
    live->fill_ahead(handle, offset, kMaxWindow);
  }
  return Reason::kTooLittle;
}

/// Under a read delegation.
Reason cached_read(Description& description, const Call& call, long& result) {
  const Inode& inode = *description.inode;
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  if (view == nullptr) return Reason::kTooLittle;
  const uint64_t now_ms = raw::coarse_now_ms();
  if (!view->valid(now_ms, fresh_since(inode))) {
    ask_again(description, *view, now_ms);
    return Reason::kNotAlone;
  }
  description.reading.pause_ms.store(0, std::memory_order_relaxed);
  if (!named_lately(description, call.fd, now_ms)) return Reason::kNotProven;
  const uint64_t size = view->size();
  const bool ordered = call.offset == kSequential;
  const int64_t known =
      ordered ? description.reading.position.load(std::memory_order_relaxed) : call.offset;
  const uint64_t expected = known < 0 ? size : static_cast<uint64_t>(known);
  // What reaches the end: the kernel may have told the program already that there is more.
  if (expected + call.length > size && kernel_knows_more(*view, call.fd, now_ms)) {
    return Reason::kTail;
  }
  if (known >= 0 && expected < size) {
    const size_t there = call.length < size - expected ? call.length : size - expected;
    const Reason kept = kept_by_kernel(description, *view, expected, there, now_ms);
    if (kept != Reason::kNone) return kept;
  }
  Claim claim{.start = expected};
  if (ordered) {
    claim = claim_offset(call.fd, description, call.length, size, now_ms);
  } else if (expected < size) {
    claim.length = call.length < size - expected ? call.length : size - expected;
  }
  if (claim.length == 0) return Reason::kTail;     // at the end
  if (claim.start + claim.length > view->bytes) {  // not mapped
    if (ordered) settle_claim(call.fd, description, claim, 0);
    return Reason::kOddRange;
  }
  result = complete(description, *view, call, claim.start, claim.length, now_ms);
  if (ordered) settle_claim(call.fd, description, claim, result);
  return Reason::kNone;
}

/// Which pages have been read by who also writes them, by hash: what comes again is worth its place
/// in the page cache, and the rest is not. Relaxed: hints, of all files of the process.
class Seen {
 public:
  /// Whether the page was noted before, probably. Notes it.
  bool note(uint64_t inode, uint64_t page) {
    const uint64_t hash = (inode * 0x9e37'79b9'7f4a'7c15 + page) * 0xbf58'476d'1ce4'e5b9 >> 40;
    std::atomic<uint64_t>& word = words_[hash / 64 % kWords];
    const uint64_t bit = uint64_t{1} << (hash % 64);
    if ((word.load(std::memory_order_relaxed) & bit) != 0) return true;
    word.fetch_or(bit, std::memory_order_relaxed);
    if (noted_.fetch_add(1, std::memory_order_relaxed) < kWords * 64 / 2) return false;
    noted_.store(0, std::memory_order_relaxed);
    for (auto& each : words_) each.store(0, std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr size_t kWords = 2048;
  std::atomic<uint64_t> words_[kWords] = {};
  std::atomic<uint32_t> noted_{0};
};
constinit Seen g_seen;

/// A file that is read here and there by who also writes it is brought in pieces of kAround, if it
/// has no more than kSmallFile bytes: the kernel would have kept what was written, too.
constexpr uint64_t kAround = 128 << 10;
constexpr uint64_t kSmallFile = 64 << 20;

/// Waits about as long as a comparison with the bricks takes where they are near.
bool becomes_valid(const CacheView& view, uint64_t since) {
  constexpr uint64_t kWaitUs = 1000;
  const uint64_t deadline = raw::now_us() + kWaitUs;
  const raw::Patience looks;
  while (!view.valid(raw::coarse_now_ms(), since)) {
    if (raw::now_us() >= deadline) return false;
    looks.sleep();
  }
  return true;
}

/// Under a write delegation, out of the page cache: everything that is not in the log any more is
/// in there as it is on the bricks, or not at all.
void read_own_cache(Session& session, const HandleRef& handle, Description& description,
                    const CacheView& view, Progress& progress) {
  const uint64_t offset = progress.offset;
  const size_t length = progress.left;
  const uint64_t size = session.file_size(handle);
  // Only whole pages are in there, see CachedFile::finish() in the daemon.
  if (length > view.bytes || offset > view.bytes - length ||
      offset + length > size / common::kPageSize * common::kPageSize) {
    return;
  }
  const Ahead ahead = read_ahead(description, offset, length, size);
  const bool small = size <= kSmallFile;
  const bool again = g_seen.note(description.inode->id.inode, offset / common::kPageSize);
  const bool ordered = description.reading.ahead_window.load(std::memory_order_relaxed) != 0;
  if (!small && !again && !ordered) return;
  // Its own changes are in there at once.
  const uint64_t since = g_fresh_since_ms.load(std::memory_order_acquire);
  const uint64_t now_ms = raw::coarse_now_ms();
  std::atomic<uint64_t>& pause_ms = description.reading.pause_ms;
  if (!view.valid(now_ms, since)) {
    // Waited for only where the last question was answered well.
    const bool hopeful = pause_ms.load(std::memory_order_relaxed) == 0;
    ask_again(description, view, now_ms);
    if (!hopeful || !becomes_valid(view, since)) return;
  }
  pause_ms.store(0, std::memory_order_relaxed);
  read_view(view, progress);
  if (progress.left == 0) {
    fetch_ahead(description, view, ahead);
  } else if (small && !ordered && length <= kAround) {
    // All of a small file is there after as few trips.
    const uint64_t start = progress.offset / kAround * kAround;
    const uint64_t end = start + kAround < size ? start + kAround : size;
    const uint64_t wanted = progress.offset + progress.left;
    if (session.fill(handle, start, static_cast<uint32_t>(wanted - start),
                     static_cast<uint32_t>(end > wanted ? end - wanted : 0))) {
      read_view(view, progress);
    }
  } else {
    fetch(description, view, progress, window_of_miss(description, progress, ahead));
    if (!ahead.forward) fetch_ahead(description, view, ahead);
  }
  if (progress.left < length) {
    view.count(handle.slot, offset, length - progress.left, now_ms);
  }
}

/// Under a write delegation: out of the page cache, or from the bricks, when they have what was
/// logged of it.
Reason delegated_read(Session& session, const HandleRef& handle, Description& description,
                      const Call& call, long& result) {
  Inode& inode = *description.inode;
  if (!session.may_read(handle)) return Reason::kNotProven;
  if (!named_lately(description, call.fd, raw::coarse_now_ms())) return Reason::kNotProven;
  const bool ordered = call.offset == kSequential;
  Claim claim{.start = static_cast<uint64_t>(call.offset), .length = call.length};
  if (ordered) {
    // How far the file goes is known when what was logged has been written.
    const int64_t position = description.reading.position.load(std::memory_order_relaxed);
    if (position < 0 || static_cast<uint64_t>(position) + call.length > session.file_size(handle)) {
      drain_log(inode);
    }
    claim = claim_offset(call.fd, description, call.length, session.file_size(handle), 0);
    if (claim.length == 0) return Reason::kTail;
  }
  // The bricks have everything else that has been written.
  if (session.log_overlaps(handle, claim.start, claim.length)) drain_log(inode);
  Progress progress{call.whole(), claim.start, claim.length};
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  if (view != nullptr && view->session == &session) {
    read_own_cache(session, handle, description, *view, progress);
  }
  if (progress.left > 0) {
    IoCursor cursor = progress.cursor;
    const size_t done = session.read(handle, cursor, progress.offset, progress.left);
    session.count(Reason::kNone, done);
    progress.cursor.advance(done);
    progress.offset += done;
    progress.left -= done;
  }
  result = static_cast<long>(claim.length - progress.left);
  if (progress.left > 0) {
    // At the end of the file, after an error, without a daemon: the kernel's answer counts.
    settle(inode);
    const long more = still_names(call.fd, inode)
                          ? kernel_rest(call, progress.cursor, progress.left, progress.offset)
                          : -EBADF;
    if (!raw::is_error(more)) result += more;
    if (raw::is_error(more) && result == 0) result = more;
  }
  if (ordered) settle_claim(call.fd, description, claim, result);
  return Reason::kNone;
}

}  // namespace

bool tell_passed(Description& description, uint64_t bytes) {
  const CacheView* view = description.inode->view.load(std::memory_order_acquire);
  HandleRef handle;
  if (view == nullptr) return true;
  const auto told = static_cast<uint32_t>(bytes < common::kMaxAhead ? bytes : common::kMaxAhead);
  const SessionRef live = session_of(description, *view, handle);
  // From the page behind its end on there is nothing to fetch, should there be room again.
  return !live || live->fill_ahead(handle, view->size() + common::kPageSize, told);
}

Reason boosted_read(Description& description, const Call& call, long& result) {
  const bool cached = description.reading.cached.load(std::memory_order_acquire);
  if (!cached && description.writing.held.load(std::memory_order_relaxed) == 0) {
    return Reason::kTooLittle;
  }
  if (const Reason why = refusal(*description.inode, call); why != Reason::kNone) return why;
  if (cached) return cached_read(description, call, result);
  const SessionRef live = current_session();
  HandleRef handle;
  if (!live || live->dead()) return Reason::kNoDaemon;
  if (held_delegation(description, *live, handle) == 0) return Reason::kNotAlone;
  return delegated_read(*live, handle, description, call, result);
}

void catch_up(const Inode& inode, int fd) {
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  if (view == nullptr || !view->fuse_may_be_older(raw::coarse_now_ms())) return;
  raw::raw_syscall(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED);
  struct statx status;
  raw::attributes(fd, AT_STATX_FORCE_SYNC, status);
}

}  // namespace booster::preload
