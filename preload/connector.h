// Makes, keeps and ends the process's one connection to boosterd, and speaks its control messages.
//
// The socket is the only descriptor that the shim keeps. It lives high, is close-on-exec, and is
// recognised by its inode before every use: a program that closed it behind our back (a raw system
// call) and got the number for something else must never find our packets there.
#pragma once

#include <atomic>
#include <cstdint>

#include "preload/lock.h"
#include "preload/pool.h"
#include "preload/session.h"

namespace booster::preload {

class Connector {
 public:
  Session* acquire(bool wait);
  /// A reference to the session that there is, for release(); null if there is none.
  Session* current_ref();
  void release(Session* session);
  void give_back(const HandleRef& handle);
  bool engage(Session& session, int fd, const raw::FileId& file, HandleRef& handle,
              common::Reason& reason);
  bool ask_delegation(Session& session, const HandleRef& handle, int fd);
  CacheView* take_view(Session& session, const HandleRef& handle);
  bool send_doorbell();
  /// False when the connection of session `id` is gone or is not the current one.
  bool socket_alive(uint32_t id);
  void move_descriptor();
  void after_fork();

 private:
  enum class Welcome { kNotYet, kDone, kFailed };

  bool open_socket();
  void close_socket();
  bool is_our_socket(int fd) const;
  Welcome receive_welcome();
  struct Received;
  long receive(Received& received);
  bool receive_cache(Session& session);
  void drop_view(Session& session, uint32_t slot);
  bool adopt(int memory_fd, uint64_t bytes, uint64_t nonce, const Policy& policy);
  void retire(Session* session);
  bool send_packet(const void* data, size_t length);

  Mutex lock_;  // connecting, slots, messages
  std::atomic<Session*> current_{nullptr};
  uint64_t socket_inode_ = 0;
  uint64_t socket_looked_ms_ = 0;  // when it last was that one
  bool hello_sent_ = false;
  bool hopeless_ = false;  // refused for good: another version, or not allowed
  std::atomic<uint64_t> next_attempt_ms_{0};
  uint32_t last_id_ = 0;
  Pool<Session> sessions_;
};

extern Connector g_connector;
/// Its socket, or -1. Apart, since every close of a program looks at it.
extern std::atomic<int> g_socket;

}  // namespace booster::preload
