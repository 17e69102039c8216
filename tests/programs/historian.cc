// Reads, writes, opens, closes and syncs at random in files that others use as well, and records
// what it did and saw (history.h): historian DIR PROCESS SEED CALLS LOG
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "tests/programs/history.h"

namespace {

using booster::test::history_word;
using booster::test::HistoryRecord;
using booster::test::kBlockBytes;
using booster::test::kHistoryBlocks;
using booster::test::kHistoryFiles;
using booster::test::WriteId;

constexpr uint64_t kMoodNs = 400'000'000;
constexpr uint32_t kWordsPerBlock = kBlockBytes / sizeof(uint64_t);

[[noreturn]] void fail(const std::string& what) {
  fprintf(stderr, "%s: %s\n", what.c_str(), strerrorname_np(errno));
  exit(1);
}

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

class Historian {
 public:
  explicit Historian(char** arguments)
      : dir_(arguments[0]),
        process_(static_cast<uint32_t>(atoi(arguments[1]))),
        random_(static_cast<uint64_t>(atoll(arguments[2])) * 256 + process_),
        calls_(atoll(arguments[3])),
        log_(fopen(arguments[4], "w")) {
    if (log_ == nullptr) fail(arguments[4]);
  }

  int run() {
    for (long long i = 0; i < calls_; ++i) step();
    for (uint32_t file = 0; file < kHistoryFiles; ++file) close_file(file);
    if (fclose(log_) != 0) fail("log");
    puts("done");
    return 0;
  }

 private:
  struct File {
    int fd = -1;
    int mode = 0;
    uint64_t opened_ns = 0;
  };

  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }

  void step() {
    const uint32_t file = below(kHistoryFiles);
    const uint64_t mood = now_ns() / kMoodNs + file;
    // Half of the time nobody may write a file, or it would never be cached. A quarter of it one
    // process has it alone, and boosts its writes whatever they are.
    const bool calm = mood % 2 == 0;
    const bool solo = mood % 4 == 1;
    if (solo && mood / 4 % booster::test::kHistoryProcesses + 1 != process_) {
      return close_file(file);
    }
    if (calm && files_[file].mode != O_RDONLY) close_file(file);
    if (solo && files_[file].mode != O_RDWR) close_file(file);
    if (files_[file].fd < 0) open_file(file, calm, solo);
    const uint32_t dice = below(100);
    const bool reads = files_[file].mode != O_WRONLY;
    const bool writes = files_[file].mode != O_RDONLY;
    if (dice < 3) return close_file(file);
    if (dice < 5) return sync(file);
    if (dice < 7) return rest();
    if (writes && (!reads || dice < 40)) {
      write_blocks(file, solo || dice % 10 == 0 ? 1 + below(1500) : 1 + below(4));
    } else {
      read_blocks(file, dice % 10 == 0 ? 1 + below(1200) : 1 + below(4));
    }
  }

  /// Most of it happens in few blocks, or nobody would meet anybody.
  uint32_t some_block(uint32_t count) {
    const uint32_t last = kHistoryBlocks - count;
    return below(10) < 8 ? std::min(below(24), last) : below(last + 1);
  }

  void open_file(uint32_t index, bool calm, bool solo) {
    constexpr std::array<int, 4> kModes = {O_RDONLY, O_RDONLY, O_RDWR, O_WRONLY};
    File& file = files_[index];
    file.mode = solo ? O_RDWR : calm ? O_RDONLY : kModes[below(4)];
    file.opened_ns = now_ns();
    file.fd = open((dir_ + "/" + std::to_string(index)).c_str(), file.mode | O_CLOEXEC);
    if (file.fd < 0) fail("open");
  }

  void close_file(uint32_t index) {
    File& file = files_[index];
    if (file.fd < 0) return;
    const uint64_t start = now_ns();
    if (close(file.fd) != 0) fail("close");
    file.fd = -1;
    file.mode = O_RDONLY;
    record(HistoryRecord::kSettle, start, index, 0, 0, 0);
  }

  void sync(uint32_t index) {
    const uint64_t start = now_ns();
    if (fsync(files_[index].fd) != 0) fail("fsync");
    record(HistoryRecord::kSettle, start, index, 0, 0, 0);
  }

  void rest() {
    const timespec pause{0, static_cast<long>(below(20'000'000))};
    nanosleep(&pause, nullptr);
  }

  void write_blocks(uint32_t index, uint32_t count) {
    const uint32_t first = some_block(count);
    const WriteId id = process_ << booster::test::kProcessShift | ++writes_;
    buffer_.resize(size_t{count} * kWordsPerBlock);
    for (uint32_t i = 0; i < buffer_.size(); ++i) {
      buffer_[i] = history_word(id, index, first + i / kWordsPerBlock, i % kWordsPerBlock);
    }
    const size_t bytes = size_t{count} * kBlockBytes;
    const auto offset = static_cast<off_t>(first) * kBlockBytes;
    const uint64_t start = now_ns();
    const ssize_t done = below(2) == 0 ? pwrite(files_[index].fd, buffer_.data(), bytes, offset)
                                       : write_here(files_[index].fd, bytes, offset);
    if (done != static_cast<ssize_t>(bytes)) fail("write");
    record(HistoryRecord::kWrite, start, index, first, id, count);
  }

  ssize_t write_here(int fd, size_t bytes, off_t offset) {
    if (lseek(fd, offset, SEEK_SET) != offset) fail("lseek");
    return write(fd, buffer_.data(), bytes);
  }
  ssize_t read_here(int fd, size_t bytes, off_t offset) {
    if (lseek(fd, offset, SEEK_SET) != offset) fail("lseek");
    return read(fd, buffer_.data(), bytes);
  }

  void read_blocks(uint32_t index, uint32_t count) {
    const uint32_t first = some_block(count);
    buffer_.resize(size_t{count} * kWordsPerBlock);
    const size_t bytes = size_t{count} * kBlockBytes;
    const auto offset = static_cast<off_t>(first) * kBlockBytes;
    const uint64_t start = now_ns();
    const ssize_t done = below(2) == 0 ? pread(files_[index].fd, buffer_.data(), bytes, offset)
                                       : read_here(files_[index].fd, bytes, offset);
    const uint64_t end = now_ns();
    if (done != static_cast<ssize_t>(bytes)) {
      fail("read of " + std::to_string(bytes) + " bytes at " + std::to_string(offset) + ": " +
           std::to_string(done));
    }
    for (uint32_t block = 0; block < count; ++block) look(index, first + block, block, start, end);
  }

  void look(uint32_t file, uint32_t block, uint32_t in_buffer, uint64_t start, uint64_t end) {
    WriteId before = 0;
    for (uint32_t i = 0; i < kWordsPerBlock; ++i) {
      const uint64_t word = buffer_[size_t{in_buffer} * kWordsPerBlock + i];
      const auto id = static_cast<WriteId>(word >> 32);
      if (word != history_word(id, file, block, i)) {
        printf("file %u, block %u, word %u: %016lx was never written there\n", file, block, i,
               word);
        exit(1);
      }
      if (i == 0 || id != before) record(HistoryRecord::kSaw, start, file, block, id, 1, end);
      before = id;
    }
  }

  void record(HistoryRecord::Kind kind, uint64_t start, uint32_t file, uint32_t block, WriteId id,
              uint32_t count, uint64_t end = now_ns()) {
    const HistoryRecord entry{start,
                              end,
                              files_[file].opened_ns,
                              kind,
                              id,
                              static_cast<uint16_t>(file),
                              static_cast<uint16_t>(block),
                              count};
    if (fwrite(&entry, sizeof entry, 1, log_) != 1) fail("log");
  }

  const std::string dir_;
  const uint32_t process_;
  std::mt19937_64 random_;
  const long long calls_;
  FILE* log_;
  std::array<File, kHistoryFiles> files_{};
  uint32_t writes_ = 0;
  std::vector<uint64_t> buffer_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: booster_historian DIR PROCESS SEED CALLS LOG\n");
    return 2;
  }
  return Historian(argv + 1).run();
}
