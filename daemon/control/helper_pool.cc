// Turns, patience, and those that hang.
#include "daemon/control/helper_pool.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>

#include "daemon/control/helper_process.h"
#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTurnWithin{10'000};  // a hundred programs may start at once
/// Patience is counted in looks: when the whole host stands still for a while, nobody hangs.
constexpr milliseconds kLook{50};

Failure<std::error_code> failure(int error) {
  return Failure{std::error_code(error, std::generic_category())};
}

}  // namespace

HelperPool::HelperPool(const char* name, Limits limits, void (*serve)(int socket))
    : name_(name), limits_(limits), helpers_(limits.helpers) {
  for (Helper& helper : helpers_) helper.socket = start_helper(name, serve);
}

void HelperPool::look_after_the_stuck() {
  char late[kMaxAnswer];
  for (Helper& helper : helpers_) {
    if (!helper.stuck || ::recv(helper.socket.get(), late, sizeof late, MSG_DONTWAIT) <= 0)
      continue;
    helper.busy = helper.stuck = false;
    spdlog::info("event=helper-back name={} uid={}", name_, helper.uid);
  }
}

HelperPool::Helper* HelperPool::reserve(uid_t uid, Clock::time_point deadline, int& error) {
  std::unique_lock lock(mutex_);
  while (true) {
    look_after_the_stuck();
    Helper* idle = nullptr;
    unsigned mine = 0;
    for (Helper& helper : helpers_) {
      if (!helper.busy) idle = &helper;
      if (helper.busy && helper.uid == uid) ++mine;
      if (helper.stuck && helper.uid == uid) {
        error = EBUSY;
        return nullptr;
      }
    }
    if (idle && (uid == 0 || mine < limits_.for_each_uid)) {
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

void HelperPool::give_back(Helper& helper, State state) {
  const std::lock_guard lock(mutex_);
  helper.busy = state != State::kIdle;
  helper.stuck = state == State::kStuck;
  if (state == State::kLost) {
    helper.uid = static_cast<uid_t>(-1);  // on nobody's account
    spdlog::error("event=helper-lost name={} remedy=\"restart boosterd\"", name_);
  }
  freed_.notify_all();
}

Result<std::string> HelperPool::ask(uid_t uid, const std::string& question, int descriptor) {
  int error = 0;
  Helper* helper = reserve(uid, Clock::now() + kTurnWithin, error);
  if (!helper) return failure(error);
  const int socket = helper->socket.get();
  if (!send(socket, question, descriptor)) {
    give_back(*helper, State::kLost);
    return failure(EPIPE);
  }
  pollfd answered{socket, POLLIN, 0};
  int ready = 0;
  for (milliseconds waited{0}; ready == 0 && waited < limits_.patience; waited += kLook) {
    ready = ::poll(&answered, 1, static_cast<int>(kLook.count()));
    if (ready < 0 && errno == EINTR) ready = 0;
  }
  char answer[kMaxAnswer];
  const ssize_t n = ready == 1 ? ::recv(socket, answer, sizeof answer, MSG_DONTWAIT) : 0;
  if (n <= 0) {
    give_back(*helper, ready == 1 ? State::kLost : State::kStuck);
    if (ready == 0) spdlog::warn("event=helper-hangs name={} uid={}", name_, uid);
    return failure(ETIMEDOUT);
  }
  give_back(*helper, State::kIdle);
  return std::string(answer, static_cast<size_t>(n));
}

}  // namespace booster::daemon::control
