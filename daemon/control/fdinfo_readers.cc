// A reader takes a packet with a number and a /proc directory, and answers with what it has read.
#include "daemon/control/fdinfo_readers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "daemon/control/helper_process.h"
#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTurnWithin{10'000};  // a hundred programs may start at once
/// One second, counted in looks: when the whole host stands still for a while, nobody hangs.
constexpr milliseconds kLook{50};
constexpr int kLooks = 20;
constexpr size_t kMaxAnswer = 4096;

/// The life of a reader. An empty answer would look like the end of the connection, hence one byte
/// before the text.
void serve(int socket) {
  while (true) {
    uint32_t number = 0;
    UniqueFd proc_dir;
    if (!receive_with_descriptor(socket, &number, sizeof number, proc_dir)) return;
    char answer[1 + kMaxAnswer] = "";
    ssize_t n = -1;
    const UniqueFd file(::openat(proc_dir.get(), fmt::format("fdinfo/{}", number).c_str(),
                                 O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file) n = ::read(file.get(), answer + 1, kMaxAnswer);
    if (::send(socket, answer, 1 + static_cast<size_t>(std::max<ssize_t>(n, 0)), MSG_NOSIGNAL) < 0)
      return;
  }
}

Failure<std::error_code> failure(int error) {
  return Failure{std::error_code(error, std::generic_category())};
}

}  // namespace

FdinfoReaders::FdinfoReaders(unsigned count) : readers_(count) {
  for (Reader& reader : readers_) reader.socket = start_helper("boosterd-fdinfo", serve);
}

void FdinfoReaders::look_after_the_stuck() {
  char late[1 + kMaxAnswer];
  for (Reader& reader : readers_) {
    if (!reader.stuck || ::recv(reader.socket.get(), late, sizeof late, MSG_DONTWAIT) <= 0)
      continue;
    reader.busy = reader.stuck = false;
    spdlog::info("event=fdinfo-reader-back uid={}", reader.uid);
  }
}

FdinfoReaders::Reader* FdinfoReaders::reserve(uid_t uid, Clock::time_point deadline, int& error) {
  std::unique_lock lock(mutex_);
  while (true) {
    look_after_the_stuck();
    Reader* idle = nullptr;
    bool mine = false;
    for (Reader& reader : readers_) {
      if (!reader.busy) idle = &reader;
      if (reader.busy && reader.uid == uid) mine = true;
      if (reader.stuck && reader.uid == uid) {
        error = EBUSY;
        return nullptr;
      }
    }
    if (idle && !mine) {
      idle->busy = true;
      idle->uid = uid;
      return idle;
    }
    if (freed_.wait_until(lock, deadline) == std::cv_status::timeout) {
      error = ETIMEDOUT;
      return nullptr;
    }
  }
}

void FdinfoReaders::give_back(Reader& reader, State state) {
  const std::lock_guard lock(mutex_);
  reader.busy = state != State::kIdle;
  reader.stuck = state == State::kStuck;
  if (state == State::kLost) {
    reader.uid = static_cast<uid_t>(-1);  // on nobody's account
    spdlog::error("event=fdinfo-reader-lost remedy=\"restart boosterd\"");
  }
  freed_.notify_all();
}

Result<FdInfo> FdinfoReaders::read(uid_t uid, int proc_dir, uint32_t number) {
  int error = 0;
  Reader* reader = reserve(uid, Clock::now() + kTurnWithin, error);
  if (!reader) return failure(error);
  const int socket = reader->socket.get();
  if (!send(socket, std::string(reinterpret_cast<const char*>(&number), sizeof number), proc_dir)) {
    give_back(*reader, State::kLost);
    return failure(EPIPE);
  }
  pollfd answered{socket, POLLIN, 0};
  int ready = 0;
  for (int look = 0; ready == 0 && look < kLooks; ++look) {
    ready = ::poll(&answered, 1, static_cast<int>(kLook.count()));
    if (ready < 0 && errno == EINTR) ready = 0;
  }
  char answer[1 + kMaxAnswer];
  const ssize_t n = ready == 1 ? ::recv(socket, answer, sizeof answer, MSG_DONTWAIT) : 0;
  if (n <= 0) {
    give_back(*reader, ready == 1 ? State::kLost : State::kStuck);
    if (ready == 0) spdlog::warn("event=fdinfo-reader-hangs uid={} descriptor={}", uid, number);
    return failure(ETIMEDOUT);
  }
  give_back(*reader, State::kIdle);
  if (n == 1) return failure(ENOENT);
  return parse_fdinfo({answer + 1, static_cast<size_t>(n) - 1});
}

}  // namespace booster::daemon::control
