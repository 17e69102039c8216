// The admin socket's connections.
#include "daemon/stats/admin_server.h"

#include <array>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdint>
#include <string>

#include "daemon/stats/report.h"
#include "proto/admin.pb.h"

namespace booster::daemon::stats {
namespace {

using Socket = boost::asio::local::stream_protocol::socket;
using ErrorCode = boost::system::error_code;

constexpr uint32_t kMaxRequest = 4096;
constexpr int kMaxConnections = 64;
// For one request, its answer, and a client that takes its time; `boosterctl stats --watch` asks
// more often.
constexpr std::chrono::seconds kPatience{30};

uint32_t from_big_endian(const std::array<unsigned char, 4>& bytes) {
  return (uint32_t{bytes[0]} << 24) | (uint32_t{bytes[1]} << 16) | (uint32_t{bytes[2]} << 8) |
         uint32_t{bytes[3]};
}

std::string framed(const std::string& body) {
  const auto size = static_cast<uint32_t>(body.size());
  std::string out;
  out.reserve(body.size() + 4);
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(size >> shift));
  return out + body;
}

}  // namespace

class AdminServer::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Socket socket, Collect& collect, DropCache& drop_cache, std::shared_ptr<int> count)
      : socket_(std::move(socket)),
        timer_(socket_.get_executor()),
        collect_(collect),
        drop_cache_(drop_cache),
        count_(std::move(count)) {
    ++*count_;
  }
  ~Connection() { --*count_; }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void next_request() {
    timer_.expires_after(kPatience);
    timer_.async_wait([weak = weak_from_this()](const ErrorCode& error) {
      const auto self = weak.lock();
      ErrorCode ignored;
      if (!error && self) self->socket_.close(ignored);
    });
    boost::asio::async_read(socket_, boost::asio::buffer(length_),
                            [self = shared_from_this()](const ErrorCode& error, size_t) {
                              if (!error) self->read_body();
                            });
  }

 private:
  void read_body() {
    const uint32_t size = from_big_endian(length_);
    if (size > kMaxRequest) return;  // hangs up
    body_.resize(size);
    boost::asio::async_read(socket_, boost::asio::buffer(body_),
                            [self = shared_from_this()](const ErrorCode& error, size_t) {
                              if (!error) self->answer();
                            });
  }

  void answer() {
    admin::Request request;
    if (!request.ParseFromString(body_)) return;
    if (request.body_case() == admin::Request::kCacheDrop) {
      admin::Response response;
      response.mutable_cache_dropped()->set_bytes(drop_cache_());
      write(response);
      return;
    }
    if (request.body_case() != admin::Request::kStats) {
      admin::Response response;
      response.set_error("boosterd does not know this request; is boosterctl of another version?");
      write(response);
      return;
    }
    collect_([self = shared_from_this()](Snapshot snapshot) {
      admin::Response response;
      *response.mutable_stats() = to_message(snapshot);
      self->write(response);
    });
  }

  void write(const admin::Response& response) {
    out_ = framed(response.SerializeAsString());
    boost::asio::async_write(socket_, boost::asio::buffer(out_),
                             [self = shared_from_this()](const ErrorCode& error, size_t) {
                               if (!error) self->next_request();
                             });
  }

  Socket socket_;
  boost::asio::steady_timer timer_;
  Collect& collect_;
  DropCache& drop_cache_;
  std::shared_ptr<int> count_;
  std::array<unsigned char, 4> length_{};
  std::string body_;
  std::string out_;
};

AdminServer::AdminServer(boost::asio::io_context& io, int listener, Collect collect,
                         DropCache drop_cache)
    : acceptor_(io, boost::asio::local::stream_protocol(), listener),
      collect_(std::move(collect)),
      drop_cache_(std::move(drop_cache)) {
  accept();
}

void AdminServer::accept() {
  acceptor_.async_accept([this](const ErrorCode& error, Socket socket) {
    if (error == boost::asio::error::operation_aborted) return;
    if (!error && *connections_ < kMaxConnections) {
      std::make_shared<Connection>(std::move(socket), collect_, drop_cache_, connections_)
          ->next_request();
    }
    accept();
  });
}

void AdminServer::close() {
  ErrorCode ignored;
  acceptor_.close(ignored);
}

}  // namespace booster::daemon::stats
