#include "preload/admission.h"

#include <fcntl.h>

#include "preload/boosted_read.h"
#include "preload/boosted_write.h"
#include "preload/cache_view.h"
#include "preload/handle.h"
#include "preload/process.h"
#include "preload/write_delegation.h"

namespace booster::preload {

using common::Reason;

namespace {

/// What has been waited for trips when it pays to ask: about what asking costs.
constexpr uint64_t kWorthUs = 1000;
/// What a call takes that is served from memory: so much, and so much a KiB. A copy out of the
/// kernel's cache runs at 2 GB/s and more, one call of FUSE's takes 60 us and more.
constexpr uint64_t kCallUs = 20;
constexpr uint64_t kNsPerKib = 700;
/// A smaller file is read by the time that its cache is there, unless it is held open and read over
/// and over: what a copy of 4 KiB out of the cache saves, half a microsecond, is worth asking when
/// so much was read of it; of one that has less than kCacheFrom the kernel needs few pages.
constexpr uint64_t kCacheBytes = 1 << 20;
constexpr uint64_t kCacheFrom = 64 << 10;
constexpr uint64_t kSmallPays = 16 << 20;
/// Bytes until a file that was not to be had, or whose daemon was not, is looked at again.
constexpr uint64_t kLookAgain = 16 << 20;
constexpr uint64_t kConnectAgain = 256 << 10;
/// What the kernel has is asked for when so many times its size was read of it.
constexpr uint64_t kTimes = 4;
/// What is read here and there must have cost more trips: what the kernel has of it would be
/// fetched again, and it is not certain that anything is gained by what comes next.
constexpr uint64_t kColdWorthUs = 8 * kWorthUs;
/// So many of the reads in a row that were left to the kernel, which had some of the file, have
/// waited for trips: it has nothing.
constexpr uint32_t kColdTrips = 32;
/// Where the kernel had all, so many in a row are no accident.
constexpr uint32_t kSomeTrips = 4;
/// A file is asked for when so much was written to it.
constexpr uint64_t kLogFrom = 16 << 10;

/// What the kernel fetches at once for who reads in order.
constexpr uint64_t kKernelReadAhead = 128 << 10;

uint64_t memory_us(uint64_t bytes) {
  return kCallUs + (bytes >> 10) * kNsPerKib / 1000;
}

/// What was waited for is forgotten when so much more has been moved: a little now and then is no
/// sign that the bricks are needed.
constexpr uint64_t kForgetWaitsAfter = 16 << 20;

void forget_waits(Description::Cost& cost, uint64_t moved) {
  cost.waited_us.store(0, std::memory_order_relaxed);
  cost.since.store(moved, std::memory_order_relaxed);
}

/// How much was moved while `waited_us` was waited.
uint64_t moved_since(const Description::Cost& cost) {
  return cost.moved.load(std::memory_order_relaxed) - cost.since.load(std::memory_order_relaxed);
}

/// Less than a microsecond for 4 KiB, or if `strictly` less than four.
bool hardly_waited(const Description::Cost& cost, bool strictly = false) {
  return cost.waited_us.load(std::memory_order_relaxed) < moved_since(cost) >> (strictly ? 10 : 12);
}

/// Adds what the call has cost. Whether it has waited for a trip.
bool observe(Description::Cost& cost, long moved, uint64_t us) {
  if (moved <= 0) return false;
  const auto bytes = static_cast<uint64_t>(moved);
  const uint64_t sum = cost.moved.fetch_add(bytes, std::memory_order_relaxed);
  if (const uint64_t since = moved_since(cost); since >= kForgetWaitsAfter) {
    const uint64_t warm = cost.warm.load(std::memory_order_relaxed) + since;
    cost.warm.store(hardly_waited(cost) ? warm : 0, std::memory_order_relaxed);
    forget_waits(cost, sum);
  }
  if (!is_trip(bytes, us)) return false;
  cost.waited_us.fetch_add(us - memory_us(bytes), std::memory_order_relaxed);
  return true;
}

/// A look at each read costs a fifth of a microsecond, which short ones from memory would feel.
/// When so many bytes in a row, in so many calls at least, came from memory, twice as much as FUSE
/// fetches at once, so many calls are left to the kernel unseen, of so many bytes at most...
constexpr uint32_t kCloselyBytes = 256 << 10;
constexpr uint32_t kCloselyCalls = 64;
constexpr uint32_t kUnseen = 256;
constexpr uint64_t kUnseenBytes = 512 << 10;
/// ...and taken for what they were meant to be if they took no longer, all together, than this and
/// five quarters of the shortest time so far. Else the program may have waited for trips.
constexpr uint64_t kUnseenUs = 50;

/// Whether the calls that nobody has looked at, of `length` bytes each, took `took_us` together as
/// they do when they come from memory, with what the program does between them.
bool as_expected(Description::Cost& cost, uint32_t calls, uint64_t length, uint64_t took_us) {
  const uint64_t now_ns = took_us * 1000 / calls;
  const auto known_ns = static_cast<uint64_t>(cost.pace_ns.load(std::memory_order_relaxed));
  const auto known_length = static_cast<uint64_t>(cost.pace_length.load(std::memory_order_relaxed));
  if (known_ns == 0 || known_length != length || now_ns < known_ns) {
    constexpr uint64_t kMost = UINT32_MAX;
    cost.pace_ns.store(static_cast<uint32_t>(now_ns < kMost ? now_ns : kMost),
                       std::memory_order_relaxed);
    cost.pace_length.store(static_cast<uint32_t>(length), std::memory_order_relaxed);
    return known_ns != 0 && known_length == length;
  }
  return took_us <= kUnseenUs + known_ns * calls * 5 / 4 / 1000;
}

/// Decides whether the next reads are looked at. This one ended at `now_us` and took `us`.
void look_away(Description& description, const Call& call, long result, uint64_t us,
               uint64_t now_us) {
  Description::Cost& cost = description.cost;
  std::atomic<uint32_t>& closely = cost.closely;
  const uint64_t length = call.length;
  if (length == 0 || length > kUnseenBytes / 2) return;
  const uint64_t least = kCloselyCalls * length;
  const auto watched = static_cast<uint32_t>(least < kCloselyBytes ? kCloselyBytes : least);
  if (const uint32_t away = cost.away.load(std::memory_order_relaxed); away != 0) {
    cost.away.store(0, std::memory_order_relaxed);
    cost.moved.fetch_add(away * length, std::memory_order_relaxed);
    const uint64_t took_us = now_us - us - cost.away_us.load(std::memory_order_relaxed);
    if (!as_expected(cost, away, length, took_us))
      closely.store(watched, std::memory_order_relaxed);
  }
  if (is_trip(length, us)) {
    closely.store(watched, std::memory_order_relaxed);
    return;
  }
  if (result != static_cast<long>(length)) return;  // the end of the file tells nothing
  if (uint32_t left = closely.load(std::memory_order_relaxed); left != 0) {
    if (left > watched) left = watched;  // the first one
    closely.store(left > length ? left - static_cast<uint32_t>(length) : 0,
                  std::memory_order_relaxed);
    return;
  }
  const uint64_t fit = kUnseenBytes / length;
  const auto next = static_cast<uint32_t>(fit < kUnseen ? fit : kUnseen);
  // Acquire: partner of the release with which a view is shown, after which it is counted again.
  const uint32_t views = g_views_made.load(std::memory_order_acquire);
  if (description.inode->view.load(std::memory_order_acquire) != nullptr ||
      description.splitting.load(std::memory_order_relaxed)) {
    return;
  }
  cost.away.store(next, std::memory_order_relaxed);
  cost.away_us.store(now_us, std::memory_order_relaxed);
  cost.away_views.store(views, std::memory_order_relaxed);
  cost.unseen.store(next, std::memory_order_relaxed);
}

/// What the kernel has, by whether this read of its had to wait for the bricks.
void note_trip(Description& description, uint64_t bytes, bool trip) {
  Description::Cost& cost = description.cost;
  const uint32_t in_a_row = trip ? cost.trips.load(std::memory_order_relaxed) + 1 : 0;
  cost.trips.store(in_a_row, std::memory_order_relaxed);
  if (!trip) return;
  const bool in_order = description.reading.in_order.load(std::memory_order_relaxed);
  cost.fetched.fetch_add(in_order && bytes < kKernelReadAhead ? kKernelReadAhead : bytes,
                         std::memory_order_relaxed);
  std::atomic<KernelHas>& kernel_has = description.reading.kernel_has;
  const KernelHas before = kernel_has.load(std::memory_order_relaxed);
  if (before == KernelHas::kAll && in_a_row >= kSomeTrips) {
    kernel_has.store(KernelHas::kSome, std::memory_order_relaxed);
  } else if (before == KernelHas::kSome && in_a_row >= kColdTrips) {
    kernel_has.store(KernelHas::kNothing, std::memory_order_relaxed);
  }
}

/// Whether reads like this have waited for so many trips that the kernel has too little of the
/// file.
bool has_waited_enough(const Description& description, const Call& call) {
  const Description::Cost& cost = description.cost;
  const bool in_order = description.reading.in_order.load(std::memory_order_relaxed);
  constexpr size_t kLongCall = 64 << 10;
  return cost.waited_us.load(std::memory_order_relaxed) >= (in_order ? kWorthUs : kColdWorthUs) &&
         !hardly_waited(cost, !in_order && call.length < kLongCall);
}

/// Whether a file that is read is worth its page cache, and what the kernel has of it.
bool reads_pay(Description& description, const Call& call, KernelHas& kernel_has) {
  Description::Cost& cost = description.cost;
  const uint64_t moved = cost.moved.load(std::memory_order_relaxed);
  bool slow = has_waited_enough(description, call);
  if (!slow && moved < cost.look_at.load(std::memory_order_relaxed)) return false;
  struct statx status;
  if (!raw::attributes(call.fd, AT_STATX_DONT_SYNC, status) || status.stx_size < kCacheFrom) {
    cost.look_at.store(moved + kCacheBytes, std::memory_order_relaxed);
    forget_waits(cost, moved);
    return false;
  }
  const bool small = status.stx_size < kCacheBytes;
  // The same goes for the end of a larger one, until it is read once more.
  if (slow && (small || (moved <= status.stx_size && status.stx_size - moved < kCacheBytes))) {
    forget_waits(cost, moved);
    slow = false;
  }
  uint64_t enough = kTimes * status.stx_size;
  // Tried with read(): 64 KiB calls took four times as long while the file moved.
  if (small && call.offset == kSequential) enough = moved + kSmallPays;
  if (small && enough < kSmallPays) enough = kSmallPays;
  kernel_has = slow                  ? KernelHas::kNothing
               : hardly_waited(cost) ? KernelHas::kAll
                                     : KernelHas::kSome;
  if (slow || moved >= enough) return true;
  cost.look_at.store(enough, std::memory_order_relaxed);
  return false;
}

/// There is no room for what is read: when that has cost enough, the daemon hears how much it was.
void tell_of_misses(Description& description) {
  Description::Cost& cost = description.cost;
  if (cost.waited_us.load(std::memory_order_relaxed) < kWorthUs) return;
  forget_waits(cost, cost.moved.load(std::memory_order_relaxed));
  const uint64_t fetched = cost.fetched.load(std::memory_order_relaxed);
  if (tell_passed(description, fetched)) {
    cost.fetched.fetch_sub(fetched, std::memory_order_relaxed);
  }
}

/// The kernel has some of the file, or all: whether that is still so, also where it fetches more
/// than is asked for, so that few reads in a row wait.
void look_at_kernels(Description& description, const Call& call) {
  Description::Cost& cost = description.cost;
  std::atomic<KernelHas>& kernel_has = description.reading.kernel_has;
  const KernelHas before = kernel_has.load(std::memory_order_relaxed);
  if (before == KernelHas::kNothing) return;
  if (has_waited_enough(description, call)) {
    forget_waits(cost, cost.moved.load(std::memory_order_relaxed));
    kernel_has.store(KernelHas::kNothing, std::memory_order_relaxed);
    return;
  }
  if (before == KernelHas::kAll) return;
  const CacheView* view = description.inode->view.load(std::memory_order_acquire);
  const uint64_t warm = cost.warm.load(std::memory_order_relaxed);
  if (view != nullptr && warm != 0 && warm / kTimes >= view->size()) {
    kernel_has.store(KernelHas::kAll, std::memory_order_relaxed);
  }
}

bool writes_pay(const Description& description) {
  return description.cost.moved.load(std::memory_order_relaxed) >= kLogFrom &&
         description.cost.waited_us.load(std::memory_order_relaxed) >= kWorthUs;
}

/// Whether the description can have what is asked for at all.
bool may_ask(const Description& description) {
  const Inode& inode = *description.inode;
  return inode.never.load(std::memory_order_relaxed) == Reason::kNone &&
         inode.streams.load(std::memory_order_relaxed) == 0;
}

}  // namespace

bool is_trip(uint64_t bytes, uint64_t us) {
  return us > memory_us(bytes);
}

Reason refusal(const Inode& inode, const Call& call) {
  const Reason never = inode.never.load(std::memory_order_relaxed);
  if (never != Reason::kNone) return never;
  // A stream may show older bytes than the daemon has compared.
  if (inode.streams.load(std::memory_order_relaxed) != 0) return Reason::kStream;
  const int kept = call.direction == Direction::kWrite ? RWF_SYNC | RWF_DSYNC : 0;
  if ((call.rwf_flags & ~kept) != 0) return Reason::kFlags;
  if (call.length == 0 || !call.in_user_space ||
      (call.offset != kSequential &&
       static_cast<uint64_t>(call.offset) + call.length > static_cast<uint64_t>(INT64_MAX))) {
    return Reason::kOddRange;
  }
  return Reason::kNone;
}

void note_kernel_read(Description& description, const Call& call, long result, uint64_t us,
                      uint64_t now_us) {
  Description::Reading& reading = description.reading;
  const bool was_away = description.cost.away.load(std::memory_order_relaxed) != 0;
  const int64_t known =
      call.offset != kSequential ? call.offset : reading.position.load(std::memory_order_relaxed);
  if (known >= 0) {
    const auto start = static_cast<uint64_t>(known);
    const bool in_order = start == reading.next_offset.load(std::memory_order_relaxed);
    if (!was_away) reading.in_order.store(in_order, std::memory_order_relaxed);
    reading.next_offset.store(start + (result > 0 ? static_cast<uint64_t>(result) : 0),
                              std::memory_order_relaxed);
  }
  if (call.offset == kSequential && known >= 0) {
    reading.position.store(raw::is_error(result) ? -1 : known + result, std::memory_order_relaxed);
  }
  const bool trip = observe(description.cost, result, us);
  note_trip(description, result > 0 ? static_cast<uint64_t>(result) : 0, trip);
  look_away(description, call, result, us, now_us);
}

void note_kernel_write(Description& description, long result, uint64_t us) {
  constexpr uint64_t kMost = 10'000'000;
  std::atomic<uint32_t>& slow = description.cost.slow_write_us;
  const uint32_t before = slow.load(std::memory_order_relaxed) / 4 * 3;
  const auto now = static_cast<uint32_t>(us < kMost ? us : kMost);
  slow.store(now > before ? now : before, std::memory_order_relaxed);
  observe(description.cost, result, us);
}

Reason ask_to_read(Description& description, const Call& call, Reason reason) {
  if (!may_ask(description) || description.reading.never.load(std::memory_order_relaxed)) {
    return reason;
  }
  const bool eager = settings().eager;
  const uint32_t stage = description.stage.load(std::memory_order_relaxed);
  if (stage == Description::kReady && description.reading.cached.load(std::memory_order_relaxed)) {
    // relaxed: a daemon that has died since is found out by session().
    const uint32_t mine =
        std::atomic_ref(description.handle.session).load(std::memory_order_relaxed);
    const SessionRef live = current_session();
    if (live && live->id() == mine && !live->dead()) {
      if (reason == Reason::kNoRoom) tell_of_misses(description);
      if (reason == Reason::kTooLittle) look_at_kernels(description, call);
      return reason;
    }
    // It has paid once: the next daemon is asked as soon as it is there.
    const uint64_t moved = description.cost.moved.load(std::memory_order_relaxed);
    if (description.cost.look_at.load(std::memory_order_relaxed) > moved + kConnectAgain) {
      description.cost.look_at.store(moved, std::memory_order_relaxed);
    }
  }
  if (stage != Description::kPending) {
    KernelHas kernel_has = KernelHas::kNothing;
    if (!eager && !reads_pay(description, call, kernel_has)) return reason;
    // Whatever comes of it, it is not looked at again before as much has been read once more.
    const uint64_t moved = description.cost.moved.load(std::memory_order_relaxed);
    forget_waits(description.cost, moved);
    description.cost.look_at.store(moved + kLookAgain, std::memory_order_relaxed);
    // A description that can write is asked for when it does.
    const long flags = raw::status_flags(call.fd);
    if (raw::is_error(flags) || (flags & (O_ACCMODE | O_PATH)) != O_RDONLY) {
      description.reading.never.store(true, std::memory_order_relaxed);
      return reason;
    }
    if ((flags & O_DIRECT) != 0) return Reason::kDirect;
    description.reading.kernel_has.store(kernel_has, std::memory_order_relaxed);
  }
  const SessionRef live = session(eager);
  if (!live) {
    // It may be connecting.
    description.cost.look_at.store(
        description.cost.moved.load(std::memory_order_relaxed) + kConnectAgain,
        std::memory_order_relaxed);
    return Reason::kNoDaemon;
  }
  if (!description.engaging.lock_for(eager_wait_ms())) return Reason::kPending;
  reason = advance_handle(*live, description, call.fd);
  description.engaging.unlock();
  return reason;
}

Reason ask_to_write(Description& description, const Call& call, Reason reason) {
  if (!may_ask(description) || !description.own ||
      description.shared.load(std::memory_order_relaxed)) {
    return reason;
  }
  const bool eager = settings().eager;
  if (!eager && !writes_pay(description)) return reason;
  // It was asked for lately, and not to be had.
  const uint64_t ask_at_ms = description.writing.ask_at_ms.load(std::memory_order_relaxed);
  if (!eager && raw::coarse_now_ms() < ask_at_ms) return Reason::kNotAlone;
  const SessionRef live = session(eager);
  if (!live) return Reason::kNoDaemon;
  // What it would be given back for at the next write.
  const long flags = raw::status_flags(call.fd);
  if (raw::is_error(flags)) return Reason::kNotProven;
  if (const Reason never = reason_of(flags); never != Reason::kNone) {
    description.writing.never.store(never, std::memory_order_relaxed);
    return never;
  }
  if (raw::has_file_size_limit()) return Reason::kFsizeLimit;
  return ask_delegation(*live, description, call.fd);
}

}  // namespace booster::preload
