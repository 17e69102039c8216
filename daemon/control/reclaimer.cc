#include "daemon/control/reclaimer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <exception>

#include "daemon/control/helper_process.h"
#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

/// That hang at a time.
constexpr int kMostChildren = 256;

void punch(int memory) {
  struct stat status {};
  if (::fstat(memory, &status) == 0) {
    ::fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, status.st_size);
  }
}

void serve(int socket) {
  int children = 0;
  while (true) {
    char byte = 0;
    UniqueFd memory;
    if (!receive_with_descriptor(socket, &byte, 1, memory)) return;
    while (children > 0 && ::waitpid(-1, nullptr, WNOHANG) > 0) --children;
    if (!memory || children >= kMostChildren) continue;
    const pid_t child = ::fork();
    if (child == 0) {
      punch(memory.get());
      ::_exit(0);
    }
    if (child > 0) ++children;
  }
}

}  // namespace

Reclaimer::Reclaimer() : socket_(start_helper("boosterd-reclaim", serve)) {}

void Reclaimer::reclaim(UniqueFd memory) const noexcept {
  try {
    send(socket_.get(), "r", memory.get());
  } catch (const std::exception&) {
    // Out of memory: as if it were too much to do.
  }
}

}  // namespace booster::daemon::control
