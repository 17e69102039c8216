// Which files are cached, and what goes when there is too much.
#include "daemon/data/page_cache.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "daemon/data/host_memory.h"

namespace booster::daemon::data {
namespace {

using std::chrono::milliseconds;

/// Reading on within a piece that has just been filled is no sign that it will be needed again.
constexpr milliseconds kAgain{500};
/// How much of the budget pieces that were read once may hold before they go for what is hot.
constexpr size_t kColdShare = 4;
/// What may be on its way ahead of all readers together, whatever they ask for; and of a small
/// budget so much at most.
constexpr uint64_t kMaxAheadInAll = uint64_t{256} << 20;
constexpr uint64_t kAheadShare = 4;
/// Memory that the kernel has to clear each time costs more than what is copied into it. Buffers
/// for requests of this length and more are kept, so many of them.
constexpr uint64_t kLongFill = 64 << 10;
constexpr size_t kSpareBuffers = 64;
constexpr size_t kSpareStreamBuffers = 16;
/// Files, each of which costs two descriptors and a mapping (vm.max_map_count is 65,530).
constexpr uint32_t kMostFiles = 8192;
/// From so many on the coldest are forgotten, so that who comes next finds a place.
constexpr uint32_t kManyFiles = kMostFiles - 512;
/// So much of the memory is left to others whatever the budget: what a program may take at once
/// until the cache has become smaller.
constexpr uint64_t kReserveShare = 8;
/// The budget, if nobody has set it: as much as a tmpfs has, of the memory.
constexpr uint64_t kBudgetShare = 2;
/// ...and where the kernel does not say how much there is.
constexpr uint64_t kUnknownBudget = 1 << 30;

/// Whole pages: libgfapi copies into it with memcpy(), see common/copy.h.
FillBuffer make_buffer(uint64_t bytes) {
  void* memory = ::aligned_alloc(common::kPageSize, bytes);
  if (!memory) throw std::bad_alloc();
  return FillBuffer(static_cast<std::byte*>(memory));
}

uint64_t budget_of(const CacheLimits& limits) {
  if (limits.bytes != CacheLimits::kByMemory) return static_cast<uint64_t>(limits.bytes);
  const auto memory = host_memory();
  return memory ? memory->total / kBudgetShare : kUnknownBudget;
}

uint64_t retained_by(const CacheLimits& limits) {
  return limits.retain != CacheLimits::kByMemory ? static_cast<uint64_t>(limits.retain)
                                                 : UINT64_MAX;
}

}  // namespace

PageCache::PageCache(std::unique_ptr<CacheStore> store, const CacheLimits& limits,
                     gluster::Mounts& mounts)
    : store_(std::move(store)),
      budget_(budget_of(limits)),
      most_retained_(retained_by(limits)),
      limit_(budget_),
      retained_(most_retained_),
      mounts_(mounts) {
  if (!enabled()) return;
  watch_memory();
  // Who needs them may be unable to start their threads.
  punching_.post([] {});
  storing_.post([] {});
}

std::shared_ptr<CachedFile> PageCache::open(const std::shared_ptr<gluster::Inode>& inode) {
  if (!enabled()) return nullptr;
  const std::shared_ptr<CachedFile> file = find_or_make(inode);
  return file ? file->use() : nullptr;
}

std::shared_ptr<CachedFile> PageCache::find_or_make(const std::shared_ptr<gluster::Inode>& inode) {
  const std::lock_guard lock(mutex_);
  std::weak_ptr<CachedFile>& entry = files_[inode.get()];
  std::shared_ptr<CachedFile> file = entry.lock();
  if (file) return file;
  const uint32_t open_files = open_files_.load(std::memory_order_relaxed);
  // One for each that comes, on a thread that has the time.
  if (open_files >= kManyFiles) punching_.post([this] { forget_coldest(); });
  if (open_files >= kMostFiles) {
    files_.erase(inode.get());
    return nullptr;
  }
  auto store = store_->make_file();
  if (!store) {
    spdlog::warn("event=cache-file-failed error=\"{}\"", store.error().message());
    return nullptr;
  }
  file = std::make_shared<CachedFile>(*this, inode, std::move(*store));
  open_files_.fetch_add(1, std::memory_order_relaxed);
  entry = file;
  inode->set_writer_listener(file);
  if (files_.size() > 1024) {
    std::erase_if(files_, [](const auto& item) { return item.second.expired(); });
  }
  return file;
}

void PageCache::list(const std::shared_ptr<CachedFile>& file, uint64_t index, uint32_t floor,
                     CachedExtent& extent) {
  const std::lock_guard lock(mutex_);
  extent.place =
      cold_.insert(cold_.end(), {file, index, floor, passed_.load(std::memory_order_relaxed)});
  extent.listed = true;
  extent.hot = false;
  extent.since = std::chrono::steady_clock::now();
}

void PageCache::unlist(CachedExtent& extent) {
  if (!extent.listed) return;
  const std::lock_guard lock(mutex_);
  extent.listed = false;
  // Else it is somebody's who is about to drop it.
  if (!extent.place->going) (extent.hot ? hot_ : cold_).erase(extent.place);
}

void PageCache::punch_later(const std::shared_ptr<CachedFile>& file) noexcept {
  try {
    {
      const std::lock_guard lock(mutex_);
      dropping_.push_back(file);
    }
    punching_.post([this] {
      while (punch_some()) {
      }
    });
  } catch (const std::exception& e) {  // out of memory: it goes as what is cold does
    spdlog::warn("event=cache-punch-later error=\"{}\"", e.what());
  }
}

void PageCache::sweep_later(const std::shared_ptr<CachedFile>& file, uint64_t place) noexcept {
  constexpr int kPiecesAtOnce = 64;
  try {
    punching_.post([this, file, place] {
      std::optional<uint64_t> next = place;
      for (int i = 0; i < kPiecesAtOnce && next; ++i) next = file->sweep_piece(*next);
      if (next) sweep_later(file, *next);
    });
  } catch (const std::exception& e) {  // out of memory
    spdlog::warn("event=cache-sweep-later error=\"{}\"", e.what());
    file->stop_sweep();
  }
}

bool PageCache::punch_some() {
  std::shared_ptr<CachedFile> file;
  {
    const std::lock_guard lock(mutex_);
    if (dropping_.empty()) return false;
    file = dropping_.front().lock();
    dropping_.pop_front();
  }
  if (!file || !file->punch_some()) return true;
  const std::lock_guard lock(mutex_);
  dropping_.push_back(file);
  return true;
}

void PageCache::promote(CachedExtent& extent) {
  const std::lock_guard lock(mutex_);
  if (extent.place->going) return;
  extent.place->used_at = passed_.load(std::memory_order_relaxed);
  if (extent.hot) {
    hot_.splice(hot_.end(), hot_, extent.place);
  } else if (std::chrono::steady_clock::now() - extent.since >= kAgain) {
    hot_.splice(hot_.end(), cold_, extent.place);
    extent.hot = true;
  }
}

bool PageCache::may_fetch_ahead(uint64_t bytes) {
  const uint64_t most =
      std::min(kMaxAheadInAll, limit_.load(std::memory_order_relaxed) / kAheadShare);
  if (ahead_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= most) return true;
  fetched_ahead(bytes);
  return false;
}

bool PageCache::store_later(const std::shared_ptr<CachedFile>& file) noexcept {
  try {
    storing_.post([file] { file->store_next(); });
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

uint64_t PageCache::buffer_bytes(uint64_t bytes) {
  if (bytes < kLongFill) return bytes;
  return bytes <= kMaxFillBytes ? kMaxFillBytes : kMaxStreamFillBytes;
}

FillBuffer PageCache::take_buffer(uint64_t bytes) {
  const uint64_t size = buffer_bytes(bytes);
  if (size < kLongFill) return make_buffer(size);
  const std::lock_guard lock(buffers_mutex_);
  auto& spare = size == kMaxFillBytes ? buffers_ : stream_buffers_;
  if (spare.empty()) return make_buffer(size);
  FillBuffer buffer = std::move(spare.back());
  spare.pop_back();
  return buffer;
}

void PageCache::give_back(FillBuffer buffer, uint64_t bytes) {
  const uint64_t size = buffer_bytes(bytes);
  if (!buffer || size < kLongFill) return;
  const std::lock_guard lock(buffers_mutex_);
  auto& spare = size == kMaxFillBytes ? buffers_ : stream_buffers_;
  if (spare.size() < (size == kMaxFillBytes ? kSpareBuffers : kSpareStreamBuffers)) {
    spare.push_back(std::move(buffer));
  }
}

/// Whether the kernel would not have it any more.
bool PageCache::is_forgotten(const CachedExtent::Place& place) const {
  return passed_.load(std::memory_order_relaxed) - place.used_at >=
         retained_.load(std::memory_order_relaxed);
}

/// The list whose first goes next. Null if nothing may go.
std::list<CachedExtent::Place>* PageCache::list_to_shorten(Going going) {
  const bool from_cold =
      !cold_.empty() && (hot_.empty() || cold_.size() * kColdShare >= hot_.size());
  for (auto* list : from_cold ? std::array{&cold_, &hot_} : std::array{&hot_, &cold_}) {
    if (list->empty()) continue;
    if (going == Going::kAnything || is_forgotten(list->front())) return list;
  }
  return nullptr;
}

bool PageCache::make_room(uint64_t bytes, Going what) {
  // Read anew each time: it may become less meanwhile, and not be reached by anybody else.
  while (used_.load(std::memory_order_relaxed) + bytes > limit_.load(std::memory_order_relaxed)) {
    if (punch_some()) continue;
    std::list<CachedExtent::Place> going;
    {
      const std::lock_guard lock(mutex_);
      auto* list = list_to_shorten(what);
      if (list == nullptr) return false;
      // The node lives on until the extent that points to it is gone.
      going.splice(going.end(), *list, list->begin());
      going.front().going = true;
    }
    // Not under the lock: a file's own comes before it.
    going.front().file->drop_extent(going.front());
  }
  return true;
}

std::vector<std::shared_ptr<CachedFile>> PageCache::all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<CachedFile>> files;
  for (const auto& [inode, entry] : files_) {
    if (auto file = entry.lock()) files.push_back(std::move(file));
  }
  return files;
}

void PageCache::drop() {
  for (const auto& file : all()) file->drop_all();
}

void PageCache::tick() {
  if (!enabled()) return;
  punching_.serve_waiting();
  storing_.serve_waiting();
  for (const auto& file : all()) {
    if (mounts_.mounted(*file->inode()) && !file->inode()->is_split()) {
      file->sweep();
      file->look_for_room();
    } else {
      file->writer_opens();
      file->drop_all();
    }
  }
}

void PageCache::told(uint64_t bytes) {
  constexpr uint64_t kFastestPerUs = 4096;
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const auto us = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now - told_at_).count());
  told_at_ = now;
  passed(std::min(bytes, us * kFastestPerUs));
}

void PageCache::watch_memory() {
  if (!enabled()) return;
  const auto memory = host_memory();
  if (!memory) return;
  const uint64_t spare = used_.load(std::memory_order_relaxed) + memory->available;
  const uint64_t reserve = memory->total / kReserveShare;
  limit_.store(std::min(budget_, spare > reserve ? spare - reserve : 0), std::memory_order_relaxed);
  retained_.store(std::min(most_retained_, spare), std::memory_order_relaxed);
  // The calling thread has better things to do.
  if (has_room() || shrinking_.exchange(true, std::memory_order_acq_rel)) return;
  try {
    punching_.post([this] {
      const std::shared_ptr<PageCache> over(
          this, [](PageCache* it) { it->shrinking_.store(false, std::memory_order_release); });
      make_room(0, Going::kAnything);
    });
  } catch (const std::exception& e) {  // out of memory
    shrinking_.store(false, std::memory_order_release);
    make_room(0, Going::kAnything);
  }
}

/// On a thread that may wait.
void PageCache::forget_coldest() {
  std::shared_ptr<CachedFile> file;
  {
    const std::lock_guard lock(mutex_);
    const auto& list = cold_.empty() ? hot_ : cold_;
    if (list.empty()) return;
    file = list.front().file;
  }
  // Piece by piece, each of which leads to its place in the lists: they may be long, and who fills
  // something waits for them.
  file->drop_all();
  while (file->punch_some()) {
  }
}

void PageCache::stop() {
  // seq_cst: partner of stopped(), which is asked under the file's mutex.
  stopped_.store(true, std::memory_order_seq_cst);
  for (const auto& file : all()) file->writer_opens();
}

stats::CacheReport PageCache::report() {
  if (!enabled()) return {};
  return {budget_,
          used_.load(std::memory_order_relaxed),
          all().size(),
          filled_bytes.get(),
          evicted_bytes.get(),
          fills.get()};
}

}  // namespace booster::daemon::data
