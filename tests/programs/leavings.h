// What a program that leaves while its threads write (leaver.cc) and its test share.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace booster::test {

inline constexpr size_t kLeavers = 4;  // threads that write, each its own file
/// A file that has become so long is written to no more.
inline constexpr uint64_t kMostLeft = 48 << 20;

/// Each file grows from 0 on, in pieces of some KiB; its bytes are those of bytes.h, of
/// leaver_seed().
struct Leavings {
  /// Up to where the file has been written by calls that have returned. Stored with release after
  /// each, loaded with acquire.
  std::array<std::atomic<uint64_t>, kLeavers> acknowledged;
  std::atomic<uint32_t> leave;  // by the test: 1, now
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

inline std::string leaver_file(const std::string& dir, size_t thread) {
  return dir + "/" + std::to_string(thread);
}
inline uint64_t leaver_seed(size_t thread) {
  return 100 + thread;
}

}  // namespace booster::test
