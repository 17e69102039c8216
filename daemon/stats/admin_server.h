// Answers boosterctl on the admin socket, on the main thread. A client that is slow or sends
// garbage is hung up on; nobody is waited for.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <functional>
#include <memory>

#include "daemon/stats/snapshot.h"

namespace booster::daemon::stats {

class AdminServer {
 public:
  /// Collects a snapshot and hands it over later, on the same thread; or never, if a pump hangs.
  using Collect = std::function<void(std::function<void(Snapshot)>)>;

  /// Empties the page cache; how many bytes there were.
  using DropCache = std::function<uint64_t()>;

  /// Takes the listening socket.
  AdminServer(boost::asio::io_context& io, int listener, Collect collect, DropCache drop_cache);

  /// Accepts nobody any more.
  void close();

 private:
  class Connection;

  void accept();

  boost::asio::local::stream_protocol::acceptor acceptor_;
  Collect collect_;
  DropCache drop_cache_;
  std::shared_ptr<int> connections_ = std::make_shared<int>(0);
};

}  // namespace booster::daemon::stats
