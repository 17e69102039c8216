// One thread a log, and one that says that the agent lives.
#include "daemon/control/takeover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "common/abi.h"
#include "common/futex.h"
#include "daemon/data/log_record.h"
#include "daemon/data/session_memory.h"
#include "daemon/gluster/fuse_file.h"
#include "daemon/gluster/open_events.h"
#include "daemon/gluster/own_opens.h"
#include "daemon/gluster/worker.h"

namespace booster::daemon::control {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// Bricks that are not there for so long are given up, and the program is told; FUSE's client would
/// tell it at once.
constexpr milliseconds kBricksWithin{10'000};
constexpr milliseconds kAgain{100};
/// A client that has found the agent silent does its log itself; its files' openers wait so long.
constexpr milliseconds kClientWithin{180'000};
/// What failure.quarantine_min_ms can be at most: the memory says how long it is, and may lie.
constexpr uint32_t kMostQuarantineMs = 600'000;

std::string path_of(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

/// Reads the events of a group from when this process opens the file: its own open goes by, and so
/// does that of a new daemon, on which it may have to wait; whoever else comes waits on. The kernel
/// refuses an opener whose event cannot be read (OpenWatch), so the bricks must have been asked
/// before.
class EventReader {
 public:
  explicit EventReader(int group) : group_(group), thread_([this] { run(); }) {}
  ~EventReader() {
    // relaxed: the thread looks at nothing else.
    over_.store(true, std::memory_order_relaxed);
    thread_.join();
  }
  EventReader(const EventReader&) = delete;
  EventReader& operator=(const EventReader&) = delete;

 private:
  void run() {
    gluster::begin_thread("events");
    while (!over_.load(std::memory_order_relaxed)) {
      pollfd ready{group_, POLLIN, 0};
      constexpr int kLookMs = 20;
      if (::poll(&ready, 1, kLookMs) > 0) read();
    }
  }

  void read() {
    gluster::read_opens(group_, [this](int event, pid_t opener) {
      // Descriptors stay open until this process ends: closing one can wait for whoever holds the
      // kernel's lock on the file.
      if (!gluster::is_boosters_own(opener)) return;
      if (const int error = gluster::allow_open(group_, event)) {
        spdlog::warn("event=recovery-answer-failed error=\"{}\"", strerrordesc_np(error));
      }
    });
  }

  const int group_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

/// One file of a session.
struct Slot {
  uint32_t index = 0;
  uint32_t generation = 0;
  int file = -1;  // O_PATH
  UniqueFd watch;
  std::unique_ptr<EventReader> reader;
  UniqueFd open;  // for writing
  uint64_t offset = 0;
  bool unanswered = false;  // a write of it may be queued at a brick, or has not been done
  bool fenced = true;       // or needs no fence: nothing is left for the client to do
  int error = 0;
};

/// Shared by those who work its logs off.
struct Session {
  boost::interprocess::mapped_region region;
  Estate estate;
};

/// One log of a session.
class Recovery {
 public:
  /// Of log `index`.
  Recovery(const std::shared_ptr<Session>& session, uint32_t index)
      : session_(session),
        memory_(*static_cast<common::SessionMemory*>(session->region.get_address())),
        ring_(memory_.logs[index]),
        bytes_(memory_.log[index]) {
    for (const Estate::Held& held : session->estate.files) {
      if (log_of(held) != index) continue;
      Slot& slot = slots_[{held.slot, held.generation}];
      slot.index = held.slot;
      slot.generation = held.generation;
      slot.file = held.descriptor.get();
    }
    for (Estate::Held& held : session->estate.watches) {
      const auto found = slots_.find({held.slot, held.generation});
      if (found != slots_.end()) found->second.watch = std::move(held.descriptor);
    }
  }

  bool has_files() const { return !slots_.empty(); }

  /// Before anything that can wait: from now on the client waits for this.
  void begin() {
    uint32_t guarded = common::kLogGuarded;
    // acq_rel: partner of the client's when it takes the log over.
    ours_ = ring_.tail.owner.compare_exchange_strong(guarded, common::kLogRecovering,
                                                     std::memory_order_acq_rel);
  }

  /// relaxed: the client looks whether it changes.
  void beat() {
    if (!over_.load(std::memory_order_relaxed)) {
      ring_.tail.beats.fetch_add(1, std::memory_order_relaxed);
    }
  }

  /// Whatever happens, the client does not wait for what does not come, nor openers after that.
  void run() noexcept {
    try {
      if (ours_) recover();
      if (!ours_) wait_for_client();
    } catch (const std::exception& error) {
      spdlog::error("event=recovery-failed error=\"{}\"", error.what());
      give_up();
    }
    over_.store(true, std::memory_order_relaxed);
  }

  /// The client is to do it.
  void give_up() noexcept {
    uint32_t recovering = common::kLogRecovering;
    ring_.tail.owner.compare_exchange_strong(recovering, common::kLogDaemon,
                                             std::memory_order_acq_rel);
    common::futex_wake_all(ring_.tail.done);
    // He looks that often; then openers wait for him.
    std::this_thread::sleep_for(milliseconds(5 * common::kBeatMs));
    const auto deadline = Clock::now() + kClientWithin;
    while (client_works() && Clock::now() < deadline) std::this_thread::sleep_for(kAgain);
    for (auto& [key, slot] : slots_) {
      slot.fenced = false;
      release(slot);
    }
  }

 private:
  void recover() {
    for (auto& [key, slot] : slots_) {
      if (slot.watch) show(slot, common::kRevoking);
    }
    // Partner: the client's fence after `published` in Session::log_write() of the shim. What it
    // publishes after this, it does itself.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t published = ring_.head.published.load(std::memory_order_acquire);
    const uint32_t done = ring_.tail.done.load(std::memory_order_acquire);
    if (published - done > common::kLogRecords) {
      spdlog::warn("event=recovery-lie");
    } else {
      mark_unanswered(done, published);
    }
    // Whose bytes are all there waits for nobody.
    for (auto& [key, slot] : slots_) {
      if (!slot.unanswered) finish(slot);
    }
    if (std::any_of(slots_.begin(), slots_.end(),
                    [](auto& item) { return item.second.unanswered; })) {
      wait_for_bricks();
      write_out(done, published);
    }
    for (auto& [key, slot] : slots_) {
      if (slot.unanswered) finish_written(slot);
    }
    // acquire: a client that has found this silent has taken the log, and does what is left.
    if (ring_.tail.owner.load(std::memory_order_acquire) != common::kLogRecovering) {
      ours_ = false;
      return;
    }
    const bool all = std::none_of(slots_.begin(), slots_.end(),
                                  [](auto& item) { return gluster::is_gone(item.second.error); });
    ring_.tail.recovered.store(published, std::memory_order_relaxed);
    // Release: partner of the client's acquire; errors are there.
    if (all) ring_.tail.done.store(published, std::memory_order_release);
    uint32_t recovering = common::kLogRecovering;
    ring_.tail.owner.compare_exchange_strong(recovering, common::kLogRecovered,
                                             std::memory_order_acq_rel);
    common::futex_wake_all(ring_.tail.done);
    for (auto& [key, slot] : slots_) release(slot);
  }

  /// As the daemon has said; where the client has changed it since, its own records are not found.
  uint32_t log_of(const Estate::Held& held) const {
    return std::atomic_ref(memory_.slots[held.slot].log).load(std::memory_order_relaxed) %
           common::kLogs;
  }

  Slot* find(uint32_t index, uint32_t generation) {
    const auto found = slots_.find({index, generation});
    return found == slots_.end() ? nullptr : &found->second;
  }

  void mark_unanswered(uint32_t done, uint32_t published) {
    for (uint32_t n = done; n != published; ++n) {
      const common::LogRecord record = data::copy_record(ring_, n);
      if (Slot* slot = find(record.slot, record.generation)) slot->unanswered = true;
    }
  }

  /// What the daemon had in flight may be queued at a brick: nothing may overtake it.
  void wait_for_bricks() {
    const uint32_t ms =
        std::min(memory_.header.quarantine_ms.load(std::memory_order_relaxed), kMostQuarantineMs);
    std::this_thread::sleep_for(milliseconds(ms));
  }

  void write_out(uint32_t done, uint32_t published) {
    uint64_t bytes = 0;
    for (uint32_t n = done; n != published; ++n) {
      // acquire: a client that has found this silent has taken the log.
      if (ring_.tail.owner.load(std::memory_order_acquire) != common::kLogRecovering) break;
      const common::LogRecord record = data::copy_record(ring_, n);
      Slot* slot = data::is_well_formed(record) ? find(record.slot, record.generation) : nullptr;
      if (slot == nullptr) {
        spdlog::warn("event=recovery-lie");
        break;
      }
      if (!slot->open && slot->error == 0) open(*slot);
      if (slot->open) write(*slot, record);
      bytes += record.length;
    }
    spdlog::info("event=log-recovered records={} bytes={}", published - done, bytes);
  }

  void write(Slot& slot, const common::LogRecord& record) {
    slot.offset = record.offset;
    uint32_t written = 0;
    while (written < record.length) {
      const ssize_t n =
          ::pwrite(slot.open.get(), bytes_ + record.place + written, record.length - written,
                   static_cast<off_t>(record.offset + written));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        if (slot.error == 0) slot.error = n == 0 ? EIO : errno;
        return;
      }
      written += static_cast<uint32_t>(n);
    }
  }

  /// For writing, while everybody else waits. May wait as long as FUSE does.
  void open(Slot& slot) {
    const std::string path = path_of(slot.file);
    // One for all files of the log, which are on the same bricks.
    if (bricks_by_ == Clock::time_point{}) bricks_by_ = Clock::now() + kBricksWithin;
    while (true) {
      slot.error = gluster::ask_bricks_through_fuse(path.c_str());
      if (slot.error == 0) break;
      if (gluster::is_gone(slot.error) || Clock::now() >= bricks_by_) return;
      std::this_thread::sleep_for(kAgain);
    }
    if (slot.watch && !slot.reader) slot.reader = std::make_unique<EventReader>(slot.watch.get());
    slot.open.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!slot.open) slot.error = errno;
  }

  void fence(Slot& slot) {
    slot.fenced = false;
    if (!slot.open) return;
    const long result = gluster::fence_again_and_again(slot.open.get(), slot.offset);
    slot.fenced = result == 0;
    if (slot.fenced) return;
    spdlog::warn("event=fence-failed error=\"{}\"", strerrordesc_np(static_cast<int>(-result)));
  }

  /// Nothing of it was unanswered.
  void finish(Slot& slot) {
    // acquire: partner of the client's release in Session::add_unsettled().
    if (slot.watch && memory_.state.unsettled_in[slot.index].load(std::memory_order_acquire) != 0) {
      open(slot);
      fence(slot);
    }
    slot.open.reset();
    release(slot);
  }

  void finish_written(Slot& slot) {
    if (!slot.open && slot.error == 0) open(slot);
    fence(slot);
    if (slot.open) {
      // Its flush tells what FUSE had accepted and could not keep.
      if (::close(slot.open.release()) != 0 && slot.error == 0) slot.error = errno;
    }
    if (slot.error == 0) return;
    std::atomic<int32_t>& told = memory_.slots[slot.index].log_error;
    // relaxed: published with `done`, or the owner.
    const bool left = gluster::is_gone(slot.error);
    if (!left) spdlog::error("event=recovery-failed error=\"{}\"", strerrordesc_np(slot.error));
    int32_t none = 0;
    told.compare_exchange_strong(none, left ? common::kLeftToClient : slot.error,
                                 std::memory_order_relaxed);
  }

  void release(Slot& slot) {
    if (!slot.watch) return;
    const auto reason = slot.fenced ? common::Reason::kNotAlone : common::Reason::kFenceFailed;
    // relaxed: before the release in show().
    memory_.slots[slot.index].delegation_reason.store(static_cast<uint32_t>(reason),
                                                      std::memory_order_relaxed);
    show(slot, common::kNotDelegated);
    // Lets everybody go.
    slot.reader.reset();
    slot.watch.reset();
  }

  void show(const Slot& slot, common::DelegationState state) {
    std::atomic<uint32_t>& word = memory_.slots[slot.index].delegation;
    const uint32_t number = (word.load(std::memory_order_relaxed) >> 2) + 1;
    word.store((number << 2) | state, std::memory_order_release);
  }

  bool client_works() const {
    return ring_.tail.owner.load(std::memory_order_acquire) == common::kLogClient;
  }

  /// It has found the agent silent, and does its log itself.
  void wait_for_client() {
    const auto deadline = Clock::now() + kClientWithin;
    while (client_works() && Clock::now() < deadline) std::this_thread::sleep_for(kAgain);
    for (auto& [key, slot] : slots_) finish(slot);
  }

  const std::shared_ptr<Session> session_;
  common::SessionMemory& memory_;
  common::LogRing& ring_;
  std::byte* const bytes_;
  std::map<std::pair<uint32_t, uint32_t>, Slot> slots_;
  Clock::time_point bricks_by_{};  // set when they are first asked
  bool ours_ = false;
  std::atomic<bool> over_{false};  // relaxed: says nothing of the rest
};

std::shared_ptr<Session> adopt(Estate estate) {
  if (!estate.memory) return nullptr;
  auto region = data::map_session_memory(estate.memory.get());
  if (!region) {
    spdlog::error("event=recovery-failed error=\"{}\"", region.error().message());
    return nullptr;
  }
  return std::make_shared<Session>(Session{std::move(*region), std::move(estate)});
}

}  // namespace

void take_over(std::unordered_map<uint64_t, Estate>&& estates) {
  std::vector<std::unique_ptr<Recovery>> recoveries;
  for (auto& [number, estate] : estates) {
    const std::shared_ptr<Session> session = adopt(std::move(estate));
    for (uint32_t log = 0; session && log < common::kLogs; ++log) {
      auto recovery = std::make_unique<Recovery>(session, log);
      if (recovery->has_files()) recoveries.push_back(std::move(recovery));
    }
  }
  for (const auto& recovery : recoveries) recovery->begin();
  std::atomic<size_t> left{recoveries.size()};
  for (const auto& recovery : recoveries) {
    const bool started = gluster::run_detached("recover", [&recovery = *recovery, &left] {
      recovery.run();
      // release: partner of the acquire below.
      left.fetch_sub(1, std::memory_order_release);
    });
    if (!started) {
      recovery->give_up();
      left.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  while (left.load(std::memory_order_acquire) != 0) {
    for (const auto& recovery : recoveries) recovery->beat();
    std::this_thread::sleep_for(milliseconds(common::kBeatMs));
  }
  // What waits for a lock on a file is waited for by nobody.
  ::_exit(0);
}

}  // namespace booster::daemon::control
