// Signal handlers that come in the middle of calls, make calls of every kind themselves, and leave
// in every way (tests/programs/interrupter.cc).
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/integration/harness.h"

namespace booster::test {
namespace {

// As interrupter.cc has them.
constexpr int kAgain = 42;
constexpr uint64_t kActions = 26;

class Interrupted : public PolicyTest {
 protected:
  RunResult interrupt(const std::string& call, const std::string& leave,
                      const RunOptions& options = {}) const {
    return run({BOOSTER_TEST_INTERRUPTER, dir_.path(), state_, call, leave}, options);
  }

  void ask_for(uint64_t rounds) const {
    std::fstream state(state_, std::ios::in | std::ios::out | std::ios::binary);
    state.write(reinterpret_cast<const char*>(&rounds), sizeof(rounds));
  }

  /// Runs it until it has done its rounds.
  RunResult interrupt_all(const std::string& call, const std::string& leave,
                          const RunOptions& options = {}) const {
    RunResult result;
    do {
      result = interrupt(call, leave, options);
    } while (result.status == kAgain);
    return result;
  }

  /// Whoever is asked late on a busy machine lets FUSE do a call: all is tried, and judged, up to
  /// five times.
  void try_until_logged(const std::string& leave) const {
    const uint64_t each = kActions * static_cast<uint64_t>(rounds());
    uint64_t logged = 0;
    for (int attempt = 0; attempt < 5 && logged <= 3 * each; ++attempt) {
      const uint64_t before = daemon_.stats().totals().logged_calls();
      try_all(leave, {.env = probe_blocks()}, each);
      if (HasFatalFailure()) return;
      logged = daemon_.stats().totals().logged_calls() - before;
    }
    EXPECT_GT(logged, 3 * each) << kTooLittle;
  }

  void try_all(const std::string& leave, const RunOptions& options, uint64_t each) const {
    ASSERT_EQ(interrupt("make", leave, kPlain).status, 0);
    for (const char* call :
         {"write", "writev", "pwrite", "read", "pread", "own-pread", "fsync", "close"}) {
      SCOPED_TRACE(call);
      ask_for(each);
      const RunResult result = interrupt_all(call, leave, options);
      ASSERT_EQ(result.status, 0) << result.out << result.err;
      const RunResult seen = interrupt("check", leave, kPlain);
      ASSERT_EQ(seen.status, 0) << "without booster: " << seen.out;
    }
  }

  const Daemon daemon_;
  const ScratchDir dir_;
  const std::string state_ = Lab::get().dir + "/interrupted";
};

#define BOOSTER_INTERRUPTED(name, leave) \
  TEST_P(Interrupted, name) {            \
    try_until_logged(leave);             \
  }
BOOSTER_INTERRUPTED(AHandlerReturns, "return")
BOOSTER_INTERRUPTED(AHandlerJumps, "jump")
BOOSTER_INTERRUPTED(AHandlerForks, "fork")
BOOSTER_INTERRUPTED(AHandlerBecomesAnotherProgram, "exec")
BOOSTER_INTERRUPTED(AHandlerEndsTheProgram, "exit")

BOOSTER_UNDER_EACH_POLICY(Interrupted);

}  // namespace
}  // namespace booster::test
