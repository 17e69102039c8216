// The offset of a description in calls that read it in order. The kernel's is the truth, and a
// claim is one lseek, relative and so atomic against every other user of the description.
//
// While the process has one thread, the offset of a description that is open for reading, and that
// it has opened and handed to nobody, is borrowed: only the first read of each tick of the coarse
// clock is claimed so, and what the others have read is told to the kernel with it, or before
// anything looks at the offset that does not come by these. One thread: so nothing comes in
// between.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "preload/file_table.h"

namespace booster::preload {

/// [start, start + length) is the caller's to read; a length of 0: the kernel's to say.
struct Claim {
  uint64_t start = 0;
  size_t length = 0;
  bool borrowed = false;  // the kernel hears of it when it is done
};

/// Claims up to `length` bytes at the description's offset: not more than the file has, which is
/// `size`. Whoever calls this, or one of the next two, holds `sequential`.
/// `tick_ms`: the tick of the coarse clock, in which `fd` was seen to name the file, where the
/// offset may be borrowed; else 0.
Claim claim_offset(int fd, Description& description, size_t length, uint64_t size,
                   uint64_t tick_ms);
/// Gives back what of a claim was not used: `result` is the call's, bytes or -errno.
void settle_claim(int fd, Description& description, const Claim& claim, long result);

void give_back_borrowed(int fd, Description& description);
/// Before the kernel uses the offset of `fd`, which names the description, or did.
inline void give_back_offset(int fd, Description& description) {
  Description::Reading& reading = description.reading;
  reading.exact_ms.store(0, std::memory_order_relaxed);
  if (reading.owed.load(std::memory_order_relaxed) != 0) give_back_borrowed(fd, description);
}

/// The same for who does not hold `sequential`.
void give_back_owed(int fd, Description& description);

/// This process has borrowed one.
extern std::atomic<bool> g_has_borrowed;

/// The description of `fd`, with a reference for the caller to release(), for a call that looks at
/// its offset; null if that can only be the kernel's. Within an Entry.
Description* acquire_for_offset(int fd);
/// Before a call that uses the offset of `fd` unseen: it is not borrowed again.
void before_offset_use(int fd);
/// Before others can use the offsets of this process, or another thread of it.
void give_back_offsets();
/// The same, and from now on none is borrowed.
void stop_borrowing();

}  // namespace booster::preload
