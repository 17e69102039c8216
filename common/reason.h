// Why a call was left to the kernel, or a file was not engaged. Every reason has a name that the
// user sees in `boosterctl stats`; the numbers are part of the ABI (counters in session memory).
#pragma once

#include <cstdint>

namespace booster::common {

enum class Reason : uint32_t {
  kNone = 0,        // boosted
  kPending,         // a delegation is being asked for; the call did not wait for it
  kTooLittle,       // what FUSE has cost so far does not pay for asking
  kAppend,          // O_APPEND: the brick's end of file is the kernel's to find
  kTail,            // a read at the end of the file
  kDirect,          // O_DIRECT
  kFsizeLimit,      // a finite RLIMIT_FSIZE
  kNotAlone,        // no delegation: others on the host (may) have the file open
  kUnaligned,       // writes that begin or end within a stripe of a disperse volume
  kFlags,           // preadv2/pwritev2 with flags that only the kernel knows
  kOddRange,        // zero length, or an offset near the limit of off_t
  kMapped,          // the file is, or was, mapped by this process
  kStream,          // a stdio stream that cannot be seen has, or may have, the file open
  kAsync,           // the process does asynchronous I/O (aio_read and its kin) on the file
  kIoError,         // the daemon answered with an error: the kernel tries, and its answer counts
  kFenceFailed,     // FUSE could not be made to forget: the file is released
  kNoDaemon,        // no daemon, or it went away
  kNotGenuine,      // not a root-mounted fuse.glusterfs in the daemon's mount namespace
  kNotProven,       // descriptor, inode, mount or mode did not agree with the kernel's word
  kNotRegular,      // not a regular file
  kUnlinked,        // no name is left: cannot be opened by gfid
  kSetId,           // writing to a set-user-id file or set-group-id executable
  kWritebackCache,  // mounted with kernel-writeback-cache
  kContextFailed,   // no libgfapi context for this mount
  kOpenFailed,      // the daemon could not open the file by gfid
  kLimit,           // a limit of the session or of the daemon
  kSeccomp,         // the process has entered seccomp: nothing of it is boosted any more
  kNoRoom,          // the page cache is full of what was read lately: the kernel caches the rest
  kCount
};

inline constexpr uint32_t kReasonCount = static_cast<uint32_t>(Reason::kCount);

/// Name for people and for JSON, in kebab case. Any number is allowed: "unknown" for those that
/// this version does not know (numbers come out of shared memory). Async-signal-safe.
constexpr const char* reason_name(Reason reason) {
  switch (reason) {
    case Reason::kNone: return "boosted";
    case Reason::kPending: return "pending";
    case Reason::kTooLittle: return "too-little";
    case Reason::kAppend: return "append";
    case Reason::kTail: return "tail";
    case Reason::kDirect: return "o-direct";
    case Reason::kFsizeLimit: return "rlimit-fsize";
    case Reason::kNotAlone: return "not-alone";
    case Reason::kUnaligned: return "unaligned";
    case Reason::kFlags: return "rwf-flags";
    case Reason::kOddRange: return "odd-range";
    case Reason::kMapped: return "mmap";
    case Reason::kStream: return "stream";
    case Reason::kAsync: return "aio";
    case Reason::kIoError: return "io-error";
    case Reason::kFenceFailed: return "fence-failed";
    case Reason::kNoDaemon: return "no-daemon";
    case Reason::kNotGenuine: return "not-genuine-mount";
    case Reason::kNotProven: return "not-proven";
    case Reason::kNotRegular: return "not-regular";
    case Reason::kUnlinked: return "unlinked";
    case Reason::kSetId: return "set-id";
    case Reason::kWritebackCache: return "writeback-cache";
    case Reason::kContextFailed: return "context-failed";
    case Reason::kOpenFailed: return "open-failed";
    case Reason::kLimit: return "limit";
    case Reason::kSeccomp: return "seccomp";
    case Reason::kNoRoom: return "no-room";
    case Reason::kCount: break;
  }
  return "unknown";
}

}  // namespace booster::common
