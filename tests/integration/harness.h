// What integration tests share: the lab they run in, boosterd as they want it, programs without and
// with the shim, and the daemon's own count of what was boosted.
//
// Tests run inside `tests/lab/lab run`, as root, on a real volume. A test that expects boosting
// asks the daemon, not the shim.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/admin.pb.h"

namespace booster::test {

/// The lab, as its environment describes it. Ends the test program when there is none.
struct Lab {
  std::string mount;                // FUSE mount of the first volume
  std::vector<std::string> mounts;  // of all volumes
  std::string dir;                  // scratch space outside the mount
  std::string shape;
  int hosts = 1;
  static const Lab& get();
};

/// Where the build put things.
std::string boosterd_path();
std::string boosterctl_path();
std::string shim_path();
std::string probe_path();  // tests/programs/probe.cc

// --- policies ----------------------------------------------------------------------------------

/// When the programs of a test ask for boosting.
enum class Policy {
  kShipped,  // as they do for users: what pays, and no call waits for it
  kSooner,   // whatever it is, at the first call, which waits (GLFS_BOOSTER_ENGAGE=eager)
};

/// Of the running test: its parameter, or kSooner in suites that have none.
Policy policy();

/// A suite that runs under each policy: TEST_P, and BOOSTER_UNDER_EACH_POLICY(Suite) once.
class PolicyTest : public testing::TestWithParam<Policy> {
 protected:
  PolicyTest();
  ~PolicyTest() override;
};

#define BOOSTER_UNDER_EACH_POLICY(Suite)                                                    \
  INSTANTIATE_TEST_SUITE_P(                                                                 \
      , Suite,                                                                              \
      testing::Values(::booster::test::Policy::kShipped, ::booster::test::Policy::kSooner), \
      [](const auto& info) {                                                                \
        return std::string(info.param == ::booster::test::Policy::kShipped ? "Shipped"      \
                                                                           : "Sooner");     \
      })

/// `bytes`, or under the shipped policy so many more, if needed, that a write of them pays.
size_t paying(size_t bytes);

/// Variables with which tests/programs/probe.cc does so with its blocks, by itself.
std::map<std::string, std::string> probe_blocks();

/// Ends what a check says that finds nothing wrong, but that too little was boosted, filled or
/// evicted for the test to have shown anything: that is up to how fast the machine lets a program
/// go. scripts/test runs a case again that has failed for that alone. So nothing may come after it
/// that fails because of it: ASSERT, or what ends the test itself.
inline constexpr char kTooLittle[] = " [exercised too little]";

/// Ends the test, by an exception that gtest reports: `why` nothing was shown, with kTooLittle.
[[noreturn]] void end_with_too_little(const std::string& why);

class Daemon;
enum class Moves { kReads, kWrites };
/// Does `work` until the daemon has carried some of it: under the shipped policy a file is asked
/// for while its first calls go through FUSE, and whoever is asked late on a busy machine lets FUSE
/// do a call. Ends the test if that does not come to be.
void until_boosted(const Daemon& daemon, Moves what, const std::function<void()>& work);

/// Does `work` until `count`, one of the daemon's, has grown `soon` after it: what is written is
/// counted when the bricks have it. Ends the test if that does not come to be, or an ASSERT in
/// `work` fails.
void until_counted(const Daemon& daemon, const std::function<uint64_t()>& count,
                   const std::function<void()>& work,
                   std::chrono::milliseconds soon = std::chrono::milliseconds(20));

/// Waits until `condition` holds. False if it does not within as long as something that is merely
/// slow may take.
bool comes_true(const std::function<bool()>& condition,
                std::chrono::seconds patience = std::chrono::seconds(60));

/// Whether `condition` holds for who asks `bound` from now, or later. Answers that are slow are
/// old: twice the slowest comes on top of it, that of the machine and of the bricks.
bool comes_true_soon(std::chrono::milliseconds bound, const std::function<bool()>& condition);

/// Does `round`, which adds to `old` what somebody who opened a file was shown that was old. That
/// may be while the bricks are silent or FUSE is late, which the daemon says: nobody waits for it
/// for ever. Then the round is done again, at most three times.
void expect_nothing_old(const Daemon& daemon, const std::function<void(std::string& old)>& round);

/// Runs `work`, in which something fails today because of `fault`. What fails is told, and not
/// counted; when nothing does any more, that is a failure, and the mark has to go.
void known_failure(const std::string& fault, const std::function<void()>& work);

/// A fresh, empty directory on the mount, removed at the end.
class ScratchDir {
 public:
  explicit ScratchDir(const std::string& on = Lab::get().mount);
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct RunOptions {
  bool preload = true;
  bool eager = policy() == Policy::kSooner;  // GLFS_BOOSTER_ENGAGE=eager
  std::map<std::string, std::string> env = {};
  std::string stdin_path = {};   // "" is /dev/null
  std::string stdin_data = {};   // used when not empty
  std::string stdout_path = {};  // "" captures
  bool stdout_append = false;
  std::string cwd = {};
  std::optional<uid_t> uid = {};
  std::chrono::seconds timeout{300};  // only against hanging for ever
};
/// A program with booster under the shipped policy, and one without booster.
inline const RunOptions kAsUsersDo = {.eager = false};
inline const RunOptions kPlain = {.preload = false};

struct RunResult {
  int status = -1;  // exit status, or 128 + signal; -1 when it had to be killed
  std::string out;
  std::string err;
};

/// Runs a program to its end. Kills it at the timeout (and only it).
RunResult run(const std::vector<std::string>& argv, const RunOptions& options = {});
/// The same through `bash -c`.
RunResult shell(const std::string& script, const RunOptions& options = {});

/// A program in the background.
class Child {
 public:
  Child(const std::vector<std::string>& argv, const RunOptions& options = {});
  ~Child();  // SIGKILL if it still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Waits for its end.
  RunResult wait();
  /// Reads one line of its standard output; "" at the end, and when none comes within the timeout.
  std::string read_line();
  /// Writes to its standard input (a pipe, when stdin_path and stdin_data are empty).
  void write_line(const std::string& line);

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::chrono::seconds timeout_;
  std::string buffered_;
};

/// boosterd, started on the default sockets of this lab host.
class Daemon {
 public:
  /// `config` is TOML that is added to the defaults (and to a short quarantine, if it says nothing
  /// of [failure]); starts it and waits until it listens.
  explicit Daemon(const std::string& config = "");
  ~Daemon();  // SIGTERM, then SIGKILL
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  void start();
  /// Sends the signal and waits until the process is gone.
  void kill(int signal = 9);
  void signal(int number) const;
  bool running() const;
  pid_t pid() const { return pid_; }
  const std::string& log_path() const { return log_path_; }
  /// How often its log has "event=`name`".
  int events(const std::string& name) const;
  /// How often it has let somebody open a file before FUSE knew all of it.
  int let_in_early() const { return events("bricks-silent") + events("fence-late"); }

  booster::admin::Stats stats() const;
  uint64_t boosted_read_bytes() const;
  uint64_t boosted_write_bytes() const;

 private:
  pid_t pid_ = -1;
  std::string config_path_;
  std::string log_path_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes);
/// Makes the kernel forget what it has of the file, or a read of it would not pay.
void forget(const std::string& path);
/// `size` bytes that differ at every offset and by `seed`.
std::string pattern(size_t size, uint64_t seed = 1);
uint64_t file_size(const std::string& path);

/// Whether this is for a release: `scripts/test --full` (BOOSTER_TEST_FULL=1).
bool full_run();
/// How often the running test repeats itself, of counts.h.
int rounds(std::string_view what = "");

/// Sets an option of a lab's volume for as long as this lives.
class VolumeOption {
 public:
  VolumeOption(std::string volume, std::string key, const std::string& value);
  ~VolumeOption();
  VolumeOption(const VolumeOption&) = delete;
  VolumeOption& operator=(const VolumeOption&) = delete;

 private:
  const std::string volume_;
  const std::string key_;
};

}  // namespace booster::test
