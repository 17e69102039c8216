#include "preload/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "control.pb.h"
#include "pb_decode.h"
#include "pb_encode.h"
#include "preload/cache_view.h"
#include "preload/handle.h"
#include "preload/log.h"
#include "preload/process.h"

namespace booster::preload {

using common::kHandleSlots;
using common::Reason;
using raw::is_error;
using raw::raw_syscall;
using raw::word;

constinit Connector g_connector;
constinit std::atomic<int> g_socket{-1};

namespace {

constexpr uint64_t kRetryMs = 1000;

/// Of what a session keeps by handle slot: generation, whether it is free, page cache.
constexpr size_t kSlotBytes = kHandleSlots * (sizeof(uint32_t) + sizeof(void*)) + kHandleSlots / 8;
static_assert(kHandleSlots * sizeof(uint32_t) % 8 == 0 && kHandleSlots % 512 == 0);

uint64_t inode_of(int fd) {
  raw::FileId id;
  return raw::identify(fd, id) && (id.mode & S_IFMT) == S_IFSOCK ? id.inode : 0;
}

}  // namespace

bool Connector::is_our_socket(int fd) const {
  return fd >= 0 && socket_inode_ != 0 && inode_of(fd) == socket_inode_;
}

void Connector::close_socket() {
  const int fd = g_socket.exchange(-1, std::memory_order_relaxed);
  if (is_our_socket(fd)) raw::close(fd);
  socket_inode_ = 0;
  socket_looked_ms_ = 0;
  hello_sent_ = false;
}

bool Connector::open_socket() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const char* path = settings().socket_path;
  if (strlen(path) >= sizeof(address.sun_path)) return false;
  memcpy(address.sun_path, path, strlen(path) + 1);

  const long low =
      raw_syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (is_error(low)) return false;
  long fd = raw_syscall(SYS_fcntl, low, F_DUPFD_CLOEXEC, raw::high_number());
  raw::close(static_cast<int>(low));
  if (is_error(fd)) return false;

  ucred peer{};
  socklen_t length = sizeof(peer);
  // EAGAIN (a full backlog) is a no like any other: later.
  if (is_error(raw_syscall(SYS_connect, fd, word(&address), sizeof(address))) ||
      is_error(
          raw_syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, word(&peer), word(&length))) ||
      peer.uid != 0) {
    raw::close(static_cast<int>(fd));
    return false;
  }
  socket_inode_ = inode_of(static_cast<int>(fd));
  g_socket.store(static_cast<int>(fd), std::memory_order_relaxed);
  return true;
}

bool Connector::send_packet(const void* data, size_t length) {
  const int socket = g_socket.load(std::memory_order_relaxed);
  if (!is_our_socket(socket)) return false;
  const auto size = static_cast<long>(length);
  return raw_syscall(SYS_sendto, socket, word(data), size, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0) ==
         size;
}

namespace {

/// Encodes into `packet`; 0 when it does not fit (it always does).
size_t encode(const booster_control_ToDaemon& message, uint8_t (&packet)[common::kMaxPacket]) {
  pb_ostream_t stream = pb_ostream_from_buffer(packet, sizeof(packet));
  return pb_encode(&stream, booster_control_ToDaemon_fields, &message) ? stream.bytes_written : 0;
}

}  // namespace

struct Connector::Received {
  booster_control_FromDaemon message = booster_control_FromDaemon_init_zero;
  bool good = false;    // the message could be decoded
  int descriptor = -1;  // for the receiver to close
};

/// One packet; the kernel's answer: its length, 0 at the end, or -errno (-EAGAIN: none is there).
long Connector::receive(Received& received) {
  const int socket = g_socket.load(std::memory_order_relaxed);
  if (!is_our_socket(socket)) return -EBADF;
  uint8_t packet[common::kMaxPacket];
  iovec part{packet, sizeof(packet)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const long got =
      raw_syscall(SYS_recvmsg, socket, word(&message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got <= 0) return got;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
      memcpy(&received.descriptor, CMSG_DATA(header), sizeof(int));
    }
  }
  pb_istream_t stream = pb_istream_from_buffer(packet, static_cast<size_t>(got));
  received.good = pb_decode(&stream, booster_control_FromDaemon_fields, &received.message);
  return got;
}

Connector::Welcome Connector::receive_welcome() {
  Received received;
  const long got = receive(received);
  if (got == -EAGAIN || got == -EINTR) return Welcome::kNotYet;
  if (got <= 0) return Welcome::kFailed;
  const int memory_fd = received.descriptor;
  const booster_control_FromDaemon& answer = received.message;
  bool adopted = false;
  if (received.good) {
    if (answer.which_body == booster_control_FromDaemon_refusal_tag) {
      if (answer.body.refusal.code == booster_control_Refusal_Code_WRONG_ABI) {
        hopeless_ = true;
        log_line(
            "libbooster.so and boosterd are of different versions: files go through FUSE; "
            "restart this program after the upgrade, or boosterd");
      }
    } else if (answer.which_body == booster_control_FromDaemon_welcome_tag && memory_fd >= 0) {
      const auto& welcome = answer.body.welcome;
      adopted = welcome.abi_version == common::kAbiVersion &&
                adopt(memory_fd, welcome.memory_bytes, welcome.nonce,
                      {welcome.page_cache, welcome.delegations});
    }
  }
  if (memory_fd >= 0) raw::close(memory_fd);
  return adopted ? Welcome::kDone : Welcome::kFailed;
}

bool Connector::adopt(int memory_fd, uint64_t bytes, uint64_t nonce, const Policy& policy) {
  if (bytes != common::kSessionBytes) return false;
  const long mapped = raw_syscall(SYS_mmap, 0, common::kSessionBytes, PROT_READ | PROT_WRITE,
                                  MAP_SHARED, memory_fd, 0);
  if (is_error(mapped)) return false;
  auto* memory = reinterpret_cast<common::SessionMemory*>(mapped);
  // Rights do not pass to children: after fork this range does not exist there.
  raw_syscall(SYS_madvise, mapped, common::kSessionBytes, MADV_DONTFORK);
  const bool good = memory->header.magic == common::kSessionMagic &&
                    memory->header.abi_version == common::kAbiVersion;
  auto* slots = good ? static_cast<uint32_t*>(map_pages(kSlotBytes)) : nullptr;
  Session* session = slots == nullptr ? nullptr : sessions_.allocate();
  if (session == nullptr) {
    if (slots != nullptr) raw_syscall(SYS_munmap, word(slots), kSlotBytes);
    raw_syscall(SYS_munmap, mapped, common::kSessionBytes);
    return false;
  }
  session->memory_ = memory;
  session->watch_ = nullptr;
  session->id_ = ++last_id_ == 0 ? ++last_id_ : last_id_;
  session->nonce_ = nonce;
  session->policy_ = policy;
  session->dead_.store(false, std::memory_order_relaxed);
  session->free_lanes_.store((1U << common::kLanes) - 1, std::memory_order_relaxed);
  session->spin_us_.store(processors() > 1 ? 16 : 0, std::memory_order_relaxed);
  memset(session->lane_sequence_, 0, sizeof(session->lane_sequence_));
  session->generations_ = slots;
  session->free_slots_ = reinterpret_cast<uint64_t*>(slots + kHandleSlots);
  session->views_ = reinterpret_cast<CacheView**>(session->free_slots_ + kHandleSlots / 64);
  session->ahead_lock_.reset();
  session->ahead_lane_ = -1;
  for (Session::Log& log : session->logs_) {
    log.lock.reset();
    log.notes = nullptr;
    log.published = 0;
    log.put = 0;
    log.replayed.store(false, std::memory_order_relaxed);
  }
  session->looked_ms_.store(0, std::memory_order_relaxed);
  memset(session->free_slots_, 0xff, kHandleSlots / 8);
  // Release: partner of the acquire in current_ref(). One reference is `current_`'s.
  session->refs.store(1, std::memory_order_release);
  current_.store(session, std::memory_order_release);
  return true;
}

Session* Connector::current_ref() {
  while (true) {
    Session* session = current_.load(std::memory_order_acquire);
    if (session == nullptr) return nullptr;
    uint32_t refs = session->refs.load(std::memory_order_relaxed);
    while (refs != 0 &&
           !session->refs.compare_exchange_weak(refs, refs + 1, std::memory_order_acquire)) {
    }
    if (refs == 0) continue;
    if (current_.load(std::memory_order_acquire) == session) return session;
    release(session);
  }
}

void Connector::release(Session* session) {
  if (session->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  raw_syscall(SYS_munmap, word(session->memory_), common::kSessionBytes);
  raw_syscall(SYS_munmap, word(session->generations_), kSlotBytes);
  session->drop_log_notes();
  if (session->watch_ != nullptr) {
    raw_syscall(SYS_munmap, word(session->watch_), sizeof(common::WatchWord));
  }
  session->memory_ = nullptr;
  LockGuard guard(lock_);
  sessions_.release(session);
}

void Connector::retire(Session* session) {
  if (current_.load(std::memory_order_relaxed) != session) return;
  current_.store(nullptr, std::memory_order_release);
  session->dead_.store(true, std::memory_order_relaxed);
  close_socket();
  for (uint32_t slot = 0; slot < kHandleSlots; ++slot) drop_view(*session, slot);
  drop_views_of(session);
}

Session* Connector::acquire(bool wait) {
  if (Session* session = current_ref()) {
    // Whoever comes here has a question, and may have one that a dead daemon will never answer.
    if (session->alive_lately()) return session;
    lock_.lock();
    const bool was_current = current_.load(std::memory_order_relaxed) == session;
    retire(session);
    lock_.unlock();
    if (was_current) release(session);  // current_'s own reference
    release(session);
  }
  if (hopeless_) return nullptr;
  const uint64_t now = raw::coarse_now_ms();
  if (now < next_attempt_ms_.load(std::memory_order_relaxed)) return nullptr;
  const uint32_t wait_ms = wait ? eager_wait_ms() : 0;
  if (!lock_.lock_for(wait_ms)) return nullptr;
  const uint64_t deadline = now + wait_ms;
  bool failed = false;
  while (current_.load(std::memory_order_relaxed) == nullptr && !failed) {
    if (!hello_sent_) {
      booster_control_ToDaemon hello = booster_control_ToDaemon_init_zero;
      hello.which_body = booster_control_ToDaemon_hello_tag;
      hello.body.hello.abi_version = common::kAbiVersion;
      uint8_t packet[common::kMaxPacket];
      const size_t length = encode(hello, packet);
      failed = !open_socket() || !send_packet(packet, length);
      hello_sent_ = !failed;
      if (failed) break;
    }
    const Welcome welcome = receive_welcome();
    failed = welcome == Welcome::kFailed;
    if (welcome == Welcome::kNotYet) {
      if (wait_ms == 0) break;
      if (raw::coarse_now_ms() >= deadline) {
        note_waited_in_vain();
        break;
      }
      pollfd ready{g_socket.load(std::memory_order_relaxed), POLLIN, 0};
      timespec timeout{0, 100'000'000};
      raw_syscall(SYS_ppoll, word(&ready), 1, word(&timeout), 0, 0);
    }
  }
  if (failed) {
    close_socket();
    next_attempt_ms_.store(raw::coarse_now_ms() + kRetryMs, std::memory_order_relaxed);
  }
  lock_.unlock();
  return current_ref();
}

bool Connector::engage(Session& session, int fd, const raw::FileId& file, HandleRef& handle,
                       Reason& reason) {
  LockGuard guard(lock_);
  reason = Reason::kNoDaemon;
  if (current_.load(std::memory_order_relaxed) != &session) return false;
  uint32_t slot = kHandleSlots;
  for (uint32_t i = 0; i < kHandleSlots / 64; ++i) {
    if (session.free_slots_[i] != 0) {
      slot = i * 64 + static_cast<uint32_t>(__builtin_ctzll(session.free_slots_[i]));
      break;
    }
  }
  reason = Reason::kLimit;
  if (slot == kHandleSlots) return false;
  handle = {session.id_, slot, ++session.generations_[slot]};
  booster_control_ToDaemon message = booster_control_ToDaemon_init_zero;
  message.which_body = booster_control_ToDaemon_engage_tag;
  message.body.engage = {
      session.nonce_, slot,           handle.generation, static_cast<uint32_t>(fd),
      file.dev_major, file.dev_minor, file.inode};
  uint8_t packet[common::kMaxPacket];
  if (!send_packet(packet, encode(message, packet))) {
    handle = {};
    reason = Reason::kNoDaemon;
    return false;
  }
  session.free_slots_[slot / 64] &= ~(1ULL << (slot % 64));
  return true;
}

void Connector::give_back(const HandleRef& handle) {
  if (handle.session == 0 || handle.generation == 0) return;  // no slot was taken
  LockGuard guard(lock_);
  Session* session = current_.load(std::memory_order_relaxed);
  if (session == nullptr || session->id_ != handle.session) return;
  drop_view(*session, handle.slot);
  // A cache that is still on its way to it is of another file than whoever has the slot next.
  ++session->generations_[handle.slot];
  booster_control_ToDaemon message = booster_control_ToDaemon_init_zero;
  message.which_body = booster_control_ToDaemon_release_tag;
  message.body.release = {handle.slot, handle.generation};
  uint8_t packet[common::kMaxPacket];
  // A socket that is full keeps the slot: a handle less, until the session ends.
  if (send_packet(packet, encode(message, packet))) {
    session->free_slots_[handle.slot / 64] |= 1ULL << (handle.slot % 64);
  }
}

bool Connector::ask_delegation(Session& session, const HandleRef& handle, int fd) {
  LockGuard guard(lock_);
  if (current_.load(std::memory_order_relaxed) != &session) return false;
  booster_control_ToDaemon message = booster_control_ToDaemon_init_zero;
  message.which_body = booster_control_ToDaemon_delegate_tag;
  message.body.delegate = {handle.slot, handle.generation, fd < 0,
                           fd < 0 ? 0 : static_cast<uint32_t>(fd)};
  uint8_t packet[common::kMaxPacket];
  return send_packet(packet, encode(message, packet));
}

void Connector::drop_view(Session& session, uint32_t slot) {
  CacheView* view = session.views_[slot];
  session.views_[slot] = nullptr;
  if (view != nullptr) unmap_view(view);
}

bool Connector::receive_cache(Session& session) {
  Received received;
  if (receive(received) <= 0) return false;
  if (received.descriptor < 0) return true;
  const booster_control_FromDaemon& message = received.message;
  if (message.which_body == booster_control_FromDaemon_watch_tag && session.watch_ == nullptr) {
    const long mapped = raw_syscall(SYS_mmap, 0, sizeof(common::WatchWord), PROT_READ, MAP_SHARED,
                                    received.descriptor, 0);
    if (!is_error(mapped)) {
      raw_syscall(SYS_madvise, mapped, sizeof(common::WatchWord), MADV_DONTFORK);
      session.watch_ = reinterpret_cast<const common::WatchWord*>(mapped);
    }
  }
  if (message.which_body == booster_control_FromDaemon_cache_tag) {
    const auto& cache = message.body.cache;
    if (cache.slot < kHandleSlots && session.generations_[cache.slot] == cache.generation) {
      drop_view(session, cache.slot);
      session.views_[cache.slot] = map_view(received.descriptor, cache.map_bytes, cache.slot);
    }
  }
  raw::close(received.descriptor);
  return true;
}

CacheView* Connector::take_view(Session& session, const HandleRef& handle) {
  LockGuard guard(lock_);
  if (current_.load(std::memory_order_relaxed) != &session) return nullptr;
  while (session.views_[handle.slot] == nullptr && receive_cache(session)) {
  }
  CacheView* view = session.views_[handle.slot];
  session.views_[handle.slot] = nullptr;
  if (view != nullptr) {
    session.refs.fetch_add(1, std::memory_order_relaxed);  // the caller has one
    view->session = &session;
  }
  return view;
}

bool Connector::send_doorbell() {
  // Or the number could be moved away, and be the program's own, between looking and sending.
  LockGuard guard(lock_);
  const int socket = g_socket.load(std::memory_order_relaxed);
  // It changes hands only by calls past libc: looked at once in a tick of the coarse clock.
  if (const uint64_t now = raw::coarse_now_ms(); socket_looked_ms_ != now) {
    if (!is_our_socket(socket)) return false;
    socket_looked_ms_ = now;
  }
  const long sent = raw_syscall(SYS_sendto, socket, word(&common::kDoorbell), 1,
                                MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);
  // A full socket holds packets that the daemon has yet to read: it will wake.
  return sent == 1 || sent == -EAGAIN;
}

bool Connector::socket_alive(uint32_t id) {
  LockGuard guard(lock_);
  Session* session = current_.load(std::memory_order_relaxed);
  if (session == nullptr || session->id_ != id) return false;
  const int socket = g_socket.load(std::memory_order_relaxed);
  if (!is_our_socket(socket)) return false;
  // Not by looking for packets: those that nobody has read yet outlive their sender.
  pollfd state{socket, POLLRDHUP, 0};
  const timespec at_once{};
  const long ready = raw_syscall(SYS_ppoll, word(&state), 1, word(&at_once), 0, 0);
  return is_error(ready) || (state.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)) == 0;
}

void Connector::move_descriptor() {
  LockGuard guard(lock_);
  const int fd = g_socket.load(std::memory_order_relaxed);
  if (!is_our_socket(fd)) return;
  const long moved = raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1);
  const long elsewhere = is_error(moved) ? raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3) : moved;
  g_socket.store(is_error(elsewhere) ? -1 : static_cast<int>(elsewhere), std::memory_order_relaxed);
  raw::close(fd);
}

void Connector::after_fork() {
  lock_.reset();
  close_socket();
  current_.store(nullptr, std::memory_order_relaxed);
  next_attempt_ms_.store(0, std::memory_order_relaxed);
  hopeless_ = false;
  sessions_.reset([](Session&) { return false; });
  views_after_fork();
}

}  // namespace booster::preload
