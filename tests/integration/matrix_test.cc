// The matrix: every way in which one program changes a file, against every way in which another
// program, or the same, looks at it, with and without booster, under the policy of the default
// configuration. FUSE is the oracle: the same is done without booster on another file, and what is
// seen must be the same.
//
// Each case is a short play. A file is made, and whoever would be given a delegation for it writes,
// bytes that are there already, until the daemon has counted one of these writes. Whoever looks
// later has looked before, so that FUSE has old bytes to show. Then the one change, then the look.
// All cases share one daemon and a few puppets.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/integration/harness.h"
#include "tests/integration/puppet.h"
#include "tests/programs/bytes.h"

namespace booster::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMiB = 1 << 20;
constexpr uint64_t kOld = 1;  // seeds of what is there, and of the change
constexpr uint64_t kNew = 2;
constexpr int kSetTime = 1'000'000'000;

enum Change { kWrite, kPwrite, kFtruncate, kStore, kFwrite, kTruncate, kUtimensat, kChanges };
constexpr std::array<const char*, kChanges> kChangeNames = {
    "Write", "Pwrite", "Ftruncate", "Store", "Stream", "TruncateByName", "UtimensByName"};

enum Look { kRead, kPread, kFstat, kStat, kLoad, kFread, kLooks };
constexpr std::array<const char*, kLooks> kLookNames = {"Read",       "Pread", "Fstat",
                                                        "StatByName", "Load",  "Stream"};

/// How the one who looks has the file. The last three are about one program.
enum Place { kHasItOpen, kOpensNow, kTwoDescriptors, kOneDescriptor, kStdin, kPlaces };
constexpr std::array<const char*, kPlaces> kPlaceNames = {"HasItOpen", "OpensNow", "TwoDescriptors",
                                                          "OneDescriptor", "Stdin"};

struct Scale {
  const char* name;
  size_t file;   // bytes
  size_t piece;  // bytes a call
};
constexpr std::array<Scale, 2> kScales = {{{"Small", 4096, 100}, {"Big", 2 * kMiB, kMiB}}};

struct Case {
  Change change;
  Look look;
  Place place;
  size_t scale;
  bool writer_preloaded;
  bool reader_preloaded;

  const Scale& size() const { return kScales[scale]; }
  bool one_program() const { return place >= kTwoDescriptors; }
  /// truncate(2) and utimensat(2) need no descriptor. Beside a reader that has the file open,
  /// whoever calls them has none.
  bool by_stranger() const {
    return place == kHasItOpen && (change == kTruncate || change == kUtimensat);
  }
  /// Who is alone with the file at first, and boosted if it is preloaded.
  bool first_preloaded() const { return by_stranger() ? reader_preloaded : writer_preloaded; }

  std::string name() const {
    std::string text = std::string(kChangeNames[change]) + "_" +
                       (place == kStdin ? "Getchar" : kLookNames[look]) + "_" + kPlaceNames[place];
    if (!one_program()) {
      text += !reader_preloaded   ? "_PlainReader"
              : !writer_preloaded ? "_PlainWriter"
                                  : "_BothPreloaded";
    }
    return text + "_" + size().name;
  }

  /// Whether what is seen may be late, and no more than a second. DESIGN.md, section 6, the row
  /// README, "What is promised": who looks at a file by its name, without opening it, recalls
  /// nothing.
  bool may_be_late() const {
    if (place == kOpensNow) {
      const bool under_delegation = change == kWrite || change == kPwrite || change == kFwrite;
      return look == kStat && under_delegation && writer_preloaded;
    }
    // A mapping has given the delegation back.
    return by_stranger() && reader_preloaded && !writer_preloaded && look != kLoad;
  }
};

/// Names in failures.
void PrintTo(const Case& test, std::ostream* out) {
  *out << test.name();
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (int change = 0; change < kChanges; ++change) {
    for (int look = 0; look < kLooks; ++look) {
      for (int place = 0; place < kPlaces; ++place) {
        for (size_t scale = 0; scale < kScales.size(); ++scale) {
          const Case made{static_cast<Change>(change),
                          static_cast<Look>(look),
                          static_cast<Place>(place),
                          scale,
                          true,
                          true};
          if (place == kStdin && look != kFread) continue;
          cases.push_back(made);
          if (made.one_program()) continue;
          cases.push_back(made);
          cases.back().reader_preloaded = false;
          cases.push_back(made);
          cases.back().writer_preloaded = false;
        }
      }
    }
  }
  return cases;
}

/// What a case shows, to be compared.
struct Seen {
  std::string change;  // what the call answered
  std::string look;
  std::string file;  // all of it in the end, when everybody has closed it, with its time
};

/// One case on one file. A puppet that both writes and reads knows it by two names.
class Play {
 public:
  /// Writes `path` as "w" or "r" of the puppet until it is boosted.
  using Warm = std::function<void(Puppet&, const std::string& name)>;

  Play(const Case& test, Puppet& writer, Puppet& reader, std::string path)
      : test_(test), writer_(writer), reader_(reader), path_(std::move(path)) {}

  /// Up to the change. `warm` is for the program that is alone with the file then.
  void prepare(const Warm& warm) {
    write_file(path_, bytes_at(0, test_.size().file, kOld));
    if (test_.place == kOpensNow) {
      open_to_look();
      look();
      close_looker();
    }
    if (test_.by_stranger()) {
      open_reader("rw");
      warm_up(reader_, "r", warm);
      make_view();
    } else {
      good(writer_.tell("open", "w", "rw", path_));
      warm_up(writer_, "w", warm);
      if (test_.change == kStore) good(writer_.tell("map", "w", map_length()));
      if (test_.change == kFwrite) good(writer_.tell("stream", "w"));
    }
    take_place();
    // What is asked by name opens nothing. But a program that asks about its own file may settle
    // it, which would hide what is looked for.
    const bool by_size = test_.look == kFstat || test_.look == kStat;
    if (!test_.one_program() || by_size) time_before_ = time_of(reader_.tell("stat", path_));
  }

  std::string change() {
    const size_t at = change_at();
    const size_t length = test_.size().piece;
    switch (test_.change) {
      case kWrite:
        good(writer_.tell("seek", "w", at), std::to_string(at));
        return writer_.tell("write", "w", length, kNew);
      case kPwrite: return writer_.tell("pwrite", "w", at, length, kNew);
      case kFtruncate: return writer_.tell("truncate", "w", at);
      case kStore: return writer_.tell("store", "w", at, length, kNew);
      case kFwrite: return writer_.tell("fwrite", "w", at, length, kNew);
      case kTruncate: return writer_.tell("truncate-path", path_, at);
      case kUtimensat: return writer_.tell("times-of-path", path_, kSetTime);
      case kChanges: break;
    }
    return "no such change";
  }

  /// The look that counts.
  std::string look_now() {
    if (test_.place == kOpensNow && test_.look != kStat) open_to_look();
    return look();
  }
  std::string look() {
    const size_t piece = test_.size().piece;
    const size_t all = test_.size().file + piece;
    if (test_.place == kStdin) return standard_input();
    switch (test_.look) {
      case kRead: return reader_.tell("look-in-order", "r", all, piece, kOld, kNew);
      case kPread: return reader_.tell("look", "r", all, piece, kOld, kNew);
      case kFstat: return judged(reader_.tell("fstat", "r"));
      case kStat: return judged(reader_.tell("stat", path_));
      case kLoad: return reader_.tell("load", "r", all, piece, kOld, kNew);
      case kFread: return reader_.tell("fread", "r", all, piece, kOld, kNew);
      case kLooks: break;
    }
    return "no such look";
  }

  /// Everybody leaves the file.
  std::string end() {
    if (test_.place == kStdin) good(reader_.tell("not-stdin"));
    if (has_reader_) close_looker();
    if (!test_.by_stranger()) drop(writer_, "w");
    std::string text = runs_of(read_file(path_), 0, {kOld, kNew});
    struct stat status {};
    ::stat(path_.c_str(), &status);
    if (status.st_mtim.tv_sec == kSetTime) text += ", time as set";
    ::unlink(path_.c_str());
    return text;
  }

 private:
  static void good(const std::string& answer, const std::string& right = "0") {
    EXPECT_EQ(answer, right);
  }
  static void drop(Puppet& puppet, const std::string& name) { good(puppet.tell("drop", name)); }

  size_t map_length() const { return test_.size().file + test_.size().piece; }

  /// What it leaves is what was there.
  void warm_up(Puppet& puppet, const std::string& name, const Warm& warm) const {
    warm(puppet, name);
    if (test_.size().file < kMiB) good(puppet.tell("truncate", name, test_.size().file));
  }

  void open_reader(const char* how) {
    good(reader_.tell("open", "r", how, path_));
    has_reader_ = true;
  }
  void open_to_look() {
    open_reader("r");
    make_view();
  }
  void close_looker() {
    drop(reader_, "r");
    has_reader_ = false;
  }
  void make_view() {
    if (test_.look == kLoad) good(reader_.tell("map", "r", map_length()));
    if (test_.look == kFread) good(reader_.tell("stream", "r"));
  }

  /// Whoever has the file open already looks at it.
  void take_place() {
    switch (test_.place) {
      case kOpensNow: return;
      case kHasItOpen:
      case kTwoDescriptors:
        if (!test_.by_stranger()) open_to_look();
        look();
        return;
      case kOneDescriptor:
        good(reader_.tell("alias", "r", "w"));
        // A stream that writes is the one that reads.
        if (test_.change != kFwrite || test_.look != kFread) make_view();
        look();
        return;
      case kStdin:
        good(reader_.tell("as-stdin", "w"));
        seek_to_change();
        return;
      case kPlaces: return;
    }
  }

  /// The byte at the change. Nothing comes between the two if the change is at no offset of its
  /// own.
  std::string standard_input() {
    if (test_.change == kWrite || test_.change == kFwrite) seek_to_change();
    return reader_.tell("getchar");
  }
  void seek_to_change() {
    good(reader_.tell("seek", "w", change_at()), std::to_string(change_at()));
  }
  /// In the middle, or across the end.
  size_t change_at() const {
    const bool across_end = test_.change == kWrite || test_.change == kFwrite;
    return across_end ? test_.size().file - test_.size().piece / 2 : test_.size().file / 3;
  }

  static std::string time_of(const std::string& status) {
    return status.substr(status.find(' ') + 1);
  }
  /// Size and time, the latter as what it must be.
  std::string judged(const std::string& status) const {
    const std::string time = time_of(status);
    const std::string size = status.substr(0, status.find(' '));
    // The kernel sets it when it writes the page, some time later.
    if (test_.change == kStore) return size;
    if (time == std::to_string(kSetTime) + ".222") return size + ", time as set";
    return size + (time == time_before_ ? ", time as before" : ", time is new");
  }

  const Case test_;
  Puppet& writer_;
  Puppet& reader_;
  const std::string path_;
  std::string time_before_;
  bool has_reader_ = false;
};

class Matrix : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() { stage_ = std::make_unique<Stage>(); }
  static void TearDownTestSuite() {
    std::cout << stage_->boosted << " of " << stage_->to_boost << " cases were boosted"
              << std::endl;
    stage_.reset();
  }

  static uint64_t boosted_bytes() {
    return stage_->daemon.boosted_write_bytes() + stage_->daemon.boosted_read_bytes();
  }

  static std::string new_path() { return stage_->dir.file(std::to_string(++stage_->files)); }

  static void write_once(Puppet& puppet, const std::string& name) {
    ASSERT_EQ(puppet.tell("pwrite", name, 0, kMiB, kOld), std::to_string(kMiB));
  }

  /// Until a write is boosted.
  static void warm(Puppet& puppet, const std::string& name) {
    ++stage_->to_boost;
    // Not for long once it is known that it does not come.
    if (stage_->to_boost - stage_->boosted > 3) end_with_too_little("nothing is boosted any more");
    until_counted(
        stage_->daemon, [] { return stage_->daemon.boosted_write_bytes(); },
        [&] { write_once(puppet, name); }, milliseconds(2));
    ++stage_->boosted;
  }

  /// The same number of looks and calls as with booster, more or less.
  static Seen with_fuse(const Case& test) {
    Puppet& reader = test.one_program() ? stage_->plain_writer : stage_->plain_reader;
    Play play(test, stage_->plain_writer, reader, new_path());
    play.prepare(write_once);
    Seen seen;
    seen.change = play.change();
    seen.look = play.look_now();
    seen.file = play.end();
    return seen;
  }

  /// What FUSE shows is the same for all that differ only in who is preloaded.
  static const Seen& expected(const Case& test) {
    const auto key = std::tuple(test.change, test.look, test.place, test.scale);
    const auto known = stage_->expected.find(key);
    if (known != stage_->expected.end()) return known->second;
    return stage_->expected[key] = with_fuse(test);
  }

  struct Stage {
    ScratchDir dir;
    Daemon daemon;
    Puppet writer{kAsUsersDo};
    Puppet reader{kAsUsersDo};
    Puppet plain_writer{kPlain};
    Puppet plain_reader{kPlain};
    std::map<std::tuple<Change, Look, Place, size_t>, Seen> expected;
    int files = 0;
    int to_boost = 0;  // cases
    int boosted = 0;
  };
  static std::unique_ptr<Stage> stage_;
};

std::unique_ptr<Matrix::Stage> Matrix::stage_;

/// The look that counts; if it may be late, the first that is right within that time, which slow
/// looks make longer.
std::string look_until(Play& play, const Case& test, const std::string& right) {
  using Duration = steady_clock::duration;
  const auto start = steady_clock::now();
  std::string look = play.look_now();
  if (!test.may_be_late()) return look;
  // Who asks by name may be as late as what the kernel keeps of what FUSE's client keeps.
  const milliseconds late(test.by_stranger() ? 1200 : 2200);
  Duration slowest = steady_clock::now() - start;
  while (look != right &&
         steady_clock::now() - start < std::min<Duration>(late + 2 * slowest, milliseconds(8000))) {
    std::this_thread::sleep_for(milliseconds(20));
    const auto begun = steady_clock::now();
    look = play.look();
    slowest = std::max(slowest, steady_clock::now() - begun);
  }
  return look;
}

TEST_P(Matrix, ShowsWhatFuseShows) {
  const Case& test = GetParam();
  const Seen& right = expected(test);
  EXPECT_EQ(right.change.find("-1"), std::string::npos) << right.change;
  EXPECT_EQ(right.look.find("-1"), std::string::npos) << right.look;

  Puppet& writer = test.writer_preloaded ? stage_->writer : stage_->plain_writer;
  Puppet& other = test.reader_preloaded ? stage_->reader : stage_->plain_reader;
  expect_nothing_old(stage_->daemon, [&](std::string& old) {
    const int let_in = stage_->daemon.let_in_early();
    Play play(test, writer, test.one_program() ? writer : other, new_path());
    play.prepare(test.first_preloaded() ? warm : write_once);

    const uint64_t before = boosted_bytes();
    EXPECT_EQ(play.change(), right.change);
    const std::string look = look_until(play, test, right.look);
    EXPECT_EQ(look.find("-1"), std::string::npos) << look;
    if (look != right.look) old = look + " in place of " + right.look;
    // Who was let in early is counted when the bricks have had what was written before.
    if (test.place == kHasItOpen && !test.by_stranger() &&
        stage_->daemon.let_in_early() == let_in) {
      EXPECT_EQ(boosted_bytes(), before) << "went past FUSE while two programs had the file open";
    }
    const std::string file = play.end();
    if (old.empty()) {
      EXPECT_EQ(file, right.file);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, Matrix, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace booster::test
