// What test files hold: every byte depends on its place in the file and on a seed, so that a byte
// that is lost, old or somebody else's is told from the right one. For tests and their programs.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace booster::test {

/// The eight bytes at offset 8 * `index` of a file of that seed (splitmix64).
inline uint64_t word_at(uint64_t index, uint64_t seed) {
  uint64_t word = index + seed * 0x9e3779b97f4a7c15ULL + 1;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
  return word ^ (word >> 31);
}

/// The byte at `offset` of a file of that seed.
inline char byte_at(uint64_t offset, uint64_t seed) {
  return static_cast<char>(word_at(offset / 8, seed) >> (8 * (offset % 8)));
}

/// `length` bytes from `offset` on of a file of that seed.
inline std::string bytes_at(uint64_t offset, size_t length, uint64_t seed) {
  std::string bytes(length, '\0');
  for (size_t i = 0; i < length;) {
    uint64_t word = word_at((offset + i) / 8, seed) >> (8 * ((offset + i) % 8));
    do {
      bytes[i++] = static_cast<char>(word);
      word >>= 8;
    } while (i < length && (offset + i) % 8 != 0);
  }
  return bytes;
}

/// What a descriptor gives from the start of its file on, up to `most` bytes.
inline std::string bytes_of(int fd, size_t most) {
  std::string bytes(most, '\0');
  size_t done = 0;
  ssize_t got;
  while ((got = ::pread(fd, bytes.data() + done, most - done, static_cast<off_t>(done))) > 0) {
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

/// Index of the first of `length` bytes that is not the one of that place and seed; `length` if all
/// are.
inline size_t first_wrong(const char* bytes, size_t length, uint64_t offset, uint64_t seed) {
  const std::string right = bytes_at(offset, length, seed);
  if (std::memcmp(bytes, right.data(), length) == 0) return length;
  size_t at = 0;
  while (bytes[at] == right[at]) ++at;
  return at;
}

/// Whose bytes these are, for comparing and for people: "1*900 2*100 0*24" are 900 bytes of seed 1,
/// then 100 of seed 2, then zeros; what is none of them is "?". Cut off after a dozen runs.
inline std::string runs_of(const std::string& bytes, uint64_t offset,
                           const std::vector<uint64_t>& seeds) {
  std::vector<std::pair<std::string, std::string>> known = {{"0", std::string(bytes.size(), '\0')}};
  for (const uint64_t seed : seeds) {
    known.emplace_back(std::to_string(seed), bytes_at(offset, bytes.size(), seed));
  }
  std::string text;
  int runs = 0;
  for (size_t at = 0; at < bytes.size();) {
    if (++runs > 12) return text + " ...";
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    std::string whose = "?";
    size_t length = 0;
    for (const auto& [name, right] : known) {
      const auto start = right.begin() + static_cast<std::ptrdiff_t>(at);
      const auto same = static_cast<size_t>(std::mismatch(from, bytes.end(), start).first - from);
      if (same > length) {
        whose = name;
        length = same;
      }
    }
    length = std::max<size_t>(length, 1);
    text += (text.empty() ? "" : " ") + whose + "*" + std::to_string(length);
    at += length;
  }
  return text;
}

}  // namespace booster::test
