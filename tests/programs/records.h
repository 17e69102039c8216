// What a recorder, those who open its files (recorder.cc) and their test share: a board in shared
// memory, and what a record looks like.
//
// A recorder writes one file after the other. A file holds kSlots records; number n stands in slot
// (n - 1) % kSlots, where it replaces an older one. The recorder says on the board when it begins a
// record and when the write of it has returned.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/programs/bytes.h"

namespace booster::test {

inline constexpr size_t kRecordBytes = 512 << 10;
inline constexpr uint64_t kSlots = 8;
inline constexpr uint64_t kBoardFiles = 16'384;

/// Files count from 1; so do the records of each. What is stored with release is loaded with
/// acquire: whoever sees a number there may rely on what it says.
struct Board {
  struct File {
    std::atomic<uint64_t> begun;  // the record that is being written, or was last
    std::atomic<uint64_t> acknowledged;
  };
  std::atomic<uint64_t> wanted;  // by the test: the file to be written. kEnough: end
  std::atomic<uint64_t> closed;  // by the recorder: the last file it has closed
  // How often the recorder is to open, and has opened, its file by itself.
  std::atomic<uint64_t> own_opens_wanted;
  std::atomic<uint64_t> own_opens;
  File files[kBoardFiles];

  static constexpr uint64_t kEnough = ~uint64_t{0};
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

/// Its first eight bytes are its number.
inline std::string record(uint64_t number) {
  std::string bytes = bytes_at(0, kRecordBytes, number);
  std::memcpy(bytes.data(), &number, sizeof(number));
  return bytes;
}

constexpr uint64_t slot_of(uint64_t number) {
  return (number - 1) % kSlots;
}

inline std::string record_file(const std::string& dir, uint64_t file) {
  return dir + "/" + std::to_string(file);
}

}  // namespace booster::test
