// Length-prefixed protobuf messages on a Unix stream socket (proto/admin.proto).
#include "ctl/admin_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace booster::ctl {
namespace {

/// No honest answer comes near: 4,096 sessions with 16 files each take about 5 MB.
constexpr uint32_t kLongestAnswer = 256U << 20;

template <class T>
const Failure* failed(const Outcome<T>& outcome) {
  return std::get_if<Failure>(&outcome);
}

std::string length_prefixed(const admin::Request& request) {
  const std::string body = request.SerializeAsString();
  const uint32_t length = htonl(static_cast<uint32_t>(body.size()));
  std::string message(sizeof length, '\0');
  std::memcpy(message.data(), &length, sizeof length);
  return message + body;
}

}  // namespace

Failure AdminClient::no_answer() const {
  return {Exit::kNoAnswer,
          fmt::format("boosterd does not answer on {} within {} s: look at "
                      "'systemctl status boosterd'; its watchdog restarts it if it hangs",
                      socket_path_, std::chrono::duration<double>(limit_).count())};
}

Failure AdminClient::gone() const {
  return {Exit::kUnreachable, fmt::format("boosterd ended before it had answered ({}): look at "
                                          "'systemctl status boosterd'",
                                          socket_path_)};
}

Failure AdminClient::unreachable(int error) const {
  if (error == EACCES || error == EPERM) {
    return {Exit::kUnreachable,
            fmt::format("no permission for {}: use sudo, or become a member of the group booster "
                        "('usermod -a -G booster USER', then log in again)",
                        socket_path_)};
  }
  return {Exit::kUnreachable,
          fmt::format("boosterd is not running ({}: {}): start it with 'systemctl start boosterd'",
                      socket_path_, strerrordesc_np(error))};
}

void AdminClient::disconnect() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

Outcome<std::monostate> AdminClient::connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path_.empty() || socket_path_.size() >= sizeof address.sun_path) {
    return Failure{Exit::kUsage,
                   fmt::format("--admin-socket takes a path of 1 to {} characters, not '{}'",
                               sizeof address.sun_path - 1, socket_path_)};
  }
  std::memcpy(address.sun_path, socket_path_.data(), socket_path_.size());

  const int low = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (low < 0) return unreachable(errno);
  // Started with closed standard descriptors, the socket would become the standard output.
  socket_ = ::fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  const int dup_error = errno;
  ::close(low);
  if (socket_ < 0) return unreachable(dup_error);

  // Also bounds connect(): it waits while the daemon's queue of new connections is full (unix(7)).
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(limit_);
  const auto rest = std::chrono::duration_cast<std::chrono::microseconds>(limit_ - whole);
  const timeval timeout{whole.count(), rest.count()};
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    disconnect();
    if (error == EAGAIN || error == EINTR) return no_answer();
    return unreachable(error);
  }
  return std::monostate{};
}

Outcome<std::monostate> AdminClient::wait_for(short events, Time end) const {
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd poll_fd{socket_, events, 0};
    const int n = ::poll(&poll_fd, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (n == 1) return std::monostate{};
    if (n == 0) return no_answer();
    if (errno != EINTR) return gone();
  }
}

Outcome<std::monostate> AdminClient::send_all(const std::string& data, Time end) {
  size_t sent = 0;
  while (sent < data.size()) {
    auto ready = wait_for(POLLOUT, end);
    if (failed(ready)) return ready;
    const ssize_t n =
        ::send(socket_, data.data() + sent, data.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      sent += static_cast<size_t>(n);
    } else if (errno != EAGAIN && errno != EINTR) {
      return gone();
    }
  }
  return std::monostate{};
}

Outcome<std::string> AdminClient::receive_exactly(size_t length, Time end) {
  std::string data(length, '\0');
  size_t received = 0;
  while (received < length) {
    const auto ready = wait_for(POLLIN, end);
    if (const auto* failure = failed(ready)) return *failure;
    const ssize_t n = ::recv(socket_, data.data() + received, length - received, MSG_DONTWAIT);
    if (n > 0) {
      received += static_cast<size_t>(n);
      answer_began_ = true;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
      return gone();
    }
  }
  return data;
}

Outcome<admin::Response> AdminClient::ask(const admin::Request& request, Time end) {
  answer_began_ = false;
  if (socket_ < 0) {
    const auto connected = connect();
    if (const auto* failure = failed(connected)) return *failure;
  }
  const auto sent = send_all(length_prefixed(request), end);
  if (const auto* failure = failed(sent)) return *failure;

  uint32_t length = 0;
  const auto prefix = receive_exactly(sizeof length, end);
  if (const auto* failure = failed(prefix)) return *failure;
  std::memcpy(&length, std::get<std::string>(prefix).data(), sizeof length);
  length = ntohl(length);
  admin::Response response;
  if (length <= kLongestAnswer) {
    const auto body = receive_exactly(length, end);
    if (const auto* failure = failed(body)) return *failure;
    if (response.ParseFromString(std::get<std::string>(body))) return response;
  }
  return Failure{Exit::kFailed,
                 fmt::format("what answers on {} does not speak boosterd's language: boosterctl "
                             "and boosterd may be of different versions",
                             socket_path_)};
}

Outcome<admin::Response> AdminClient::exchange(const admin::Request& request) {
  const Time end = std::chrono::steady_clock::now() + limit_;
  const bool reused = socket_ >= 0;
  auto answer = ask(request, end);
  const auto* lost = failed(answer);
  if (lost && lost->exit == Exit::kUnreachable && reused && !answer_began_) {
    // The daemon closes connections on which nothing was asked for half a minute. Everything there
    // is can be asked for twice.
    disconnect();
    answer = ask(request, end);
  }
  if (const auto* failure = failed(answer)) {
    disconnect();
    return *failure;
  }
  const auto& response = std::get<admin::Response>(answer);
  if (!response.error().empty()) {
    return Failure{Exit::kFailed, fmt::format("boosterd: {}", response.error())};
  }
  return answer;
}

Outcome<admin::Stats> AdminClient::stats() {
  admin::Request request;
  request.mutable_stats();
  auto answer = exchange(request);
  if (const auto* failure = failed(answer)) return *failure;
  auto& response = std::get<admin::Response>(answer);
  if (!response.has_stats()) {
    return Failure{Exit::kFailed,
                   "boosterd answered without statistics: it may be older than "
                   "boosterctl; restart it with 'systemctl restart boosterd'"};
  }
  return std::move(*response.mutable_stats());
}

Outcome<uint64_t> AdminClient::drop_cache() {
  admin::Request request;
  request.mutable_cache_drop();
  const auto answer = exchange(request);
  if (const auto* failure = failed(answer)) return *failure;
  return std::get<admin::Response>(answer).cache_dropped().bytes();
}

}  // namespace booster::ctl
