#include "preload/offset.h"

#include <sys/single_threaded.h>

#include "preload/handle.h"
#include "preload/lifetime.h"
#include "preload/process.h"
#include "preload/settle.h"
#include "preload/stdio_tables.h"

namespace booster::preload {

BOOSTER_AT_HAND constinit std::atomic<bool> g_has_borrowed{false};

namespace {

BOOSTER_AT_HAND constinit std::atomic<bool> g_never_borrows{false};

bool may_borrow(const Description& description) {
  return __libc_single_threaded != 0 && description.own && streams_hooked() &&
         !description.shared.load(std::memory_order_relaxed) &&
         !description.reading.never_borrowed.load(std::memory_order_relaxed) &&
         !description.inode->strangers.load(std::memory_order_relaxed) && !is_sharing() &&
         !is_leaving() && !g_never_borrows.load(std::memory_order_relaxed);
}

}  // namespace

Claim claim_offset(int fd, Description& description, size_t length, uint64_t size,
                   uint64_t tick_ms) {
  Description::Reading& reading = description.reading;
  const bool lent = tick_ms != 0 && may_borrow(description);
  int64_t position = reading.position.load(std::memory_order_relaxed);
  if (lent && position >= 0 && reading.exact_ms.load(std::memory_order_relaxed) == tick_ms) {
    const auto start = static_cast<uint64_t>(position);
    if (start >= size) return {};
    return {start, length < size - start ? length : size - start, true};
  }
  give_back_offset(fd, description);
  if (reading.owed.load(std::memory_order_relaxed) != 0) return {};  // not the file any more
  position = reading.position.load(std::memory_order_relaxed);
  // Where the program has been is not always where it is, and near the end that would make the call
  // shorter.
  if (position < 0 || static_cast<uint64_t>(position) + length > size) {
    position = raw::seek(fd, 0, SEEK_CUR);
  }
  if (position < 0 || static_cast<uint64_t>(position) >= size) return {};
  const uint64_t left = size - static_cast<uint64_t>(position);
  const auto part = static_cast<int64_t>(length < left ? length : left);
  const long after = raw::seek(fd, part, SEEK_CUR);
  if (raw::is_error(after)) return {};
  const bool exact = after == position + part;
  if (!exact && static_cast<uint64_t>(after) > size) {
    // Somebody has moved the offset, and there is less than was claimed.
    raw::seek(fd, -part, SEEK_CUR);
    reading.position.store(-1, std::memory_order_relaxed);
    return {};
  }
  if (exact && lent) reading.exact_ms.store(tick_ms, std::memory_order_relaxed);
  return {static_cast<uint64_t>(after - part), static_cast<size_t>(part), false};
}

void settle_claim(int fd, Description& description, const Claim& claim, long result) {
  Description::Reading& reading = description.reading;
  const long used = raw::is_error(result) ? 0 : result;
  const auto length = static_cast<long>(claim.length);
  if (claim.borrowed) {
    reading.position.store(static_cast<int64_t>(claim.start) + used, std::memory_order_relaxed);
    reading.owed.fetch_add(used, std::memory_order_relaxed);
    if (!g_has_borrowed.load(std::memory_order_relaxed)) {
      g_has_borrowed.store(true, std::memory_order_relaxed);
    }
    return;
  }
  // Relative, so that it is right whoever else has claimed meanwhile.
  if (used < length && still_names(fd, *description.inode)) {
    raw::seek(fd, used - length, SEEK_CUR);
  }
  reading.position.store(used == length ? static_cast<int64_t>(claim.start) + used : -1,
                         std::memory_order_relaxed);
}

void give_back_borrowed(int fd, Description& description) {
  Description::Reading& reading = description.reading;
  // Another number of the description may still be good.
  if (!still_names(fd, *description.inode)) return;
  const int64_t owed = reading.owed.exchange(0, std::memory_order_relaxed);
  const long after = raw::seek(fd, owed, SEEK_CUR);
  if (after == reading.position.load(std::memory_order_relaxed)) return;
  // Somebody has moved it past the shim while the kernel did not know all.
  reading.never_borrowed.store(true, std::memory_order_relaxed);
  reading.position.store(-1, std::memory_order_relaxed);
}

void give_back_owed(int fd, Description& description) {
  if (description.reading.owed.load(std::memory_order_relaxed) == 0) return;
  const LockGuard guard(description.sequential);
  give_back_offset(fd, description);
}

Description* acquire_for_offset(int fd) {
  const FileTable::Kind kind = g_files.kind(fd);
  if (kind == FileTable::kTracked) return g_files.acquire_known(fd);
  // It may be another number of what is borrowed, made past the shim.
  if (kind != FileTable::kUnknown || !g_has_borrowed.load(std::memory_order_relaxed)) {
    return nullptr;
  }
  return g_files.acquire(fd);
}

void before_offset_use(int fd) {
  if (g_files.kind(fd) == FileTable::kForeign) return;
  const Entry entry;
  if (!entry) return;
  Description* description = acquire_for_offset(fd);
  if (description == nullptr) return;
  // A handler may come before the kernel's call, and read.
  description->reading.never_borrowed.store(true, std::memory_order_relaxed);
  give_back_owed(fd, *description);
  g_files.release(description);
}

void give_back_offsets() {
  if (!g_has_borrowed.load(std::memory_order_relaxed)) return;
  g_files.for_each_tracked(0, ~0U, give_back_owed);
}

void stop_borrowing() {
  g_never_borrows.store(true, std::memory_order_relaxed);
  give_back_offsets();
}

}  // namespace booster::preload
