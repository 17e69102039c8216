// Programs that read and write on a mount without pause and judge every byte, while a test does to
// the daemon or to the volume what must cost them nothing.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/programs/bytes.h"

namespace booster::test {

/// Programs that read and write on the mount without pause, and judge every byte.
class Load {
 public:
  explicit Load(const ScratchDir& dir, bool preload = true)
      : preload_(preload), read_(dir.file("read")) {
    write_file(read_, bytes_at(0, 8 << 20, 1));
    const bool sooner = policy() == Policy::kSooner;
    add("read-in-order", read_, 0, 8 << 20, sooner ? 65536 : 1 << 20, 1);
    add("read-anywhere", read_, 0, 8 << 20, sooner ? 200'000 : 4 << 20, 1);
    for (const char* name : {"dd", "small", "own", "shared"}) write_file(dir.file(name), "");
    // Under the shipped policy blocks that pay, and as many of them; of whole stripes.
    add("write-in-order", dir.file("dd"), 0, sooner ? 4 << 20 : 56 * paying(65536), paying(65536),
        1'000'000);
    add("write-in-order", dir.file("small"), 0, sooner ? 300'000 : 48 * (600 << 10),
        sooner ? 1000 : 600 << 10, 2'000'000);
    add("write-anywhere", dir.file("own"), 0, sooner ? 4 << 20 : 8 * paying(131072), paying(131072),
        5'000'000);
    // The last two share a file, each with its own half: it is FUSE's as long as both have it.
    const uint64_t half = sooner ? 256 << 10 : 8 * paying(4096);
    add("write-anywhere", dir.file("shared"), 0, half, paying(4096), 3'000'000);
    add("write-anywhere", dir.file("shared"), half, sooner ? 4 << 20 : 8 * paying(131072),
        paying(131072), 4'000'000);
    for (const auto& worker : workers_) EXPECT_EQ(worker->child.read_line(), "ready");
  }

  /// How many have their file alone, or read what nobody writes.
  int delegable() const { return static_cast<int>(workers_.size()) - kSharing; }
  /// For how many of these the daemon has moved bytes. Who shares a file may have had it alone for
  /// a moment, at the start, and is not counted.
  int busy(const Daemon& daemon) const {
    const admin::Stats stats = daemon.stats();
    return static_cast<int>(
        std::count_if(workers_.begin(), workers_.end() - kSharing, [&](const auto& worker) {
          return std::any_of(stats.sessions().begin(), stats.sessions().end(),
                             [&](const auto& session) {
                               return session.pid() == static_cast<uint32_t>(worker->child.pid()) &&
                                      (session.write_bytes() > 0 || session.cached_bytes() > 0);
                             });
        }));
  }
  const std::string& read_by_some() const { return read_; }

  /// Ends them; none may have seen an error, and what they wrote must be there.
  void expect_right() {
    // All of them before anything is read: of a file that the kernel has as two inodes, since the
    // volume's graph has changed, a second read could show what the first has left in its cache.
    std::vector<RunResult> results;
    for (const auto& worker : workers_) results.push_back(worker->child.wait());
    for (size_t i = 0; i < workers_.size(); ++i) {
      const Worker& worker = *workers_[i];
      EXPECT_EQ(results[i].status, 0)
          << worker.kind << ": " << results[i].out.substr(0, 500) << results[i].err;
      EXPECT_EQ(results[i].err, "") << worker.kind;
      expect_extents(worker, results[i].out);
    }
  }
  const std::string& slowest() const { return slowest_; }

 private:
  static constexpr int kSharing = 2;

  struct Worker {
    std::string kind;
    std::string file;
    Child child;
  };

  /// What a worker said at its end of the bytes that must be there.
  void expect_extents(const Worker& worker, const std::string& said) {
    std::istringstream lines(said);
    const std::string bytes = read_file(worker.file);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string word;
      uint64_t offset = 0;
      size_t length = 0;
      uint64_t seed = 0;
      words >> word;
      if (word == "done") slowest_ += worker.kind + ": " + line + "\n";
      if (word != "extent") continue;
      words >> offset >> length >> seed;
      ASSERT_GE(bytes.size(), offset + length) << worker.kind;
      const size_t right = first_wrong(bytes.data() + offset, length, offset, seed);
      EXPECT_EQ(right, length) << worker.kind << ": wrong byte at " << offset + right
                               << ", seed should be " << seed;
    }
  }

  void add(const std::string& kind, const std::string& file, uint64_t start, uint64_t size,
           uint64_t block, uint64_t seed) {
    const std::vector<std::string> argv = {probe_path(),
                                           "worker",
                                           kind,
                                           file,
                                           std::to_string(start),
                                           std::to_string(size),
                                           std::to_string(block),
                                           std::to_string(seed)};
    workers_.push_back(std::unique_ptr<Worker>(new Worker{
        kind, file, Child(argv, {.preload = preload_, .timeout = std::chrono::seconds(600)})}));
  }

  const bool preload_;
  const std::string read_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::string slowest_;
};

}  // namespace booster::test
