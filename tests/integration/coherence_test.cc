// The coherence checker: programs with and without booster, on two hosts, read and write the same
// files at random and record it (tests/programs/historian.cc); then every read is judged by what is
// promised between its reader and each writer (docs/architecture.md, "What is promised").
//
// BOOSTER_HISTORY=DIR judges a history that was kept, BOOSTER_SEED=N repeats a seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/programs/history.h"

namespace booster::test {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kNever = ~uint64_t{0};

struct Party {
  uint32_t process;
  int host;
  bool boosted;
};

/// Kinds of parties, for tables.
constexpr size_t kKinds = 4;
size_t kind_of(const Party& party) {
  return (party.host == 1 ? 0U : 2U) + (party.boosted ? 1U : 0U);
}
constexpr bool is_boosted(size_t kind) {
  return kind % 2 == 1;
}
constexpr int host_of(size_t kind) {
  return kind < 2 ? 1 : 2;
}

struct Write {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t settled = kNever;  // the end of the writer's next close or fsync
  size_t kind = 0;

  /// From when on it can no longer replace a later write: what FUSE has accepted may reach the
  /// bricks as late as that.
  uint64_t applied() const { return is_boosted(kind) ? end : settled; }

  /// From when on a reader of that kind must see it...
  uint64_t visible_to(size_t reader) const {
    if (host_of(reader) == host_of(kind)) {
      if (is_boosted(reader) == is_boosted(kind)) return end;
      return std::min(settled, end + kSecond);
    }
    // Not ours: FUSE's client keeps what it keeps.
    if (!is_boosted(reader)) return kNever;
    return (is_boosted(kind) ? end : settled) + kSecond;
  }
  /// ...or through a descriptor that was opened later than this.
  uint64_t visible_to_opener(size_t reader) const {
    return host_of(reader) == host_of(kind) || is_boosted(reader) ? settled : kNever;
  }
};

/// For a time: the latest start of a write that must be seen by then.
class MustSee {
 public:
  void add(uint64_t visible, uint64_t start) {
    if (visible != kNever) entries_.emplace_back(visible, start);
  }
  void seal() {
    std::sort(entries_.begin(), entries_.end());
    uint64_t latest = 0;
    for (auto& [visible, start] : entries_) start = latest = std::max(latest, start);
  }
  uint64_t at(uint64_t time) const {
    const auto after = std::upper_bound(entries_.begin(), entries_.end(),
                                        std::pair<uint64_t, uint64_t>{time, kNever});
    return after == entries_.begin() ? 0 : std::prev(after)->second;
  }

 private:
  std::vector<std::pair<uint64_t, uint64_t>> entries_;
};

struct Block {
  std::vector<WriteId> writes;
  std::array<MustSee, kKinds> always;  // by the reader's kind
  std::array<MustSee, kKinds> openers;
};

class History {
 public:
  void load(const std::string& path, const Party& party) {
    std::ifstream file(path, std::ios::binary);
    std::vector<HistoryRecord> records;
    for (HistoryRecord record{}; file.read(reinterpret_cast<char*>(&record), sizeof record);) {
      records.push_back(record);
    }
    std::array<uint64_t, kHistoryFiles> settled;
    settled.fill(kNever);
    for (auto record = records.rbegin(); record != records.rend(); ++record) {
      switch (record->kind) {
        case HistoryRecord::kSettle: settled[record->file] = record->end_ns; break;
        case HistoryRecord::kWrite: {
          writes_[record->id] = {record->start_ns, record->end_ns, settled[record->file],
                                 kind_of(party)};
          for (uint32_t i = 0; i < record->count; ++i) {
            blocks_[{record->file, record->block + i}].writes.push_back(record->id);
          }
          break;
        }
        case HistoryRecord::kSaw: reads_.push_back({*record, party}); break;
      }
    }
    calls_ += records.size();
  }

  /// What is wrong, the first few in words.
  std::vector<std::string> judge() {
    for (auto& [place, block] : blocks_) seal(block);
    std::vector<std::string> wrong;
    for (const Read& read : reads_) {
      const std::string fault = judge(read);
      if (!fault.empty()) wrong.push_back(fault);
    }
    return wrong;
  }

  size_t reads() const { return reads_.size(); }
  size_t writes() const { return writes_.size(); }

 private:
  struct Read {
    HistoryRecord record;
    Party party;
  };

  void seal(Block& block) {
    for (size_t reader = 0; reader < kKinds; ++reader) {
      for (const WriteId id : block.writes) {
        const Write& write = writes_.at(id);
        block.always[reader].add(write.visible_to(reader), write.start);
        block.openers[reader].add(write.visible_to_opener(reader), write.start);
      }
      block.always[reader].seal();
      block.openers[reader].seal();
    }
  }

  std::string judge(const Read& read) const {
    const HistoryRecord& saw = read.record;
    const auto found = blocks_.find({saw.file, saw.block});
    uint64_t applied = 0;
    if (saw.id != 0) {
      const auto write = writes_.find(saw.id);
      if (write == writes_.end()) return describe(read) + ": nobody wrote that";
      if (write->second.start > saw.end_ns) return describe(read) + ": before it was written";
      applied = write->second.applied();
    }
    if (found == blocks_.end()) return "";
    const size_t reader = kind_of(read.party);
    const uint64_t must =
        std::max(found->second.always[reader].at(saw.start_ns),
                 found->second.openers[reader].at(std::min(saw.opened_ns, saw.start_ns)));
    if (applied >= must) return "";
    return describe(read) + ": stale, a write that began " +
           std::to_string((saw.start_ns - must) / 1000) + " us before had to be seen" +
           who_began(found->second, must);
  }

  std::string who_began(const Block& block, uint64_t start) const {
    for (const WriteId id : block.writes) {
      const Write& write = writes_.at(id);
      if (write.start == start) {
        return " (" + std::to_string(id >> kProcessShift) + "/" +
               std::to_string(id & ((1U << kProcessShift) - 1)) + ", took " +
               std::to_string((write.end - write.start) / 1000) + " us)";
      }
    }
    return "";
  }

  static std::string describe(const Read& read) {
    const HistoryRecord& saw = read.record;
    return std::string(read.party.boosted ? "boosted " : "plain ") +
           std::to_string(read.party.process) + " on host " + std::to_string(read.party.host) +
           " at " + std::to_string(saw.start_ns / 1000) + " us in file " +
           std::to_string(saw.file) + ", block " + std::to_string(saw.block) + ", saw " +
           std::to_string(saw.id >> kProcessShift) + "/" +
           std::to_string(saw.id & ((1U << kProcessShift) - 1));
  }

  std::map<WriteId, Write> writes_;
  std::map<std::pair<uint32_t, uint32_t>, Block> blocks_;
  std::vector<Read> reads_;
  uint64_t calls_ = 0;
};

class Coherence : public PolicyTest {
 protected:
  static std::vector<Party> parties() {
    std::vector<Party> all = {
        {1, 1, true}, {2, 1, true}, {3, 1, true}, {4, 1, false}, {5, 1, false}};
    if (Lab::get().hosts > 1) all.push_back({6, 2, false});
    return all;
  }

  void judge(const std::string& dir, const std::string& kept) {
    History history;
    for (const Party& party : parties()) {
      history.load(dir + "/" + std::to_string(party.process), party);
    }
    const std::vector<std::string> wrong = history.judge();
    std::cout << history.writes() << " writes, " << history.reads() << " blocks read, "
              << wrong.size() << " wrong" << std::endl;
    wrong_ += wrong.size();
    if (policy() == Policy::kShipped) return;  // see the end of the test
    for (size_t i = 0; i < std::min<size_t>(wrong.size(), 10); ++i) ADD_FAILURE() << wrong[i];
    EXPECT_TRUE(wrong.empty()) << wrong.size() << " of " << history.reads() << "; kept in " << kept;
  }

  /// One history; false when something was wrong with it, which is then kept.
  bool run_once(const Daemon& daemon, uint64_t seed, int calls) {
    std::cout << "seed " << seed << std::endl;
    ScratchDir dir;
    const std::string log = "/var/tmp/booster-history-" + std::to_string(seed);
    std::filesystem::create_directories(log);
    const std::string zeros(size_t{kHistoryBlocks} * kBlockBytes, '\0');
    for (uint32_t file = 0; file < kHistoryFiles; ++file) {
      write_file(dir.file(std::to_string(file)), zeros);
    }
    const auto before = daemon.stats().totals();
    std::list<Child> children;
    for (const Party& party : parties()) {
      std::vector<std::string> command = {BOOSTER_TEST_HISTORIAN,
                                          dir.path(),
                                          std::to_string(party.process),
                                          std::to_string(seed),
                                          std::to_string(calls),
                                          log + "/" + std::to_string(party.process),
                                          std::to_string(paying(1) / kBlockBytes)};
      if (party.host != 1) {
        const std::vector<std::string> there = {"lab", "exec", "--host", std::to_string(party.host),
                                                "--"};
        command.insert(command.begin(), there.begin(), there.end());
      }
      children.emplace_back(
          command, RunOptions{.preload = party.boosted, .timeout = std::chrono::seconds(3600)});
    }
    for (Child& child : children) {
      const RunResult result = child.wait();
      EXPECT_EQ(result.status, 0) << result.out << result.err;
      EXPECT_EQ(result.err, "");
    }
    judge(log, log);
    const auto after = daemon.stats().totals();
    EXPECT_GT(after.cached_calls(), before.cached_calls());
    EXPECT_GT(after.read_calls(), before.read_calls());
    EXPECT_GT(after.write_calls(), before.write_calls());
    if (HasFailure()) return false;
    std::filesystem::remove_all(log);
    return true;
  }

  size_t wrong_ = 0;
};

BOOSTER_UNDER_EACH_POLICY(Coherence);

TEST_P(Coherence, EveryReadSeesWhatWasPromised) {
  if (const char* kept = std::getenv("BOOSTER_HISTORY")) return judge(kept, kept);
  // Less than the files hold: pages come and go.
  Daemon daemon("[cache]\nbytes = 6291456\n");
  const char* given = std::getenv("BOOSTER_SEED");
  const uint64_t first = given != nullptr ? std::stoull(given) : std::random_device()();
  for (int i = 0; i < rounds("histories"); ++i) {
    if (!run_once(daemon, first + static_cast<uint64_t>(i), rounds("calls"))) break;
  }
  if (policy() == Policy::kShipped) {
    known_failure(
        "another process reads old bytes: small writes are in FUSE's client, and large "
        "reads do not ask it",
        [&] { EXPECT_EQ(wrong_, 0U); });
  }
}

}  // namespace
}  // namespace booster::test
