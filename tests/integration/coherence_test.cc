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

/// kEager: asks for every file at its first call. kAuto: as users start programs.
enum Mode { kPlain, kEager, kAuto, kModes };

struct Party {
  uint32_t process;
  int host;
  Mode mode;
};

/// Kinds of parties, for tables.
constexpr size_t kKinds = 2 * kModes;
size_t kind_of(const Party& party) {
  return static_cast<size_t>(party.host - 1) * kModes + party.mode;
}
constexpr Mode mode_of(size_t kind) {
  return static_cast<Mode>(kind % kModes);
}
constexpr int host_of(size_t kind) {
  return kind < kModes ? 1 : 2;
}

struct Write {
  uint32_t process = 0;
  uint32_t file = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t settled = kNever;  // the end of the writer's next close or fsync
  size_t kind = 0;
  // When the last read of the file by FUSE that was under way meanwhile had returned; 0: there was
  // none. With booster or without, FUSE can keep, beside the kernel's own copy, a page from before
  // this write for as long as it may be behind: at most a second from when that read brought it.
  uint64_t read_until = 0;

  /// From when on it can no longer replace a later write: what FUSE has accepted may reach the
  /// bricks as late as that.
  uint64_t applied() const { return settled; }

  /// From when on a reader of that kind must see it...
  /// `slow` is how late answers were: what they show is as old as that.
  uint64_t visible_to(size_t reader, uint64_t slow) const {
    if (host_of(reader) == host_of(kind)) {
      return read_until != 0 ? std::max(end, read_until) + kSecond : end;
    }
    // Not ours: FUSE's client keeps what it keeps. Who is served by it and by booster in turn sees
    // nothing older than that: a second in the kernel, one in the client.
    return mode_of(reader) == kPlain || settled == kNever ? kNever : settled + 3 * kSecond + slow;
  }
  /// ...or through a descriptor that was opened later than this.
  uint64_t visible_to_opener(size_t reader) const {
    return host_of(reader) == host_of(kind) ? settled : kNever;
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
  std::array<MustSee, kHistoryProcesses + 1> own;  // by the reader's process
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
          writes_[record->id] = {party.process,  record->file,          record->start_ns,
                                 record->end_ns, settled[record->file], kind_of(party)};
          for (uint32_t i = 0; i < record->count; ++i) {
            blocks_[{record->file, record->block + i}].writes.push_back(record->id);
          }
          break;
        }
        case HistoryRecord::kSaw:
          reads_.push_back({*record, party});
          slowest_read_ = std::max(slowest_read_, record->end_ns - record->start_ns);
          break;
      }
    }
    calls_ += records.size();
  }

  /// What is wrong, the first few in words.
  std::vector<std::string> judge() {
    note_races();
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
  /// Those that must be seen at once, also by FUSE's readers.
  size_t calm_writes() const { return calm_writes_; }

 private:
  struct Read {
    HistoryRecord record;
    Party party;
  };

  void note_races() {
    // Per file, what FUSE may have read: from when, and the latest end of those that began by then.
    std::map<uint32_t, std::vector<std::pair<uint64_t, uint64_t>>> fuse_reads;
    for (const Read& read : reads_) {
      if (read.party.host != 1) continue;
      fuse_reads[read.record.file].emplace_back(read.record.start_ns, read.record.end_ns);
    }
    for (auto& [file, spans] : fuse_reads) {
      std::sort(spans.begin(), spans.end());
      uint64_t latest = 0;
      for (auto& [start, end] : spans) end = latest = std::max(latest, end);
    }
    for (auto& [id, write] : writes_) {
      const auto& spans = fuse_reads[write.file];
      const auto after = std::upper_bound(spans.begin(), spans.end(),
                                          std::pair<uint64_t, uint64_t>{write.end, kNever});
      const uint64_t latest = after != spans.begin() ? std::prev(after)->second : 0;
      write.read_until = latest >= write.start ? latest : 0;
      calm_writes_ += write.read_until != 0 ? 0 : 1;
    }
  }

  void seal(Block& block) {
    for (const WriteId id : block.writes) {
      const Write& write = writes_.at(id);
      block.own.at(write.process).add(write.end, write.start);
    }
    for (MustSee& own : block.own) own.seal();
    for (size_t reader = 0; reader < kKinds; ++reader) {
      for (const WriteId id : block.writes) {
        const Write& write = writes_.at(id);
        block.always[reader].add(write.visible_to(reader, 2 * slowest_read_), write.start);
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
        std::max({found->second.always[reader].at(saw.start_ns),
                  found->second.own.at(read.party.process).at(saw.start_ns),
                  found->second.openers[reader].at(std::min(saw.opened_ns, saw.start_ns))});
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
    constexpr std::array<const char*, kModes> kNames = {"plain ", "eager ", "boosted "};
    return std::string(kNames.at(read.party.mode)) + std::to_string(read.party.process) +
           " on host " + std::to_string(read.party.host) + " at " +
           std::to_string(saw.start_ns / 1000) + " us in file " + std::to_string(saw.file) +
           ", block " + std::to_string(saw.block) + ", saw " +
           std::to_string(saw.id >> kProcessShift) + "/" +
           std::to_string(saw.id & ((1U << kProcessShift) - 1));
  }

  std::map<WriteId, Write> writes_;
  std::map<std::pair<uint32_t, uint32_t>, Block> blocks_;
  std::vector<Read> reads_;
  size_t calm_writes_ = 0;
  uint64_t slowest_read_ = 0;  // ns
  uint64_t calls_ = 0;
};

class Coherence : public testing::Test {
 protected:
  static std::vector<Party> parties() {
    std::vector<Party> all = {{1, 1, kAuto},  {2, 1, kAuto},  {3, 1, kEager},
                              {4, 1, kEager}, {5, 1, kPlain}, {6, 1, kPlain}};
    if (Lab::get().hosts > 1) all.push_back({7, 2, kPlain});
    return all;
  }

  /// What is wrong with a history, in words.
  std::vector<std::string> judged(const std::string& dir) {
    History history;
    for (const Party& party : parties()) {
      history.load(dir + "/" + std::to_string(party.process), party);
    }
    const std::vector<std::string> wrong = history.judge();
    std::cout << history.writes() << " writes, " << history.calm_writes()
              << " of them while FUSE read nothing there, " << history.reads() << " blocks read, "
              << wrong.size() << " wrong" << std::endl;
    writes_ += history.writes();
    calm_writes_ += history.calm_writes();
    return wrong;
  }

  static void expect_none(const std::vector<std::string>& wrong, const std::string& kept) {
    for (size_t i = 0; i < std::min<size_t>(wrong.size(), 10); ++i) ADD_FAILURE() << wrong[i];
    EXPECT_TRUE(wrong.empty()) << wrong.size() << " reads; kept in " << kept;
  }

  /// Who opens a file while the bricks are silent or FUSE is late, which the daemon says, may be
  /// shown what is old. Nothing else is excused by that, and no more than three histories are.
  bool is_excused(const std::vector<std::string>& wrong, bool let_in_early) {
    const auto is_stale = [](const auto& fault) { return fault.find(": stale") != fault.npos; };
    return !wrong.empty() && let_in_early && std::all_of(wrong.begin(), wrong.end(), is_stale) &&
           ++excused_ <= 3;
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
    const int let_in = daemon.let_in_early();
    std::list<Child> children;
    for (const Party& party : parties()) {
      std::vector<std::string> command = {
          BOOSTER_TEST_HISTORIAN,        dir.path(),
          std::to_string(party.process), std::to_string(seed),
          std::to_string(calls),         log + "/" + std::to_string(party.process)};
      if (party.host != 1) {
        const std::vector<std::string> there = {"lab", "exec", "--host", std::to_string(party.host),
                                                "--"};
        command.insert(command.begin(), there.begin(), there.end());
      }
      children.emplace_back(command, RunOptions{.preload = party.mode != kPlain,
                                                .eager = party.mode == kEager,
                                                .timeout = std::chrono::seconds(3600)});
    }
    for (Child& child : children) {
      const RunResult result = child.wait();
      EXPECT_EQ(result.status, 0) << result.out << result.err;
      EXPECT_EQ(result.err, "");
    }
    const std::vector<std::string> wrong = judged(log);
    if (is_excused(wrong, daemon.let_in_early() > let_in)) {
      std::cout << wrong[0] << ", as the daemon has said" << std::endl;
    } else {
      expect_none(wrong, log);
    }
    const auto after = daemon.stats().totals();
    EXPECT_GT(after.cached_calls(), before.cached_calls()) << kTooLittle;
    delegated_ = delegated_ || after.write_calls() > before.write_calls();
    if (HasFailure()) return false;
    std::filesystem::remove_all(log);
    return true;
  }

  /// Whether enough of the writes had to be seen at once.
  bool is_strict() const { return calm_writes_ > writes_ / 20; }

  bool delegated_ = false;  // in one of the histories somebody had a file alone
  size_t writes_ = 0;       // of all histories
  size_t calm_writes_ = 0;
  int excused_ = 0;  // histories
};

TEST_F(Coherence, EveryReadSeesWhatWasPromised) {
  if (const char* kept = std::getenv("BOOSTER_HISTORY")) {
    expect_none(judged(kept), kept);
    EXPECT_TRUE(is_strict());
    return;
  }
  // Less than the files hold: pages come and go.
  Daemon daemon("[cache]\nbytes = 6291456\nretain_bytes = 0\n");
  const char* given = std::getenv("BOOSTER_SEED");
  const uint64_t first = given != nullptr ? std::stoull(given) : std::random_device()();
  // Whether anybody has a file alone for long enough, and how much FUSE reads beside writes, is up
  // to chance.
  constexpr int kTimesAsMany = 10;
  for (int i = 0; i < rounds("histories") * kTimesAsMany; ++i) {
    if (i >= rounds("histories") + excused_ && delegated_ && is_strict()) break;
    if (!run_once(daemon, first + static_cast<uint64_t>(i), rounds("calls"))) return;
  }
  EXPECT_TRUE(delegated_) << kTooLittle;
  EXPECT_TRUE(is_strict()) << calm_writes_ << " of " << writes_ << " writes" << kTooLittle;
}

}  // namespace
}  // namespace booster::test
