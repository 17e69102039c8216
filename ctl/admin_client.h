// Asks boosterd over its admin socket. Never waits longer than a time limit, and never ends the
// process with SIGPIPE when the daemon goes away.
#pragma once

#include <chrono>
#include <string>

#include "ctl/failure.h"
#include "proto/admin.pb.h"

namespace booster::ctl {

class AdminClient {
 public:
  /// `limit`: for connecting, asking and the answer together.
  explicit AdminClient(std::string socket_path,
                       std::chrono::milliseconds limit = std::chrono::seconds(5))
      : socket_path_(std::move(socket_path)), limit_(limit) {}
  ~AdminClient() { disconnect(); }
  AdminClient(const AdminClient&) = delete;
  AdminClient& operator=(const AdminClient&) = delete;

  /// One request and its answer. Connects if there is no connection, also when the daemon has
  /// closed the one of the last call, as it does after a while; after a failure there is none, so
  /// that the next call tries a daemon that may have come up meanwhile.
  Outcome<admin::Stats> stats();
  /// Empties the page cache. Bytes that were cached.
  Outcome<uint64_t> drop_cache();

 private:
  using Time = std::chrono::steady_clock::time_point;

  Outcome<admin::Response> exchange(const admin::Request& request);
  Outcome<admin::Response> ask(const admin::Request& request, Time end);
  Outcome<std::monostate> connect();
  Outcome<std::monostate> send_all(const std::string& data, Time end);
  Outcome<std::string> receive_exactly(size_t length, Time end);
  Outcome<std::monostate> wait_for(short events, Time end) const;
  void disconnect();

  Failure no_answer() const;
  Failure gone() const;
  Failure unreachable(int error) const;

  const std::string socket_path_;
  const std::chrono::milliseconds limit_;
  int socket_ = -1;
  bool answer_began_ = false;  // a byte of the last request's answer has come
};

}  // namespace booster::ctl
