// Where page caches live: a tmpfs of the daemon's own that no path leads to. The daemon has it
// writable; what it hands out was opened through a second, read-only mount of it, so that nobody
// can open that again for writing, whoever he is.
//
// The tmpfs itself has no limit. A reader who touches a hole gets memory for it; if there were
// none because somebody had touched very many, he would be killed (SIGBUS). The budget is kept by
// PageCache, which also takes back what was touched in holes.
#pragma once

#include <cstdint>
#include <memory>

#include "common/page_cache.h"
#include "daemon/result.h"
#include "daemon/unique_fd.h"

namespace booster::daemon::data {

class CacheStore {
 public:
  /// Makes it. Forks for a moment, so no other thread may run yet. ENOSPC-like errors of the kernel
  /// as text.
  static Outcome<std::unique_ptr<CacheStore>> create();

  struct File {
    UniqueFd writable;
    UniqueFd read_only;
  };
  /// A new empty file of so many bytes, all of it a hole. Any thread.
  Result<File> make_file(uint64_t bytes = common::kCacheFileBytes);

  /// What a file holds now, in bytes.
  static uint64_t held(const File& file);

  /// Where who holds up openers shows that he lives. Mapped until the process ends, since a thread
  /// that nobody waits for writes there.
  common::WatchWord& watch() const { return *watch_; }
  /// The same for clients.
  int watch_descriptor() const { return watch_file_.read_only.get(); }

 private:
  CacheStore(UniqueFd writable, UniqueFd read_only)
      : writable_(std::move(writable)), read_only_(std::move(read_only)) {}

  UniqueFd writable_;   // its root directory
  UniqueFd read_only_;  // the same through the other mount
  File watch_file_;
  common::WatchWord* watch_ = nullptr;
};

}  // namespace booster::daemon::data
