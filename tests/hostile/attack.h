// What hostile_test.cc and the fuzzer share: other users' processes to attack from, packets with
// any number of descriptors, requests whose answer is not waited for without end, and the daemon's
// statistics. Built on tests/unit/daemon_client.h, the client that keeps the rules.
#pragma once

// daemon_client.h formats; this way no program needs to be linked to libfmt for it.
#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY 1
#endif

#include <arpa/inet.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/abi.h"
#include "proto/admin.pb.h"
#include "tests/unit/daemon_client.h"

namespace booster::test {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

/// The user that attacks, and another one.
constexpr uid_t kMallory = 12345;
constexpr uid_t kBob = 12346;
constexpr uid_t kAlice = 12346;

/// Longer than anything that is not hung takes, also on a machine with other work.
constexpr seconds kPatience{60};

inline bool within(milliseconds patience, const std::function<bool()>& holds) {
  const auto start = Clock::now();
  while (!holds()) {
    const auto waited = Clock::now() - start;
    if (waited >= patience) return holds();
    // Most things take microseconds; what takes longer is looked at less often.
    std::this_thread::sleep_for(waited < milliseconds(5) ? std::chrono::microseconds(50)
                                                         : milliseconds(2));
  }
  return true;
}

// --- clients -----------------------------------------------------------------------------

/// Connected, and said Hello; a daemon that hangs makes this throw instead of hanging, too.
inline std::unique_ptr<DaemonClient> new_session() {
  auto client = std::make_unique<DaemonClient>(common::kControlSocket);
  const timeval patience{kPatience.count(), 0};
  ::setsockopt(client->socket(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(client->socket(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (const auto refusal = client->hello()) {
    throw std::runtime_error("refused: " + control::Refusal::Code_Name(*refusal));
  }
  return client;
}

/// What became of an Engage, in words: "granted r", "granted w", "granted rw", the name of the
/// reason, "ended" when the daemon hung up instead, or "no answer".
inline std::string outcome(DaemonClient& client, uint32_t index, uint32_t generation,
                           milliseconds patience = kPatience) {
  std::string said = "no answer";
  within(patience, [&] {
    const bool gone = client.hung_up();  // first: what was answered before counts
    const DaemonClient::Slot slot = client.slot(index);
    if (slot.state == common::HandleSlot::kReady && slot.generation == generation) {
      said = "granted ";
      if ((slot.flags & common::kHandleReadable) != 0) said += 'r';
      if ((slot.flags & common::kHandleWritable) != 0) said += 'w';
    } else if (slot.state == common::HandleSlot::kRefused && slot.generation == generation) {
      said = common::reason_name(slot.reason);
    } else if (gone) {
      said = "ended";
    }
    return said != "no answer";
  });
  return said;
}

/// An Engage by the book.
inline std::string engage(DaemonClient& client, int fd, uint32_t slot = 0,
                          uint32_t generation = 1) {
  client.engage_begin(fd, slot, generation);
  return outcome(client, slot, generation);
}

/// The answer to what was submitted last, or nothing within `patience` (or ever).
inline std::optional<DaemonClient::Answer> answer(DaemonClient& client, uint32_t lane,
                                                  milliseconds patience = kPatience) {
  const common::LaneRequest& request = client.memory().requests[lane];
  const common::LaneReply& reply = client.memory().replies[lane];
  const uint32_t number = request.submitted.load(std::memory_order_relaxed);
  const bool answered = within(patience, [&] {
    const bool gone = client.hung_up();
    return reply.completed.load(std::memory_order_acquire) == number || gone;
  });
  if (!answered || reply.completed.load(std::memory_order_acquire) != number) return std::nullopt;
  return DaemonClient::Answer{reply.error, reply.length};
}

/// A request and its answer in words: "12 bytes", "EBADF", "ended" or "no answer".
inline std::string request(DaemonClient& client, common::Op op, uint64_t offset, uint32_t length,
                           uint32_t slot = 0, uint32_t generation = 1, uint32_t lane = 0,
                           milliseconds patience = kPatience) {
  client.submit(lane, op, slot, generation, offset, length);
  const auto got = answer(client, lane, patience);
  if (!got) return client.hung_up() ? "ended" : "no answer";
  if (got->error != 0) return strerrorname_np(got->error);
  return std::to_string(got->length) + " bytes";
}

/// Reads through the daemon; what it answered instead, if it did not serve.
inline std::string read_through(DaemonClient& client, uint64_t offset, uint32_t length,
                                uint32_t slot = 0, uint32_t generation = 1, uint32_t lane = 0) {
  const std::string said =
      request(client, common::Op::kRead, offset, length, slot, generation, lane);
  const size_t end = said.find(" bytes");
  if (end == std::string::npos) return said;
  return {client.payload(lane), std::stoul(said.substr(0, end))};
}

/// A write by the book, through the log, and what became of it in words: "12 bytes", the name of
/// the error, "not delegated", "ended" or "no answer".
inline std::string write_through(DaemonClient& client, uint64_t offset, const std::string& bytes,
                                 uint32_t slot = 0, uint32_t generation = 1,
                                 milliseconds patience = kPatience) {
  if (client.delegated(slot, generation) == 0) {
    return client.hung_up() ? "ended" : "not delegated";
  }
  const uint32_t number = client.log(slot, generation, offset, bytes);
  if (!client.wait_logged(client.log_of(slot), number, patience)) {
    return client.hung_up() ? "ended" : "no answer";
  }
  if (const int error = client.take_log_error(slot)) return strerrorname_np(error);
  return std::to_string(bytes.size()) + " bytes";
}

/// A file as the daemon reads it off the bricks, whatever FUSE still holds of it.
inline std::string read_past_fuse(const std::string& path) {
  const auto client = new_session();
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::string bytes = engage(*client, fd);
  if (bytes == "granted r") {
    bytes.clear();
    std::string part;
    do {
      part = read_through(*client, bytes.size(), common::kLanePayload);
      bytes += part;
    } while (part.size() == common::kLanePayload);
  }
  ::close(fd);
  return bytes;
}

/// One packet with any number of descriptors (the kernel allows 253). False if it was not sent.
inline bool send_packet(int socket, const std::string& bytes, const std::vector<int>& descriptors,
                        int flags = 0) {
  std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
  iovec iov{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | flags) == static_cast<ssize_t>(bytes.size());
}

/// A descriptor that a test opens and that is closed with it.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const std::string& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) throw std::runtime_error("open " + path + ": " + strerrordesc_np(errno));
  }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { close(); }
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

/// An Engage with everything chosen: the identity of one file, the number of another.
inline std::string engage_with(DaemonClient& client, int file, int number, uint32_t slot = 0,
                               uint32_t generation = 1) {
  client.send(client.engage_message(slot, generation, number, file));
  return outcome(client, slot, generation);
}

// --- other users' processes --------------------------------------------------------------

/// Turns the calling process into one that a user has started: its /proc files are the user's, as
/// after an exec. 0 stays root.
inline void become_user(uid_t uid) {
  if (uid == 0) return;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
      ::setresuid(uid, uid, uid) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
    ::_exit(126);
  }
}

/// One end of a conversation between a test and its process, line by line.
class Talk {
 public:
  Talk(int in, int out) : in_(in), out_(out) {}

  void say(std::string line) const {
    line += '\n';
    if (::write(out_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) ::_exit(125);
  }
  /// Makes what the other side says from now on the standard input, for an exec.
  void become_stdin() const { ::dup2(in_, STDIN_FILENO); }

  /// "" when the other side has gone, or says nothing for three minutes.
  std::string hear() {
    while (true) {
      const size_t end = buffered_.find('\n');
      if (end != std::string::npos) {
        std::string line = buffered_.substr(0, end);
        buffered_.erase(0, end + 1);
        return line;
      }
      pollfd poll_fd{in_, POLLIN, 0};
      char bytes[4096];
      if (::poll(&poll_fd, 1, 180'000) != 1) return "";
      const ssize_t n = ::read(in_, bytes, sizeof bytes);
      if (n <= 0) return "";
      buffered_.append(bytes, static_cast<size_t>(n));
    }
  }

 private:
  int in_;
  int out_;
  std::string buffered_;
};

/// A process of a user that runs `play`. Ended (SIGKILL) with this object.
class UserProcess {
 public:
  UserProcess(uid_t uid, const std::function<void(Talk&)>& play) {
    int down[2];
    int up[2];
    if (::pipe2(down, O_CLOEXEC) != 0 || ::pipe2(up, O_CLOEXEC) != 0) ::_exit(125);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(down[1]);
      ::close(up[0]);
      become_user(uid);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // after the change of user, which resets it
      Talk talk(down[0], up[1]);
      try {
        play(talk);
      } catch (const std::exception& e) {
        talk.say(std::string("exception: ") + e.what());
      }
      ::_exit(0);
    }
    ::close(down[0]);
    ::close(up[1]);
    to_ = Fd(down[1]);
    from_ = Fd(up[0]);
    talk_ = std::make_unique<Talk>(from_.get(), to_.get());
  }
  ~UserProcess() { kill(); }
  UserProcess(const UserProcess&) = delete;
  UserProcess& operator=(const UserProcess&) = delete;

  pid_t pid() const { return pid_; }
  std::string hear() { return talk_->hear(); }
  void say(const std::string& line) const { talk_->say(line); }
  void signal(int number) const { ::kill(pid_, number); }

  /// Ends it and waits until its process is gone.
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  /// Waits for its own end.
  void wait() {
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
  Fd to_;
  Fd from_;
  std::unique_ptr<Talk> talk_;
};

/// Everything that `play` says, as a process of that user, by lines joined with "; ".
inline std::string as_user(uid_t uid, const std::function<void(Talk&)>& play) {
  UserProcess process(uid, play);
  std::string all;
  for (std::string line; !(line = process.hear()).empty();) all += (all.empty() ? "" : "; ") + line;
  return all;
}

// --- the daemon seen from outside --------------------------------------------------------

/// Asks the admin socket; null if it does not answer.
inline std::unique_ptr<admin::Stats> ask_stats(milliseconds patience = kPatience) {
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, common::kAdminSocket);
  const timeval timeout{patience.count() / 1000, patience.count() % 1000 * 1000};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  admin::Request request;
  request.mutable_stats();
  const std::string body = request.SerializeAsString();
  const uint32_t length = htonl(static_cast<uint32_t>(body.size()));
  const std::string packet(reinterpret_cast<const char*>(&length), sizeof length);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::send(socket.get(), (packet + body).data(), packet.size() + body.size(), MSG_NOSIGNAL) < 0) {
    return nullptr;
  }
  uint32_t answer_length = 0;
  if (::recv(socket.get(), &answer_length, sizeof answer_length, MSG_WAITALL) !=
      sizeof answer_length) {
    return nullptr;
  }
  std::string text(ntohl(answer_length), '\0');
  admin::Response response;
  if (::recv(socket.get(), text.data(), text.size(), MSG_WAITALL) !=
          static_cast<ssize_t>(text.size()) ||
      !response.ParseFromString(text) || !response.error().empty()) {
    return nullptr;
  }
  return std::make_unique<admin::Stats>(response.stats());
}

}  // namespace booster::test
