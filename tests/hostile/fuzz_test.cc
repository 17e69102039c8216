// The fuzzer in the lab, against a daemon that the environment may replace by one with sanitizers.
#include <sys/personality.h>

#include <random>
#include <sstream>

#include "tests/hostile/fixture.h"

namespace booster::test {
namespace {

/// The boosterd that BOOSTER_TEST_BOOSTERD_ASAN names (built with BOOSTER_ASAN=ON), or the build's.
class FuzzedDaemon {
 public:
  FuzzedDaemon() : log_path_(Lab::get().dir + "/boosterd-fuzz.log") {
    const char* sanitized = std::getenv("BOOSTER_TEST_BOOSTERD_ASAN");
    const std::string program = sanitized ? sanitized : boosterd_path();
    const std::string config = Lab::get().dir + "/boosterd-fuzz.toml";
    write_file(config, "[cache]\nbytes = 16777216\n");
    ::unlink(log_path_.c_str());
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int log = ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      ::dup2(log, 1);
      ::dup2(log, 2);
      // GCC 12's shadow memory does not fit beside 32 random address bits (vm.mmap_rnd_bits).
      if (sanitized) ::personality(ADDR_NO_RANDOMIZE);
      // libglusterfs leaks; the rest ends the process at the first finding.
      ::setenv("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1", 1);
      ::setenv("UBSAN_OPTIONS", "print_stacktrace=1:abort_on_error=1", 1);
      ::execl(program.c_str(), program.c_str(), "--config", config.c_str(), "--log-level", "error",
              static_cast<char*>(nullptr));
      ::_exit(127);
    }
  }
  ~FuzzedDaemon() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  FuzzedDaemon(const FuzzedDaemon&) = delete;
  FuzzedDaemon& operator=(const FuzzedDaemon&) = delete;

  static bool answers() {
    return within(seconds(30), [] { return ask_stats(milliseconds(1000)) != nullptr; });
  }
  bool runs() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  /// Its exit status once it was told to stop; -1 if it does not.
  int stop() {
    ::kill(pid_, SIGTERM);
    int status = 0;
    // A sanitizer takes its time.
    if (!within(3 * kPatience, [&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }))
      return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string log() const { return read_file(log_path_); }

 private:
  const std::string log_path_;
  pid_t pid_ = -1;
};

TEST(Fuzz, TheDaemonSurvivesAMinuteOfGarbage) {
  const char* given = std::getenv("BOOSTER_TEST_SEED");
  const std::string seed = given ? given : std::to_string(std::random_device()());
  const std::string again = "BOOSTER_TEST_SEED=" + seed;
  ScratchDir dir;
  FuzzedDaemon daemon;
  ASSERT_TRUE(FuzzedDaemon::answers()) << daemon.log();

  const RunResult result =
      run({hostile_program("booster_fuzz"), std::to_string(rounds()), seed, dir.path()},
          {.preload = false});
  EXPECT_EQ(result.status, 0) << again << "\n" << result.out << result.err << daemon.log();
  std::istringstream words(result.out.substr(result.out.find('\n') + 1));
  std::map<std::string, uint64_t> counts;
  for (std::string name; words >> name;) words >> counts[name];
  for (const auto& [name, count] : counts) RecordProperty(name, std::to_string(count));
  EXPECT_GT(counts["served"], 0U) << again;
  EXPECT_GT(counts["answers"], 0U) << again;
  EXPECT_GT(counts["logged"], 0U) << again;
  EXPECT_GE(counts["past_engage"] * 2, counts["connections"]) << again << " " << result.out;

  ASSERT_TRUE(daemon.runs()) << again << "\n" << daemon.log();
  const auto stats = ask_stats();
  ASSERT_TRUE(stats) << again;
  EXPECT_GT(stats->totals().sessions_opened(), 0U);
  EXPECT_GT(stats->totals().sessions_ended_for_lies(), 0U);
  EXPECT_GT(stats->totals().engaged(), 0U);
  EXPECT_TRUE(within(kPatience, [] {
    const auto now = ask_stats();
    return now && now->sessions_size() == 0;
  })) << "sessions of clients that have gone";
  EXPECT_EQ(daemon.stop(), 0) << again << "\n" << daemon.log();
  for (const char* finding : {"AddressSanitizer", "runtime error", "terminate called"}) {
    EXPECT_EQ(daemon.log().find(finding), std::string::npos) << again << "\n" << daemon.log();
  }
}

}  // namespace
}  // namespace booster::test
