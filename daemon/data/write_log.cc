// Takes records, writes them, says so.
#include "daemon/data/write_log.h"

#include <algorithm>
#include <cerrno>

#include "common/futex.h"
#include "daemon/data/channel.h"
#include "daemon/data/log_record.h"
#include "daemon/data/page_cache.h"

namespace booster::daemon::data {
namespace {

/// One write to the bricks.
constexpr uint32_t kMaxBatch = 1U << 20;
/// While another write is in flight, less than this waits for what comes behind it.
constexpr uint32_t kGoodBatch = 256U << 10;
/// A client that does its log itself waits for the quarantine first, and then has so much time.
constexpr std::chrono::seconds kClientWithin{10};

}  // namespace

WriteLog::WriteLog(common::SessionMemory& memory, uint32_t index, std::function<void()> progress)
    : memory_(memory), index_(index), ring_(memory.logs[index]), progress_(std::move(progress)) {
  for (Batch& batch : batches_) batch.log_ = this;
}

// --- records -----------------------------------------------------------------------------------

bool WriteLog::overlaps_in_flight(const gluster::Inode& inode, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < count_; ++i) {
    const Batch& batch = batches_[(first_ + i) % kBatches];
    if (!batch.finished_ && batch.target_->inode().get() == &inode &&
        offset < batch.offset_ + batch.length_ && batch.offset_ < offset + length) {
      return true;
    }
  }
  return false;
}

/// What the next write is: the records from taken_ to `next`.
WriteLog::Plan WriteLog::plan(Channel& channel, uint32_t published, bool hurry, Batch& batch,
                              uint32_t& next) {
  const common::LogRecord first = copy_record(ring_, taken_);
  if (!is_well_formed(first)) return Plan::kLie;
  Channel::Slot* slot = channel.find_slot(first.slot);
  // A client gives a handle back when its records have been answered, and logs only what it was
  // told that it may.
  if (!slot || slot->state != Channel::Slot::State::kReady ||
      slot->generation != first.generation || (slot->flags & common::kHandleWritable) == 0 ||
      !slot->may_log || slot->log != index_) {
    return Plan::kLie;
  }
  uint64_t length = first.length;
  next = taken_ + 1;
  while (next != published && length < kMaxBatch) {
    const common::LogRecord record = copy_record(ring_, next);
    if (!is_well_formed(record)) return Plan::kLie;
    if (record.slot != first.slot || record.generation != first.generation ||
        record.offset != first.offset + length || record.place != first.place + length ||
        length + record.length > kMaxBatch) {
      break;
    }
    length += record.length;
    ++next;
  }
  const std::shared_ptr<gluster::File>& file = slot->handle.file();
  if (file->condemned()) return Plan::kGone;
  const uint32_t unit = file->write_unit();
  if (first.offset % unit != 0 || length % unit != 0) return Plan::kLie;
  bool others = false;
  {
    const std::lock_guard lock(mutex_);
    others = count_ != 0;
  }
  if (!hurry && others && next == published && length < kGoodBatch) return Plan::kLater;
  // Two writes in flight may arrive in either order.
  if (others && overlaps_in_flight(*file->inode(), first.offset, length)) return Plan::kLater;

  batch.slot_ = first.slot;
  batch.records_ = next - taken_;
  batch.bytes_ = memory_.log[index_] + first.place;
  batch.offset_ = first.offset;
  batch.length_ = static_cast<uint32_t>(length);
  batch.written_ = 0;
  batch.finished_ = false;
  batch.target_ = file;
  batch.cache_ = slot->cache;
  batch.cache_owner_ = slot->cache_owner;
  batch.write_unit_ = unit;
  slot->written = true;
  slot->written_offset = first.offset;
  return Plan::kReady;
}

/// False if the client has lied, now or before. The number is read once for all who use it, and
/// never goes back: who waits for a record that was once seen would wait for ever for one that the
/// client has taken away again.
bool WriteLog::look_at_published() {
  // acquire: partner of the client's release and fence in Session::log_write(); records and bytes
  // are there.
  const uint32_t published = ring_.head.published.load(std::memory_order_acquire);
  if (published == published_) return !lied_;  // what was right stays so when more is answered
  uint32_t done = 0;
  {
    const std::lock_guard lock(mutex_);
    done = done_;
  }
  // In this order: done, taken_, published_, published, and not more from first to last than there
  // is room for. So the differences cannot wrap.
  lied_ = lied_ || published - taken_ > common::kLogRecords - (taken_ - done) ||
          published - published_ > common::kLogRecords;
  if (!lied_) published_ = published;
  return !lied_;
}

WriteLog::Take WriteLog::take(const std::shared_ptr<Channel>& channel, Submitter& submitter,
                              Clock::time_point now) {
  run_waiters();
  if (stopped_ || left_) return Take::kNothing;
  // acquire: partner of the release in the shim's Session::replay_log().
  if (ring_.head.abandoned.load(std::memory_order_acquire) != 0) {
    return leave_to_client(*channel, now, Take::kWorked);
  }
  if (!look_at_published()) return Take::kLie;
  const uint32_t published = published_;
  bool answered = false;
  {
    const std::lock_guard lock(mutex_);
    answered = std::exchange(answered_, false);
  }
  if (published == taken_) return Take::kNothing;
  // relaxed: looked at again when something is answered, or the client rings.
  const bool hurry = ring_.head.waits.load(std::memory_order_relaxed) != 0 || !waiters_.empty();
  if (put_off_ && published == looked_at_ && !answered && !hurry) return Take::kNothing;

  bool worked = false;
  put_off_ = false;
  while (taken_ != published) {
    Batch* batch = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (count_ < kBatches) batch = &batches_[(first_ + count_) % kBatches];
    }
    uint32_t next = 0;
    const Plan planned = batch ? plan(*channel, published, hurry, *batch, next) : Plan::kLater;
    if (planned == Plan::kLie) return Take::kLie;
    if (planned == Plan::kGone) return leave_to_client(*channel, now, Take::kGone);
    if (planned == Plan::kLater) {
      put_off_ = true;
      looked_at_ = published;
      break;
    }
    taken_ = next;
    last_work_ = now;
    worked = true;
    batch->start_ = now;
    batch->channel_ = channel;
    {
      const std::lock_guard lock(mutex_);
      ++count_;
    }
    if (!submit(*batch, submitter)) return Take::kThreadLost;
  }
  return worked ? Take::kWorked : Take::kNothing;
}

/// False: the pump has given up on this thread.
bool WriteLog::submit(Batch& batch, Submitter& submitter) {
  // Copies: when this thread is given up, all the rest may be gone before the call returns.
  const std::shared_ptr<gluster::File> file = batch.target_;
  const std::shared_ptr<Channel> channel = batch.channel_;
  const auto write = [&batch](gluster::File& target) {
    const int error = target.write(batch.bytes_, batch.length_, batch.offset_, batch);
    if (error != 0) batch.refuse(error);
  };
  gluster::Gate& gate = file->gate();
  if (gate.stalled()) {
    // Some thread hangs in libgfapi for this mount; the pump would, too.
    file->post(write);
    return true;
  }
  submitter.begin(gate);
  write(*file);
  return submitter.end(gate);
}

// --- answers -----------------------------------------------------------------------------------

void WriteLog::Batch::answer(int64_t result, int error) noexcept {
  if (result < 0) return log_->batch_finished(*this, error);
  written_ += static_cast<uint32_t>(result);
  if (written_ >= length_) return log_->batch_finished(*this, 0);
  // As after a short write(2): the rest is tried, and tells why.
  if (result == 0) return log_->batch_finished(*this, EIO);
  target_->post([this](gluster::File& target) {
    const int refused =
        target.write(bytes_ + written_, length_ - written_, offset_ + written_, *this);
    if (refused != 0) finished(-1, refused);
  });
}

void WriteLog::batch_finished(Batch& batch, int error) noexcept {
  // The channel has this log.
  const std::shared_ptr<Channel> channel = batch.channel_;
  const std::shared_ptr<gluster::File> file = batch.target_;
  const std::shared_ptr<CachedFile> cache = batch.cache_;
  channel->note_logged(batch.records_, batch.length_, error, batch.end_ - batch.start_);
  if (error != 0) {
    int32_t none = 0;
    // relaxed: published with `done`.
    memory_.slots[batch.slot_].log_error.compare_exchange_strong(none, error,
                                                                 std::memory_order_relaxed);
  }
  // Before `done`: from then on the client does not look for these bytes in its log.
  if (cache) {
    cache->written(batch.cache_owner_, batch.offset_, batch.length_,
                   error == 0 ? batch.bytes_ : nullptr);
  }
  {
    const std::lock_guard lock(mutex_);
    batch.finished_ = true;
    batch.channel_.reset();
    batch.target_.reset();
    batch.cache_.reset();
    answered_ = true;
    // A batch that is not in flight any more is the pump's.
    while (count_ != 0 && batches_[first_].finished_) {
      done_ += batches_[first_].records_;
      first_ = (first_ + 1) % kBatches;
      --count_;
    }
    // Under the mutex, so that it never goes back. Release: partner of the client's acquire.
    ring_.tail.done.store(done_, std::memory_order_release);
  }
  // Partner: the client's fence after it has raised `waits`.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (ring_.head.waits.load(std::memory_order_relaxed) != 0) {
    common::futex_wake_all(ring_.tail.done);
  }
  progress_();
}

void WriteLog::when_written(std::function<void()> done) {
  if (stopped_) return done();
  look_at_published();  // after the caller's fence; a lie ends the session at the next take()
  waiters_.emplace_back(published_, std::move(done));
  progress_();
}

void WriteLog::run_waiters() {
  if (waiters_.empty()) return;
  uint32_t done = 0;
  {
    const std::lock_guard lock(mutex_);
    done = done_;
  }
  std::vector<std::function<void()>> ready;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (static_cast<int32_t>(done - it->first) >= 0) {
      ready.push_back(std::move(it->second));
      it = waiters_.erase(it);
    } else {
      ++it;
    }
  }
  for (const auto& call : ready) call();
}

// --- the rest ----------------------------------------------------------------------------------

bool WriteLog::in_flight() {
  const std::lock_guard lock(mutex_);
  return count_ != 0;
}

/// It writes through FUSE what is unanswered, and whoever opens one of those files waits for that:
/// else it would be done over what he has written meanwhile.
WriteLog::Take WriteLog::leave_to_client(const Channel& channel, Clock::time_point now, Take told) {
  left_ = true;
  left_until_ = now + std::chrono::milliseconds(channel.quarantine().ms()) + kClientWithin;
  if (client_ended_) stop();
  return told;
}

/// Whether it has done what was left to it. That it says so by a word of its own memory may be a
/// lie, of which only its own files have the harm.
void WriteLog::look_at_client() {
  if (!left_ || stopped_) return;
  // acquire: partner of the release in the shim's Session::replay_log().
  if (ring_.tail.owner.load(std::memory_order_acquire) == common::kLogRecovered ||
      Clock::now() >= left_until_) {
    stop();
  }
}

void WriteLog::client_ended() {
  client_ended_ = true;
  if (left_) stop();
}

bool WriteLog::idle() {
  look_at_client();
  return !in_flight() &&
         (stopped_ || (!left_ && ring_.head.published.load(std::memory_order_acquire) == taken_));
}

void WriteLog::show_looks(bool looks) {
  ring_.tail.looks.store(looks ? 1 : 0, std::memory_order_relaxed);
}

void WriteLog::note_in_flight(Quarantine& quarantine, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < count_; ++i) {
    const Batch& batch = batches_[(first_ + i) % kBatches];
    if (!batch.finished_ && batch.waits_for_bricks()) quarantine.note_write(now - batch.start_);
  }
}

void WriteLog::stop() {
  stopped_ = true;
  std::vector<std::pair<uint32_t, std::function<void()>>> waiters;
  waiters.swap(waiters_);
  for (const auto& [number, call] : waiters) call();
}

}  // namespace booster::daemon::data
