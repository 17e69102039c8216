#include "preload/file_table.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "preload/cache_view.h"
#include "preload/offset.h"
#include "preload/settle.h"
#include "preload/write_log.h"

namespace booster::preload {

constinit FileTable g_files;

namespace {

constexpr FileTable::Kind kind_of(uint64_t word) {
  return static_cast<FileTable::Kind>(word & 0xff);
}
constexpr uint32_t index_of(uint64_t word) {
  return static_cast<uint32_t>(word >> 8);
}
constexpr uint64_t next_word(uint64_t old, FileTable::Kind kind, uint32_t index) {
  const uint64_t generation = ((old >> 40) + 1) & 0xffffff;
  return (generation << 40) | (static_cast<uint64_t>(index) << 8) | kind;
}

/// Devices that this process has asked. One word each: (major << 32 | minor) << 2 | answer.
constexpr int kDeviceSlots = 32;
BOOSTER_AT_HAND constinit std::atomic<uint64_t> g_devices[kDeviceSlots]{};
constexpr uint64_t kDeviceGluster = 1;
constexpr uint64_t kDeviceOther = 2;

uint64_t key_of(const raw::FileId& id) {
  return static_cast<uint64_t>(id.dev_minor) << 2;
}

/// One of the two, or 0.
uint64_t known_device(const raw::FileId& id) {
  // Block devices have a major number; FUSE, like every file system without one, has 0.
  if (id.dev_major != 0) return kDeviceOther;
  for (auto& slot : g_devices) {
    const uint64_t known = slot.load(std::memory_order_relaxed);
    if (known == 0) return 0;
    if ((known & ~3ULL) == key_of(id)) return known & 3;
  }
  return 0;
}

}  // namespace

bool FileTable::hold(Description& description) {
  uint32_t refs = description.refs.load(std::memory_order_relaxed);
  while (refs != 0) {
    // Acquire: partner of the release in FileTable::classify that published the fields.
    if (description.refs.compare_exchange_weak(refs, refs + 1, std::memory_order_acquire,
                                               std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

const FileTable::Word* FileTable::peek(int fd) const {
  if (fd < 0 || static_cast<uint64_t>(fd) >= kMaxFd) return nullptr;
  const auto number = static_cast<uint64_t>(fd);
  if (number < kPerPage) return &first_words_[number];
  const Word* page = pages_[number / kPerPage].load(std::memory_order_acquire);
  return page == nullptr ? nullptr : &page[number % kPerPage];
}

FileTable::Word* FileTable::word(int fd, bool create) {
  if (fd < 0 || static_cast<uint64_t>(fd) >= kMaxFd) return nullptr;
  if (static_cast<uint64_t>(fd) < kPerPage) return &first_words_[fd];
  auto& entry = pages_[static_cast<uint64_t>(fd) / kPerPage];
  Word* page = entry.load(std::memory_order_acquire);
  if (page == nullptr) {
    if (!create) return nullptr;
    auto* made = static_cast<Word*>(map_pages(kPerPage * sizeof(Word)));
    if (made == nullptr) return nullptr;
    // Release, partner of the acquire loads of pages_. The loser of a race gives its page back.
    if (entry.compare_exchange_strong(page, made, std::memory_order_acq_rel)) {
      page = made;
      const uint64_t used = static_cast<uint64_t>(fd) / kPerPage;
      uint64_t before = more_pages_.load(std::memory_order_relaxed);
      while (before < used &&
             !more_pages_.compare_exchange_weak(before, used, std::memory_order_acq_rel)) {
      }
    } else {
      raw::raw_syscall(SYS_munmap, raw::word(made), kPerPage * sizeof(Word));
    }
  }
  return &page[static_cast<uint64_t>(fd) % kPerPage];
}

FileTable::Kind FileTable::kind(int fd) const {
  const Word* word = peek(fd);
  return word == nullptr ? kUnknown : kind_of(word->load(std::memory_order_acquire));
}

uint64_t FileTable::replace(Word& word, Kind kind, uint32_t index) {
  uint64_t old = word.load(std::memory_order_relaxed);
  // seq_cst: partner of begin_call().
  while (!word.compare_exchange_weak(old, next_word(old, kind, index), std::memory_order_seq_cst,
                                     std::memory_order_relaxed)) {
  }
  return old;
}

void FileTable::drop_word(uint64_t old) {
  if (kind_of(old) == kTracked) release(&descriptions_.at(index_of(old)));
}

bool FileTable::leave_unseen(int fd, size_t length) {
  // cat(1) asks twice for 128 KiB when a file is small.
  constexpr uint32_t kUnseenKib = 256;
  constexpr uint64_t kCount = uint64_t{0xffffffff} << 8;
  Word* entry = word(fd, true);
  if (entry == nullptr || length >> 10 >= kUnseenKib) return false;
  // Acquire: partner of the release by which it became tracked.
  uint64_t seen = entry->load(std::memory_order_acquire);
  if (kind_of(seen) == kTracked) {
    // Not held: it may be another file's by now, of which a read more or less is left to the
    // kernel.
    Description& description = descriptions_.at(index_of(seen));
    Description::Cost& cost = description.cost;
    const uint32_t left = cost.unseen.load(std::memory_order_relaxed);
    if (left == 0 || description.splitting.load(std::memory_order_relaxed) ||
        cost.away_views.load(std::memory_order_relaxed) !=
            g_views_made.load(std::memory_order_relaxed)) {
      return false;
    }
    cost.unseen.store(left - 1, std::memory_order_relaxed);
    return true;
  }
  if (kind_of(seen) != kUnknown && kind_of(seen) != kOpened) return false;
  if (g_view_count.load(std::memory_order_relaxed) != 0) return false;
  // Until it is tracked, a word's index is the count. A count that is lost to a race is no loss.
  const uint32_t asked = index_of(seen) + static_cast<uint32_t>(length >> 10) + 1;
  if (asked > kUnseenKib + 2) return false;
  const uint64_t counted = (seen & ~kCount) | static_cast<uint64_t>(asked) << 8;
  return entry->compare_exchange_strong(seen, counted, std::memory_order_relaxed);
}

Description* FileTable::acquire_known(int fd) {
  Word* entry = word(fd, false);
  if (entry == nullptr) return nullptr;
  while (true) {
    const uint64_t seen = entry->load(std::memory_order_acquire);
    if (kind_of(seen) != kTracked) return nullptr;
    Description& description = descriptions_.at(index_of(seen));
    if (!hold(description)) continue;  // its number is being changed right now
    if (entry->load(std::memory_order_acquire) == seen) return &description;
    release(&description);
  }
}

Description* FileTable::acquire(int fd) {
  Word* entry = word(fd, true);
  if (entry == nullptr) return nullptr;
  while (true) {
    const uint64_t seen = entry->load(std::memory_order_acquire);
    switch (kind_of(seen)) {
      case kForeign:
      case kClosing: return nullptr;
      case kTracked:
        if (Description* known = acquire_known(fd)) return known;
        break;
      case kUnknown:
      case kOpened: {
        Description* made = classify(fd, *entry, seen);
        if (made != nullptr && !made->own) give_back_offsets();
        if (made != nullptr || entry->load(std::memory_order_acquire) == seen) return made;
        if (kind(fd) == kForeign) return nullptr;
        break;
      }
    }
  }
}

bool FileTable::may_be_on_gluster(int fd) {
  raw::FileId id;
  return raw::identify(fd, id) && (id.mode & S_IFMT) == S_IFREG &&
         known_device(id) == kDeviceGluster;
}

bool FileTable::on_gluster(int fd, const char* path, const raw::FileId& id) {
  if (const uint64_t known = known_device(id); known != 0) return known == kDeviceGluster;
  // Asked once per device and process. The FUSE client answers it without its bricks; a file system
  // that has no extended attributes says so without leaving the kernel. It is only a hint: what the
  // daemon believes is the mount table.
  char gfid[16];
  const long result =
      path == nullptr ? raw::raw_syscall(SYS_fgetxattr, fd, raw::word("glusterfs.gfid"),
                                         raw::word(gfid), sizeof(gfid))
                      : raw::raw_syscall(SYS_getxattr, raw::word(path), raw::word("glusterfs.gfid"),
                                         raw::word(gfid), sizeof(gfid));
  const bool gluster = result == sizeof(gfid);
  // Other errors are of this moment, or of this file, and say nothing of the device: a client that
  // has just died, memory that was short, a file that may be written and not read.
  if (raw::is_error(result) && result != -ENODATA && result != -EOPNOTSUPP && result != -ENOSYS) {
    return false;
  }
  const uint64_t key = key_of(id);
  for (auto& slot : g_devices) {
    uint64_t empty = 0;
    if (slot.compare_exchange_strong(empty, key | (gluster ? kDeviceGluster : kDeviceOther),
                                     std::memory_order_relaxed)) {
      break;
    }
    if ((empty & ~3ULL) == key) break;
  }
  return gluster;
}

Description* FileTable::classify(int fd, Word& word, uint64_t seen) {
  raw::FileId id;
  if (!raw::identify(fd, id)) return nullptr;  // not open: stays unknown
  if ((id.mode & S_IFMT) != S_IFREG || !on_gluster(fd, nullptr, id)) {
    word.compare_exchange_strong(seen, next_word(seen, kForeign, 0), std::memory_order_acq_rel);
    return nullptr;
  }
  LockGuard guard(lock_);
  Description* description = descriptions_.allocate();
  if (description == nullptr) return nullptr;
  Inode** bucket = &buckets_[id.inode % kBuckets];
  Inode* inode = *bucket;
  while (inode != nullptr && !(inode->id == id)) inode = inode->next;
  if (inode == nullptr) {
    inode = inodes_.allocate();
    if (inode == nullptr) {
      descriptions_.release(description);
      return nullptr;
    }
    const uint32_t index = inode->index;
    new (inode) Inode{};
    inode->index = index;
    inode->id = id;
    inode->next = *bucket;
    *bucket = inode;
  }
  inode->refs++;
  note_fresh(inode->fresh_since_ms, raw::next_ms());

  // Field by field: `refs` may be touched by a thread that lost a race for an earlier use.
  description->inode = inode;
  description->own = kind_of(seen) == kOpened;
  if (!description->own) inode->strangers.store(true, std::memory_order_relaxed);
  description->shared.store(false, std::memory_order_relaxed);
  description->stream.store(false, std::memory_order_relaxed);
  description->sequential.reset();
  description->engaging.reset();
  description->stage.store(Description::kNone, std::memory_order_relaxed);
  description->handle = {};
  description->calls_side.store(0, std::memory_order_relaxed);
  for (auto& calls : description->calls) calls.store(0, std::memory_order_relaxed);
  description->ending.reset();
  description->cost.reset();
  // Of a number that is not tracked yet the index counts reads that were left to the kernel unseen:
  // one of them may be on its way still.
  if (index_of(seen) != 0) description->cost.away_us.store(1, std::memory_order_relaxed);
  description->writing.reset();
  description->reading.reset();
  // Release: partner of the acquire in hold(). Two: the number's and the caller's.
  description->refs.store(2, std::memory_order_release);
  if (!word.compare_exchange_strong(seen, next_word(seen, kTracked, description->index),
                                    std::memory_order_acq_rel)) {
    // A thread with an older word may hold it for a moment: the last of us frees it, without the
    // lock.
    guard.unlock();
    release(description);
    release(description);
    return nullptr;
  }
  return description;
}

void FileTable::release(Description* description) {
  // Release: what this user did is seen by whoever frees it (acquire below).
  if (description->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Inode* inode = description->inode;
  if (description->stage.load(std::memory_order_acquire) != Description::kNone) {
    drain_log(*inode);  // of a number that was closed past the shim
    give_back(description->handle);
  }
  // Whatever was written under it has been settled before the last number went.
  Description* self = description;
  inode->holder.compare_exchange_strong(self, nullptr, std::memory_order_relaxed);
  if (description->stream.load(std::memory_order_relaxed)) {
    inode->streams.fetch_sub(1, std::memory_order_relaxed);
  }
  {
    LockGuard guard(lock_);
    description->inode = nullptr;
    descriptions_.release(description);
  }
  release_inode(inode);
}

Inode* FileTable::find_inode(const raw::FileId& id) {
  LockGuard guard(lock_);
  for (Inode* inode = buckets_[id.inode % kBuckets]; inode != nullptr; inode = inode->next) {
    if (inode->id == id) {
      inode->refs++;
      return inode;
    }
  }
  return nullptr;
}

bool FileTable::hold_inode(Inode* inode) {
  LockGuard guard(lock_);
  if (inode->refs == 0) return false;
  inode->refs++;
  return true;
}

void FileTable::release_inode(Inode* inode) {
  LockGuard guard(lock_);
  if (--inode->refs != 0) return;
  for (Inode** link = &buckets_[inode->id.inode % kBuckets]; *link != nullptr;
       link = &(*link)->next) {
    if (*link == inode) {
      *link = inode->next;
      break;
    }
  }
  inode->id = {};
  CacheView* view = inode->view.exchange(nullptr, std::memory_order_acquire);
  Session* log_owner = inode->log_owner;
  inode->log_owner = nullptr;
  inodes_.release(inode);
  guard.unlock();
  if (log_owner != nullptr) release_session(log_owner);
  // Rights do not outlive the descriptor.
  while (view != nullptr) {
    CacheView* older = view->older;
    unmap_view(view);
    view = older;
  }
}

Description* FileTable::begin_call(int fd, uint32_t& side) {
  while (Description* description = acquire(fd)) {
    // seq_cst, with the load below: partner of closing(), which changes the word and then looks at
    // the count. One of the two sees the other.
    side = description->calls_side.load(std::memory_order_relaxed);
    description->calls[side].fetch_add(1, std::memory_order_seq_cst);
    const uint64_t now = peek(fd)->load(std::memory_order_seq_cst);
    if (kind_of(now) == kTracked && index_of(now) == description->index) return description;
    end_call(description, side);
  }
  return nullptr;
}

void FileTable::end_call(Description* description, uint32_t side) {
  // Release: partner of the load in wait_for_calls(); the call is over.
  description->calls[side].fetch_sub(1, std::memory_order_release);
  release(description);
}

void FileTable::hand_over(uint64_t old, Description** replaced) {
  if (replaced != nullptr && kind_of(old) == kTracked) {
    *replaced = &descriptions_.at(index_of(old));
  }
}

void FileTable::opened(int fd, Description** replaced) {
  Word* entry = word(fd, true);
  if (entry != nullptr) hand_over(replace(*entry, kOpened, 0), replaced);
}

void FileTable::forget(int fd, bool leak) {
  Word* entry = word(fd, false);
  if (entry == nullptr) return;
  const uint64_t old = replace(*entry, kUnknown, 0);
  if (!leak) drop_word(old);
}

void FileTable::duplicated(int from, int to) {
  if (from == to) return;
  Word* target = word(to, true);
  if (target == nullptr) return;
  // The reference that acquire() took becomes the new number's.
  if (Description* description = acquire(from)) {
    drop_word(replace(*target, kTracked, description->index));
  } else {
    drop_word(replace(*target, kind(from) == kForeign ? kForeign : kUnknown, 0));
  }
}

void FileTable::closing(int fd, Description** replaced) {
  Word* entry = word(fd, false);
  if (entry != nullptr) hand_over(replace(*entry, kClosing, 0), replaced);
}

void FileTable::closed(int fd) {
  Word* entry = word(fd, false);
  if (entry == nullptr) return;
  uint64_t seen = entry->load(std::memory_order_acquire);
  if (kind_of(seen) == kClosing) {
    entry->compare_exchange_strong(seen, next_word(seen, kUnknown, 0), std::memory_order_acq_rel);
  }
}

void FileTable::share_opened() {
  const uint64_t used = pages_used();
  for (uint64_t index = 0; index < used; ++index) {
    Word* words = page(index);
    if (words == nullptr) continue;
    for (uint64_t i = 0; i < kPerPage; ++i) {
      uint64_t seen = words[i].load(std::memory_order_relaxed);
      if (kind_of(seen) == kOpened) {
        words[i].compare_exchange_strong(seen, next_word(seen, kUnknown, 0),
                                         std::memory_order_acq_rel);
      }
    }
  }
}

void FileTable::reset() {
  lock_.reset();
  const uint64_t used = pages_used();
  for (uint64_t index = 0; index < used; ++index) {
    Word* words = page(index);
    if (words == nullptr) continue;
    for (uint64_t i = 0; i < kPerPage; ++i) words[i].store(0, std::memory_order_relaxed);
  }
  // The chains may have been cut in the middle of a change: they are made anew.
  for (auto*& bucket : buckets_) bucket = nullptr;
  descriptions_.reset([](Description&) { return false; });
  inodes_.reset([this](Inode& inode) {
    common::Reason never = inode.never.load(std::memory_order_relaxed);
    if (inode.streams.load(std::memory_order_relaxed) != 0) never = common::Reason::kStream;
    // A failed fence was the parent's.
    if (never == common::Reason::kFenceFailed) never = common::Reason::kNone;
    if (inode.refs == 0 || never == common::Reason::kNone) return false;
    const uint32_t index = inode.index;
    const raw::FileId id = inode.id;
    new (&inode) Inode{};
    inode.index = index;
    inode.id = id;
    inode.refs = 1;  // for ever: nobody sees the last mapping or stream go
    inode.never.store(never, std::memory_order_relaxed);
    Inode** bucket = &buckets_[id.inode % kBuckets];
    inode.next = *bucket;
    *bucket = &inode;
    return true;
  });
}

}  // namespace booster::preload
