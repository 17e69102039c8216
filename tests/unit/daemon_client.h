// A client of boosterd for tests: speaks the protocol by the book, and lets a test break any rule
// of it. One thread. Errors are thrown, since in a test they end it.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/abi.h"
#include "common/futex.h"
#include "proto/control.pb.h"

namespace booster::test {

class DaemonClient {
 public:
  struct Answer {
    int error = 0;
    uint32_t length = 0;
  };
  struct Slot {
    common::HandleSlot::State state = common::HandleSlot::kEmpty;
    uint32_t generation = 0;
    common::Reason reason{};
    uint32_t flags = 0;
  };

  explicit DaemonClient(const std::string& path) {
    socket_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_ < 0 || path.size() >= sizeof address.sun_path) fail("socket");
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      fail("connect " + path);
    }
  }
  ~DaemonClient() {
    if (memory_) ::munmap(memory_, common::kSessionBytes);
    if (memory_fd_ >= 0) ::close(memory_fd_);
    ::close(socket_);
  }
  DaemonClient(const DaemonClient&) = delete;
  DaemonClient& operator=(const DaemonClient&) = delete;

  int socket() const { return socket_; }
  int memory_fd() const { return memory_fd_; }
  uint64_t nonce() const { return welcome_.nonce(); }
  const control::Welcome& welcome() const { return welcome_; }
  common::SessionMemory& memory() { return *memory_; }

  /// Says Hello; the refusal, if there was one.
  std::optional<control::Refusal::Code> hello(uint32_t abi_version = common::kAbiVersion) {
    control::ToDaemon message;
    message.mutable_hello()->set_abi_version(abi_version);
    send(message);
    int fd = -1;
    control::FromDaemon answer = receive(&fd);
    if (answer.has_refusal()) return answer.refusal().code();
    if (!answer.has_welcome() || fd < 0) throw std::runtime_error("no Welcome");
    welcome_ = answer.welcome();
    memory_fd_ = fd;
    void* at = ::mmap(nullptr, common::kSessionBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    memory_ = static_cast<common::SessionMemory*>(at);
    return std::nullopt;
  }

  /// Sends raw bytes with any number of descriptors. False if the daemon has hung up.
  bool send_raw(const void* bytes, size_t size, const std::vector<int>& descriptors = {}) {
    alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
    iovec iov{const_cast<void*>(bytes), size};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
      std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
    }
    return ::sendmsg(socket_, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
  }
  bool send(const control::ToDaemon& message, const std::vector<int>& descriptors = {}) {
    const std::string bytes = message.SerializeAsString();
    return send_raw(bytes.data(), bytes.size(), descriptors);
  }

  bool ring() { return send_raw(&common::kDoorbell, 1); }

  /// Sends an Engage for `fd` by the book, without waiting.
  void engage_begin(int fd, uint32_t slot, uint32_t generation) {
    engaged_as_[slot] = fd;
    send(engage_message(slot, generation, fd, fd));
  }
  /// That descriptor `fd` is open on the same file as `file`.
  control::ToDaemon engage_message(uint32_t slot, uint32_t generation, int fd, int file) const {
    struct statx status {};
    ::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status);
    control::ToDaemon message;
    control::Engage& engage = *message.mutable_engage();
    engage.set_nonce(nonce());
    engage.set_slot(slot);
    engage.set_generation(generation);
    engage.set_fd_number(static_cast<uint32_t>(fd));
    engage.set_device_major(status.stx_dev_major);
    engage.set_device_minor(status.stx_dev_minor);
    engage.set_inode(status.stx_ino);
    return message;
  }

  Slot slot(uint32_t index) {
    common::HandleSlot& shared = memory_->slots[index];
    const uint64_t word = shared.state.load(std::memory_order_acquire);
    return {static_cast<common::HandleSlot::State>(word & 0xff), static_cast<uint32_t>(word >> 8),
            static_cast<common::Reason>(shared.reason), shared.flags};
  }
  uint64_t file_size(uint32_t index) {
    return memory_->slots[index].file_size.load(std::memory_order_relaxed);
  }

  /// Waits for the answer to an Engage of this generation; an empty slot after `patience`.
  Slot engage_wait(uint32_t index, uint32_t generation,
                   std::chrono::milliseconds patience = std::chrono::seconds(60)) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < end) {
      const Slot answer = slot(index);
      if (answer.state != common::HandleSlot::kEmpty && answer.generation == generation) {
        return answer;
      }
      if (hung_up()) break;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return {};
  }
  Slot engage(int fd, uint32_t slot, uint32_t generation) {
    engage_begin(fd, slot, generation);
    return engage_wait(slot, generation);
  }

  void release(uint32_t slot, uint32_t generation) {
    control::ToDaemon message;
    message.mutable_release()->set_slot(slot);
    message.mutable_release()->set_generation(generation);
    send(message);
  }

  /// Asks for a write delegation of the slot, which was engaged with `fd`, and waits for the
  /// answer; gives it back with `fd` -1. Returns the word that is shown then.
  uint32_t delegate(uint32_t slot, uint32_t generation, int fd) {
    const std::atomic<uint32_t>& word = memory_->slots[slot].delegation;
    const uint32_t before = word.load(std::memory_order_acquire);
    control::ToDaemon message;
    control::Delegate& delegate = *message.mutable_delegate();
    delegate.set_slot(slot);
    delegate.set_generation(generation);
    delegate.set_give_back(fd < 0);
    delegate.set_fd_number(fd < 0 ? 0 : static_cast<uint32_t>(fd));
    send(message);
    const auto end = std::chrono::steady_clock::now() + patience;
    while (word.load(std::memory_order_acquire) == before && !hung_up() &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return word.load(std::memory_order_acquire);
  }
  /// The slot's write delegation, asked for if it has none; 0: it is not to be had.
  uint32_t delegated(uint32_t slot, uint32_t generation) {
    if (slot >= common::kHandleSlots) return 0;
    const auto holds = [](uint32_t word) {
      return (word & common::kDelegationStates) == common::kDelegated;
    };
    uint32_t word = memory_->slots[slot].delegation.load(std::memory_order_acquire);
    const auto engaged = engaged_as_.find(slot);
    if (!holds(word) && engaged != engaged_as_.end()) {
      word = delegate(slot, generation, engaged->second);
    }
    return holds(word) ? word : 0;
  }

  // --- writes, through the log ---

  /// The log that the daemon has told for the slot.
  uint32_t log_of(uint32_t slot) const {
    // A test may have overwritten the daemon's word.
    return slot < common::kHandleSlots ? memory_->slots[slot].log % common::kLogs : 0;
  }
  /// The last record that was put into the log, for wait_logged().
  uint32_t logged(uint32_t log) const { return logs_[log].published; }

  /// Logs a write under the slot's delegation, as preload/write_log.cc does, and does not wait.
  /// Returns the number of its last record, for wait_logged(). Throws when the delegation is not to
  /// be had, and when the log gets no room. That a fence is owed then is for the test to say
  /// (ClientState::unsettled_in).
  uint32_t log(uint32_t slot, uint32_t generation, uint64_t offset, std::string_view bytes) {
    if (delegated(slot, generation) == 0) throw std::runtime_error("not delegated");
    return log_anyway(log_of(slot), slot, generation, offset, bytes);
  }
  /// The same without asking whether it may be logged, and in any log: a lie, perhaps.
  uint32_t log_anyway(uint32_t log, uint32_t slot, uint32_t generation, uint64_t offset,
                      std::string_view bytes) {
    for (size_t from = 0; from < bytes.size();) {
      const std::string_view part = bytes.substr(from, common::kMaxRecord);
      const auto length = static_cast<uint32_t>(part.size());
      const uint32_t place = make_log_room(log, length);
      std::memcpy(memory_->log[log] + place, part.data(), length);
      put_record(log, {slot, generation, offset + from, length, place});
      from += length;
    }
    return logs_[log].published;
  }
  /// Publishes a record as it is, whatever it says, and whatever stands in the ring at its place.
  uint32_t put_record(uint32_t log, const common::LogRecord& record) {
    const uint32_t number = logs_[log].published;
    memory_->logs[log].records[number % common::kLogRecords] = record;
    publish_records(log, number + 1);
    return number + 1;
  }
  /// Says that so many records have ever been put into the log.
  void publish_records(uint32_t log, uint32_t number) {
    logs_[log].published = number;
    common::LogRing& ring = memory_->logs[log];
    ring.head.published.store(number, std::memory_order_release);  // partner: the pump's acquire
    // Partners: the daemon's between its change of the delegation and its look at `published`, and
    // the pump's before it sleeps, or stops looking by itself.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (ring.tail.looks.load(std::memory_order_relaxed) == 0) ring_if_asleep();
  }
  /// Waits until this record of the log, and all before it, have been answered. False if the daemon
  /// has hung up before that, or it takes longer.
  bool wait_logged(uint32_t log, uint32_t number,
                   std::chrono::milliseconds within = std::chrono::seconds(10)) {
    return wait_done(
        log, [number](uint32_t done) { return static_cast<int32_t>(number - done) <= 0; }, within);
  }
  /// The error (errno) of what was logged through the slot, once; 0: none.
  int take_log_error(uint32_t slot) {
    return memory_->slots[slot].log_error.exchange(0, std::memory_order_relaxed);
  }

  // --- lanes ---

  /// Puts a request into a lane, rings if the pump sleeps, does not wait. A sync is made under the
  /// slot's delegation.
  void submit(uint32_t lane, common::Op op, uint32_t slot, uint32_t generation, uint64_t offset,
              uint32_t length) {
    common::LaneRequest& request = memory_->requests[lane];
    request.delegation = common::is_sync(op) ? delegated(slot, generation) : 0;
    request.op = static_cast<uint32_t>(op);
    request.slot = slot;
    request.generation = generation;
    request.length = length;
    request.offset = offset;
    const uint32_t number = request.submitted.load(std::memory_order_relaxed) + 1;
    request.submitted.store(number, std::memory_order_release);  // partner: the pump's acquire
    ring_if_asleep();
  }

  /// Spins for `spin`, then sleeps. Nothing if the daemon has hung up before it answered.
  std::optional<Answer> wait(uint32_t lane,
                             std::chrono::microseconds spin = std::chrono::microseconds(20)) {
    common::LaneRequest& request = memory_->requests[lane];
    common::LaneReply& reply = memory_->replies[lane];
    const uint32_t number = request.submitted.load(std::memory_order_relaxed);
    const auto until = std::chrono::steady_clock::now() + spin;
    while (reply.completed.load(std::memory_order_acquire) != number) {
      if (std::chrono::steady_clock::now() < until) {
        common::cpu_relax();
        continue;
      }
      request.client_waits.store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);  // partner: after `completed`
      const uint32_t seen = reply.completed.load(std::memory_order_acquire);
      if (seen != number) {
        common::futex_wait(reply.completed, seen, 100);
        if (hung_up() && reply.completed.load(std::memory_order_acquire) != number) {
          return std::nullopt;
        }
      }
      request.client_waits.store(0, std::memory_order_relaxed);
    }
    return Answer{reply.error, reply.length};
  }

  std::optional<Answer> call(uint32_t lane, common::Op op, uint32_t slot, uint32_t generation,
                             uint64_t offset, uint32_t length,
                             std::chrono::microseconds spin = std::chrono::microseconds(20)) {
    submit(lane, op, slot, generation, offset, length);
    return wait(lane, spin);
  }
  char* payload(uint32_t lane) { return reinterpret_cast<char*>(memory_->payload[lane]); }

  /// The daemon has closed the connection.
  bool hung_up() const {
    pollfd poll_fd{socket_, POLLRDHUP, 0};
    return ::poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
  }
  bool wait_hung_up(std::chrono::milliseconds patience = std::chrono::seconds(10)) const {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < end) {
      if (hung_up()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  uint64_t doorbells = 0;
  /// How long is waited for a delegation, and for room in a log.
  std::chrono::milliseconds patience{10'000};

 private:
  /// What the shim keeps of a log for itself.
  struct Log {
    uint32_t published = 0;
    uint64_t put = 0;  // bytes ever, with what was skipped at the end of the ring
    std::vector<uint64_t> starts = std::vector<uint64_t>(common::kLogRecords);  // `put` before it
  };

  /// The place of `length` bytes in the ring, for the next record.
  uint32_t make_log_room(uint32_t index, uint32_t length) {
    Log& log = logs_[index];
    const uint64_t left = common::kLogBytes - log.put % common::kLogBytes;
    const uint64_t skipped = length > left ? left : 0;  // a record's bytes are in one piece
    const auto has_room = [&](uint32_t done) {
      const uint32_t used = log.published - done;
      const uint64_t start = used == 0 ? log.put : log.starts[done % common::kLogRecords];
      return used < common::kLogRecords && log.put + skipped + length - start <= common::kLogBytes;
    };
    if (!wait_done(index, has_room, patience)) throw std::runtime_error("no room in the log");
    log.starts[log.published % common::kLogRecords] = log.put;
    const auto place = static_cast<uint32_t>((log.put + skipped) % common::kLogBytes);
    log.put += skipped + length;
    return place;
  }

  /// Waits until LogTail::done is `enough`.
  bool wait_done(uint32_t log, const auto& enough, std::chrono::milliseconds within) {
    common::LogRing& ring = memory_->logs[log];
    const auto end = std::chrono::steady_clock::now() + within;
    while (true) {
      const bool gone = hung_up();  // first: what was answered before counts
      // Partner: the daemon's release; it does not look at those records and bytes any more.
      const uint32_t done = ring.tail.done.load(std::memory_order_acquire);
      if (enough(done)) return true;
      if (gone || std::chrono::steady_clock::now() >= end) return false;
      ring.head.waits.fetch_add(1, std::memory_order_relaxed);
      ring_if_asleep();
      common::futex_wait(ring.tail.done, done, 10);
      ring.head.waits.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  void ring_if_asleep() {
    std::atomic_thread_fence(std::memory_order_seq_cst);  // partner: after pump_asleep = 1
    if (memory_->header.pump_asleep.load(std::memory_order_relaxed) == 0) return;
    ring();
    ++doorbells;
  }

  [[noreturn]] static void fail(const std::string& what) {
    throw std::runtime_error(what + ": " + strerrordesc_np(errno));
  }

  control::FromDaemon receive(int* fd) {
    char bytes[common::kMaxPacket];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec iov{bytes, sizeof bytes};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(socket_, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0) fail("recvmsg");
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header;
         header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_type == SCM_RIGHTS) std::memcpy(fd, CMSG_DATA(header), sizeof *fd);
    }
    control::FromDaemon answer;
    if (!answer.ParseFromArray(bytes, static_cast<int>(n))) throw std::runtime_error("garbage");
    return answer;
  }

  int socket_ = -1;
  int memory_fd_ = -1;
  std::map<uint32_t, int> engaged_as_;  // descriptor by slot
  std::array<Log, common::kLogs> logs_;
  control::Welcome welcome_;
  common::SessionMemory* memory_ = nullptr;
};

}  // namespace booster::test
