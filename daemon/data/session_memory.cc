// Makes session memory.
#include "daemon/data/session_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/interprocess/exceptions.hpp>
#include <new>

// linux/memfd.h of 6.3.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace booster::daemon::data {
namespace {

/// What Boost.Interprocess maps: anything with a mapping handle.
struct MemfdMapping {
  int fd;
  boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(fd);
  }
};

}  // namespace

Result<boost::interprocess::mapped_region> map_session_memory(int fd) {
  try {
    return boost::interprocess::mapped_region(MemfdMapping{fd}, boost::interprocess::read_write, 0,
                                              common::kSessionBytes);
  } catch (const boost::interprocess::interprocess_exception& e) {
    return Failure{std::error_code(e.get_native_error() != 0 ? e.get_native_error() : ENOMEM,
                                   std::generic_category())};
  }
}

SessionMemory::SessionMemory(UniqueFd fd, boost::interprocess::mapped_region region)
    : fd_(std::move(fd)),
      region_(std::move(region)),
      memory_(static_cast<common::SessionMemory*>(region_.get_address())) {}

SessionMemory::~SessionMemory() {
  if (kept_) last_(std::move(kept_));
}

Result<std::shared_ptr<SessionMemory>> SessionMemory::create(uint32_t quarantine_ms,
                                                             std::function<void(UniqueFd)> last) {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd fd(::memfd_create("booster-session", kFlags | MFD_NOEXEC_SEAL));
  if (!fd && errno == EINVAL) fd = UniqueFd(::memfd_create("booster-session", kFlags));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(common::kSessionBytes)) != 0 ||
      ::fchmod(fd.get(), 0600) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return errno_failure();
  }
  auto region = map_session_memory(fd.get());
  if (!region) return Failure{region.error()};
  try {
    std::shared_ptr<SessionMemory> memory(new SessionMemory(std::move(fd), std::move(*region)));
    if (last) memory->kept_.reset(::fcntl(memory->fd_.get(), F_DUPFD_CLOEXEC, 0));
    memory->last_ = std::move(last);
    // A new memfd is zero: every word but these starts right.
    common::SessionHeader& header = (*memory)->header;
    header.magic = common::kSessionMagic;
    header.abi_version = common::kAbiVersion;
    header.lanes = common::kLanes;
    header.lane_payload = common::kLanePayload;
    header.handle_slots = common::kHandleSlots;
    // relaxed: sending the descriptor orders all of this before the client's first look.
    header.pump_asleep.store(1, std::memory_order_relaxed);
    header.quarantine_ms.store(quarantine_ms, std::memory_order_relaxed);
    return memory;
  } catch (const std::bad_alloc&) {
    return Failure{std::make_error_code(std::errc::not_enough_memory)};
  }
}

}  // namespace booster::daemon::data
