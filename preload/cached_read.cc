// Reads out of the page cache: a hit asks nobody, a miss asks the daemon to fill, and what cannot
// be filled is the kernel's. Sees in what order a program reads, and has the next pages fetched
// before they are asked for.
#include <errno.h>
#include <fcntl.h>

#include "preload/cache_view.h"
#include "preload/call.h"
#include "preload/policy.h"
#include "preload/process.h"
#include "preload/settle.h"

namespace booster::preload {

using common::Reason;

namespace {

constexpr uint32_t kFirstWindow = 128 << 10;
constexpr uint32_t kMaxWindow = 8 << 20;
/// What the kernel has is left to it, until so much was read of it: then the daemon fetches it,
/// too, which costs as much as some reads of it save. Who reads in order comes back to what he has
/// read only after all the rest.
constexpr uint64_t kServesInOrder = 4;      // times the size of the file
constexpr uint64_t kServesShareOfSize = 8;  // an eighth of it, of one who reads here and there
/// More than the kernel reads ahead on any mount that we know of.
constexpr uint64_t kReadAhead = 8 << 20;
/// How often the daemon is asked whether a file is valid again.
constexpr uint64_t kAskEveryMs = 20;

/// Whether the number still names the file, and is read through caches. Asked once in each tick of
/// the coarse clock: whatever is done to numbers through libc is seen at once.
bool named_lately(Description& description, int fd, uint64_t now_ms) {
  if (description.checked_ms.load(std::memory_order_relaxed) == now_ms) return true;
  if (!still_names(fd, *description.inode)) {
    g_files.forget(fd);
    return false;
  }
  // Whoever has the description too may have set it.
  const long flags = raw::status_flags(fd);
  if (raw::is_error(flags) || (flags & O_DIRECT) != 0) {
    description.cached.store(false, std::memory_order_release);
    return false;
  }
  description.checked_ms.store(now_ms, std::memory_order_relaxed);
  return true;
}

/// From when on a comparison with the bricks counts: since the program has opened the file, changed
/// it, or taken a lock.
uint64_t fresh_since(const Inode& inode) {
  // Acquire: partners of the releases in file_table.cc, settle.h and policy.cc.
  const uint64_t own = inode.fresh_since_ms.load(std::memory_order_acquire);
  const uint64_t all = g_fresh_since_ms.load(std::memory_order_acquire);
  return own > all ? own : all;
}

/// Follows how the program reads. Returns how much beyond [offset, offset + length) is worth
/// fetching, from `from` on.
uint32_t read_ahead(Description& description, uint64_t offset, size_t length, uint64_t size,
                    uint64_t& from) {
  const uint64_t end = offset + length;
  const uint64_t expected = description.next_offset.load(std::memory_order_relaxed);
  description.next_offset.store(end, std::memory_order_relaxed);
  if (offset != expected) {
    description.ahead_window.store(0, std::memory_order_relaxed);
    description.ahead_until.store(0, std::memory_order_relaxed);
    return 0;
  }
  const uint64_t until = description.ahead_until.load(std::memory_order_relaxed);
  uint32_t window = description.ahead_window.load(std::memory_order_relaxed);
  from = until > end ? until : end;
  if (from >= size || (window != 0 && end + window / 2 < until)) return 0;
  window = window == 0 ? kFirstWindow : window * 2;
  if (window < length && length < kMaxWindow) window = static_cast<uint32_t>(length);
  if (window > kMaxWindow) window = kMaxWindow;
  description.ahead_window.store(window, std::memory_order_relaxed);
  description.ahead_until.store(from + window, std::memory_order_relaxed);
  return window;
}

/// One read on its way: what is done of it, and where.
struct Progress {
  IoCursor cursor;
  uint64_t offset;
  size_t left;
};

/// A program that reads in order has come upon a page that should have been fetched: the daemon had
/// enough to do, or it has gone again. From there on all is asked for anew.
uint32_t window_of_miss(Description& description, const Progress& progress, uint32_t asked) {
  const uint32_t window = description.ahead_window.load(std::memory_order_relaxed);
  if (asked != 0 || window == 0) return asked;
  description.ahead_until.store(progress.offset + progress.left + window,
                                std::memory_order_relaxed);
  return window;
}

void read_view(const CacheView& view, Progress& progress) {
  const size_t got = view.read(progress.cursor, progress.offset, progress.left);
  progress.offset += got;
  progress.left -= got;
}

/// Has the daemon fill what is missing, piece by piece, and copies it.
void fetch(Description& description, const CacheView& view, Progress& progress, uint32_t window) {
  const SessionRef live = current_session();
  HandleRef handle;
  if (!live || live.operator->() != view.session ||
      !copy_handle(description, *live.operator->(), handle)) {
    return;
  }
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

/// What the kernel has in its own cache costs less there than a trip to the bricks; where the
/// program comes back often, the daemon gets it all the same, without anybody waiting.
bool kernel_has(Description& description, const CacheView& view, const Call& call,
                const Progress& progress) {
  if (settings().eager || view.fuse_may_be_older(raw::coarse_now_ms())) return false;
  const bool in_order = description.ahead_window.load(std::memory_order_relaxed) != 0;
  uint64_t span = progress.left;
  if (in_order) {
    // The kernel's read-ahead, too, has what is asked for next, and waits for what is after that.
    if (span < kReadAhead) span = kReadAhead;
    const uint64_t size = view.size();
    if (size > progress.offset && span > size - progress.offset) span = size - progress.offset;
  }
  const uint64_t pages = (span + common::kPageSize - 1) / common::kPageSize;
  if (raw::cached_pages(call.fd, progress.offset, span, pages) * 2 < pages) return false;
  const SessionRef live = current_session();
  leave_to_kernel(live.operator->(), description, Reason::kCached, progress.left);
  if (!live) return true;
  HandleRef handle;
  const uint64_t served =
      description.kernel_served.fetch_add(progress.left, std::memory_order_relaxed);
  const uint64_t enough =
      in_order ? kServesInOrder * view.size() : view.size() / kServesShareOfSize;
  if (served >= enough && live.operator->() == view.session &&
      copy_handle(description, *live.operator->(), handle)) {
    // The more he has read, the less it matters when he does not read some of what is fetched.
    uint64_t wanted = served / kServesShareOfSize;
    if (wanted < progress.left + kFirstWindow) wanted = progress.left + kFirstWindow;
    if (wanted > kMaxWindow) wanted = kMaxWindow;
    live->fill_ahead(handle, progress.offset, static_cast<uint32_t>(wanted));
  }
  return true;
}

/// What cannot be had from the cache. FUSE may hold older bytes than the cache had a moment ago, so
/// the bricks are asked. Bytes, or -errno.
long rest(Description& description, const CacheView& view, const Call& call,
          const Progress& progress, bool by_kernel) {
  Inode& inode = *description.inode;
  if (!still_names(call.fd, inode)) return -EBADF;
  const SessionRef live = current_session();
  HandleRef handle;
  if (!by_kernel && live && live.operator->() == view.session &&
      copy_handle(description, *live.operator->(), handle)) {
    const long drained = drain(inode, call.fd, false);
    if (raw::is_error(drained)) return drained;
    if (drained != kNotNow) {
      return transfer_at(*live.operator->(), handle, inode, call, progress.cursor, progress.offset,
                         progress.left);
    }
  }
  settle(inode);
  return kernel_rest(call, progress.cursor, progress.left, progress.offset);
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

/// Completes [offset, offset + length) with whatever it takes. Bytes, or -errno when there are
/// none.
long complete(Description& description, const CacheView& view, const Call& call, uint64_t offset,
              size_t length, uint64_t now_ms) {
  IoCursor cursor{call.vectors, call.count};
  cursor.advance(0);
  Progress progress{cursor, offset, length};
  uint64_t from = 0;
  const uint32_t window = read_ahead(description, offset, length, view.size(), from);
  read_view(view, progress);
  if (progress.left == 0) {
    view.count(slot_of(description, view), offset, length, now_ms);
    if (window != 0) {
      const SessionRef live = current_session();
      HandleRef handle;
      if (live && live.operator->() == view.session &&
          copy_handle(description, *live.operator->(), handle) &&
          !live->fill_ahead(handle, from, window)) {
        // Asked again at the next read.
        description.ahead_until.store(from, std::memory_order_relaxed);
      }
    }
    return static_cast<long>(length);
  }
  const bool by_kernel = kernel_has(description, view, call, progress);
  if (!by_kernel) fetch(description, view, progress, window_of_miss(description, progress, window));
  const size_t done = length - progress.left;
  if (done > 0) view.count(slot_of(description, view), offset, done, now_ms);
  if (progress.left == 0) return static_cast<long>(length);
  const long more = rest(description, view, call, progress, by_kernel);
  if (raw::is_error(more)) return done > 0 ? static_cast<long>(done) : more;
  return static_cast<long>(done) + more;
}

/// Nothing is valid: somebody writes the file, or nobody has read it for a second. The daemon looks
/// again when it is asked, and keeps looking while it sees that the file is read.
void ask_again(Description& description, const CacheView& view, uint64_t now_ms) {
  const SessionRef live = current_session();
  HandleRef handle;
  if (!live || live.operator->() != view.session ||
      now_ms - description.asked_ms.load(std::memory_order_relaxed) < kAskEveryMs ||
      !copy_handle(description, *live.operator->(), handle)) {
    return;
  }
  description.asked_ms.store(now_ms, std::memory_order_relaxed);
  live->note_wanted(handle.slot, now_ms);
  live->fill_ahead(handle, 0, 0);
}

}  // namespace

bool cached_read(Description& description, const Call& call, long& result) {
  const Inode& inode = *description.inode;
  const CacheView* view = inode.view.load(std::memory_order_acquire);
  // A mapping or a stream may show older bytes than the daemon has compared.
  if (view == nullptr || inode.never.load(std::memory_order_relaxed) != Reason::kNone ||
      inode.streams.load(std::memory_order_relaxed) != 0) {
    return false;
  }
  const uint64_t now_ms = raw::coarse_now_ms();
  if (!view->valid(now_ms, fresh_since(inode))) {
    ask_again(description, *view, now_ms);
    return false;
  }
  if (!named_lately(description, call.fd, now_ms)) return false;
  const uint64_t size = view->size();
  if (call.offset != kSequential) {
    const auto offset = static_cast<uint64_t>(call.offset);
    if (offset >= size) return false;
    const size_t length = call.length < size - offset ? call.length : size - offset;
    if (offset + length > view->bytes) return false;
    result = complete(description, *view, call, offset, length, now_ms);
    return true;
  }

  int64_t position = description.position.load(std::memory_order_relaxed);
  // Where the program has been is not always where it is, and near the end that would make the call
  // shorter.
  if (position < 0 || static_cast<uint64_t>(position) + call.length > size) {
    position = raw::seek(call.fd, 0, SEEK_CUR);
  }
  // At the end it is the kernel's to say.
  if (position < 0 || static_cast<uint64_t>(position) >= size) return false;
  const uint64_t left = size - static_cast<uint64_t>(position);
  const auto length = static_cast<int64_t>(call.length < left ? call.length : left);
  if (static_cast<uint64_t>(position + length) > view->bytes) return false;
  const long after = raw::seek(call.fd, length, SEEK_CUR);
  if (raw::is_error(after)) return false;
  if (after != position + length && static_cast<uint64_t>(after) > size) {
    // Somebody has moved the offset, and there is less than was claimed.
    raw::seek(call.fd, -length, SEEK_CUR);
    description.position.store(-1, std::memory_order_relaxed);
    return false;
  }
  result = complete(description, *view, call, static_cast<uint64_t>(after - length),
                    static_cast<size_t>(length), now_ms);
  const long used = raw::is_error(result) ? 0 : result;
  // Relative, so that it is right whoever else has claimed meanwhile.
  if (used < length && still_names(call.fd, inode)) {
    raw::seek(call.fd, used - length, SEEK_CUR);
  }
  description.position.store(used == length ? after : -1, std::memory_order_relaxed);
  return true;
}

void adopt_cache(Session& session, Description& description, const HandleRef& handle) {
  if (!session.allows(handle, common::Op::kRead)) return;
  Inode& inode = *description.inode;
  if (CacheView* view = session.take_view(handle)) {
    CacheView* current = inode.view.load(std::memory_order_acquire);
    // Another description of the file has brought the same.
    if (current != nullptr && current->identity == view->identity &&
        current->session == view->session && current->bytes >= view->bytes) {
      unmap_view(view);
    } else {
      do {
        view->older = current;
      } while (!inode.view.compare_exchange_weak(current, view, std::memory_order_acq_rel));
    }
  }
  if (inode.view.load(std::memory_order_acquire) != nullptr) {
    description.cached.store(true, std::memory_order_release);
  }
}

}  // namespace booster::preload
