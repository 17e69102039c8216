// A prover takes a packet with a Question and a pidfd, and answers with an Answer.
#include "daemon/control/lease_provers.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "daemon/control/packet.h"

namespace booster::daemon::control {
namespace {

struct Question {
  uint64_t dev;
  uint64_t inode;
  uint32_t number;
  uint32_t padding;
};

enum class Verdict : int32_t {
  kAlone,
  kOthers,      // have it open
  kOwnLease,    // the program has plans of its own with the file
  kForbidden,   // to take a copy, or to have a lease
  kAnotherFile  // the number means by now
};

struct Answer {
  Verdict verdict;
  int32_t flush_error;  // of the close: what FUSE had accepted and could not keep
};

Verdict ask_kernel(int copy) {
  if (::fcntl(copy, F_GETLEASE) != F_UNLCK) return Verdict::kOwnLease;
  f_owner_ex owner{};
  const bool known = ::fcntl(copy, F_GETOWN_EX, &owner) == 0;
  const int signal = ::fcntl(copy, F_GETSIG);
  if (!known || signal < 0) return Verdict::kForbidden;
  const bool leased = ::fcntl(copy, F_SETLEASE, F_WRLCK) == 0;
  const int error = errno;
  if (leased) {
    // Giving it back wipes who gets which signal of the description (lease_modify in fs/locks.c).
    ::fcntl(copy, F_SETLEASE, F_UNLCK);
    ::fcntl(copy, F_SETSIG, signal);
    ::fcntl(copy, F_SETOWN_EX, &owner);
  }
  if (leased) return Verdict::kAlone;
  return error == EAGAIN || error == EBUSY ? Verdict::kOthers : Verdict::kForbidden;
}

Answer answer(int pidfd, const Question& question) {
  // Not a UniqueFd: what its close says counts.
  const auto copy = static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, question.number, 0));
  if (copy < 0) {
    return {errno == EBADF ? Verdict::kAnotherFile : Verdict::kForbidden, 0};
  }
  struct statx status {};
  Answer answer{Verdict::kAnotherFile, 0};
  if (::statx(copy, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) == 0 &&
      makedev(status.stx_dev_major, status.stx_dev_minor) == question.dev &&
      status.stx_ino == question.inode) {
    answer.verdict = ask_kernel(copy);
  }
  if (::close(copy) != 0 && errno != EINTR && answer.verdict != Verdict::kAnotherFile) {
    answer.flush_error = errno;
  }
  return answer;
}

void serve(int socket) {
  // Whoever opens the file for the moment that the lease lasts breaks it.
  std::signal(SIGIO, SIG_IGN);
  while (true) {
    Question question{};
    UniqueFd pidfd;
    if (!receive_with_descriptor(socket, &question, sizeof question, pidfd)) return;
    const Answer found = answer(pidfd.get(), question);
    if (::send(socket, &found, sizeof found, MSG_NOSIGNAL) < 0) return;
  }
}

}  // namespace

// A flush waits for bricks, as long as these take.
LeaseProvers::LeaseProvers() : pool_("boosterd-lease", {8, 2, std::chrono::seconds(10)}, serve) {}

gluster::Alone LeaseProvers::prove(const Peer& peer, uint32_t number, dev_t dev, uint64_t inode) {
  using common::Reason;
  const Question question{dev, inode, number, 0};
  const auto bytes =
      pool_.ask(peer.uid, std::string(reinterpret_cast<const char*>(&question), sizeof question),
                peer.pidfd.get());
  if (!bytes || bytes->size() != sizeof(Answer)) return {Reason::kNotProven, 0};
  Answer answer{};
  std::memcpy(&answer, bytes->data(), sizeof answer);
  switch (answer.verdict) {
    case Verdict::kAlone:
      return {answer.flush_error == 0 ? Reason::kNone : Reason::kIoError, answer.flush_error};
    case Verdict::kOthers:
    case Verdict::kOwnLease: return {Reason::kNotAlone, answer.flush_error};
    case Verdict::kForbidden: return {Reason::kNotProven, answer.flush_error};
    case Verdict::kAnotherFile: break;
  }
  return {Reason::kNotProven, 0};
}

}  // namespace booster::daemon::control
