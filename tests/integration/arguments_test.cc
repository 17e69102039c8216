// Odd arguments, to every call that booster stands before: each answer, and what is there
// afterwards, is the one that a program gets without the shim (tests/programs/arguments.cc).
#include <gtest/gtest.h>

#include <sstream>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

/// What the program printed, line by line. A case that killed it, or that did not end, says so in
/// its line.
std::vector<std::string> answers(const std::string& kind, bool preload) {
  ScratchDir dir;
  ScratchDir outside(Lab::get().dir);
  std::vector<std::string> lines;
  while (true) {
    const RunResult result = run(
        {BOOSTER_TEST_ARGUMENTS, kind, dir.path(), outside.path(), std::to_string(lines.size())},
        {.preload = preload, .timeout = std::chrono::seconds(600)});
    std::istringstream out(result.out);
    for (std::string line; std::getline(out, line);) lines.push_back(line);
    if (result.status == 0) return lines;
    const bool in_a_case = !result.out.empty() && result.out.back() != '\n';
    if (!in_a_case) {
      ADD_FAILURE() << kind << " ended with " << result.status << " between two cases, after "
                    << (lines.empty() ? "" : lines.back()) << result.err;
      return lines;
    }
    lines.back() += result.status < 0 ? "does not end" : "killed " + std::to_string(result.status);
  }
}

class Arguments : public testing::Test {
 protected:
  void compare(const std::string& kind) {
    const std::vector<std::string> right = answers(kind, false);
    const admin::Totals before = daemon_.stats().totals();
    const std::vector<std::string> seen = answers(kind, true);
    const admin::Totals after = daemon_.stats().totals();
    cached_ = after.cached_calls() - before.cached_calls();
    logged_ = after.logged_calls() - before.logged_calls();
    cases_ = right.size() - 1;
    ASSERT_EQ(seen.size(), right.size()) << kind;
    int different = 0;
    for (size_t i = 0; i < right.size(); ++i) {
      if (seen[i] == right[i] || ++different > kShown) continue;
      ADD_FAILURE() << "without: " << right[i] << "\nwith:    " << seen[i];
    }
    EXPECT_LE(different, kShown) << "and more";
    EXPECT_GT(cases_, 1000U) << kind;
  }

  /// Of the last comparison: cases, each of which begins with a call that can be boosted, and calls
  /// that were.
  size_t cases_ = 0;
  uint64_t cached_ = 0;
  uint64_t logged_ = 0;
  /// Of the cases, as many as must have been boosted: on a busy machine a new file may come to be
  /// the program's only after the first call.
  size_t most() const { return cases_ * 9 / 10; }

 private:
  static constexpr int kShown = 20;
  Daemon daemon_;
};

TEST_F(Arguments, OfAFileThatIsReadAreAnsweredAsByFuse) {
  compare("read");
  // A call whose arguments are refused is no read.
  EXPECT_GT(cached_, cases_ / 3) << kTooLittle;
}

TEST_F(Arguments, OfAFileThatIsWrittenAreAnsweredAsByFuse) {
  for (const char* kind : {"written", "write-only"}) {
    compare(kind);
    EXPECT_GT(logged_, most()) << kind << kTooLittle;
  }
}

TEST_F(Arguments, OfAFileThatWasNotTouchedYetAreAnsweredAsByFuse) {
  compare("untouched");
}

TEST_F(Arguments, OfAFileThatIsAppendedToAreAnsweredAsByFuse) {
  compare("append");
}

TEST_F(Arguments, OfWhatIsNoFileOnTheMountAreAnsweredAsWithoutBooster) {
  for (const char* kind : {"path", "directory", "pipe-reader", "pipe-writer", "socket", "outside",
                           "closed", "minus", "huge", "least"}) {
    compare(kind);
  }
}

TEST_F(Arguments, InPlaceOfANameAreAnsweredAsByFuse) {
  compare("names");
  EXPECT_GT(logged_, most()) << kTooLittle;
}

}  // namespace
}  // namespace booster::test
