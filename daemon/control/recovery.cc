// What the daemon tells the agent, and how the agent keeps it.
#include "daemon/control/recovery.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "daemon/control/descriptor_limit.h"
#include "daemon/control/helper_process.h"
#include "daemon/control/packet.h"
#include "daemon/control/takeover.h"

namespace booster::daemon::control {
namespace {

enum What : uint32_t { kMemory, kFile, kWatch, kForget };

struct Message {
  uint32_t what;
  uint32_t slot;
  uint32_t generation;
  uint32_t padding;
  uint64_t key;  // of what is kept, or to be forgotten
  uint64_t session;
};

/// How long a delegation waits for an agent that does not read.
constexpr int kPatienceMs = 1000;
/// Closing a group waits for the kernel's readers of it, some milliseconds, after it has let
/// openers go.
constexpr unsigned kClosers = 16;

/// False if it cannot be said within `patience_ms`; -1: as long as it takes.
bool tell(int socket, const Message& message, int descriptor, int patience_ms) {
  const std::string bytes(reinterpret_cast<const char*>(&message), sizeof message);
  while (!send(socket, bytes, descriptor)) {
    const int error = errno;
    if (patience_ms < 0 && (error == ENOBUFS || error == ENOMEM)) {
      // Of what is to be forgotten nobody may hear too little: openers would wait for ever.
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      continue;
    }
    if (error != EAGAIN) return false;
    pollfd room{socket, POLLOUT, 0};
    if (::poll(&room, 1, patience_ms) == 0) return false;
  }
  return true;
}

// --- the agent ---------------------------------------------------------------------------------

class Keeper {
 public:
  void keep(const Message& message, UniqueFd descriptor) {
    switch (message.what) {
      case kMemory: memories_[message.key] = {message.session, std::move(descriptor)}; break;
      case kFile:
      case kWatch:
        slots_[message.key] = {{message.session, message.slot, message.generation},
                               message.what == kWatch,
                               std::move(descriptor)};
        break;
      default: forget(message.key);
    }
  }

  /// By session.
  std::unordered_map<uint64_t, Estate> estates() && {
    std::unordered_map<uint64_t, Estate> all;
    for (auto& [key, memory] : memories_) all[memory.session].memory = std::move(memory.descriptor);
    for (auto& [key, kept] : slots_) {
      Estate& estate = all[kept.slot.session];
      auto& of = kept.is_watch ? estate.watches : estate.files;
      of.push_back({kept.slot.slot, kept.slot.generation, std::move(kept.descriptor)});
    }
    return all;
  }

 private:
  struct Memory {
    uint64_t session = 0;
    UniqueFd descriptor;
  };
  struct Kept {
    gluster::GuardedSlot slot;
    bool is_watch = false;
    UniqueFd descriptor;
  };

  void forget(uint64_t key) {
    memories_.erase(key);
    const auto found = slots_.find(key);
    if (found == slots_.end()) return;
    if (found->second.is_watch) {
      closers_.post([group = std::move(found->second.descriptor)]() mutable { group.reset(); });
    }
    slots_.erase(found);
  }

  std::unordered_map<uint64_t, Memory> memories_;
  std::unordered_map<uint64_t, Kept> slots_;
  gluster::Worker closers_{"close", kClosers};
};

void serve(int socket) {
  raise_descriptor_limit();
  Keeper keeper;
  while (true) {
    Message message{};
    UniqueFd descriptor;
    if (!receive_exactly(socket, &message, sizeof message, descriptor)) break;
    keeper.keep(message, std::move(descriptor));
  }
  // The end of the daemon, however it has come.
  take_over(std::move(keeper).estates());
}

}  // namespace

// --- the daemon's side -------------------------------------------------------------------------

struct RecoveryAgent::Connection {
  explicit Connection(UniqueFd end) : socket(std::move(end)) {}

  const UniqueFd socket;
  std::atomic<uint64_t> keys{0};
  std::atomic<bool> lost{false};
  // Has the common descriptors, whoever lets a guard go; and waits for an agent that is slow.
  gluster::Worker forgets{"recovery", 1};
};

RecoveryAgent::RecoveryAgent()
    : connection_(std::make_shared<Connection>(
          start_helper("booster-recover", serve, HelperLife::kOutlivesTheDaemon))) {}

void RecoveryAgent::start() {
  connection_->forgets.post([] {});  // who lets a guard go may be unable to start its thread
}

RecoveryAgent::Guard RecoveryAgent::guard(uint32_t what, const gluster::GuardedSlot& slot,
                                          int descriptor) {
  const std::shared_ptr<Connection> connection = connection_;
  // relaxed: what is not guarded is not delegated, whoever noticed it.
  if (connection->lost.load(std::memory_order_relaxed)) return nullptr;
  // relaxed: a number that nobody else has; the socket orders what is said.
  const uint64_t key = connection->keys.fetch_add(1, std::memory_order_relaxed);
  const Message message{what, slot.slot, slot.generation, 0, key, slot.session};
  if (!tell(connection->socket.get(), message, descriptor, kPatienceMs)) {
    if (!connection->lost.exchange(true, std::memory_order_relaxed)) {
      spdlog::error("event=recovery-lost remedy=\"restart boosterd: nothing new is delegated\"");
    }
    return nullptr;
  }
  return {connection.get(), [connection, key](const void*) {
            connection->forgets.post([connection, key] {
              tell(connection->socket.get(), {kForget, 0, 0, 0, key, 0}, -1, -1);
            });
          }};
}

RecoveryAgent::Guard RecoveryAgent::guard_memory(uint64_t session, int memory) {
  return guard(kMemory, {session, 0, 0}, memory);
}

RecoveryAgent::Guard RecoveryAgent::guard_file(const gluster::GuardedSlot& slot, int file) {
  return guard(kFile, slot, file);
}

RecoveryAgent::Guard RecoveryAgent::guard_watch(const gluster::GuardedSlot& slot, int group) {
  return guard(kWatch, slot, group);
}

}  // namespace booster::daemon::control
