// The session memory: what a preloaded program and boosterd share, word by word.
//
// The daemon makes it (a memfd sealed against resizing), one per process; nobody else maps it.
// Every word has exactly one writer, named below. The daemon believes nothing that a client can
// write: it copies a request once, checks the copy and uses only the copy. The client believes the
// daemon, whose socket peer is root.
//
// A request travels in a lane. Two sequence words, one per side, say where the lane stands:
//
//   client                                   daemon (pump)
//   ------                                   -------------
//   fill request, payload
//   submitted = n        (release)  ----->   load submitted == answered + 1   (acquire)
//   fence (seq_cst)                          ... work; writes payload and reply ...
//   pump_asleep?         (relaxed)           completed = n       (release)
//     -> 0, doorbell packet                  fence (seq_cst)
//   spin on completed    (acquire)  <-----   client_waits?       (relaxed)
//   client_waits = 1     (relaxed)             -> FUTEX_WAKE completed
//   fence (seq_cst)
//   FUTEX_WAIT completed
//
// The two fences make a store/load pair on each side ("either I see that you sleep, or you see my
// work before you sleep"): the client's fence after `submitted` is the partner of the pump's fence
// after `pump_asleep = 1`; the pump's fence after `completed` is the partner of the client's fence
// after `client_waits = 1`.
//
// A write under a delegation (docs/architecture.md, "The write log") does not wait for an answer.
// It is a record in the log, whose bytes are in a ring beside it:
//
//   client                                   daemon
//   ------                                   ------
//   bytes, record                            delegation = revoking          (relaxed)
//   published = n        (release)  ----->   fence (seq_cst)
//   fence (seq_cst)                          published                      (acquire)
//   delegation == mine?  (acquire)           ... all records up to it are written ...
//     else: waits for done == n              done = n                       (release)
//
// The two fences are partners: either the client sees that the delegation is being taken away and
// waits, or the daemon sees the record before it lets go on whoever came for the file. When the
// daemon has died, its recovery agent stands in its place there.
//
// No lock lives here. A client that dies at any instruction leaves words that nobody waits on.
#pragma once

#include <errno.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/reason.h"

namespace booster::common {

/// Raised with every change of this file or of control.proto that an old peer would misread.
inline constexpr uint32_t kAbiVersion = 9;

/// "BOOSTER1", to tell a wrong descriptor from a session memory.
inline constexpr uint64_t kSessionMagic = 0x31524554534f4f42;

inline constexpr uint32_t kLanes = 8;
/// Payload of one lane in bytes. 1 MiB is one brick-sized request of every volume shape; a larger
/// call of the program uses several lanes.
inline constexpr uint32_t kLanePayload = 1U << 20;
inline constexpr uint32_t kHandleSlots = 4096;

/// 2 was a synchronous write.
enum class Op : uint32_t {
  kRead = 1,  // payload <- file
  // cache <- file: `offset` and `length` as above, with `length` 0 allowed; answered when all of it
  // is in the page cache (common/page_cache.h), or an error when it cannot be now. The next `ahead`
  // bytes follow without anybody waiting.
  kFill = 3,
  // fsync and fdatasync: answered when everything that was in the log before is on the bricks, and
  // their disks. `length` and `offset` are 0.
  kSync = 4,
  kDataSync = 5,
  // payload <- cache <- file, for long reads in order: answered with as many bytes from `offset` on
  // as come from the bricks for it, which are put into the page cache after that; fewer, or none,
  // where that has them already, and an error when nothing is valid now. `length` 0 is allowed, and
  // `ahead` is as for kFill, but the daemon decides how much of it pays.
  kStream = 6,
};
constexpr bool looks_ahead(Op op) {
  return op == Op::kFill || op == Op::kStream;
}
constexpr bool is_sync(Op op) {
  return op == Op::kSync || op == Op::kDataSync;
}

/// Client-written. One outstanding request per lane.
struct alignas(64) LaneRequest {
  std::atomic<uint32_t> submitted;     // number of requests put into this lane, wraps
  std::atomic<uint32_t> client_waits;  // 1: a thread sleeps on LaneReply::completed
  uint32_t op;                         // Op
  uint32_t slot;                       // handle slot
  uint32_t generation;                 // of the handle slot
  uint32_t length;                     // bytes, 1 .. kLanePayload, but see Op
  uint64_t offset;                     // offset + length <= INT64_MAX
  uint32_t ahead;                      // if looks_ahead(op): bytes, at most kMaxAhead
  /// For the syncs: HandleSlot::delegation when it was looked at; answered with kDelegationLost
  /// unless it is the same when the daemon takes the request.
  uint32_t delegation;
};
static_assert(sizeof(LaneRequest) == 64 && offsetof(LaneRequest, offset) == 24);

inline constexpr uint32_t kMaxAhead = 64U << 20;
/// LaneReply::error of a request whose delegation was taken back: nothing was done.
inline constexpr int32_t kDelegationLost = EKEYREVOKED;

/// Daemon-written.
struct alignas(64) LaneReply {
  std::atomic<uint32_t> completed;  // number of the last answered request, follows `submitted`
  int32_t error;                    // 0, or a positive errno; then `length` means nothing
  uint32_t length;                  // bytes read or written; less than asked at the end of the file
  uint32_t reserved;
};
static_assert(sizeof(LaneReply) == 64);

/// Daemon-written. The answer to Engage, and what the daemon knows of the file while it is engaged.
struct alignas(64) HandleSlot {
  enum State : uint32_t { kEmpty = 0, kReady = 1, kRefused = 2 };
  /// (generation << 8) | State. Stored last (release); the client's acquire load is the partner.
  std::atomic<uint64_t> state;
  std::atomic<uint64_t> file_size;  // as of the last answer of the bricks; only a hint
  uint32_t reason;                  // Reason, when refused
  uint32_t flags;                   // HandleFlags
  /// Bytes. A write is boosted only if it begins and ends at multiples of it: what is beside it in
  /// such a unit, and was answered long ago, would be lost with a daemon that is killed in the
  /// middle (write_unit() in daemon/gluster/context.h). Never 0 when ready.
  uint32_t write_unit;
  /// The answer to Delegate: (number of the answer << 2) | DelegationState; 0: none yet.
  std::atomic<uint32_t> delegation;
  /// errno of the first record of this handle that could not be written, or of what FUSE had held
  /// back; 0: none. The client puts 0 in its place when it has taken it, to tell its program.
  std::atomic<int32_t> log_error;
  std::atomic<uint32_t> delegation_reason;  // Reason; stored before `delegation` says "not granted"
  uint32_t log;                             // below kLogs: where its records go
};
static_assert(sizeof(HandleSlot) == 64);

enum DelegationState : uint32_t {
  kDelegationNone = 0,
  kDelegated = 1,  // nobody else on this host can open the file before the daemon has all records
  kRevoking = 2,   // somebody waits to open it: what the log has is written, and the file fenced
  // Not granted, or taken away, with all that kRevoking means done; but with Reason::kFenceFailed
  // the file is for the client to fence.
  kNotDelegated = 3,
};
inline constexpr uint32_t kDelegationStates = 3;  // mask

/// Logs of a session: one for each mount that the program writes on, so that one whose bricks do
/// not answer stops nobody's writes to another. Mounts beyond that share them.
inline constexpr uint32_t kLogs = 4;
inline constexpr uint32_t kLogRecords = 4096;  // a power of two
/// Bytes of the ring: some 10 ms of what a brick writes, so that nobody waits long for the log to
/// be written out, and enough for some of the largest requests at once.
inline constexpr uint32_t kLogBytes = 4U << 20;
/// A longer write is several records.
inline constexpr uint32_t kMaxRecord = 256U << 10;

/// Client-written.
struct LogRecord {
  uint32_t slot;
  uint32_t generation;  // of the handle slot
  uint64_t offset;      // offset + length <= INT64_MAX
  uint32_t length;      // bytes, 1 .. kMaxRecord
  uint32_t place;       // of the bytes in the ring; place + length <= kLogBytes
};

/// Client-written.
struct alignas(64) LogHead {
  std::atomic<uint32_t> published;  // number of records ever; record n is at n % kLogRecords
  std::atomic<uint32_t> waits;      // threads that wait for LogTail::done: nothing is put off
  /// 1: the daemon seemed to be dead, and the client does again through FUSE what was not answered.
  std::atomic<uint32_t> abandoned;
};

/// Daemon-written.
struct alignas(64) LogTail {
  /// Records that have been answered, in order: on the bricks, where they stay whatever happens to
  /// this client and daemon, or failed (HandleSlot::log_error).
  std::atomic<uint32_t> done;
  /// 1: the daemon looks by itself again within a millisecond, and needs no doorbell. Stored as 0
  /// before a fence and a last look, which are partners of the client's fence after `published`.
  std::atomic<uint32_t> looks;
  /// LogOwner: who does what is unanswered. The one word that both sides change: by compare and
  /// swap, and only one who has found the other silent takes it from him.
  std::atomic<uint32_t> owner;
  /// Written by the recovery agent (daemon/control/recovery.h), another number every kBeatMs while
  /// it owns the log.
  std::atomic<uint32_t> beats;
  /// Written by it before it says kLogRecovered: the records before this are done, but for those of
  /// slots whose log_error is kLeftToClient, and those that the client publishes from then on.
  std::atomic<uint32_t> recovered;
};
/// HandleSlot::log_error of a file that only who has it open can reach: it has no name any more.
inline constexpr int32_t kLeftToClient = EKEYREJECTED;

enum LogOwner : uint32_t {
  kLogDaemon = 0,      // nobody else; when it has died, the client
  kLogGuarded = 1,     // the daemon; when it has died, the recovery agent
  kLogRecovering = 2,  // the recovery agent
  kLogClient = 3,      // the client
  kLogRecovered = 4,   // nobody: all is done that was published when the agent took the delegations
};
inline constexpr uint32_t kBeatMs = 100;
/// An owner who has not been heard of for so long is dead.
inline constexpr uint32_t kSilentMs = 5000;

struct LogRing {
  LogHead head;
  LogTail tail;
  LogRecord records[kLogRecords];
};

enum HandleFlags : uint32_t {
  kHandleReadable = 1,
  kHandleWritable = 2,
  kHandleCached = 4,  // a packet with the page cache of the file is on its way
};

constexpr uint64_t slot_state(uint32_t generation, HandleSlot::State state) {
  return (static_cast<uint64_t>(generation) << 8) | static_cast<uint64_t>(state);
}

/// Client-written. What the client boosted and what it left to the kernel, by Reason (index 0:
/// boosted). For people only: the daemon shows it and acts on nothing in it.
struct alignas(64) ClientCounters {
  std::atomic<uint64_t> calls[64];
  std::atomic<uint64_t> bytes[64];
};
static_assert(kReasonCount <= 64);
static_assert(sizeof(ClientCounters) == 1024);

/// Client-written. What was read out of the page cache, which the daemon does not see.
struct alignas(64) CacheUse {
  std::atomic<uint64_t> calls;
  std::atomic<uint64_t> bytes;
  /// By handle slot: when the file was last read so, in ms of CLOCK_MONOTONIC, wrapping.
  std::atomic<uint32_t> used_ms[kHandleSlots];
  /// Extents of kExtent bytes that were read, at a place that depends on them: see touch_of(). Only
  /// hints: a lie keeps in the cache what nobody needs.
  static constexpr uint32_t kTouches = 1024;
  std::atomic<uint64_t> touches[kTouches];
};

/// Caches forget files in pieces of this size.
inline constexpr uint64_t kExtent = 256 << 10;

/// A touch: handle slot (12 bits), extent (36 bits), time in units of 64 ms (16 bits, wrapping).
constexpr uint64_t touch_of(uint32_t slot, uint64_t extent, uint64_t now_ms) {
  return (uint64_t{slot} << 52) | ((extent & 0xf'ffff'ffff) << 16) | ((now_ms >> 6) & 0xffff);
}

/// Client-written, for whom the program leaves behind when it is killed, or loses a delegation.
struct alignas(64) ClientState {
  /// By handle slot: boosted writes that have begun and are not fenced yet. Not 0: the daemon
  /// fences the file when it takes the delegation back, or when the program has ended. Read then,
  /// when no write through the slot is under way; a lie costs nobody but the liar's own files a
  /// change of their times.
  std::atomic<uint32_t> unsettled_in[kHandleSlots];
};

/// Daemon-written, before the memory is handed out, except for the atomics.
struct alignas(64) SessionHeader {
  uint64_t magic;         // kSessionMagic
  uint32_t abi_version;   // kAbiVersion
  uint32_t lanes;         // kLanes
  uint32_t lane_payload;  // kLanePayload
  uint32_t handle_slots;  // kHandleSlots
  /// 1: submitting needs a doorbell. Set by the pump before it sleeps, cleared by it when it is up,
  /// and by the client's thread that rings, so that the others need not.
  std::atomic<uint32_t> pump_asleep;
  /// How long, in ms, writes in flight must wait after the daemon's death before they are done
  /// again through FUSE (docs/architecture.md): the daemon keeps it at ten times the slowest answer
  /// seen, and never below its configured minimum.
  std::atomic<uint32_t> quarantine_ms;
};
static_assert(sizeof(SessionHeader) == 64);

struct SessionMemory {
  SessionHeader header;
  ClientCounters counters;
  ClientState state;
  CacheUse cache_use;
  LaneRequest requests[kLanes];
  LaneReply replies[kLanes];
  HandleSlot slots[kHandleSlots];
  LogRing logs[kLogs];
  alignas(4096) std::byte payload[kLanes][kLanePayload];
  std::byte log[kLogs][kLogBytes];
};
static_assert(offsetof(SessionMemory, payload) % 4096 == 0);
static_assert(offsetof(SessionMemory, log) % 4096 == 0);
static_assert(std::is_standard_layout_v<SessionMemory>);
static_assert(std::atomic<uint32_t>::is_always_lock_free &&
              std::atomic<uint64_t>::is_always_lock_free);

inline constexpr size_t kSessionBytes = sizeof(SessionMemory);

/// The packet that wakes a sleeping pump: one zero byte, which is no protobuf message.
inline constexpr unsigned char kDoorbell = 0;
/// No control message is longer than this, in bytes.
inline constexpr size_t kMaxPacket = 512;

inline constexpr const char kControlSocket[] = "/run/booster/control.sock";
inline constexpr const char kAdminSocket[] = "/run/booster/admin.sock";

}  // namespace booster::common
