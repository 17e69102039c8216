// What the programs of the coherence test record of their calls, one record after the other in a
// file outside the volume.
//
// Files are made of blocks. A write fills whole blocks with one number, its own: whoever reads a
// block knows which writes he sees in it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace booster::test {

inline constexpr uint32_t kHistoryFiles = 4;
/// Numbered from 1.
inline constexpr uint32_t kHistoryProcesses = 7;
/// Smaller than a page, so that writers of different blocks meet in one.
inline constexpr uint32_t kBlockBytes = 1024;
/// 2 MiB a file: booster has no page cache for less than one.
inline constexpr uint32_t kHistoryBlocks = 2048;

/// Of a write: process << 24 | count. 0: what a new file holds.
using WriteId = uint32_t;
inline constexpr uint32_t kProcessShift = 24;

/// The word at `index` of a block: the write, and a check that it is where it was written.
constexpr uint64_t history_word(WriteId id, uint32_t file, uint32_t block, uint32_t index) {
  if (id == 0) return 0;
  uint64_t mix = (uint64_t{file} << 40 | uint64_t{block} << 16 | index) + uint64_t{id} * 0x9e3779b9;
  mix = (mix ^ mix >> 29) * 0xbf58476d1ce4e5b9ULL;
  return uint64_t{id} << 32 | (mix >> 32);
}

struct HistoryRecord {
  enum Kind : uint32_t {
    kWrite = 1,   // of `id`, into `count` blocks
    kSaw = 2,     // `id` in `block`; a read of a block that was being written sees several
    kSettle = 3,  // close or fsync of `file`
  };
  uint64_t start_ns;  // CLOCK_MONOTONIC: all hosts of a lab have one clock
  uint64_t end_ns;
  uint64_t opened_ns;  // when the open of the descriptor began
  Kind kind;
  WriteId id;
  uint16_t file;
  uint16_t block;
  uint32_t count;
};
static_assert(sizeof(HistoryRecord) == 40 && std::is_trivially_copyable_v<HistoryRecord>);

}  // namespace booster::test
