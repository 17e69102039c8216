#include "preload/cache_view.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "preload/connector.h"
#include "preload/lock.h"
#include "preload/pool.h"

namespace booster::preload {

BOOSTER_AT_HAND constinit std::atomic<uint32_t> g_view_count{0};
BOOSTER_AT_HAND constinit std::atomic<uint32_t> g_views_made{0};

using common::kDataStart;
using common::kPageSize;
using common::kWordsStart;

namespace {

constinit Mutex g_lock;
constinit Pool<CacheView> g_views;

/// So many pages are checked, copied and checked again at once.
constexpr uint64_t kPiecePages = 16;
/// Reads of so many bytes are worth a system call that maps their pages.
constexpr size_t kMapFrom = 64 << 10;
/// No more at once: what has been dropped since it was looked at would take memory again.
constexpr size_t kMapAtOnce = 1 << 20;

size_t words_bytes(uint64_t bytes) {
  const uint64_t pages = bytes / kPageSize;
  const uint64_t end = kWordsStart + pages * sizeof(common::PageWord);
  return static_cast<size_t>((end + kPageSize - 1) / kPageSize * kPageSize);
}

long map_shared(int fd, size_t bytes, uint64_t offset) {
  // Every page that somebody touches takes memory, also one that was never filled. So a program
  // that locks its memory must not lock this, and a core dump must not have it.
  const auto length = static_cast<long>(bytes);
  const long mapped =
      raw::raw_syscall(SYS_mmap, 0, length, PROT_NONE, MAP_SHARED, fd, static_cast<long>(offset));
  if (raw::is_error(mapped)) return mapped;
  raw::raw_syscall(SYS_munlock, mapped, length);
  raw::raw_syscall(SYS_madvise, mapped, length, MADV_DONTDUMP);
  // Rights do not pass to children: after fork this range does not exist there.
  raw::raw_syscall(SYS_madvise, mapped, length, MADV_DONTFORK);
  const long allowed = raw::raw_syscall(SYS_mprotect, mapped, length, PROT_READ);
  if (!raw::is_error(allowed)) return mapped;
  raw::raw_syscall(SYS_munmap, mapped, length);
  return allowed;
}

/// Zeros that take no memory, also in a program that locks its own, and are no child's.
long map_empty(long bytes, long protection) {
  const long mapped = raw::raw_syscall(SYS_mmap, 0, bytes, PROT_NONE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw::is_error(mapped)) return mapped;
  raw::raw_syscall(SYS_munlock, mapped, bytes);
  raw::raw_syscall(SYS_madvise, mapped, bytes, MADV_DONTFORK);
  raw::raw_syscall(SYS_mprotect, mapped, bytes, protection);
  return mapped;
}

}  // namespace

void CacheView::map_pages_of(uint64_t offset, size_t length) const {
  const uint64_t first = offset / kPageSize;
  const uint64_t end = (offset + length + kPageSize - 1) / kPageSize;
  const uint32_t floor = header->floor.load(std::memory_order_relaxed);
  uint64_t valid = first;
  // Relaxed: what is copied is looked at again.
  while (valid < end && common::is_valid(words[valid].load(std::memory_order_relaxed), floor)) {
    ++valid;
  }
  if (valid == first) return;
  constexpr long kPopulateRead = 22;  // MADV_POPULATE_READ, since Linux 5.14
  raw::raw_syscall(SYS_madvise, raw::word(data + first * kPageSize),
                   static_cast<long>((valid - first) * kPageSize), kPopulateRead);
  mapped_until.store(valid * kPageSize, std::memory_order_relaxed);
}

size_t CacheView::read(IoCursor& cursor, uint64_t offset, size_t length) const {
  size_t done = 0;
  if (offset >= bytes) return 0;
  if (length > bytes - offset) length = static_cast<size_t>(bytes - offset);
  const bool maps = length >= kMapFrom;
  while (done < length) {
    const uint64_t at = offset + done;
    const uint64_t first = at / kPageSize;
    uint64_t piece = (first + kPiecePages) * kPageSize - at;
    if (piece > length - done) piece = length - done;
    if (maps && at + piece > mapped_until.load(std::memory_order_relaxed)) {
      map_pages_of(at, length - done < kMapAtOnce ? length - done : kMapAtOnce);
    }
    const uint64_t count = (at + piece - 1) / kPageSize - first + 1;
    uint32_t before[kPiecePages];
    const uint32_t floor = header->floor.load(std::memory_order_relaxed);
    for (uint64_t i = 0; i < count; ++i) {
      // Acquire: partner of the daemon's release when it had filled the page.
      before[i] = words[first + i].load(std::memory_order_acquire);
      if (!common::is_valid(before[i], floor)) return done;
    }
    const IoCursor start = cursor;
    if (!cursor.copy_out(data + at, static_cast<size_t>(piece))) return done;
    // Acquire: partner of the daemon's release fence before it changes a page. If the copy has
    // anything of that, a word below or the floor has changed.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (header->floor.load(std::memory_order_relaxed) != floor) {
      cursor = start;
      return done;
    }
    for (uint64_t i = 0; i < count; ++i) {
      if (words[first + i].load(std::memory_order_relaxed) != before[i]) {
        cursor = start;
        return done;
      }
    }
    done += static_cast<size_t>(piece);
  }
  return done;
}

void CacheView::count(uint32_t slot_of_reader, uint64_t offset, size_t length,
                      uint64_t now_ms) const {
  session->note_cached(slot_of_reader, offset, length, now_ms);
}

CacheView* map_view(int fd, uint64_t bytes, uint32_t slot) {
  raw::FileId id;
  // What the program may map itself is counted against its limit.
  rlimit limit{};
  if (raw::is_error(raw::raw_syscall(SYS_prlimit64, 0, RLIMIT_AS, 0, raw::word(&limit))) ||
      limit.rlim_cur != RLIM_INFINITY) {
    return nullptr;
  }
  if (!raw::identify(fd, id) || bytes == 0 || bytes > common::kMaxCachedBytes) return nullptr;
  bytes = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  const size_t head = words_bytes(bytes);
  const long words = map_shared(fd, head, 0);
  if (raw::is_error(words)) return nullptr;
  const long data = map_shared(fd, static_cast<size_t>(bytes), kDataStart);
  CacheView* view = nullptr;
  if (!raw::is_error(data)) {
    LockGuard guard(g_lock);
    view = g_views.allocate();
  }
  if (view == nullptr) {
    if (!raw::is_error(data)) raw::raw_syscall(SYS_munmap, data, static_cast<long>(bytes));
    raw::raw_syscall(SYS_munmap, words, static_cast<long>(head));
    return nullptr;
  }
  view->header = reinterpret_cast<const common::CacheHeader*>(words);
  view->words = reinterpret_cast<const common::PageWord*>(words + kWordsStart);
  view->data = reinterpret_cast<const std::byte*>(data);
  view->bytes = bytes;
  view->identity = id.inode;
  view->session = nullptr;
  view->dropped = false;
  view->mapped_until.store(0, std::memory_order_relaxed);
  view->slot = slot;
  view->older = nullptr;
  g_view_count.fetch_add(1, std::memory_order_relaxed);
  return view;
}

void unmap_view(CacheView* view) {
  Session* session = view->session;
  {
    // Not beside drop_views_of(): the addresses are others' afterwards.
    LockGuard guard(g_lock);
    raw::raw_syscall(SYS_munmap, raw::word(view->header),
                     static_cast<long>(words_bytes(view->bytes)));
    raw::raw_syscall(SYS_munmap, raw::word(view->data), static_cast<long>(view->bytes));
    view->header = nullptr;
    view->session = nullptr;
    g_views.release(view);
  }
  g_view_count.fetch_sub(1, std::memory_order_relaxed);
  if (session != nullptr) g_connector.release(session);
}

void drop_views_of(const Session* session) {
  LockGuard guard(g_lock);
  g_views.for_each([session](CacheView& view) {
    if (view.session != session || view.header == nullptr || view.dropped) return;
    // In one step each, since somebody may be looking: first a header and words by which nothing is
    // valid, but FUSE as old as before; then zeros, which whoever is copying finds out by the
    // words.
    const auto head = static_cast<long>(words_bytes(view.bytes));
    const auto pages = static_cast<long>(view.bytes);
    const long empty = map_empty(head, PROT_READ | PROT_WRITE);
    const long zeros = map_empty(pages, PROT_READ);
    if (raw::is_error(empty) || raw::is_error(zeros)) {
      if (!raw::is_error(empty)) raw::raw_syscall(SYS_munmap, empty, head);
      if (!raw::is_error(zeros)) raw::raw_syscall(SYS_munmap, zeros, pages);
      return;
    }
    reinterpret_cast<common::CacheHeader*>(empty)->changed_ms.store(
        view.header->changed_ms.load(std::memory_order_relaxed), std::memory_order_relaxed);
    if (raw::is_error(raw::raw_syscall(SYS_mremap, empty, head, head, MREMAP_MAYMOVE | MREMAP_FIXED,
                                       raw::word(view.header)))) {
      raw::raw_syscall(SYS_munmap, empty, head);
      raw::raw_syscall(SYS_munmap, zeros, pages);
      return;
    }
    if (raw::is_error(raw::raw_syscall(SYS_mremap, zeros, pages, pages,
                                       MREMAP_MAYMOVE | MREMAP_FIXED, raw::word(view.data)))) {
      raw::raw_syscall(SYS_munmap, zeros, pages);
    }
    view.dropped = true;
  });
}

void views_after_fork() {
  g_lock.reset();
  g_view_count.store(0, std::memory_order_relaxed);
  g_views.reset([](CacheView&) { return false; });
}

}  // namespace booster::preload
